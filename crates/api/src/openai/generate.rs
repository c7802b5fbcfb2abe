//! The endpoints that generate text: admission, streaming, sealing.

use super::{
    Shared,
    error::Fault,
    metrics::Metrics,
    render::{Meta, Render, renderer},
    request::{Endpoint, GenerateRequest},
    reveal,
};
use crate::ports::{GenerateEvent, Sealer, Started, Ticket};
use axum::{
    body::Body,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde_json::json;
use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc;
use types::{B256, Disclose, Rung, Seal, limits::RESPONSE_BYTES_MAX};

type Received = Result<Bytes, BytesRejection>;

/// `POST /v1/chat/completions`.
pub(super) async fn chat(State(s): State<Shared>, headers: HeaderMap, body: Received) -> Response {
    answer(&s, Endpoint::Chat, &headers, body).await
}

/// `POST /v1/completions`.
pub(super) async fn completions(State(s): State<Shared>, headers: HeaderMap, body: Received) -> Response {
    answer(&s, Endpoint::Completions, &headers, body).await
}

/// `POST /v1/responses`.
pub(super) async fn responses(State(s): State<Shared>, headers: HeaderMap, body: Received) -> Response {
    answer(&s, Endpoint::Responses, &headers, body).await
}

async fn answer(shared: &Shared, endpoint: Endpoint, headers: &HeaderMap, body: Received) -> Response {
    let began = Instant::now();
    let response = match run(shared, endpoint, headers, body, began).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    shared.metrics.count(endpoint.path(), response.status().as_u16());
    response
}

async fn run(
    shared: &Shared,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Received,
    began: Instant,
) -> Result<Response, Fault> {
    let body = read_body(body)?;
    let request = GenerateRequest::parse(endpoint, &body)?;
    let ticket = ticket(headers, body)?;
    let group = ticket.group;
    let started = shared.inference.generate(request.job.clone(), ticket).await?;
    let id = started.receipt_id;
    let about = about(&started);
    let meta = Meta {
        receipt_id: started.receipt_id,
        created: started.time_ms / 1000,
        model: started.model.clone(),
        fingerprint: Meta::fingerprint(started.arithmetic_version, &started.model_id.to_string()),
        prompt_tokens: started.prompt_tokens,
    };
    let answer = Answer {
        render: renderer(&request, meta),
        left: request.job.n,
        events: started.events,
        sealer: Some(started.sealer),
        guard: InFlight::new(shared.metrics.clone(), began),
        prompt_tokens: started.prompt_tokens,
        completion_tokens: 0,
        sent: BytesMut::new(),
        phase: Phase::Begin,
    };
    let mut response = match (group, request.stream) {
        (Some(group), stream) => {
            reveal::withhold(shared, id, group.group, answer.sealed(stream).await?).await?
        }
        (None, true) => answer.streamed(),
        (None, false) => answer.whole(is_inline(headers)).await?,
    };
    response.headers_mut().extend(about);
    Ok(response)
}

/// The body, or why there is none.
pub(super) fn read_body(body: Received) -> Result<Bytes, Fault> {
    body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Fault::new(e.status(), "request_too_large", "the body is larger than 1 MiB")
        }
        _ => Fault::new(StatusCode::BAD_REQUEST, "invalid_json", e.body_text()),
    })
}

/// What the headers say about a request.
pub(super) fn ticket(headers: &HeaderMap, raw_request: Bytes) -> Result<Ticket, Fault> {
    // Whoever sends another key or comes through another proxy waits in a line of its own.
    let mut hasher = DefaultHasher::new();
    for name in ["authorization", "x-forwarded-for"] {
        headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher);
    }
    let rung = header::<Rung>(headers, "og-assurance")?.unwrap_or(Rung::Signed);
    // Nobody can audit what nobody may see.
    let usual = if rung == Rung::Audited { Disclose::Auditors } else { Disclose::None };
    let disclose = header(headers, "og-disclose")?.unwrap_or(usual);
    if rung == Rung::Audited && disclose == Disclose::None {
        let message = "`og-assurance: audited` needs `og-disclose: auditors` or `public`";
        return Err(Fault::invalid("og-disclose", message));
    }
    Ok(Ticket {
        raw_request,
        nonce: nonce(headers)?,
        rung,
        group: reveal::group(headers, rung)?,
        disclose,
        payment: header(headers, "og-payment")?,
        client: hasher.finish(),
    })
}

/// Whether the seal comes in the body.
pub(super) fn is_inline(headers: &HeaderMap) -> bool {
    headers.get("og-proof").is_some_and(|v| v == "inline")
}

/// The client's salt: exactly `0x` and 64 hexadecimal digits, so that it has one spelling.
fn nonce(headers: &HeaderMap) -> Result<Option<B256>, Fault> {
    match headers.get("og-nonce") {
        Some(v) if !v.as_bytes().starts_with(b"0x") => {
            Err(Fault::invalid("og-nonce", "the header `og-nonce` must be 0x and 64 hexadecimal digits"))
        }
        _ => header(headers, "og-nonce"),
    }
}

/// A header that parses, or an error that names it.
pub(super) fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|s| s.parse().ok());
    parsed.map(Some).ok_or_else(|| Fault::invalid(name, format!("the header `{name}` cannot be read")))
}

/// Headers that tell what the receipt will say, before the first token.
pub(super) fn about(s: &Started) -> HeaderMap {
    let fields = [
        ("og-receipt-id", s.receipt_id.to_string()),
        ("og-assurance", s.rung.to_string()),
        ("og-nonce", s.nonce.to_string()),
        ("og-node", format!("{:#x}", s.node)),
        ("og-model", s.model_id.to_string()),
        ("og-price-input", s.price_input.to_string()),
        ("og-price-output", s.price_output.to_string()),
    ];
    fields
        .into_iter()
        .filter_map(|(name, value)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        })
        .collect()
}

/// A sealed body: bare with the seal in a header, or both in one object.
pub(super) fn sealed_body(body: String, seal: &Seal, inline: bool) -> Response {
    if inline {
        let sealed = json!({"response": body, "seal": seal}).to_string();
        return ([(CONTENT_TYPE, "application/vnd.og.sealed+json")], sealed).into_response();
    }
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    if let Ok(value) = HeaderValue::from_str(&seal.receipt.to_string()) {
        response.headers_mut().insert("og-receipt", value);
    }
    response
}

/// Counts an answer as under way until it is dropped, and how long it took.
struct InFlight {
    metrics: Arc<Metrics>,
    began: Instant,
    first: bool,
}

impl InFlight {
    fn new(metrics: Arc<Metrics>, began: Instant) -> Self {
        metrics.in_flight.inc();
        Self { metrics, began, first: true }
    }

    fn first_text(&mut self) {
        if std::mem::take(&mut self.first) {
            self.metrics.first_token_seconds.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics.request_seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

fn ended_early() -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the answer ended early; try again")
}

enum Phase {
    Begin,
    Tokens,
    Over,
}

/// Answers under way: what was sent is remembered, since the receipt commits to it.
struct Answer {
    render: Box<dyn Render>,
    /// Answers that are not done.
    left: u32,
    events: mpsc::Receiver<GenerateEvent>,
    sealer: Option<Box<dyn Sealer>>,
    guard: InFlight,
    prompt_tokens: u32,
    completion_tokens: u32,
    sent: BytesMut,
    phase: Phase,
}

impl Answer {
    /// Takes the next event: bytes of the stream, and whether all is done.
    async fn event(&mut self) -> Result<(Bytes, bool), Fault> {
        match self.events.recv().await {
            Some(GenerateEvent::Token { choice, text, logprob }) => {
                if !text.is_empty() {
                    self.guard.first_text();
                }
                Ok((self.render.token(choice, &text, logprob.as_ref()), false))
            }
            Some(GenerateEvent::Done { choice, finish, completion_tokens }) => {
                self.left -= 1;
                self.completion_tokens += completion_tokens;
                Ok((self.render.done(choice, finish, completion_tokens), self.left == 0))
            }
            Some(GenerateEvent::Failed(fault)) => Err(fault.into()),
            None => Err(ended_early()),
        }
    }

    async fn seal(&mut self, bytes: Bytes) -> Result<Seal, Fault> {
        let sealer = self.sealer.take().ok_or_else(ended_early)?;
        let seal = sealer.seal(bytes).await?;
        self.guard.metrics.prompt_tokens.inc_by(u64::from(self.prompt_tokens));
        self.guard.metrics.completion_tokens.inc_by(u64::from(self.completion_tokens));
        Ok(seal)
    }

    async fn whole(mut self, inline: bool) -> Result<Response, Fault> {
        let body = self.body().await?;
        let seal = self.seal(Bytes::from(body.clone())).await?;
        Ok(sealed_body(body, &seal, inline))
    }

    /// The JSON body, when all answers are over.
    async fn body(&mut self) -> Result<String, Fault> {
        while !self.event().await?.1 {}
        let body = self.render.body();
        if body.len() > RESPONSE_BYTES_MAX {
            return Err(ended_early());
        }
        Ok(body)
    }

    /// The body or the whole stream, and its seal, with nothing sent yet.
    async fn sealed(mut self, stream: bool) -> Result<(Bytes, Seal), Fault> {
        let bytes = if stream { self.stream_bytes().await? } else { Bytes::from(self.body().await?) };
        let seal = self.seal(bytes.clone()).await?;
        Ok((bytes, seal))
    }

    async fn stream_bytes(&mut self) -> Result<Bytes, Fault> {
        let begin = self.render.begin();
        self.keep(begin);
        loop {
            let (bytes, over) = self.event().await?;
            if self.sent.len() + bytes.len() > RESPONSE_BYTES_MAX - (1 << 16) {
                return Err(ended_early());
            }
            self.keep(bytes);
            if over {
                let end = self.render.end();
                self.keep(end);
                return Ok(self.sent.split().freeze());
            }
        }
    }

    fn streamed(self) -> Response {
        let chunks =
            stream::unfold(self, |mut s| async move { s.next().await.map(|c| (Ok::<_, Infallible>(c), s)) });
        let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
        (headers, Body::from_stream(chunks)).into_response()
    }

    async fn next(&mut self) -> Option<Bytes> {
        let next = match self.phase {
            Phase::Over => return None,
            Phase::Begin => {
                self.phase = Phase::Tokens;
                let bytes = self.render.begin();
                if bytes.is_empty() { self.more().await } else { Ok(self.keep(bytes)) }
            }
            Phase::Tokens => self.more().await,
        };
        Some(next.unwrap_or_else(|fault| {
            self.phase = Phase::Over;
            Bytes::from(format!("data: {}\n\n", fault.body()))
        }))
    }

    fn keep(&mut self, bytes: Bytes) -> Bytes {
        self.sent.extend_from_slice(&bytes);
        bytes
    }

    /// The next bytes. Nothing of the end is sent before the seal exists, so a stream that is complete always has one.
    async fn more(&mut self) -> Result<Bytes, Fault> {
        loop {
            let (bytes, over) = self.event().await?;
            if self.sent.len() + bytes.len() > RESPONSE_BYTES_MAX - (1 << 16) {
                return Err(ended_early());
            }
            if !over {
                if !bytes.is_empty() {
                    return Ok(self.keep(bytes));
                }
                continue;
            }
            let mut end = BytesMut::from(&bytes[..]);
            end.extend_from_slice(&self.render.end());
            let mut end = BytesMut::from(&self.keep(end.freeze())[..]);
            let committed = self.sent.split().freeze();
            let seal = self.seal(committed).await?;
            self.phase = Phase::Over;
            let seal = serde_json::to_string(&seal).unwrap_or_default();
            end.extend_from_slice(format!(": og-seal {seal}\n\n").as_bytes());
            return Ok(end.freeze());
        }
    }
}
