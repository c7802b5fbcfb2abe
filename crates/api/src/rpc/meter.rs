//! The price of calls: each call of a batch and each call of a WebSocket counts like a request.

use super::errors;
use crate::http::{Peer, Peers};
use jsonrpsee::{
    core::middleware::{Batch, Notification, Request},
    server::{MethodResponse, middleware::rpc::RpcServiceT},
    types::Id,
};
use std::sync::Arc;

/// Marks what comes over a WebSocket, where only the handshake was counted as a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session;

/// Counts calls by peer before `inner` answers them.
#[derive(Clone)]
pub(crate) struct Metered<S> {
    pub(crate) inner: S,
    pub(crate) peers: Arc<Peers>,
}

impl<S> RpcServiceT for Metered<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type BatchResponse = MethodResponse;
    type NotificationResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let session = request.extensions().get::<Session>().is_some();
        let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::LOOPBACK);
        let permit = session.then(|| self.peers.request(peer)).transpose();
        let inner = self.inner.clone();
        async move {
            match permit {
                Ok(_permit) => inner.call(request).await,
                Err(busy) => MethodResponse::error(request.id.into_owned(), errors::busy(busy.retry_after)),
            }
        }
    }

    fn batch<'a>(&self, mut batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let session = batch.extensions().get::<Session>().is_some();
        let peer = batch.extensions().get::<Peer>().copied().unwrap_or(Peer::LOOPBACK);
        let permit = session.then(|| self.peers.request(peer)).transpose();
        // The first call was paid with the request.
        let others = u32::try_from(batch.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let paid = permit.and_then(|permit| self.peers.pay(peer, others).map(|()| permit));
        let inner = self.inner.clone();
        async move {
            match paid {
                Ok(_permit) => inner.batch(batch).await,
                Err(busy) => MethodResponse::error(Id::Null, errors::busy(busy.retry_after)),
            }
        }
    }

    fn notification<'a>(&self, n: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        // Nothing is done for it, and nothing answered.
        self.inner.notification(n)
    }
}
