//! The two calls to a node of a group.

use super::{Exchange, Fault, Silence};
use crate::{
    ClientError,
    rpc::{read_bounded, unreachable_at},
};
use alloy_primitives::B256;
use axum::{
    http::{HeaderValue, StatusCode},
    response::IntoResponse as _,
};
use serde_json::Value;
use tracing::warn;
use types::{
    Rung,
    limits::RESPONSE_BYTES_MAX,
    replica::{Commitment, RevealRequest, Revealed},
};

/// Longest answer of a node that is no answer of a model.
const SMALL_BYTES_MAX: usize = 1 << 16;

/// Has a node compute its answer and commit to it.
pub(super) async fn commit(
    exchange: &Exchange,
    group: B256,
    time_ms: u64,
    seed: u64,
) -> Result<Commitment, Silence> {
    let Exchange { proxy, offer, .. } = exchange;
    let failed = |e: ClientError| {
        warn!(node = %offer.node, "no commitment: {e}");
        proxy.directory.failed(offer.node);
        Silence::Failed
    };
    let url = format!("{}{}", offer.endpoint, exchange.path);
    // Neither an empty purse nor a ledger out of reach is the node's fault.
    let unpaid = |e: ClientError| Silence::Refused(Fault::from(e).into_response());
    let mut filled = false;
    let upstream = loop {
        let mut asking = proxy.http.post(&url);
        if let Some(purse) = &proxy.purse {
            asking = asking.header("og-payment", purse.promise(offer.node).map_err(unpaid)?);
        }
        let sent = asking
            .header("content-type", "application/json")
            .header("og-nonce", exchange.nonce.to_string())
            .header("og-assurance", Rung::Replicated.name())
            .header("og-group", group.to_string())
            .header("og-time-ms", time_ms)
            .header("og-seed", seed)
            .body(exchange.request.clone())
            .send()
            .await;
        let upstream = sent.map_err(|e| failed(unreachable_at(&url, &e)))?;
        if upstream.status() != StatusCode::PAYMENT_REQUIRED || filled {
            break upstream;
        }
        // The pocket for this node is empty: fill it once. It has not taken the nonce yet.
        let purse = proxy.purse.as_ref().ok_or_else(|| unpaid(ClientError::Unpaid))?;
        purse.fill(offer.node).await.map_err(unpaid)?;
        filled = true;
    };
    let status = upstream.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Silence::Busy);
    }
    if status == StatusCode::CONFLICT {
        return Err(Silence::Used);
    }
    let body = read_bounded(&url, upstream, SMALL_BYTES_MAX).await.map_err(failed)?;
    let malformed = |reason: String| failed(ClientError::Malformed { url: url.clone(), reason });
    if status.is_client_error() {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !body["error"].is_object() {
            return Err(malformed(format!("status {status}")));
        }
        let mut response = (status, axum::Json(body)).into_response();
        if let Ok(value) = HeaderValue::from_str(&format!("{:#x}", offer.node)) {
            response.headers_mut().insert("og-node", value);
        }
        return Err(Silence::Refused(response));
    }
    if !status.is_success() {
        return Err(malformed(format!("status {status}")));
    }
    let commitment: Commitment =
        serde_json::from_slice(&body).map_err(|e| malformed(format!("no commitment: {e}")))?;
    if commitment.node != offer.node || commitment.check().is_err() {
        return Err(malformed("the commitment is not signed by the node".into()));
    }
    Ok(commitment)
}

/// Has a node reveal its answer.
pub(super) async fn reveal(exchange: &Exchange, request: &RevealRequest) -> Result<Revealed, String> {
    let url = format!("{}/og/v1/reveal/{}", exchange.offer.endpoint, exchange.id);
    let response = exchange.proxy.http.post(&url).json(request).send().await;
    let response = response.map_err(|e| unreachable_at(&url, &e).to_string())?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it committed and does not reveal its answer: status {status}"));
    }
    let body = read_bounded(&url, response, 3 * RESPONSE_BYTES_MAX).await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&body).map_err(|e| format!("what it revealed cannot be read: {e}"))
}
