//! The network's own methods, for light clients.

use super::{
    Backend,
    errors::{RpcResult, fault, invalid_params},
    eth::method,
    params,
};
use alloy_primitives::{Address, B256, U64};
use jsonrpsee::{RpcModule, core::RegisterMethodError};
use serde::Deserialize;
use serde_json::Value;

/// Most slots of one proof.
const SLOTS_MAX: usize = 256;

fn epoch(v: &[Value]) -> RpcResult<Option<u64>> {
    Ok(params::optional::<U64>(v, 0, "epoch")?.map(|e| e.to()))
}

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Result<(), RegisterMethodError> {
    method(m, "og_network", |b, _| Ok(b.chain.network()))?;
    method(m, "og_finalized", |b, _| b.chain.finalized().map_err(fault))?;
    method(m, "og_handovers", |b, v| b.chain.handovers(epoch(&v)?).map_err(fault))?;
    method(m, "og_validators", |b, v| b.chain.validators(epoch(&v)?).map_err(fault))?;
    method(m, "og_finalHeader", |b, v| {
        b.chain.final_header(params::required::<U64>(&v, 0, "block number")?.to()).map_err(fault)
    })?;
    method(m, "og_syncPoint", |b, _| b.chain.sync_point().map_err(fault))?;
    method(m, "og_syncRange", |b, v| {
        let number: U64 = params::required(&v, 0, "block number")?;
        let cursor: String = params::optional(&v, 1, "cursor")?.unwrap_or_default();
        b.chain.sync_range(number.to(), &cursor).map_err(fault)
    })?;
    method(m, "og_chainProof", |b, v| {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wanted {
            account: Option<Address>,
            #[serde(default)]
            slots: Vec<B256>,
            transaction: Option<B256>,
            checkpoint: Option<U64>,
        }
        let wanted: Wanted = params::required(&v, 0, "what to prove")?;
        if wanted.slots.len() > SLOTS_MAX {
            return Err(invalid_params(format!("at most {SLOTS_MAX} slots")));
        }
        let account = wanted.account.map(|a| (a, wanted.slots));
        let checkpoint = wanted.checkpoint.map(|n| n.to());
        b.chain.chain_proof(account, wanted.transaction, checkpoint).map_err(fault)
    })?;
    method(m, "og_receiptLogProof", |b, v| {
        let node = params::required(&v, 0, "node address")?;
        let size = match v.get(1) {
            Some(Value::Number(n)) if n.is_u64() => n.as_u64().unwrap_or_default(),
            _ => params::required::<U64>(&v, 1, "log size")?.to(),
        };
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Answer {
            receipt: B256,
            index: u64,
        }
        let answer: Option<Answer> = params::optional(&v, 2, "receipt and index")?;
        let checkpoint = params::optional::<U64>(&v, 3, "checkpoint")?.map(|n| n.to());
        b.chain.receipt_log_proof(node, size, answer.map(|a| (a.receipt, a.index)), checkpoint).map_err(fault)
    })
}
