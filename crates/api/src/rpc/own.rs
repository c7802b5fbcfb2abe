//! The network's own methods, for light clients.

use super::{Backend, errors::fault, eth::method, params};
use alloy_primitives::U64;
use jsonrpsee::{RpcModule, core::RegisterMethodError};
use serde_json::Value;

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Result<(), RegisterMethodError> {
    method(m, "og_network", |b, _| Ok(b.chain.network()))?;
    method(m, "og_finalized", |b, _| b.chain.finalized().map_err(fault))?;
    method(m, "og_receiptLogProof", |b, v| {
        let node = params::required(&v, 0, "node address")?;
        let size = match v.get(1) {
            Some(Value::Number(n)) if n.is_u64() => n.as_u64().unwrap_or_default(),
            _ => params::required::<U64>(&v, 1, "log size")?.to(),
        };
        b.chain.receipt_log_proof(node, size).map_err(fault)
    })
}
