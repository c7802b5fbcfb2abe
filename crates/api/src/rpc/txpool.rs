//! `txpool_`: what waits.

use super::{
    Backend,
    errors::{RpcResult, fault},
    eth::{Registered, heavy},
    format, params,
};
use crate::ports::Pooled;
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U64};
use jsonrpsee::RpcModule;
use serde_json::{Map, Value, json};

fn pool(b: &Backend) -> RpcResult<Vec<Pooled>> {
    b.chain.pool().map_err(fault)
}

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Registered {
    heavy(m, "txpool_status", |b, _, _| {
        let pool = pool(b)?;
        let pending = pool.iter().filter(|p| p.pending).count();
        Ok(json!({"pending": U64::from(pending), "queued": U64::from(pool.len() - pending)}))
    })?;
    heavy(m, "txpool_content", |b, _, _| {
        let (pending, queued) = sorted(pool(b)?, whole);
        Ok(json!({"pending": pending, "queued": queued}))
    })?;
    heavy(m, "txpool_inspect", |b, _, _| {
        let (pending, queued) = sorted(pool(b)?, line);
        Ok(json!({"pending": pending, "queued": queued}))
    })?;
    heavy(m, "txpool_contentFrom", |b, v, _| {
        let sender: Address = params::required(&v, 0, "address")?;
        let mine = pool(b)?.into_iter().filter(|p| p.sender == sender).collect();
        let (mut pending, mut queued) = sorted(mine, whole);
        let of = |map: &mut Map<String, Value>| map.remove(&sender.to_string()).unwrap_or_else(|| json!({}));
        Ok(json!({"pending": of(&mut pending), "queued": of(&mut queued)}))
    })
}

fn whole(p: &Pooled) -> Value {
    serde_json::to_value(format::pending(p.tx.clone(), p.sender)).unwrap_or_default()
}

/// One transaction in a line, as geth has it.
fn line(p: &Pooled) -> Value {
    let to = p.tx.to().map_or("contract creation".into(), |to| to.to_string());
    let (value, gas, price) = (p.tx.value(), p.tx.gas_limit(), p.tx.max_fee_per_gas());
    json!(format!("{to}: {value} wei + {gas} gas × {price} wei"))
}

/// Pending and queued transactions, by sender and nonce.
fn sorted(pool: Vec<Pooled>, show: fn(&Pooled) -> Value) -> (Map<String, Value>, Map<String, Value>) {
    let (mut pending, mut queued) = (Map::new(), Map::new());
    for p in pool {
        let map = if p.pending { &mut pending } else { &mut queued };
        let of_sender = map.entry(p.sender.to_string()).or_insert_with(|| json!({}));
        of_sender[p.tx.nonce().to_string()] = show(&p);
    }
    (pending, queued)
}
