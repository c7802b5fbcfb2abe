//! `debug_`: traces and raw bytes.

use super::{
    Backend,
    errors::{RpcResult, fault, refused},
    eth::{Registered, heavy, load, method},
    params,
};
use crate::ports::{BlockRef, ChainFault, Stop};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_trace::geth::{GethDebugTracingCallOptions, GethDebugTracingOptions};
use jsonrpsee::RpcModule;
use serde_json::{Value, json};

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Registered {
    heavy(m, "debug_traceTransaction", |b, v, stop| {
        let hash: B256 = params::required(&v, 0, "hash")?;
        let found = b.chain.transaction(hash).map_err(fault)?;
        let (number, index) = found.ok_or_else(|| fault(ChainFault::UnknownTransaction))?;
        let traced = b.chain.trace_block(BlockRef::Number(number), Some(index as usize), options(&v)?, stop);
        let traced = traced.map_err(fault)?.into_iter().next();
        traced.map(|(_, trace)| trace).ok_or_else(|| refused("transaction not found"))
    })?;
    heavy(m, "debug_traceCall", |b, v, stop| {
        let options: Option<GethDebugTracingCallOptions> = params::optional(&v, 2, "tracer options")?;
        b.chain
            .trace_call(params::block(&v, 1)?, params::call(&v)?, options.unwrap_or_default(), stop)
            .map_err(fault)
    })?;
    fn blocks(b: &Backend, at: BlockRef, v: &[Value], stop: &Stop) -> RpcResult<Value> {
        let traced = b.chain.trace_block(at, None, options(v)?, stop).map_err(fault)?;
        Ok(traced.into_iter().map(|(hash, trace)| json!({"txHash": hash, "result": trace})).collect())
    }
    heavy(m, "debug_traceBlockByNumber", |b, v, stop| {
        blocks(b, params::from_tag(params::required(&v, 0, "block number")?), &v, stop)
    })?;
    heavy(m, "debug_traceBlockByHash", |b, v, stop| {
        blocks(b, BlockRef::Hash(params::required(&v, 0, "block hash")?), &v, stop)
    })?;
    method(m, "debug_getRawBlock", |b, v| {
        let raw = b.chain.raw_block(params::block(&v, 0)?).map_err(fault)?;
        raw.ok_or_else(|| fault(ChainFault::UnknownBlock))
    })?;
    method(m, "debug_getRawHeader", |b, v| {
        let data = load(b, params::block(&v, 0)?)?.ok_or_else(|| fault(ChainFault::UnknownBlock))?;
        Ok(Bytes::from(alloy_rlp::encode(&data.header)))
    })?;
    method(m, "debug_getRawTransaction", |b, v| {
        let hash: B256 = params::required(&v, 0, "hash")?;
        let Some((number, index)) = b.chain.transaction(hash).map_err(fault)? else {
            return Ok(b.chain.pooled(hash).map(|p| Bytes::from(p.tx.encoded_2718())).unwrap_or_default());
        };
        let data = load(b, BlockRef::Number(number))?;
        let tx = data.as_ref().and_then(|d| d.transactions.get(index as usize));
        Ok(tx.map(|(tx, _)| Bytes::from(tx.encoded_2718())).unwrap_or_default())
    })?;
    method(m, "debug_getRawReceipts", |b, v| {
        let data = load(b, params::block(&v, 0)?)?.ok_or_else(|| fault(ChainFault::UnknownBlock))?;
        let receipts = b.chain.receipts(data.header.number).map_err(fault)?.unwrap_or_default();
        Ok(receipts.iter().map(|r| Bytes::from(r.encoded_2718())).collect::<Vec<_>>())
    })
}

fn options(v: &[Value]) -> RpcResult<GethDebugTracingOptions> {
    Ok(params::optional(v, 1, "tracer options")?.unwrap_or_default())
}
