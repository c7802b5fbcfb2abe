//! Answers under commit and reveal: first the commitment alone, the answer by a second call.

use super::{
    Shared,
    error::Fault,
    generate::{header, read_body},
};
use crate::ports::{GroupTicket, Withheld};
use axum::{
    Json,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use types::{B256, ReceiptId, Rung, Seal, replica::RevealRequest};

/// The group of a request with `og-assurance: replicated`; `None` when it asks for something else, or names no group: a node alone
/// cannot give that assurance, and says so.
pub(super) fn group(headers: &HeaderMap, rung: Rung) -> Result<Option<GroupTicket>, Fault> {
    let Some(group) = header::<B256>(headers, "og-group")?.filter(|_| rung == Rung::Replicated) else {
        return Ok(None);
    };
    let needed =
        |name: &'static str| Fault::invalid(name, format!("a group's request needs the header `{name}`"));
    if !headers.contains_key("og-nonce") {
        return Err(needed("og-nonce"));
    }
    Ok(Some(GroupTicket {
        group,
        time_ms: header(headers, "og-time-ms")?.ok_or_else(|| needed("og-time-ms"))?,
        seed: header(headers, "og-seed")?.ok_or_else(|| needed("og-seed"))?,
    }))
}

/// Keeps a sealed answer back; the response is the signed commitment to it.
pub(super) async fn withhold(
    shared: &Shared,
    id: ReceiptId,
    group: B256,
    answer: (Bytes, Seal),
) -> Result<Response, Fault> {
    let (response, seal) = answer;
    let response = String::from_utf8(response.into()).map_err(|_| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the answer is not UTF-8")
    })?;
    let commitment = shared.inference.withhold(Withheld { id, group, response, seal }).await?;
    Ok(Json(commitment).into_response())
}

/// `POST /og/v1/reveal/{id}`: the answer, in exchange for the commitments of the group.
pub(super) async fn reveal(
    State(s): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let id: ReceiptId =
        id.parse().map_err(|_| Fault::invalid("id", "a receipt id is 0x and 64 hexadecimal digits"))?;
    let body = read_body(body)?;
    let request: RevealRequest = serde_json::from_slice(&body)
        .map_err(|e| Fault::new(StatusCode::BAD_REQUEST, "invalid_json", e.to_string()))?;
    Ok(Json(s.inference.reveal(id, &request)?).into_response())
}
