//! The two calls to a node of a group.

use super::{Exchange, Miss, Silence};
use crate::{
    ClientError,
    rpc::{read_bounded, unreachable_at},
};
use alloy_primitives::B256;
use axum::http::{HeaderMap, HeaderValue};
use types::{
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
    let mut headers = HeaderMap::new();
    let values =
        [("og-group", group.to_string()), ("og-time-ms", time_ms.to_string()), ("og-seed", seed.to_string())];
    for (name, value) in values {
        // Numbers and hashes are valid header values.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    let url = &exchange.offer.endpoint;
    let failed = |e: ClientError| Silence::Missed(exchange.broke(e));
    let upstream = match exchange.send(&headers).await {
        Ok(upstream) => upstream,
        Err(Miss::Refused(refusal)) if refusal.status == 409 => return Err(Silence::Used),
        Err(miss) => return Err(Silence::Missed(miss)),
    };
    let body = read_bounded(url, upstream, SMALL_BYTES_MAX).await.map_err(failed)?;
    let malformed = |reason: String| failed(ClientError::Malformed { url: url.clone(), reason });
    let commitment: Commitment =
        serde_json::from_slice(&body).map_err(|e| malformed(format!("no commitment: {e}")))?;
    if commitment.node != exchange.offer.node || commitment.check().is_err() {
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
