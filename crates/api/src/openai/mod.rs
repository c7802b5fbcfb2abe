//! The OpenAI-compatible server of a node, with receipts.
//!
//! The bytes that a receipt commits to are exactly those that the client gets: the JSON body, or the SSE stream up
//! to and including `data: [DONE]`. The seal follows outside them: in a header, a wrapper, or an SSE comment.

mod embeddings;
mod error;
mod generate;
mod metrics;
mod outline;
pub mod render;
mod request;
mod reveal;
mod tools;

use crate::ports::Inference;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub use embeddings::render_embeddings;
pub use outline::{Invalid, Outline};
pub use request::{EmbeddingsRequest, Endpoint, GenerateRequest};
pub use tools::{Piece, ToolParser};

use error::Fault;
use metrics::Metrics;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use types::{Bytes, ReceiptId, limits::REQUEST_BYTES_MAX};

/// State of all handlers.
#[derive(Clone)]
struct Shared {
    inference: Arc<dyn Inference>,
    metrics: Arc<Metrics>,
}

/// The routes of a node.
pub fn router(inference: Arc<dyn Inference>) -> Router {
    let shared = Shared { inference, metrics: Arc::new(Metrics::new()) };
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completions))
        .route("/v1/responses", post(generate::responses))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/tokenize", post(embeddings::tokenize))
        .route("/detokenize", post(embeddings::detokenize))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(metrics_text))
        .route("/og/v1/info", get(info))
        .route("/og/v1/receipts/{id}", get(receipt))
        .route("/og/v1/reveal/{id}", post(reveal::reveal))
        .route("/og/v1/audit/{index}", get(audit))
        .route("/og/v1/payments", post(pay))
        .route("/og/v1/log/checkpoint", get(checkpoint))
        .route("/og/v1/log/inclusion", get(inclusion))
        .fallback(|| async {
            Fault::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such path; see /v1/chat/completions and /v1/models",
            )
        })
        .method_not_allowed_fallback(|| async {
            Fault::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path takes another HTTP method",
            )
        })
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(shared)
}

fn model_json(m: &crate::ports::ModelInfo) -> serde_json::Value {
    json!({"id": m.name, "object": "model", "created": m.created, "owned_by": "og", "og_model_id": m.id,
        "context_length": m.context_length})
}

async fn models(State(s): State<Shared>) -> Response {
    let data: Vec<_> = s.inference.info().models.iter().map(model_json).collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn model(State(s): State<Shared>, Path(name): Path<String>) -> Result<Response, Fault> {
    let info = s.inference.info();
    let found = info.models.iter().find(|m| m.name == name || m.id.to_string() == name);
    let found = found.ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, "model_not_found", format!("no model `{name}` here"))
    })?;
    Ok(Json(model_json(found)).into_response())
}

async fn health(State(s): State<Shared>) -> Response {
    let load = s.inference.load();
    let (status, word) = match load.draining {
        false => (StatusCode::OK, "ok"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    (status, Json(json!({"status": word, "queued": load.queued, "running": load.running}))).into_response()
}

async fn metrics_text(State(s): State<Shared>) -> Response {
    s.metrics.show(s.inference.load());
    let text = s.inference.metrics() + &s.metrics.text();
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}

async fn info(State(s): State<Shared>) -> Response {
    let info = s.inference.info();
    let models: Vec<_> = info
        .models
        .iter()
        .map(|m| {
            let manifest = Bytes::from(m.manifest.clone());
            json!({"name": m.name, "id": m.id, "manifest": manifest, "context_length": m.context_length})
        })
        .collect();
    Json(json!({"node": info.node, "chain_id": info.chain_id, "genesis": info.genesis, "models": models}))
        .into_response()
}

async fn receipt(State(s): State<Shared>, Path(id): Path<String>) -> Result<Response, Fault> {
    let id: ReceiptId =
        id.parse().map_err(|_| Fault::invalid("id", "a receipt id is 0x and 64 hexadecimal digits"))?;
    let found = s.inference.receipt(id)?;
    let (receipt, index) = found.ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, "not_found", format!("no receipt {id} in this log"))
    })?;
    Ok(Json(json!({"receipt": Bytes::from(receipt.encode()), "index": index})).into_response())
}

#[derive(Deserialize)]
struct AuditQuery {
    size: u64,
}

/// What an auditor needs of the receipt at an index of the log.
async fn audit(
    State(s): State<Shared>,
    Path(index): Path<u64>,
    query: Result<Query<AuditQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let Ok(Query(q)) = query else {
        return Err(Fault::invalid("size", "use ?size=N with the size of the batch"));
    };
    let pass = generate::header(&headers, "og-auditor")?;
    let shown = s.inference.show(index, q.size, pass).await?;
    let shown = shown.ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, "not_found", format!("there is no receipt {index} in this log"))
    })?;
    Ok(Json(json!({
        "receipt": Bytes::from(shown.receipt.encode()), "disclose": shown.disclose, "disclosure": shown.disclosure,
        "inclusion": s.inference.inclusion(index, q.size),
    }))
    .into_response())
}

/// Takes a payment for answers that were given.
async fn pay(State(s): State<Shared>, headers: HeaderMap) -> Result<Response, Fault> {
    let promise = generate::header(&headers, "og-voucher")?;
    let promise = promise.ok_or_else(|| Fault::invalid("og-voucher", "the header og-voucher is missing"))?;
    s.inference.pay(promise).await?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn checkpoint(State(s): State<Shared>) -> Response {
    let c = s.inference.checkpoint();
    Json(json!({"size": c.size, "root": c.root, "posted_size": c.posted_size})).into_response()
}

#[derive(Deserialize)]
struct InclusionQuery {
    index: u64,
    size: u64,
}

async fn inclusion(
    State(s): State<Shared>,
    query: Result<Query<InclusionQuery>, QueryRejection>,
) -> Result<Response, Fault> {
    let Ok(Query(q)) = query else {
        return Err(Fault::invalid("index", "use ?index=I&size=N with decimal numbers"));
    };
    let proof = s.inference.inclusion(q.index, q.size);
    let proof = proof
        .ok_or_else(|| Fault::invalid("size", "index must be below size, and size at most the log's"))?;
    Ok(Json(proof).into_response())
}
