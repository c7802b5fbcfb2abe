use super::{Answered, Proxy, Purse, error::Fault, replicate, sse};
use crate::{
    ClientError, Offer,
    check::{Check, Checks, Known, Outcome, check_answer},
    rpc::{read_bounded, unreachable_at},
};
use alloy_primitives::B256;
use axum::{
    body::Body,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};
use types::{Claim, Disclosure, ModelManifest, Receipt, ReceiptId, Rung, Seal, limits::RESPONSE_BYTES_MAX};

/// Largest difference between a node's clock and ours.
const SKEW_MS_MAX: u64 = 5 * 60 * 1000;
/// Oldest block that an answer may be anchored to.
const ANCHOR_AGE_MAX: u64 = 1000;
/// Nodes that are tried for one request.
const TRIES_MAX: usize = 3;

/// One request on its way through a node.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) proxy: Arc<Proxy>,
    pub(super) path: String,
    pub(super) offer: Offer,
    pub(super) manifest: ModelManifest,
    pub(super) request: String,
    pub(super) nonce: B256,
    pub(super) rung: Rung,
    pub(super) id: ReceiptId,
}

/// `POST` to any endpoint that a node answers with a receipt.
pub(super) async fn forward(
    State(proxy): State<Arc<Proxy>>,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    proxy.metrics.requests.inc();
    run(proxy, uri.path(), &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(
    proxy: Arc<Proxy>,
    path: &str,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let bad = |message: String| Fault::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Fault::new(e.status(), "request_too_large", "the body is larger than 1 MiB")
        }
        _ => bad(e.body_text()),
    })?;
    let request = String::from_utf8(body.to_vec()).map_err(|_| bad("the body is not UTF-8".into()))?;
    let parsed: Value =
        serde_json::from_str(&request).map_err(|e| bad(format!("the body is not JSON: {e}")))?;
    let invalid = |m: &str| Fault::new(StatusCode::BAD_REQUEST, "invalid_value", m);
    let model = match &parsed["model"] {
        Value::String(model) => model,
        Value::Null => {
            let message = "missing required parameter: `model`";
            return Err(Fault::field("missing_required_parameter", "model", message));
        }
        _ => return Err(Fault::field("invalid_value", "model", "`model` must be a string")),
    };
    let rung = match headers.get("og-assurance") {
        None => Rung::Signed,
        Some(v) => v
            .to_str()
            .ok()
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| invalid("the header og-assurance cannot be read"))?,
    };
    let verified_first =
        proxy.config.release_verified || headers.get("og-release").is_some_and(|v| v == "verified");
    let streaming = parsed["stream"] == true;
    proxy.directory.refresh().await?;
    let (manifest, offers) = proxy.directory.choose(model)?;
    if rung == Rung::Replicated {
        let nodes = replicate::nodes(headers, &proxy)?;
        return replicate::Question { proxy, path, manifest, offers, request, streaming, nodes }.ask().await;
    }
    let (exchange, upstream) = connect(&proxy, path, manifest, offers, request, rung, headers).await?;
    if !upstream.status().is_success() {
        return Ok(pass_error_on(&exchange, upstream).await?);
    }
    let about = exchange.about();
    let mut response =
        if streaming { exchange.stream(upstream, verified_first) } else { exchange.whole(upstream).await? };
    response.headers_mut().extend(about);
    Ok(response)
}

/// Sends the request to the first node that answers.
async fn connect(
    proxy: &Arc<Proxy>,
    path: &str,
    manifest: ModelManifest,
    offers: Vec<Offer>,
    request: String,
    rung: Rung,
    headers: &HeaderMap,
) -> Result<(Exchange, reqwest::Response), ClientError> {
    let mut last = None;
    let mut filled = None;
    let mut offers: VecDeque<Offer> = offers.into_iter().take(TRIES_MAX).collect();
    while let Some(offer) = offers.pop_front() {
        // A fresh nonce for every try: no two nodes can tell that they saw the same request from its commitment.
        let nonce = B256::from(rand::random::<[u8; 32]>());
        let commitment = Claim::request_commitment(&nonce, request.as_bytes());
        let chain_id = proxy.network.network.chain_id;
        let id = Claim::receipt_id_of(chain_id, proxy.genesis, offer.node, commitment);
        let url = format!("{}{path}", offer.endpoint);
        let mut request_to = proxy.http.post(&url);
        if let Some(purse) = &proxy.purse {
            request_to = request_to.header("og-payment", purse.promise(offer.node)?);
        }
        let sent = request_to
            .header("content-type", "application/json")
            .header("og-nonce", nonce.to_string())
            .header("og-assurance", rung.name())
            .header("og-proof", "inline")
            .headers(super::disclose(headers))
            .body(request.clone())
            .send()
            .await;
        let failure = match sent {
            // A full queue is no failure of the node.
            Ok(r) if r.status() == StatusCode::TOO_MANY_REQUESTS => {
                proxy.metrics.retried.inc();
                last.get_or_insert(ClientError::Busy);
                continue;
            }
            // The pocket for this node is empty: fill it once.
            Ok(r) if r.status() == StatusCode::PAYMENT_REQUIRED && filled != Some(offer.node) => {
                let Some(purse) = &proxy.purse else { return Err(ClientError::Unpaid) };
                purse.fill(offer.node).await?;
                filled = Some(offer.node);
                offers.push_front(offer);
                continue;
            }
            // A client's own mistake is passed on; everything else that is no answer is the node's failure.
            Ok(r) if !r.status().is_success() && !r.status().is_client_error() => {
                let reason = format!("it answered with status {}", r.status());
                ClientError::Unreachable { url, reason }
            }
            Ok(response) => {
                let (proxy, manifest) = (proxy.clone(), manifest.clone());
                let path = path.to_owned();
                return Ok((Exchange { proxy, path, offer, manifest, request, nonce, rung, id }, response));
            }
            Err(e) => unreachable_at(&url, &e),
        };
        warn!(node = %offer.node, "trying another node: {failure}");
        proxy.directory.failed(offer.node);
        proxy.metrics.retried.inc();
        last = Some(failure);
    }
    Err(last.unwrap_or(ClientError::NoNode { model: manifest.name, available: String::new() }))
}

/// A node's own error, such as a bad request, in its own words.
async fn pass_error_on(exchange: &Exchange, upstream: reqwest::Response) -> Result<Response, ClientError> {
    let status = upstream.status();
    let body = read_bounded(&exchange.offer.endpoint, upstream, 1 << 16).await?;
    let body: Value = serde_json::from_slice(&body).ok().filter(|b: &Value| b["error"].is_object()).unwrap_or_else(
        || json!({"error": {"message": format!("the node answered with status {status}"), "type": "server_error",
            "param": null, "code": "upstream_error"}}),
    );
    let mut response = (status, axum::Json(body)).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("{:#x}", exchange.offer.node)) {
        response.headers_mut().insert("og-node", value);
    }
    Ok(response)
}

#[derive(Deserialize)]
struct Sealed {
    response: String,
    seal: Seal,
}

impl Exchange {
    /// Headers for the client. The receipt id is computed here, not taken from the node.
    pub(super) fn about(&self) -> HeaderMap {
        let fields = [
            ("og-receipt-id", self.id.to_string()),
            ("og-assurance", self.rung.to_string()),
            ("og-nonce", self.nonce.to_string()),
            ("og-node", format!("{:#x}", self.offer.node)),
            ("og-model", self.manifest.id().to_string()),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
            })
            .collect()
    }

    async fn whole(self, upstream: reqwest::Response) -> Result<Response, Fault> {
        let body = match read_bounded(&self.offer.endpoint, upstream, 2 * RESPONSE_BYTES_MAX).await {
            Ok(body) => body,
            Err(e) => {
                self.proxy.directory.failed(self.offer.node);
                return Err(e.into());
            }
        };
        let sealed: Sealed = match serde_json::from_slice(&body) {
            Ok(sealed) => sealed,
            Err(e) => return Err(self.refuse(format!("it has no readable seal: {e}")).into()),
        };
        let summary = self.verify(sealed.response.clone(), sealed.seal, Known::now()).await?;
        let mut response = ([(CONTENT_TYPE, "application/json")], sealed.response).into_response();
        if let Ok(value) = HeaderValue::from_str(&summary.to_string()) {
            response.headers_mut().insert("og-verified", value);
        }
        Ok(response)
    }

    pub(super) fn refuse(&self, check: String) -> ClientError {
        warn!(node = %self.offer.node, "refused an answer: {check}");
        self.proxy.metrics.refused.inc();
        self.proxy.directory.failed(self.offer.node);
        ClientError::Verification { node: self.offer.node.to_string(), check }
    }

    /// Runs every check, keeps the answer, and says what was verified.
    pub(super) async fn verify(
        &self,
        response: String,
        seal: Seal,
        known: Known,
    ) -> Result<Value, ClientError> {
        let receipt = Receipt::decode(&seal.receipt).map_err(|e| self.refuse(e.to_string()))?;
        let disclosure = Disclosure {
            nonce: self.nonce,
            request: self.request.clone(),
            response,
            prompt_tokens: seal.prompt_tokens,
            output_tokens: seal.output_tokens,
        };
        let mut checks = Checks::default();
        check_answer(&mut checks, &self.proxy.registry, &receipt, &disclosure, &self.manifest, &known);
        checks.record("form", check_form(&self.path, &disclosure.response));
        checks.record("exchange", self.check_exchange(&receipt.claim));
        checks.record("anchor", self.check_anchor(&receipt.claim).await);
        if let Some(Check { name, detail, .. }) = checks.first_failure() {
            return Err(self.refuse(format!("{name}: {detail}")));
        }
        let claim = &receipt.claim;
        let summary = json!({
            "receipt_id": self.id, "assurance": self.rung.name(), "node": claim.node.to_string(), "model": self.manifest.name,
            "model_id": claim.model, "prompt_tokens": claim.prompt_tokens, "completion_tokens": claim.completion_tokens,
            "price_wei": claim.price.to_string(), "seed": claim.sampling.seed,
            "checks": checks.0.iter().filter(|c| c.outcome == Outcome::Pass).map(|c| c.name).collect::<Vec<_>>(),
        });
        let answered = Answered {
            receipt: seal.receipt,
            manifest: self.manifest.encode().into(),
            endpoint: self.offer.endpoint.clone(),
            disclosure,
        };
        self.proxy.store.put(self.id, &answered)?;
        // Each node of a group was paid when its own answer had been checked.
        if self.rung != Rung::Replicated {
            self.pay(claim);
        }
        self.proxy.metrics.verified.inc();
        self.proxy.directory.succeeded(self.offer.node);
        info!(receipt = %self.id, node = %self.offer.node, "verified an answer");
        Ok(summary)
    }

    /// Promises the price of an answer that was checked, without making the client wait.
    pub(super) fn pay(&self, claim: &Claim) {
        let (proxy, node) = (&self.proxy, self.offer.node);
        let url = format!("{}/og/v1/payments", self.offer.endpoint);
        let Some(purse) = proxy.purse.as_ref().filter(|_| !claim.payer.is_zero()) else { return };
        purse.owe(node, claim.price);
        let Ok(promise) = purse.promise(node) else { return };
        let http = proxy.http.clone();
        tokio::spawn(async move {
            // The next request carries it again.
            if let Err(e) = http.post(&url).header("og-payment", promise).send().await {
                warn!(%node, "a payment was not taken: {e}");
            }
        });
    }

    /// What ties the receipt to this very exchange.
    pub(super) fn check_exchange(&self, claim: &Claim) -> Result<String, String> {
        if claim.node != self.offer.node {
            return Err(format!("{} signed, but {} was asked", claim.node, self.offer.node));
        }
        if (claim.chain_id, claim.genesis) != (self.proxy.network.network.chain_id, self.proxy.genesis) {
            return Err("the receipt is for another network".into());
        }
        if claim.model != self.manifest.id().0 {
            return Err("another model answered".into());
        }
        if claim.receipt_id() != self.id || claim.rung_requested != self.rung as u8 {
            return Err("the receipt is for another request".into());
        }
        if (claim.price_input, claim.price_output) != (self.offer.price_input, self.offer.price_output) {
            return Err("the prices are not those of the node's offer on the ledger".into());
        }
        let payer = self.proxy.purse.as_ref().map(Purse::address);
        if !claim.payer.is_zero() && Some(claim.payer) != payer {
            return Err(format!("{} is named as payer", claim.payer));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        if now.abs_diff(claim.time_ms) > SKEW_MS_MAX {
            return Err("the receipt's time is more than five minutes off".into());
        }
        Ok("the registered node answered this request, at its registered prices, just now".into())
    }

    pub(super) async fn check_anchor(&self, claim: &Claim) -> Result<String, String> {
        let directory = &self.proxy.directory;
        let known =
            directory.is_final(claim.anchor_number, claim.anchor_hash).await.map_err(|e| e.to_string())?;
        if !known {
            return Err(format!("block {} is not what the receipt says", claim.anchor_number));
        }
        let head = self.proxy.rpc.block_number().await.map_err(|e| e.to_string())?;
        if head.saturating_sub(claim.anchor_number) > ANCHOR_AGE_MAX {
            return Err(format!("block {} is too old", claim.anchor_number));
        }
        Ok(format!("anchored to block {}", claim.anchor_number))
    }

    fn stream(self, upstream: reqwest::Response, verified_first: bool) -> Response {
        let relay = Relay {
            exchange: self,
            upstream: Some(upstream),
            splitter: sse::Splitter::default(),
            committed: Vec::new(),
            held: Vec::new(),
            holding: verified_first,
            seal: None,
        };
        let chunks =
            stream::unfold(relay, |mut r| async move { r.next().await.map(|c| (Ok::<_, Infallible>(c), r)) });
        let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
        (headers, Body::from_stream(chunks)).into_response()
    }
}

/// A response must have the form of the endpoint that was asked: a checker tells endpoints by it.
pub(super) fn check_form(path: &str, response: &str) -> Result<String, String> {
    let first = response.split("\n\n").next().unwrap_or_default();
    let data = first.split("data: ").nth(1);
    let parsed: Value = serde_json::from_str(data.unwrap_or(response)).unwrap_or_default();
    let form = parsed["object"].as_str().or(parsed["response"]["object"].as_str()).unwrap_or_default();
    let expected: &[&str] = match path {
        "/v1/completions" => &["text_completion"],
        "/v1/responses" => &["response"],
        "/v1/embeddings" => &["list"],
        _ => &["chat.completion", "chat.completion.chunk"],
    };
    match expected.contains(&form) {
        true => Ok(format!("the response is a {form}")),
        false => Err(format!("the response is a {form:?} and not what {path} gives")),
    }
}

/// A stream under way.
struct Relay {
    exchange: Exchange,
    upstream: Option<reqwest::Response>,
    splitter: sse::Splitter,
    /// Every byte that the receipt must commit to.
    committed: Vec<u8>,
    /// What is withheld until the checks pass.
    held: Vec<u8>,
    holding: bool,
    seal: Option<String>,
}

impl Relay {
    /// The next bytes for the client, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let upstream = self.upstream.as_mut()?;
            match upstream.chunk().await {
                Ok(Some(chunk)) => match self.take(&chunk) {
                    Ok(ready) if ready.is_empty() => {}
                    Ok(ready) => return Some(ready.into()),
                    Err(end) => return Some(self.end(end)),
                },
                Ok(None) => return Some(self.finish().await),
                Err(e) => {
                    let fault = self.fail(unreachable_at(&self.exchange.offer.endpoint, &e));
                    return Some(self.end(fault));
                }
            }
        }
    }

    /// Sorts received bytes into what can be passed on and what is withheld; `Err` ends the stream.
    fn take(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Value> {
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
                sse::Kind::Error => {
                    self.exchange.proxy.directory.failed(self.exchange.offer.node);
                    let text = String::from_utf8_lossy(&event);
                    let error = text.trim_start_matches("data: ").trim();
                    return Err(serde_json::from_str(error).unwrap_or_else(|_| json!({"error": {}})));
                }
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

    fn bad(&self, what: &str) -> Value {
        Fault::from(self.exchange.refuse(what.into())).body()
    }

    fn fail(&self, e: ClientError) -> Value {
        self.exchange.proxy.directory.failed(self.exchange.offer.node);
        Fault::from(e).body()
    }

    /// Ends the stream with an error and without `[DONE]`.
    fn end(&mut self, error: Value) -> Bytes {
        self.upstream = None;
        Bytes::from(format!("data: {error}\n\n"))
    }

    /// Checks the whole answer and releases its end, or an error in its place.
    async fn finish(&mut self) -> Bytes {
        let outcome = self.verify().await;
        self.upstream = None;
        match outcome {
            Ok((seal, summary)) => {
                let mut out = std::mem::take(&mut self.held);
                out.extend_from_slice(format!(": og-seal {seal}\n\n: og-verified {summary}\n\n").as_bytes());
                out.into()
            }
            Err(e) => {
                let fault = Fault::from(e);
                warn!(status = fault.status().as_u16(), "a stream ended without its end");
                self.end(fault.body())
            }
        }
    }

    async fn verify(&mut self) -> Result<(String, Value), ClientError> {
        let exchange = &self.exchange;
        if !self.splitter.is_empty() {
            return Err(exchange.refuse("the stream was cut off".into()));
        }
        let seal =
            self.seal.take().ok_or_else(|| exchange.refuse("the stream ended without a seal".into()))?;
        let parsed: Seal = serde_json::from_str(&seal)
            .map_err(|e| exchange.refuse(format!("the seal cannot be read: {e}")))?;
        let response = String::from_utf8(std::mem::take(&mut self.committed))
            .map_err(|_| exchange.refuse("the stream is not UTF-8".into()))?;
        let summary = exchange.verify(response, parsed, Known::now()).await?;
        Ok((seal, summary))
    }
}
