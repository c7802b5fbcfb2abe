//! Parameters as clients send them.

use super::errors::{RpcResult, invalid_params};
use crate::ports::{BlockRef, Call};
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::TxKind;
use alloy_rpc_types_eth::TransactionRequest;
use jsonrpsee::types::Params;
use serde::de::DeserializeOwned;

/// Required parameter number `i`.
pub(crate) fn required<T: DeserializeOwned>(
    values: &[serde_json::Value],
    i: usize,
    what: &str,
) -> RpcResult<T> {
    let value = values
        .get(i)
        .ok_or_else(|| invalid_params(format!("missing value for required argument {i} ({what})")))?;
    T::deserialize(value).map_err(|e| invalid_params(format!("invalid argument {i} ({what}): {e}")))
}

/// Optional parameter number `i`; null counts as absent.
pub(crate) fn optional<T: DeserializeOwned>(
    values: &[serde_json::Value],
    i: usize,
    what: &str,
) -> RpcResult<Option<T>> {
    match values.get(i) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(_) => required(values, i, what).map(Some),
    }
}

/// The positional parameters.
pub(crate) fn list(params: &Params<'_>) -> RpcResult<Vec<serde_json::Value>> {
    if params.as_str().is_none() {
        return Ok(vec![]);
    }
    params.parse().map_err(|_| invalid_params("params must be an array"))
}

/// Block parameter number `i`; `latest` when absent. Every block is final, so all tags but `earliest` mean the newest.
pub(crate) fn block(values: &[serde_json::Value], i: usize) -> RpcResult<BlockRef> {
    Ok(match optional::<BlockId>(values, i, "block")? {
        None => BlockRef::Latest,
        Some(BlockId::Hash(hash)) => BlockRef::Hash(hash.block_hash),
        Some(BlockId::Number(tag)) => from_tag(tag),
    })
}

pub(crate) fn from_tag(tag: BlockNumberOrTag) -> BlockRef {
    match tag {
        BlockNumberOrTag::Number(n) => BlockRef::Number(n),
        BlockNumberOrTag::Earliest => BlockRef::Number(0),
        _ => BlockRef::Latest,
    }
}

/// A call object.
pub(crate) fn call(values: &[serde_json::Value]) -> RpcResult<Call> {
    let request: TransactionRequest = required(values, 0, "transaction")?;
    let data = match (&request.input.input, &request.input.data) {
        (Some(a), Some(b)) if a != b => {
            return Err(invalid_params("both \"data\" and \"input\" are set and not equal; use \"input\""));
        }
        (a, b) => a.clone().or_else(|| b.clone()).unwrap_or_default(),
    };
    Ok(Call {
        from: request.from,
        to: match request.to {
            Some(TxKind::Call(to)) => Some(to),
            _ => None,
        },
        gas: request.gas,
        gas_price: request.gas_price.or(request.max_fee_per_gas).filter(|p| *p > 0),
        value: request.value.unwrap_or_default(),
        data,
        access_list: request.access_list.unwrap_or_default(),
    })
}
