//! `/v1/embeddings`, `/tokenize` and `/detokenize`.

use super::{
    Shared,
    error::Fault,
    generate::{about, is_inline, read_body, sealed_body, ticket},
    request::EmbeddingsRequest,
};
use axum::{
    Json,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};

const PATH: &str = "/v1/embeddings";

/// `POST /v1/embeddings`.
pub(super) async fn embeddings(
    State(s): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let response = run(&s, &headers, body).await.unwrap_or_else(IntoResponse::into_response);
    s.metrics.count(PATH, response.status().as_u16());
    response
}

async fn run(
    s: &Shared,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body = read_body(body)?;
    let request = EmbeddingsRequest::parse(&body)?;
    let ticket = ticket(headers, body)?;
    let (found, started) = s.inference.embed(request.model, request.inputs, ticket).await?;
    let width = found.vectors.first().map_or(0, Vec::len) as u64;
    if request.dimensions.is_some_and(|d| d != width) {
        let message =
            format!("`dimensions` must be {width}, or absent: this model's vectors have one length");
        return Err(Fault::invalid("dimensions", message));
    }
    let about = about(&started);
    let body = render_embeddings(&found.vectors, request.base64, &started.model, found.prompt_tokens);
    let seal = started.sealer.seal(Bytes::from(body.clone())).await?;
    s.metrics.prompt_tokens.inc_by(u64::from(found.prompt_tokens));
    let mut response = sealed_body(body, &seal, is_inline(headers));
    response.headers_mut().extend(about);
    Ok(response)
}

/// The body of an embeddings response; pure, so that it can be rendered again in a replay.
pub fn render_embeddings(vectors: &[Vec<f32>], base64: bool, model: &str, prompt_tokens: u32) -> String {
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let embedding = match base64 {
                true => {
                    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
                    Value::String(STANDARD.encode(bytes))
                }
                false => json!(v),
            };
            json!({"object": "embedding", "index": i, "embedding": embedding})
        })
        .collect();
    json!({"object": "list", "data": data, "model": model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}})
    .to_string()
}

/// `POST /tokenize`: `{"content": TEXT}` to `{"tokens": [...]}`.
pub(super) async fn tokenize(
    State(s): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body: Value = parse(&read_body(body)?)?;
    let text = body["content"].as_str();
    let text = text.ok_or_else(|| Fault::invalid("content", "`content` must be a string"))?;
    Ok(Json(json!({"tokens": s.inference.tokenize(text)?})).into_response())
}

/// `POST /detokenize`: `{"tokens": [...]}` to `{"content": TEXT}`.
pub(super) async fn detokenize(
    State(s): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body: Value = parse(&read_body(body)?)?;
    let tokens = body["tokens"].as_array().map(|list| list.iter().map(|t| t.as_u64()?.try_into().ok()));
    let tokens: Option<Vec<u32>> = tokens.and_then(Iterator::collect);
    let tokens = tokens.ok_or_else(|| Fault::invalid("tokens", "`tokens` must be an array of token ids"))?;
    Ok(Json(json!({"content": s.inference.detokenize(&tokens)?})).into_response())
}

fn parse(body: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(body).map_err(|e| {
        Fault::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {e}"))
    })
}
