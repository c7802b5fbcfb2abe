//! Parameters as clients send them.

use super::errors::{RpcResult, invalid_params};
use crate::ports::{BlockRef, CallOverrides};
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_rpc_types_eth::{
    TransactionRequest,
    state::{AccountOverride, StateOverride},
};
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
pub(crate) fn call(values: &[serde_json::Value]) -> RpcResult<TransactionRequest> {
    object(values, 0, "transaction")
}

/// Required parameter number `i`, an object: a list must not pass for one.
pub(crate) fn object<T: DeserializeOwned>(
    values: &[serde_json::Value],
    i: usize,
    what: &str,
) -> RpcResult<T> {
    match values.get(i) {
        Some(value) if !value.is_object() => {
            Err(invalid_params(format!("invalid argument {i} ({what}): expected an object")))
        }
        _ => required(values, i, what),
    }
}

/// Overrides of state and block, as parameters `i` and `i + 1`.
pub(crate) fn overrides(values: &[serde_json::Value], i: usize) -> RpcResult<CallOverrides> {
    for at in [i, i + 1] {
        if values.get(at).is_some_and(|v| v.is_array()) {
            return Err(invalid_params(format!("invalid argument {at} (overrides): expected an object")));
        }
    }
    let state = optional::<StateOverride>(values, i, "state overrides")?;
    let slots = |a: &AccountOverride| {
        a.state.as_ref().map_or(0, |s| s.len()) + a.state_diff.as_ref().map_or(0, |s| s.len())
    };
    if state.as_ref().is_some_and(|s| s.values().map(|a| 1 + slots(a)).sum::<usize>() > OVERRIDES_MAX) {
        return Err(invalid_params(format!("at most {OVERRIDES_MAX} overridden accounts and slots")));
    }
    Ok(CallOverrides { state, block: optional(values, i + 1, "block overrides")? })
}

/// Most overridden accounts and slots of one call.
const OVERRIDES_MAX: usize = 10_000;
