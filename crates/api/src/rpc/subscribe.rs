//! `eth_subscribe` over WebSocket: newHeads, logs, newPendingTransactions, syncing.

use super::{
    Backend,
    errors::{RpcResult, invalid_params},
    format, logs, params,
};
use crate::ports::ChainEvent;
use alloy_rpc_types_eth::Filter;
use jsonrpsee::{
    PendingSubscriptionSink, RpcModule, SubscriptionSink,
    core::{RegisterMethodError, SubscriptionResult, traits::IdProvider},
    types::SubscriptionId,
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Ids like geth's: 16 random bytes in hexadecimal.
#[derive(Debug)]
pub(crate) struct HexIds;

impl IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let random = alloy_primitives::B128::from(rand::random::<[u8; 16]>());
        SubscriptionId::Str(random.to_string().into())
    }
}

/// What a client wants to hear of.
enum Wanted {
    Heads,
    Logs(Box<Filter>),
    Pending { full: bool },
    Syncing,
}

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Result<(), RegisterMethodError> {
    m.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |p, pending, backend, _| {
            let wanted = params::list(&p).and_then(|v| wanted(&v));
            async move { serve(wanted, pending, backend).await }
        },
    )?;
    Ok(())
}

fn wanted(v: &[Value]) -> RpcResult<Wanted> {
    Ok(match params::required::<String>(v, 0, "subscription")?.as_str() {
        "newHeads" => Wanted::Heads,
        "logs" => {
            let filter: Filter = params::optional(v, 1, "filter")?.unwrap_or_default();
            Wanted::Logs(Box::new(logs::bounded(filter)?))
        }
        "newPendingTransactions" => {
            Wanted::Pending { full: params::optional(v, 1, "full transactions")?.unwrap_or(false) }
        }
        "syncing" => Wanted::Syncing,
        other => return Err(invalid_params(format!("no \"{other}\" subscription in eth namespace"))),
    })
}

async fn serve(
    wanted: RpcResult<Wanted>,
    pending: PendingSubscriptionSink,
    backend: Arc<Backend>,
) -> SubscriptionResult {
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(e) => {
            pending.reject(e).await;
            return Ok(());
        }
    };
    // Listening before accepting: nothing between the two is missed.
    let events = backend.chain.events();
    let sink = pending.accept().await?;
    listen(&wanted, events, &sink).await;
    Ok(())
}

/// Sends until the client or the chain goes. A client that is too slow loses the subscription, not the server its memory.
async fn listen(wanted: &Wanted, mut events: Receiver<ChainEvent>, sink: &SubscriptionSink) {
    loop {
        let event = tokio::select! {
            () = sink.closed() => return,
            event = events.recv() => match event {
                Ok(event) => event,
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            },
        };
        let messages = match (wanted, &event) {
            (Wanted::Heads, ChainEvent::Block(data, _)) => vec![json(&format::block(data, false).header)],
            (Wanted::Logs(filter), ChainEvent::Block(data, receipts)) => {
                logs::matching(filter, data, receipts).iter().map(json).collect()
            }
            (Wanted::Pending { full: false }, ChainEvent::Transaction(tx)) => vec![json(tx.0.tx_hash())],
            (Wanted::Pending { full: true }, ChainEvent::Transaction(tx)) => {
                vec![json(&format::pending(tx.0.clone(), tx.1))]
            }
            _ => continue,
        };
        for message in messages.into_iter().flatten() {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    }
}

fn json(value: &impl Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}
