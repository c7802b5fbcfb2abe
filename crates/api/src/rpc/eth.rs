//! Blocks, transactions and constants: `eth_`, `net_` and `web3_`.

use super::{
    Backend,
    errors::{RpcResult, busy, fault, refused},
    format, params,
    workers::Refusal,
};
use crate::{
    http::Peer,
    ports::{BlockData, BlockRef, Stop},
};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Bytes, U64, keccak256};
use jsonrpsee::{
    RpcModule,
    core::RegisterMethodError,
    types::{ErrorCode, ErrorObjectOwned},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) type Registered = Result<(), RegisterMethodError>;

/// Registers a method that reads and may block for some milliseconds.
pub(crate) fn method<T: Serialize + Clone + Send + 'static>(
    module: &mut RpcModule<Backend>,
    name: &'static str,
    run: impl Fn(&Backend, Vec<Value>) -> RpcResult<T> + Send + Sync + Clone + 'static,
) -> Registered {
    module.register_async_method(name, move |p, backend, _| {
        let run = run.clone();
        async move {
            let values = params::list(&p)?;
            // The semaphore is never closed. The place is held by the thread, which goes on when a client goes away.
            let place = backend.light.clone().acquire_owned().await.map_err(|_| failed())?;
            let done = tokio::task::spawn_blocking(move || {
                let _place = place;
                run(&backend, values)
            });
            done.await.map_err(|_| failed())?.map(Json)
        }
    })?;
    Ok(())
}

/// Registers a method that executes something, or reads much: in turns, with a deadline, and only as long as somebody waits for the answer.
pub(crate) fn heavy<T: Serialize + Clone + Send + 'static>(
    module: &mut RpcModule<Backend>,
    name: &'static str,
    run: impl Fn(&Backend, Vec<Value>, &Stop) -> RpcResult<T> + Send + Sync + Clone + 'static,
) -> Registered {
    module.register_async_method(name, move |p, backend, extensions| {
        let run = run.clone();
        async move {
            let values = params::list(&p)?;
            let peer = extensions.get::<Peer>().copied().unwrap_or(Peer::LOOPBACK);
            let workers = backend.workers.clone();
            match workers.run(peer, move |stop| run(&backend, values, stop)).await {
                Ok(answer) => answer.map(Json),
                Err(Refusal::Busy { retry_after }) => Err(busy(retry_after)),
                // geth's words.
                Err(Refusal::TooLong(limit)) => {
                    Err(refused(format!("execution aborted (timeout = {}ms)", limit.as_millis())))
                }
                Err(Refusal::Failed) => Err(failed()),
            }
        }
    })?;
    Ok(())
}

fn failed() -> ErrorObjectOwned {
    ErrorCode::InternalError.into()
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
    raw(module)
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
    method(m, "eth_coinbase", |_, _| -> RpcResult<Value> {
        Err(refused("etherbase must be explicitly specified"))
    })?;
    method(m, "rpc_modules", |b, _| {
        let mut modules =
            json!({"eth": "1.0", "net": "1.0", "web3": "1.0", "txpool": "1.0", "rpc": "1.0", "og": "1.0"});
        if b.config.debug {
            modules["debug"] = json!("1.0");
        }
        Ok(modules)
    })?;
    for name in ["eth_sign", "eth_signTransaction", "eth_sendTransaction"] {
        // This node holds no keys for others: wallets sign.
        method(m, name, |_, _| -> RpcResult<Value> { Err(refused("unknown account")) })?;
    }
    method(m, "eth_blockNumber", |b, _| Ok(U64::from(b.chain.head())))
}

pub(crate) fn load(b: &Backend, at: BlockRef) -> RpcResult<Option<Arc<BlockData>>> {
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
    method(m, "eth_getHeaderByNumber", |b, v| {
        Ok(load(b, by_number(&v)?)?.map(|d| format::block(&d, false).header))
    })?;
    method(m, "eth_getHeaderByHash", |b, v| {
        Ok(load(b, by_hash(&v)?)?.map(|d| format::block(&d, false).header))
    })?;
    method(m, "eth_getBlockByNumber", |b, v| whole(b, by_number(&v)?, &v))?;
    method(m, "eth_getBlockByHash", |b, v| whole(b, by_hash(&v)?, &v))?;
    method(m, "eth_getBlockTransactionCountByNumber", |b, v| count(b, by_number(&v)?))?;
    method(m, "eth_getBlockTransactionCountByHash", |b, v| count(b, by_hash(&v)?))?;
    // There are no uncles here: none of a known block, null of an unknown one.
    method(m, "eth_getUncleCountByBlockNumber", |b, v| Ok(load(b, by_number(&v)?)?.map(|_| U64::ZERO)))?;
    method(m, "eth_getUncleCountByBlockHash", |b, v| Ok(load(b, by_hash(&v)?)?.map(|_| U64::ZERO)))?;
    method(m, "eth_getUncleByBlockNumberAndIndex", |_, _| Ok(Value::Null))?;
    method(m, "eth_getUncleByBlockHashAndIndex", |_, _| Ok(Value::Null))?;
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
        Ok(b.chain.pooled(hash).map(|p| format::pending(p.tx, p.sender)))
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
    })?;
    method(m, "eth_pendingTransactions", |_, _| Ok(Vec::<Value>::new()))
}

/// The EIP-2718 bytes of transactions.
fn raw(m: &mut RpcModule<Backend>) -> Registered {
    fn of(data: Option<Arc<BlockData>>, index: usize) -> Bytes {
        let tx = data.as_ref().and_then(|d| d.transactions.get(index));
        tx.map(|(tx, _)| tx.encoded_2718().into()).unwrap_or_default()
    }
    fn index(v: &[Value]) -> RpcResult<usize> {
        Ok(params::required::<U64>(v, 1, "index")?.to::<u64>() as usize)
    }
    method(m, "eth_getRawTransactionByHash", |b, v| {
        let hash: B256 = params::required(&v, 0, "hash")?;
        if let Some((number, index)) = b.chain.transaction(hash).map_err(fault)? {
            return Ok(of(load(b, BlockRef::Number(number))?, index as usize));
        }
        Ok(b.chain.pooled(hash).map(|p| p.tx.encoded_2718().into()).unwrap_or_default())
    })?;
    method(m, "eth_getRawTransactionByBlockNumberAndIndex", |b, v| {
        Ok(of(load(b, by_number(&v)?)?, index(&v)?))
    })?;
    method(m, "eth_getRawTransactionByBlockHashAndIndex", |b, v| Ok(of(load(b, by_hash(&v)?)?, index(&v)?)))
}
