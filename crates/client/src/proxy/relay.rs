//! A stream on its way through the proxy: text passes, the end waits for the checks.

use super::{
    error::Fault,
    exchange::{Exchange, Miss},
    sse,
};
use crate::{ClientError, Refused, check::Known, error::quoted, rpc::unreachable_at};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::Value;
use std::convert::Infallible;
use tracing::warn;
use types::{Seal, limits::RESPONSE_BYTES_MAX};

/// A stream under way.
pub(super) struct Relay {
    exchange: Exchange,
    upstream: Option<reqwest::Response>,
    splitter: sse::Splitter,
    /// Every byte that the receipt must commit to.
    committed: Vec<u8>,
    /// What is withheld until the checks pass.
    held: Vec<u8>,
    holding: bool,
    seal: Option<String>,
    /// Whether anything was released.
    has_begun: bool,
}

impl Relay {
    /// Waits until the first bytes may be released. Until then nothing was, and another node can be asked.
    pub(super) async fn begin(
        exchange: Exchange,
        upstream: reqwest::Response,
        verified_first: bool,
    ) -> Result<Response, Miss> {
        let mut relay = Self {
            exchange,
            upstream: Some(upstream),
            splitter: sse::Splitter::default(),
            committed: Vec::new(),
            held: Vec::new(),
            holding: verified_first,
            seal: None,
            has_begun: false,
        };
        let first = relay.step().await?;
        relay.has_begun = true;
        let (node, latency) = (relay.exchange.offer.node, relay.exchange.began.elapsed());
        relay.exchange.proxy.directory.succeeded(node, Some(latency));
        let about = relay.exchange.about();
        let rest = stream::unfold(relay, |mut r| async move { r.next().await.map(|c| (c, r)) });
        let chunks = stream::iter(first).chain(rest).map(Ok::<_, Infallible>);
        let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
        let mut response = (headers, Body::from_stream(chunks)).into_response();
        response.headers_mut().extend(about);
        Ok(response)
    }

    /// The next bytes for the client, or `None` at the end. An error takes the place of the end, without `[DONE]`.
    async fn next(&mut self) -> Option<Bytes> {
        match self.step().await {
            Ok(bytes) => bytes,
            Err(miss) => {
                self.upstream = None;
                let error = match miss {
                    Miss::Busy => ClientError::Busy,
                    Miss::Refused(refusal) => ClientError::AllRefused(Box::new(Refused {
                        refusals: vec![refusal],
                        failures: vec![],
                    })),
                    Miss::Failed(e) | Miss::Own(e) => e,
                };
                let fault = Fault::from(error);
                warn!(status = fault.status().as_u16(), "a stream ended without its end");
                Some(Bytes::from(format!("data: {}\n\n", fault.body())))
            }
        }
    }

    /// The same; an error says why the node's answer ends here.
    async fn step(&mut self) -> Result<Option<Bytes>, Miss> {
        loop {
            let Some(upstream) = self.upstream.as_mut() else { return Ok(None) };
            match upstream.chunk().await {
                Ok(Some(chunk)) => {
                    let ready = self.take(&chunk)?;
                    if !ready.is_empty() {
                        return Ok(Some(ready.into()));
                    }
                }
                Ok(None) => return self.finish().await.map(Some),
                Err(e) => {
                    return Err(self.exchange.broke(unreachable_at(&self.exchange.offer.endpoint, &e)));
                }
            }
        }
    }

    /// Sorts received bytes into what can be passed on and what is withheld.
    fn take(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Miss> {
        if self.committed.len() + chunk.len() > RESPONSE_BYTES_MAX + (1 << 20) {
            return Err(self.bad("the answer is too long"));
        }
        let Some(events) = self.splitter.push(chunk) else {
            return Err(self.bad("an event is too long"));
        };
        let mut ready = Vec::new();
        for event in events {
            match sse::classify(&event) {
                sse::Kind::Seal(seal) if self.seal.is_none() => self.seal = Some(seal),
                // Nothing may follow the seal.
                _ if self.seal.is_some() => return Err(self.bad("there are bytes after the seal")),
                sse::Kind::Error => return Err(self.node_error(&event)),
                sse::Kind::Bad | sse::Kind::Seal(_) => return Err(self.bad("the stream is malformed")),
                kind => {
                    self.holding |= kind == sse::Kind::End;
                    self.committed.extend_from_slice(&event);
                    if self.holding { &mut self.held } else { &mut ready }.extend_from_slice(&event);
                }
            }
        }
        Ok(ready)
    }

    fn bad(&self, what: &str) -> Miss {
        Miss::Failed(self.exchange.refuse(what.into()))
    }

    /// The node broke off with words of its own.
    fn node_error(&self, event: &[u8]) -> Miss {
        self.exchange.proxy.directory.failed(self.exchange.offer.node);
        let text = String::from_utf8_lossy(event);
        let error: Value = serde_json::from_str(text.trim_start_matches("data: ").trim()).unwrap_or_default();
        let words = error["error"]["message"].as_str().unwrap_or("no reason given");
        let reason = format!("the node broke off its answer (its words: {})", quoted(words));
        Miss::Failed(ClientError::Malformed { url: self.exchange.offer.endpoint.clone(), reason })
    }

    /// Checks the whole answer and gives its end.
    async fn finish(&mut self) -> Result<Bytes, Miss> {
        self.upstream = None;
        let (seal, summary) = self.verify().await?;
        let mut out = std::mem::take(&mut self.held);
        out.extend_from_slice(format!(": og-seal {seal}\n\n: og-verified {summary}\n\n").as_bytes());
        if self.has_begun {
            self.exchange.proxy.directory.succeeded(self.exchange.offer.node, None);
        }
        Ok(out.into())
    }

    async fn verify(&mut self) -> Result<(String, Value), Miss> {
        let exchange = &self.exchange;
        let refuse = |what: String| Miss::Failed(exchange.refuse(what));
        if !self.splitter.is_empty() {
            return Err(refuse("the stream was cut off".into()));
        }
        let seal = self.seal.take().ok_or_else(|| refuse("the stream ended without a seal".into()))?;
        let parsed: Seal =
            serde_json::from_str(&seal).map_err(|e| refuse(format!("the seal cannot be read: {e}")))?;
        let response = String::from_utf8(std::mem::take(&mut self.committed))
            .map_err(|_| refuse("the stream is not UTF-8".into()))?;
        let summary = exchange.verify(response, parsed, Known::now()).await.map_err(Miss::of_check)?;
        Ok((seal, summary))
    }
}

impl Miss {
    /// A failed check is the node's fault, anything else ours.
    pub(super) fn of_check(e: ClientError) -> Self {
        match e {
            ClientError::Verification { .. } => Self::Failed(e),
            other => Self::Own(other),
        }
    }
}
