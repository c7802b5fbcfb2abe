//! What gas costs.

use super::{
    Backend,
    errors::{RpcResult, invalid_params, refused},
    eth::{Registered, load, method},
    params,
};
use crate::ports::{BlockData, BlockRef};
use alloy_primitives::U64;
use alloy_rpc_types_eth::FeeHistory;
use jsonrpsee::RpcModule;
use serde_json::{Value, json};

/// Suggested tip in wei.
const TIP: u64 = 1_000_000;
/// Most blocks of one `eth_feeHistory`.
const FEE_HISTORY_MAX: u64 = 1024;

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Registered {
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
