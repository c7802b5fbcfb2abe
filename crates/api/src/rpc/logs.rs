//! `eth_getLogs` and filters.

use super::{
    Backend,
    errors::{RpcResult, fault, invalid_params, refused},
    eth::{heavy, method},
    filters::Kind,
    format::Place,
    params,
};
use crate::ports::{BlockData, BlockRef, ChainFault, Stop};
use alloy_consensus::ReceiptEnvelope;
use alloy_primitives::U64;
use alloy_rpc_types_eth::{Filter, FilterBlockOption, Log};
use jsonrpsee::{RpcModule, core::RegisterMethodError};
use serde_json::{Value, json};

/// Most blocks of one query.
const RANGE_MAX: u64 = 10_000;
/// Most logs of one answer.
const LOGS_MAX: usize = 10_000;
/// Most addresses and topics of one filter.
const FILTER_ITEMS_MAX: usize = 1024;

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Result<(), RegisterMethodError> {
    heavy(m, "eth_getLogs", |b, v, stop| get_logs(b, &filter(&v)?, stop))?;
    method(m, "eth_newFilter", |b, v| {
        let filter = filter(&v)?;
        let next = match from_block(&filter) {
            Some(BlockRef::Number(n)) => n,
            _ => b.chain.head() + 1,
        };
        add(b, Kind::Logs(Box::new(filter)), next)
    })?;
    method(m, "eth_newPendingTransactionFilter", |b, _| {
        let next = b.filters.newest_pending();
        add(b, Kind::Pending, next)
    })?;
    method(m, "eth_newBlockFilter", |b, _| add(b, Kind::Blocks, b.chain.head() + 1))?;
    method(m, "eth_uninstallFilter", |b, v| Ok(b.filters.remove(id(&v)?)))?;
    heavy(m, "eth_getFilterLogs", |b, v, stop| match b.filters.kind(id(&v)?) {
        Some(Kind::Logs(filter)) => get_logs(b, &filter, stop),
        _ => Err(refused("filter not found")),
    })?;
    heavy(m, "eth_getFilterChanges", |b, v, stop| changes(b, id(&v)?, stop))
}

fn id(v: &[Value]) -> RpcResult<u64> {
    Ok(params::required::<U64>(v, 0, "filter id")?.to())
}

fn filter(v: &[Value]) -> RpcResult<Filter> {
    bounded(params::required(v, 0, "filter")?)
}

/// Refuses a filter with too many items.
pub(crate) fn bounded(filter: Filter) -> RpcResult<Filter> {
    let items = filter.address.iter().count() + filter.topics.iter().map(|t| t.iter().count()).sum::<usize>();
    if items > FILTER_ITEMS_MAX {
        return Err(invalid_params(format!("at most {FILTER_ITEMS_MAX} addresses and topics")));
    }
    Ok(filter)
}

fn add(b: &Backend, kind: Kind, next: u64) -> RpcResult<U64> {
    b.filters.add(kind, next).map(U64::from).ok_or_else(|| refused("too many filters; uninstall some first"))
}

fn changes(b: &Backend, id: u64, stop: &Stop) -> RpcResult<Value> {
    let head = b.chain.head();
    let (kind, from) = b.filters.poll(id, head).ok_or_else(|| refused("filter not found"))?;
    if matches!(kind, Kind::Pending) {
        return Ok(json!(b.filters.pending_since(from)));
    }
    let from = from.max((head + 1).saturating_sub(RANGE_MAX));
    match kind {
        Kind::Pending => Ok(Value::Null),
        Kind::Blocks => {
            let headers = (from..=head).map(|n| b.chain.header(n).map_err(fault));
            let hashes: Vec<_> =
                headers.collect::<RpcResult<Vec<_>>>()?.into_iter().flatten().map(|(hash, _)| hash).collect();
            Ok(json!(hashes))
        }
        Kind::Logs(filter) => {
            let mut out = Vec::new();
            let to = match to_block(&filter) {
                Some(BlockRef::Number(n)) => n.min(head),
                _ => head,
            };
            for number in from..=to {
                go_on(stop)?;
                scan(b, &filter, number, &mut out)?;
            }
            serde_json::to_value(out).map_err(|e| refused(e.to_string()))
        }
    }
}

fn from_block(filter: &Filter) -> Option<BlockRef> {
    filter.block_option.get_from_block().map(|t| params::from_tag(*t))
}

fn to_block(filter: &Filter) -> Option<BlockRef> {
    filter.block_option.get_to_block().map(|t| params::from_tag(*t))
}

fn get_logs(b: &Backend, filter: &Filter, stop: &Stop) -> RpcResult<Vec<Log>> {
    let head = b.chain.head();
    let number = |at: Option<BlockRef>| match at {
        Some(BlockRef::Number(n)) => n,
        _ => head,
    };
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let data = b.chain.block(BlockRef::Hash(hash)).map_err(fault)?;
            let number = data.ok_or_else(|| refused("unknown block"))?.header.number;
            (number, number)
        }
        FilterBlockOption::Range { .. } => (number(from_block(filter)), number(to_block(filter))),
    };
    if to < from {
        return Err(invalid_params("invalid block range params"));
    }
    if to - from >= RANGE_MAX {
        return Err(invalid_params(format!("exceed maximum block range: {RANGE_MAX}; ask in smaller steps")));
    }
    let to = to.min(head);
    let mut out = Vec::new();
    for number in from..=to {
        go_on(stop)?;
        scan(b, filter, number, &mut out)?;
    }
    Ok(out)
}

/// Fails when nobody waits any more; then nobody reads why.
pub(crate) fn go_on(stop: &Stop) -> RpcResult<()> {
    match stop.is_set() {
        true => Err(fault(ChainFault::Interrupted)),
        false => Ok(()),
    }
}

/// Appends the matching logs of one block.
fn scan(b: &Backend, filter: &Filter, number: u64, out: &mut Vec<Log>) -> RpcResult<()> {
    let Some((_, header)) = b.chain.header(number).map_err(fault)? else { return Ok(()) };
    if header.gas_used == 0 || !filter.matches_bloom(header.logs_bloom) {
        return Ok(());
    }
    let Some(data) = b.chain.block(BlockRef::Number(number)).map_err(fault)? else { return Ok(()) };
    let receipts = b.chain.receipts(number).map_err(fault)?.unwrap_or_default();
    out.extend(matching(filter, &data, &receipts));
    if out.len() > LOGS_MAX {
        return Err(invalid_params(format!("query returned more than {LOGS_MAX} results; narrow it")));
    }
    Ok(())
}

/// The logs of a block that a filter wants.
pub(crate) fn matching(filter: &Filter, data: &BlockData, receipts: &[ReceiptEnvelope]) -> Vec<Log> {
    let mut out = Vec::new();
    let mut log_index = 0;
    for (index, (receipt, (tx, _))) in receipts.iter().zip(&data.transactions).enumerate() {
        let place = Place { data, hash: *tx.tx_hash(), index: index as u64 };
        for log in receipt.logs() {
            if filter.matches(log) {
                out.push(place.log(log.clone(), log_index));
            }
            log_index += 1;
        }
    }
    out
}
