//! What gas costs.

use super::{
    Backend,
    errors::{RpcResult, fault, invalid_params, refused},
    eth::{Registered, heavy, load, method},
    logs::go_on,
    params,
};
use crate::ports::{BlockData, BlockRef, Stop};
use alloy_consensus::ReceiptEnvelope;
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
    heavy(m, "eth_feeHistory", |b, v, stop| {
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
        fee_history(b, count.min(FEE_HISTORY_MAX).min(newest + 1), newest, percentiles, stop)
    })
}

fn fee_history(
    b: &Backend,
    count: u64,
    newest: u64,
    percentiles: Option<Vec<f64>>,
    stop: &Stop,
) -> RpcResult<Value> {
    if percentiles
        .as_ref()
        .is_some_and(|p| p.len() > 100 || p.iter().any(|x| !(0.0..=100.0).contains(x)) || !p.is_sorted())
    {
        return Err(invalid_params(
            "reward percentiles must be at most 100 numbers from 0 to 100, ascending",
        ));
    }
    let mut history = FeeHistory { oldest_block: newest + 1 - count, ..Default::default() };
    let mut rewards = Vec::new();
    for number in history.oldest_block..=newest {
        go_on(stop)?;
        let data = load(b, BlockRef::Number(number))?.ok_or_else(|| refused("header not found"))?;
        let h = &data.header;
        history.base_fee_per_gas.push(u128::from(h.base_fee_per_gas.unwrap_or_default()));
        history.gas_used_ratio.push(h.gas_used as f64 / h.gas_limit as f64);
        history.base_fee_per_blob_gas.push(1);
        history.blob_gas_used_ratio.push(0.0);
        if let Some(percentiles) = &percentiles {
            let receipts = b.chain.receipts(number).map_err(fault)?.unwrap_or_default();
            rewards.push(reward(&data, &receipts, percentiles));
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

/// Tips at the given percentiles of a block's gas.
fn reward(data: &BlockData, receipts: &[ReceiptEnvelope], percentiles: &[f64]) -> Vec<u128> {
    use alloy_consensus::Transaction as _;
    let base_fee = data.header.base_fee_per_gas.unwrap_or_default();
    let mut before = 0;
    let mut tips: Vec<(u128, u64)> = data
        .transactions
        .iter()
        .zip(receipts)
        .map(|((tx, _), receipt)| {
            let gas = receipt.cumulative_gas_used() - before;
            before = receipt.cumulative_gas_used();
            (tx.effective_tip_per_gas(base_fee).unwrap_or_default(), gas)
        })
        .collect();
    tips.sort_unstable();
    let used = data.header.gas_used as f64;
    percentiles
        .iter()
        .map(|p| {
            let mut gas = 0;
            let reached = tips.iter().find(|(_, own)| {
                gas += own;
                gas as f64 >= p / 100.0 * used
            });
            reached.or(tips.last()).map_or(0, |(tip, _)| *tip)
        })
        .collect()
}
