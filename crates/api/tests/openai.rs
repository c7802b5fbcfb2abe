//! The OpenAI server over a scripted port: exact framing, sealed bytes, cancelling, errors.
#![allow(missing_docs, clippy::unwrap_used)]

use api::ports::*;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use types::{Address, B256, LogProof, ModelId, Receipt, ReceiptId, Rung, Seal};

/// A node whose answers are scripted.
#[derive(Default)]
struct Script {
    events: Mutex<Vec<ChatEvent>>,
    fault: Mutex<Option<InferenceFault>>,
    /// Leaves the answer open, so that only the client can end it.
    hang: bool,
    jobs: Mutex<Vec<ChatJob>>,
    sealed: Arc<Mutex<Vec<Bytes>>>,
    cancelled: Arc<tokio::sync::Notify>,
}

struct Seals(Arc<Mutex<Vec<Bytes>>>);

#[async_trait]
impl Sealer for Seals {
    async fn seal(self: Box<Self>, response: Bytes) -> Result<Seal, InferenceFault> {
        self.0.lock().unwrap().push(response);
        Ok(Seal { receipt: vec![1, 2].into(), prompt_tokens: vec![7], output_tokens: vec![8, 9] })
    }
}

#[async_trait]
impl Inference for Script {
    fn info(&self) -> NodeInfo {
        NodeInfo { node: Address::repeat_byte(1), chain_id: 7, genesis: B256::ZERO, models: vec![] }
    }

    async fn chat(&self, job: ChatJob) -> Result<ChatStarted, InferenceFault> {
        self.jobs.lock().unwrap().push(job.clone());
        if let Some(fault) = self.fault.lock().unwrap().clone() {
            return Err(fault);
        }
        let (sender, events) = mpsc::channel(64);
        for event in self.events.lock().unwrap().iter().cloned() {
            sender.try_send(event).unwrap();
        }
        if self.hang {
            let cancelled = self.cancelled.clone();
            tokio::spawn(async move {
                sender.closed().await;
                cancelled.notify_one();
            });
        }
        Ok(ChatStarted {
            receipt_id: ReceiptId(B256::repeat_byte(3)),
            nonce: job.nonce.unwrap_or_default(),
            rung: job.rung,
            node: Address::repeat_byte(1),
            model: "tiny".into(),
            model_id: ModelId(B256::repeat_byte(4)),
            price_input: 10,
            price_output: 20,
            prompt_tokens: 5,
            time_ms: 1_700_000_000_123,
            arithmetic_version: 1,
            events,
            sealer: Box::new(Seals(self.sealed.clone())),
        })
    }

    fn receipt(&self, _id: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault> {
        Ok(None)
    }

    fn checkpoint(&self) -> LogCheckpoint {
        LogCheckpoint { size: 2, root: B256::repeat_byte(6), posted_size: 1 }
    }

    fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        (index < size && size <= 2).then(|| LogProof { index, size, path: vec![] })
    }
}

fn answer() -> Vec<ChatEvent> {
    let text = |t: &str| ChatEvent::Text(t.into());
    let done = ChatEvent::Done { finish: Finish::Stop, completion_tokens: 3 };
    vec![text("Hé"), text(""), text("llo \"you\"\n"), done]
}

async fn serve(script: Script) -> (Arc<Script>, String) {
    let script = Arc::new(script);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = api::openai::router(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (script, url)
}

fn request(stream: bool) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream,
        "stream_options": {"include_usage": true}})
}

async fn post(url: &str, body: impl Into<reqwest::Body>, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().post(format!("{url}/v1/chat/completions")).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn what_is_sealed_is_what_is_sent() {
    let (script, url) = serve(Script { events: answer().into(), ..Default::default() }).await;
    let plain = post(&url, request(false).to_string(), &[]).await;
    assert_eq!(plain.headers()["og-receipt"], "0x0102");
    assert_eq!(plain.headers()["og-receipt-id"], B256::repeat_byte(3).to_string().as_str());
    assert_eq!((&plain.headers()["og-price-input"], &plain.headers()["og-price-output"]).0, "10");
    let body = plain.bytes().await.unwrap();
    assert_eq!(script.sealed.lock().unwrap().pop().unwrap(), body);
    let json: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["choices"][0]["message"]["content"], "Héllo \"you\"\n");
    assert_eq!(json["usage"]["total_tokens"], 8);
    assert_eq!(json["created"], 1_700_000_000);

    let inline = post(&url, request(false).to_string(), &[("og-proof", "inline")]).await;
    let wrapped: Value = serde_json::from_slice(&inline.bytes().await.unwrap()).unwrap();
    assert_eq!(
        wrapped["response"].as_str().unwrap().as_bytes(),
        script.sealed.lock().unwrap().pop().unwrap()
    );
    assert_eq!(wrapped["seal"]["output_tokens"], json!([8, 9]));

    let stream = post(&url, request(true).to_string(), &[]).await.text().await.unwrap();
    let (committed, seal) = stream.split_once(": og-seal ").unwrap();
    assert_eq!(script.sealed.lock().unwrap().pop().unwrap(), committed.as_bytes());
    assert!(committed.ends_with("data: [DONE]\n\n"));
    assert_eq!(serde_json::from_str::<Seal>(seal.trim()).unwrap().prompt_tokens, [7]);
    let chunks: Vec<Value> = committed
        .split_terminator("\n\n")
        .map(|e| e.strip_prefix("data: ").unwrap())
        .filter(|d| *d != "[DONE]")
        .map(|d| serde_json::from_str(d).unwrap())
        .collect();
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Héllo \"you\"\n");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn the_port_gets_the_raw_bytes_and_the_headers() {
    let (script, url) = serve(Script { events: answer().into(), ..Default::default() }).await;
    let nonce = B256::repeat_byte(9).to_string();
    let raw = format!("  {}\n", request(false));
    assert_eq!(
        post(&url, raw.clone(), &[("og-nonce", &nonce), ("og-assurance", "audited")]).await.status(),
        200
    );
    let job = script.jobs.lock().unwrap().pop().unwrap();
    assert_eq!(job.raw_request, raw.as_bytes());
    assert_eq!((job.nonce, job.rung), (Some(B256::repeat_byte(9)), Rung::Audited));
    for headers in [("og-nonce", "0x12"), ("og-nonce", &nonce[2..]), ("og-assurance", "certain")] {
        assert_eq!(post(&url, raw.clone(), &[headers]).await.status(), 400, "{headers:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_answer() {
    let events = vec![ChatEvent::Text("one".into())];
    let (script, url) = serve(Script { events: events.into(), hang: true, ..Default::default() }).await;
    let mut response = post(&url, request(true).to_string(), &[]).await;
    while !String::from_utf8_lossy(&response.chunk().await.unwrap().unwrap()).contains("one") {}
    drop(response);
    script.cancelled.notified().await;
    assert!(script.sealed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failure_on_the_way_ends_the_stream_without_done_and_seal() {
    let events =
        vec![ChatEvent::Text("one".into()), ChatEvent::Failed(InferenceFault::Internal("broken".into()))];
    let (script, url) = serve(Script { events: events.into(), ..Default::default() }).await;
    let stream = post(&url, request(true).to_string(), &[]).await.text().await.unwrap();
    assert!(stream.contains("one") && stream.contains("broken"));
    assert!(!stream.contains("[DONE]") && !stream.contains("og-seal"));
    assert_eq!(post(&url, request(false).to_string(), &[]).await.status(), 500);
    assert!(script.sealed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn faults_have_openais_shape() {
    let (script, url) = serve(Script::default()).await;
    let busy = InferenceFault::Busy("full".into());
    let missing = InferenceFault::ModelNotFound { model: "x".into(), available: "tiny".into() };
    for (fault, status, code, kind) in [
        (missing, 404, "model_not_found", "invalid_request_error"),
        (
            InferenceFault::ContextLengthExceeded("long".into()),
            400,
            "context_length_exceeded",
            "invalid_request_error",
        ),
        (busy, 429, "queue_full", "rate_limit_error"),
        (
            InferenceFault::AssuranceUnavailable(Rung::Proved),
            400,
            "assurance_unavailable",
            "invalid_request_error",
        ),
        (InferenceFault::Duplicate(ReceiptId::default()), 409, "duplicate_request", "invalid_request_error"),
        (InferenceFault::Internal("oops".into()), 500, "internal_error", "server_error"),
    ] {
        *script.fault.lock().unwrap() = Some(fault);
        let response = post(&url, request(true).to_string(), &[]).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().contains_key("retry-after"), status == 429);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!((&body["error"]["code"], &body["error"]["type"]), (&json!(code), &json!(kind)));
    }
}

#[tokio::test]
async fn hostile_bodies_are_refused_before_the_port() {
    let (script, url) = serve(Script::default()).await;
    let deep = "[".repeat(200_000);
    for (body, status) in [
        (String::new(), 400),
        ("{".into(), 400),
        (deep, 400),
        ("[]".into(), 400),
        (json!({"model": "tiny", "messages": "Hi"}).to_string(), 400),
        (
            json!({"model": "tiny", "messages": vec![json!({"role": "user", "content": "x"}); 1025]})
                .to_string(),
            400,
        ),
        ("x".repeat((1 << 20) + 1), 413),
    ] {
        let response = post(&url, body, &[]).await;
        assert_eq!(response.status(), status);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert!(body["error"]["message"].is_string() && body["error"]["code"].is_string());
    }
    assert!(script.jobs.lock().unwrap().is_empty());
    let get = |path: &str| reqwest::get(format!("{url}{path}"));
    for (path, status) in [
        ("/health", 200),
        ("/v1/models", 200),
        ("/v1/models/none", 404),
        ("/v1/chat/completions", 405),
        ("/nothing", 404),
        ("/og/v1/receipts/0x12", 400),
        ("/og/v1/log/checkpoint", 200),
        ("/og/v1/log/inclusion", 400),
        ("/og/v1/log/inclusion?index=2&size=2", 400),
        ("/og/v1/log/inclusion?index=1&size=2", 200),
    ] {
        assert_eq!(get(path).await.unwrap().status(), status, "{path}");
    }
    assert!(
        get("/metrics")
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("og_node_chat_requests_total{status=\"413\"} 1")
    );
}
