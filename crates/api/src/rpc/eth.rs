//! `eth_`, `net_` and `web3_` methods, without logs and filters.

use super::{
    Backend,
    errors::{RpcResult, fault, invalid_params, refused},
    format, params,
};
use crate::ports::{BlockData, BlockRef};
use alloy_primitives::{B256, Bytes, U64, U256, keccak256};
use alloy_rpc_types_eth::{EIP1186AccountProofResponse, EIP1186StorageProof, FeeHistory};
use jsonrpsee::{RpcModule, core::RegisterMethodError};
use serde::Serialize;
use serde_json::{Value, json};

/// Suggested tip in wei.
const TIP: u64 = 1_000_000;
/// Most blocks of one `eth_feeHistory`.
const FEE_HISTORY_MAX: u64 = 1024;
/// Most slots of one `eth_getProof`.
const PROOF_SLOTS_MAX: usize = 256;

type Registered = Result<(), RegisterMethodError>;

/// Registers a method that may block for some milliseconds.
pub(crate) fn method<T: Serialize + Clone + Send + 'static>(
    module: &mut RpcModule<Backend>,
    name: &'static str,
    run: impl Fn(&Backend, Vec<Value>) -> RpcResult<T> + Send + Sync + Clone + 'static,
) -> Registered {
    module.register_blocking_method(name, move |p, backend, _| run(&backend, params::list(&p)?).map(Json))?;
    Ok(())
}

/// Lets any serialisable value be a response.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct Json<T>(T);

impl<T: Serialize + Clone + Send + 'static> jsonrpsee::IntoResponse for Json<T> {
    type Output = T;
    fn into_response(self) -> jsonrpsee::ResponsePayload<'static, T> {
        jsonrpsee::ResponsePayload::success(self.0)
    }
}

pub(crate) fn register(module: &mut RpcModule<Backend>) -> Registered {
    constants(module)?;
    blocks(module)?;
    transactions(module)?;
    state(module)?;
    fees(module)
}

fn constants(m: &mut RpcModule<Backend>) -> Registered {
    method(m, "eth_chainId", |b, _| Ok(U64::from(b.chain.chain_id())))?;
    method(m, "net_version", |b, _| Ok(b.chain.chain_id().to_string()))?;
    method(m, "net_listening", |_, _| Ok(true))?;
    method(m, "net_peerCount", |b, _| Ok(U64::from(b.chain.peers())))?;
    method(m, "web3_clientVersion", |_, _| Ok(concat!("og/v", env!("CARGO_PKG_VERSION"), "/rust")))?;
    method(m, "web3_sha3", |_, v| Ok(keccak256(params::required::<Bytes>(&v, 0, "data")?)))?;
    method(m, "eth_syncing", |_, _| Ok(false))?;
    method(m, "eth_accounts", |_, _| Ok(Vec::<Value>::new()))?;
    method(m, "eth_blockNumber", |b, _| Ok(U64::from(b.chain.head())))
}

fn load(b: &Backend, at: BlockRef) -> RpcResult<Option<BlockData>> {
    b.chain.block(at).map_err(fault)
}

fn by_number(v: &[Value]) -> RpcResult<BlockRef> {
    Ok(params::from_tag(params::required(v, 0, "block number")?))
}

fn by_hash(v: &[Value]) -> RpcResult<BlockRef> {
    Ok(BlockRef::Hash(params::required(v, 0, "block hash")?))
}

fn blocks(m: &mut RpcModule<Backend>) -> Registered {
    fn whole(b: &Backend, at: BlockRef, v: &[Value]) -> RpcResult<Option<alloy_rpc_types_eth::Block>> {
        let full = params::optional(v, 1, "full transactions")?.unwrap_or(false);
        Ok(load(b, at)?.map(|data| format::block(&data, full)))
    }
    fn count(b: &Backend, at: BlockRef) -> RpcResult<Option<U64>> {
        Ok(load(b, at)?.map(|data| U64::from(data.transactions.len())))
    }
    method(m, "eth_getBlockByNumber", |b, v| whole(b, by_number(&v)?, &v))?;
    method(m, "eth_getBlockByHash", |b, v| whole(b, by_hash(&v)?, &v))?;
    method(m, "eth_getBlockTransactionCountByNumber", |b, v| count(b, by_number(&v)?))?;
    method(m, "eth_getBlockTransactionCountByHash", |b, v| count(b, by_hash(&v)?))?;
    method(m, "eth_getBlockReceipts", |b, v| {
        let Some(data) = load(b, params::block(&v, 0)?)? else { return Ok(None) };
        let receipts = b.chain.receipts(data.header.number).map_err(fault)?.unwrap_or_default();
        format::receipts(&data, &receipts).map(Some)
    })
}

fn at_index(b: &Backend, at: BlockRef, v: &[Value]) -> RpcResult<Option<alloy_rpc_types_eth::Transaction>> {
    let index = params::required::<U64>(v, 1, "index")?.to::<u64>() as usize;
    Ok(load(b, at)?.filter(|d| index < d.transactions.len()).map(|d| format::transaction(&d, index)))
}

fn transactions(m: &mut RpcModule<Backend>) -> Registered {
    method(m, "eth_getTransactionByHash", |b, v| {
        let hash: B256 = params::required(&v, 0, "hash")?;
        if let Some((number, index)) = b.chain.transaction(hash).map_err(fault)? {
            let data = load(b, BlockRef::Number(number))?;
            return Ok(data.map(|d| format::transaction(&d, index as usize)));
        }
        Ok(b.chain.pooled(hash).map(|(tx, sender)| format::pending(tx, sender)))
    })?;
    method(m, "eth_getTransactionByBlockNumberAndIndex", |b, v| at_index(b, by_number(&v)?, &v))?;
    method(m, "eth_getTransactionByBlockHashAndIndex", |b, v| at_index(b, by_hash(&v)?, &v))?;
    method(m, "eth_getTransactionReceipt", |b, v| {
        let hash: B256 = params::required(&v, 0, "hash")?;
        let Some((number, index)) = b.chain.transaction(hash).map_err(fault)? else { return Ok(None) };
        let Some(data) = load(b, BlockRef::Number(number))? else { return Ok(None) };
        let receipts = b.chain.receipts(number).map_err(fault)?.unwrap_or_default();
        Ok(format::receipts(&data, &receipts)?.into_iter().nth(index as usize))
    })?;
    method(m, "eth_sendRawTransaction", |b, v| {
        b.chain.submit(params::required(&v, 0, "raw transaction")?).map_err(fault)
    })
}

fn state(m: &mut RpcModule<Backend>) -> Registered {
    method(m, "eth_getBalance", |b, v| {
        b.chain.balance(params::block(&v, 1)?, params::required(&v, 0, "address")?).map_err(fault)
    })?;
    method(m, "eth_getTransactionCount", |b, v| {
        let pending = v.get(1).is_some_and(|t| t == "pending");
        let at = if pending { None } else { Some(params::block(&v, 1)?) };
        b.chain.nonce(at, params::required(&v, 0, "address")?).map(U64::from).map_err(fault)
    })?;
    method(m, "eth_getCode", |b, v| {
        b.chain.code(params::block(&v, 1)?, params::required(&v, 0, "address")?).map_err(fault)
    })?;
    method(m, "eth_getStorageAt", |b, v| {
        let slot: U256 = params::required(&v, 1, "slot")?;
        let value = b.chain.storage(params::block(&v, 2)?, params::required(&v, 0, "address")?, slot);
        value.map(B256::from).map_err(fault)
    })?;
    method(m, "eth_call", |b, v| b.chain.call(params::block(&v, 1)?, params::call(&v)?).map_err(fault))?;
    method(m, "eth_estimateGas", |b, v| {
        b.chain.estimate_gas(params::block(&v, 1)?, params::call(&v)?).map(U64::from).map_err(fault)
    })?;
    method(m, "eth_getProof", |b, v| {
        let address = params::required(&v, 0, "address")?;
        let slots: Vec<U256> = params::required(&v, 1, "storage keys")?;
        if slots.len() > PROOF_SLOTS_MAX {
            return Err(invalid_params(format!("at most {PROOF_SLOTS_MAX} storage keys")));
        }
        let p = b.chain.proof(params::block(&v, 2)?, address, &slots).map_err(fault)?;
        Ok(EIP1186AccountProofResponse {
            address,
            balance: p.balance,
            code_hash: p.code_hash,
            nonce: p.nonce,
            storage_hash: p.storage_root,
            account_proof: p.account_proof,
            storage_proof: p
                .storage
                .into_iter()
                .map(|(slot, value, proof)| EIP1186StorageProof {
                    key: B256::from(slot).into(),
                    value,
                    proof,
                })
                .collect(),
        })
    })
}

fn fees(m: &mut RpcModule<Backend>) -> Registered {
    method(m, "eth_gasPrice", |b, _| Ok(U64::from(b.chain.next_base_fee() + TIP)))?;
    method(m, "eth_maxPriorityFeePerGas", |_, _| Ok(U64::from(TIP)))?;
    method(m, "eth_blobBaseFee", |_, _| Ok(U64::from(1)))?;
    method(m, "eth_feeHistory", |b, v| {
        let count = match v.first() {
            Some(Value::Number(n)) => n.as_u64().ok_or_else(|| invalid_params("block count"))?,
            _ => params::required::<U64>(&v, 0, "block count")?.to(),
        };
        let percentiles: Option<Vec<f64>> = params::optional(&v, 2, "reward percentiles")?;
        let newest = match params::block(&v, 1)? {
            BlockRef::Number(n) if n > b.chain.head() => return Err(refused("request beyond head block")),
            BlockRef::Number(n) => n,
            _ => b.chain.head(),
        };
        fee_history(b, count.min(FEE_HISTORY_MAX).min(newest + 1), newest, percentiles)
    })
}

fn fee_history(b: &Backend, count: u64, newest: u64, percentiles: Option<Vec<f64>>) -> RpcResult<Value> {
    if percentiles.as_ref().is_some_and(|p| p.len() > 100 || p.iter().any(|x| !(0.0..=100.0).contains(x))) {
        return Err(invalid_params("reward percentiles must be at most 100 numbers from 0 to 100"));
    }
    let mut history = FeeHistory { oldest_block: newest + 1 - count, ..Default::default() };
    let mut rewards = Vec::new();
    for number in history.oldest_block..=newest {
        let data = load(b, BlockRef::Number(number))?.ok_or_else(|| refused("header not found"))?;
        let h = &data.header;
        history.base_fee_per_gas.push(u128::from(h.base_fee_per_gas.unwrap_or_default()));
        history.gas_used_ratio.push(h.gas_used as f64 / h.gas_limit as f64);
        history.base_fee_per_blob_gas.push(1);
        history.blob_gas_used_ratio.push(0.0);
        if let Some(percentiles) = &percentiles {
            rewards.push(reward(&data, percentiles));
        }
    }
    let next = match load(b, BlockRef::Number(newest + 1))? {
        Some(next) => next.header.base_fee_per_gas.unwrap_or_default(),
        None => b.chain.next_base_fee(),
    };
    history.base_fee_per_gas.push(u128::from(next));
    history.base_fee_per_blob_gas.push(1);
    history.reward = percentiles.map(|_| rewards);
    serde_json::to_value(history).map_err(|e| refused(e.to_string())).map(|mut v| {
        if count == 0 {
            v["oldestBlock"] = json!("0x0");
        }
        v
    })
}

/// Tips at the given percentiles of a block's transactions, by count.
fn reward(data: &BlockData, percentiles: &[f64]) -> Vec<u128> {
    use alloy_consensus::Transaction as _;
    let base_fee = data.header.base_fee_per_gas.unwrap_or_default();
    let mut tips: Vec<u128> = data
        .transactions
        .iter()
        .map(|(tx, _)| tx.effective_tip_per_gas(base_fee).unwrap_or_default())
        .collect();
    tips.sort_unstable();
    percentiles
        .iter()
        .map(|p| match tips.len() {
            0 => 0,
            n => tips[((p / 100.0 * n as f64) as usize).min(n - 1)],
        })
        .collect()
}
