//! From a request to the first node whose answer passes every check.

use super::{
    Proxy,
    error::Fault,
    exchange::{Exchange, Miss},
    relay::Relay,
    replicate,
};
use crate::{
    ClientError, Offer, Refused,
    check::Known,
    directory::{Choice, Need, Wanted},
    rpc::read_bounded,
};
use alloy_primitives::B256;
use api::openai::Outline;
use axum::{
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use std::{str::FromStr, sync::Arc, time::Instant};
use tracing::warn;
use types::{Claim, ModelManifest, Rung, Seal, limits::RESPONSE_BYTES_MAX};

/// Nodes that are tried for one request.
const TRIES_MAX: usize = 5;
/// Most tokens that a template can add to a prompt, for the ceiling of an answer.
const TEMPLATE_TOKENS_MAX: u64 = 1024;

/// A request that was read, and what its headers say.
pub(super) struct Ask {
    pub(super) path: String,
    pub(super) request: String,
    pub(super) outline: Outline,
    /// The most that the user pays for this answer, in wei.
    pub(super) price_max: Option<u128>,
    rung: Rung,
    verified_first: bool,
    /// Passed on as they are.
    headers: HeaderMap,
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
    let mut ask = Ask::read(&proxy, path, headers, body)?;
    let id = header::<B256>(headers, "og-model-id")?;
    let own = proxy.config.ceilings.answer;
    // Several nodes are paid for one replicated answer, and the ceiling is for all of them.
    let nodes = match ask.rung {
        Rung::Replicated => replicate::nodes(headers, &proxy)?,
        _ => 1,
    };
    ask.price_max = ask.price_max.into_iter().chain(own).min().map(|max| max / nodes as u128);
    let choice = {
        let need = |manifest: &ModelManifest| ask.need(manifest);
        let wanted = Wanted { model: &ask.outline.model, id, price_max: ask.price_max, need: &need };
        proxy.directory.choose(&wanted)?
    };
    if ask.rung == Rung::Replicated {
        return replicate::Question { proxy, ask, choice, nodes }.ask().await;
    }
    ask.answer(&proxy, choice).await
}

/// A header's value; an error when it cannot be read.
fn header<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|s| s.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| {
        let message = format!("the header {name} cannot be read");
        Fault::new(StatusCode::BAD_REQUEST, "invalid_value", message)
    })
}

impl Ask {
    /// Reads a request as a node would: what is wrong with it, the proxy says itself.
    fn read(
        proxy: &Proxy,
        path: &str,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<Self, Fault> {
        let bad = |message: String| Fault::new(StatusCode::BAD_REQUEST, "invalid_json", message);
        let body = body.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Fault::new(e.status(), "request_too_large", "the body is larger than 1 MiB")
            }
            _ => bad(e.body_text()),
        })?;
        let request = String::from_utf8(body.to_vec()).map_err(|_| bad("the body is not UTF-8".into()))?;
        let outline = Outline::read(path, request.as_bytes()).map_err(Fault::invalid)?;
        let release = headers.get("og-release").is_some_and(|v| v == "verified");
        Ok(Self {
            path: path.to_owned(),
            request,
            outline,
            price_max: header(headers, "og-max-price")?,
            rung: header(headers, "og-assurance")?.unwrap_or(Rung::Signed),
            verified_first: proxy.config.release_verified || release,
            headers: super::disclose(headers),
        })
    }

    /// The most tokens that the answer of a model can take. No token of a prompt is shorter than a byte, and prompt and answer must fit
    /// into the model's context.
    fn need(&self, manifest: &ModelManifest) -> Need {
        let context = u64::from(manifest.context_length);
        let bytes = self.request.len() as u64 + TEMPLATE_TOKENS_MAX;
        let each = self.outline.max_tokens.map_or(context, |max| context.min(max.into()));
        // A request for embeddings has many texts, each of which may fill the context.
        let input = if self.path == "/v1/embeddings" { bytes } else { bytes.min(context) };
        Need { input, output: each.saturating_mul(self.outline.answers.into()) }
    }

    /// Asks one node after the other, until an answer passes every check.
    async fn answer(&self, proxy: &Arc<Proxy>, choice: Choice) -> Result<Response, Fault> {
        let mut misses = Vec::new();
        for offer in choice.offers.iter().take(TRIES_MAX) {
            match self.attempt(proxy, &choice, offer).await {
                Ok(response) => {
                    // Somebody could answer it: who refused did so without a reason.
                    demote(proxy, &misses);
                    return Ok(response);
                }
                Err(Miss::Own(e)) => return Err(e.into()),
                Err(miss) => misses.push(miss),
            }
            proxy.metrics.retried.inc();
        }
        Err(failure(misses, &choice.manifest).into())
    }

    async fn attempt(&self, proxy: &Arc<Proxy>, choice: &Choice, offer: &Offer) -> Result<Response, Miss> {
        // A fresh nonce for every try: no two nodes can tell that they saw the same request from its commitment.
        let nonce = B256::from(rand::random::<[u8; 32]>());
        let commitment = Claim::request_commitment(&nonce, self.request.as_bytes());
        let chain_id = proxy.network().network.chain_id;
        let exchange = Exchange {
            id: Claim::receipt_id_of(chain_id, proxy.genesis(), offer.node, commitment),
            proxy: proxy.clone(),
            path: self.path.clone(),
            offer: offer.clone(),
            manifest: choice.manifest.clone(),
            request: self.request.clone(),
            nonce,
            rung: self.rung,
            need: choice.need,
            price_max: self.price_max,
            began: Instant::now(),
            _reserved: proxy.reserve(choice.need.price(offer)).map_err(Miss::Own)?,
        };
        let mut headers = self.headers.clone();
        headers.insert("og-proof", HeaderValue::from_static("inline"));
        let upstream = exchange.send(&headers).await?;
        match self.outline.stream {
            true => Relay::begin(exchange, upstream, self.verified_first).await,
            false => exchange.whole(upstream).await,
        }
    }
}

/// Avoids nodes that refused what another one answered.
fn demote(proxy: &Proxy, misses: &[Miss]) {
    for miss in misses {
        if let Miss::Refused(refusal) = miss {
            warn!(node = %refusal.node, "it refused what another node answered: {}", refusal.words.escape_debug());
            proxy.directory.failed(refusal.node);
        }
    }
}

/// What the client hears when no node answered.
pub(super) fn failure(misses: Vec<Miss>, manifest: &ModelManifest) -> ClientError {
    let (mut refusals, mut failures, mut busy) = (Vec::new(), Vec::new(), false);
    for miss in misses {
        match miss {
            Miss::Busy => busy = true,
            Miss::Refused(refusal) => refusals.push(refusal),
            Miss::Failed(e) | Miss::Own(e) => failures.push(e),
        }
    }
    match (refusals.is_empty(), failures.len()) {
        (true, 0) if busy => ClientError::Busy,
        (true, 0) => ClientError::NoNode { model: manifest.name.clone(), available: String::new() },
        (true, _) => failures.pop().unwrap_or(ClientError::Busy),
        (false, 0) if refusals.iter().all(|r| r.status == 402) => ClientError::Unpaid,
        (false, _) => {
            let failures = failures.iter().map(ToString::to_string).collect();
            ClientError::AllRefused(Box::new(Refused { refusals, failures }))
        }
    }
}

#[derive(Deserialize)]
struct Sealed {
    response: String,
    seal: Seal,
}

impl Exchange {
    /// Reads an answer that is no stream, and checks it.
    async fn whole(self, upstream: reqwest::Response) -> Result<Response, Miss> {
        let body = read_bounded(&self.offer.endpoint, upstream, 2 * RESPONSE_BYTES_MAX).await;
        let body = body.map_err(|e| self.broke(e))?;
        let sealed: Sealed = serde_json::from_slice(&body)
            .map_err(|e| Miss::Failed(self.refuse(format!("it has no readable seal: {e}"))))?;
        let verified = self.verify(sealed.response.clone(), sealed.seal, Known::now()).await;
        let summary = verified.map_err(Miss::of_check)?;
        // How long a whole answer takes says more about the question than about the node.
        self.proxy.directory.succeeded(self.offer.node, None);
        let mut response = ([(CONTENT_TYPE, "application/json")], sealed.response).into_response();
        if let Ok(value) = HeaderValue::from_str(&summary.to_string()) {
            response.headers_mut().insert(HeaderName::from_static("og-verified"), value);
        }
        response.headers_mut().extend(self.about());
        Ok(response)
    }
}
