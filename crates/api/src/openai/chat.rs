use super::{Shared, error::Fault, metrics::Metrics, request::ChatRequest};
use crate::ports::{ChatEvent, ChatJob, ChatStarted, Finish, Sealer};
use axum::{
    body::Body,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Instant};
use tokio::sync::mpsc;
use types::{B256, Rung, Seal, limits::RESPONSE_BYTES_MAX};

/// `POST /v1/chat/completions`.
pub(super) async fn completions(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let response = match run(&shared, &headers, body).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    shared.metrics.count(response.status().as_u16());
    response
}

async fn run(
    shared: &Shared,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let began = Instant::now();
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Fault::new(e.status(), "request_too_large", "the body is larger than 1 MiB")
        }
        _ => Fault::new(StatusCode::BAD_REQUEST, "invalid_json", e.body_text()),
    })?;
    let request = ChatRequest::parse(&body)?;
    let job = ChatJob {
        model: request.model,
        messages: request.messages,
        sampling: request.sampling,
        seed_given: request.seed_given,
        max_tokens: request.max_tokens,
        stop: request.stop,
        raw_request: body,
        nonce: nonce(headers)?,
        rung: header::<Rung>(headers, "og-assurance")?.unwrap_or(Rung::Signed),
    };
    let started = shared.inference.chat(job).await?;
    let inline = headers.get("og-proof").is_some_and(|v| v == "inline");
    let answer = Answer::new(&started, request.include_usage);
    let about = about(&started);
    let guard = InFlight::new(shared.metrics.clone());
    let mut response = if request.stream {
        streamed(answer, started, guard, began)
    } else {
        whole(answer, started, guard, began, inline).await?
    };
    response.headers_mut().extend(about);
    Ok(response)
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
fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|s| s.parse().ok());
    parsed.map(Some).ok_or_else(|| Fault::invalid(name, format!("the header `{name}` cannot be read")))
}

/// Headers that tell what the receipt will say, before the first token.
fn about(s: &ChatStarted) -> HeaderMap {
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

/// Counts an answer as under way until it is dropped.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// The constant parts of an answer's JSON.
struct Answer {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    prompt_tokens: u32,
    include_usage: bool,
}

impl Answer {
    fn new(s: &ChatStarted, include_usage: bool) -> Self {
        Self {
            id: format!("chatcmpl-{}", &s.receipt_id.to_string()[2..34]),
            created: s.time_ms / 1000,
            model: s.model.clone(),
            fingerprint: format!("exact-v{}-{}", s.arithmetic_version, &s.model_id.to_string()[2..10]),
            prompt_tokens: s.prompt_tokens,
            include_usage,
        }
    }

    fn usage(&self, completion_tokens: u32) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Bytes {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    }

    fn delta(&self, delta: Value, finish: Option<Finish>) -> Bytes {
        let choice =
            json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish.map(finish_word)});
        self.chunk(json!([choice]), None)
    }
}

fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

async fn whole(
    answer: Answer,
    mut started: ChatStarted,
    guard: InFlight,
    began: Instant,
    inline: bool,
) -> Result<Response, Fault> {
    let mut text = String::new();
    let (finish, completion_tokens) = loop {
        match started.events.recv().await {
            Some(ChatEvent::Text(more)) => {
                if text.is_empty() && !more.is_empty() {
                    guard.0.first_token_seconds.observe(began.elapsed().as_secs_f64());
                }
                text.push_str(&more);
            }
            Some(ChatEvent::Done { finish, completion_tokens }) => break (finish, completion_tokens),
            Some(ChatEvent::Failed(fault)) => return Err(fault.into()),
            None => return Err(ended_early()),
        }
    };
    let body = json!({
        "id": answer.id, "object": "chat.completion", "created": answer.created, "model": answer.model,
        "system_fingerprint": answer.fingerprint,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null,
            "finish_reason": finish_word(finish),
        }],
        "usage": answer.usage(completion_tokens),
    })
    .to_string();
    let seal = started.sealer.seal(Bytes::from(body.clone())).await?;
    count_tokens(&guard.0, answer.prompt_tokens, completion_tokens);
    if inline {
        let sealed = json!({"response": body, "seal": seal}).to_string();
        return Ok(([(CONTENT_TYPE, "application/vnd.og.sealed+json")], sealed).into_response());
    }
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    if let Ok(value) = HeaderValue::from_str(&seal.receipt.to_string()) {
        response.headers_mut().insert("og-receipt", value);
    }
    Ok(response)
}

fn ended_early() -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the answer ended early; try again")
}

fn count_tokens(metrics: &Metrics, prompt: u32, completion: u32) {
    metrics.prompt_tokens.inc_by(u64::from(prompt));
    metrics.completion_tokens.inc_by(u64::from(completion));
}

/// A stream under way: what was sent is remembered, since the receipt commits to it.
struct Stream {
    answer: Answer,
    events: mpsc::Receiver<ChatEvent>,
    sealer: Option<Box<dyn Sealer>>,
    sent: BytesMut,
    phase: Phase,
    guard: InFlight,
    began: Instant,
}

enum Phase {
    Role,
    Text { first: bool },
    Over,
}

fn streamed(answer: Answer, started: ChatStarted, guard: InFlight, began: Instant) -> Response {
    let state = Stream {
        answer,
        events: started.events,
        sealer: Some(started.sealer),
        sent: BytesMut::new(),
        phase: Phase::Role,
        guard,
        began,
    };
    let chunks =
        stream::unfold(state, |mut s| async move { s.next().await.map(|c| (Ok::<_, Infallible>(c), s)) });
    let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
    (headers, Body::from_stream(chunks)).into_response()
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Role => {
                self.phase = Phase::Text { first: true };
                Some(self.send(self.answer.delta(json!({"role": "assistant", "content": ""}), None)))
            }
            Phase::Text { first } => self.text(first).await,
            Phase::Over => None,
        }
    }

    fn send(&mut self, bytes: Bytes) -> Bytes {
        self.sent.extend_from_slice(&bytes);
        bytes
    }

    async fn text(&mut self, first: bool) -> Option<Bytes> {
        loop {
            match self.events.recv().await {
                Some(ChatEvent::Text(text)) if text.is_empty() => {}
                Some(ChatEvent::Text(text)) => {
                    if self.sent.len() > RESPONSE_BYTES_MAX - (1 << 16) {
                        return self.fail(&ended_early());
                    }
                    if first {
                        self.guard.0.first_token_seconds.observe(self.began.elapsed().as_secs_f64());
                    }
                    self.phase = Phase::Text { first: false };
                    return Some(self.send(self.answer.delta(json!({"content": text}), None)));
                }
                Some(ChatEvent::Done { finish, completion_tokens }) => {
                    return self.finish(finish, completion_tokens).await;
                }
                Some(ChatEvent::Failed(fault)) => return self.fail(&fault.into()),
                None => return self.fail(&ended_early()),
            }
        }
    }

    /// The end of the stream, sealed. Nothing is sent before the seal exists, so a stream with `[DONE]` always has one.
    async fn finish(&mut self, finish: Finish, completion_tokens: u32) -> Option<Bytes> {
        let mut end = BytesMut::from(&self.answer.delta(json!({}), Some(finish))[..]);
        if self.answer.include_usage {
            let usage = self.answer.usage(completion_tokens);
            end.extend_from_slice(&self.answer.chunk(json!([]), Some(usage)));
        }
        end.extend_from_slice(b"data: [DONE]\n\n");
        let end = self.send(end.freeze());
        let sealer = self.sealer.take()?;
        let seal: Seal = match sealer.seal(self.sent.split().freeze()).await {
            Ok(seal) => seal,
            Err(fault) => return self.fail(&fault.into()),
        };
        count_tokens(&self.guard.0, self.answer.prompt_tokens, completion_tokens);
        self.phase = Phase::Over;
        let seal = serde_json::to_string(&seal).unwrap_or_default();
        let mut out = BytesMut::from(&end[..]);
        out.extend_from_slice(format!(": og-seal {seal}\n\n").as_bytes());
        Some(out.freeze())
    }

    fn fail(&mut self, fault: &Fault) -> Option<Bytes> {
        self.phase = Phase::Over;
        Some(Bytes::from(format!("data: {}\n\n", fault.body())))
    }
}
