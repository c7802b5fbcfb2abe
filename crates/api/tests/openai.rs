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
    events: Mutex<Vec<GenerateEvent>>,
    fault: Mutex<Option<InferenceFault>>,
    /// Leaves the answer open, so that only the client can end it.
    hang: bool,
    draining: bool,
    jobs: Mutex<Vec<(GenerateJob, Ticket)>>,
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

    async fn generate(&self, job: GenerateJob, ticket: Ticket) -> Result<Started, InferenceFault> {
        self.jobs.lock().unwrap().push((job, ticket.clone()));
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
        Ok(Started {
            receipt_id: ReceiptId(B256::repeat_byte(3)),
            nonce: ticket.nonce.unwrap_or_default(),
            rung: ticket.rung,
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

    async fn embed(
        &self,
        _model: String,
        inputs: Vec<Input>,
        ticket: Ticket,
    ) -> Result<(Embedded, Started), InferenceFault> {
        let job = GenerateJob {
            model: String::new(),
            input: Input::Text(String::new()),
            sampling: types::Sampling::GREEDY,
            seed_given: false,
            max_tokens: None,
            stop: vec![],
            n: 1,
            logit_bias: vec![],
            top_logprobs: None,
            format: Format::Text,
        };
        let started = self.generate(job, ticket).await?;
        Ok((Embedded { vectors: vec![vec![0.5, -1.0]; inputs.len()], prompt_tokens: 9 }, started))
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, InferenceFault> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, InferenceFault> {
        Ok(tokens.iter().filter_map(|t| char::from_u32(*t)).collect())
    }

    fn load(&self) -> Load {
        Load { draining: self.draining, queued: 3, ..Load::default() }
    }

    fn receipt(&self, _id: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault> {
        Ok(None)
    }

    async fn show(
        &self,
        index: u64,
        _size: u64,
        pass: Option<AuditorPass>,
    ) -> Result<Option<Shown>, InferenceFault> {
        match pass {
            Some(pass) if index == 0 => {
                Err(InferenceFault::Forbidden(format!("{} at {}", pass.auditor, pass.time)))
            }
            _ => Ok(None),
        }
    }

    async fn pay(&self, promise: Promise) -> Result<(), InferenceFault> {
        Err(InferenceFault::PaymentRequired(promise.total.to_string()))
    }

    fn checkpoint(&self) -> LogCheckpoint {
        LogCheckpoint { size: 2, root: B256::repeat_byte(6), posted_size: 1 }
    }

    fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        (index < size && size <= 2).then(|| LogProof { index, size, path: vec![] })
    }
}

fn answer() -> Vec<GenerateEvent> {
    vec![token(0, "Hé"), token(0, ""), token(0, "llo \"you\"\n"), done(0)]
}

fn token(choice: u32, text: &str) -> GenerateEvent {
    let scored =
        |text: &str, logprob| ScoredToken { text: text.into(), bytes: text.as_bytes().to_vec(), logprob };
    let logprob = Some(TokenLogprob { token: scored(text, -0.5), top: vec![scored("x", -0.25)] });
    GenerateEvent::Token { choice, text: text.into(), logprob }
}

fn done(choice: u32) -> GenerateEvent {
    GenerateEvent::Done { choice, finish: Finish::Stop, completion_tokens: 3 }
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
    let (_, ticket) = script.jobs.lock().unwrap().pop().unwrap();
    assert_eq!(ticket.raw_request, raw.as_bytes());
    assert_eq!((ticket.nonce, ticket.rung), (Some(B256::repeat_byte(9)), Rung::Audited));
    for headers in [("og-nonce", "0x12"), ("og-nonce", &nonce[2..]), ("og-assurance", "certain")] {
        assert_eq!(post(&url, raw.clone(), &[headers]).await.status(), 400, "{headers:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_answer() {
    let events = vec![token(0, "one")];
    let (script, url) = serve(Script { events: events.into(), hang: true, ..Default::default() }).await;
    let mut response = post(&url, request(true).to_string(), &[]).await;
    while !String::from_utf8_lossy(&response.chunk().await.unwrap().unwrap()).contains("one") {}
    drop(response);
    script.cancelled.notified().await;
    assert!(script.sealed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failure_on_the_way_ends_the_stream_without_done_and_seal() {
    let events = vec![token(0, "one"), GenerateEvent::Failed(InferenceFault::Internal("broken".into()))];
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
            .contains("og_node_requests_total{path=\"/v1/chat/completions\",status=\"413\"} 1")
    );
}

async fn post_to(url: &str, path: &str, body: Value) -> Value {
    let response =
        reqwest::Client::new().post(format!("{url}{path}")).body(body.to_string()).send().await.unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn chunks(stream: &str) -> Vec<Value> {
    let events = stream.split_terminator("\n\n").filter_map(|e| e.split("data: ").nth(1));
    events.filter(|d| *d != "[DONE]").map(|d| serde_json::from_str(d).unwrap()).collect()
}

#[tokio::test]
async fn several_answers_with_log_probabilities() {
    let events = vec![token(1, "b"), token(0, "a"), done(1), token(0, "A"), done(0)];
    let (script, url) = serve(Script { events: events.into(), ..Default::default() }).await;
    let ask = |stream: bool| {
        json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "n": 2, "logprobs": true, "top_logprobs": 1,
            "stream": stream, "logit_bias": {"7": -100, "5": 2.5}})
    };
    let whole = post_to(&url, "/v1/chat/completions", ask(false)).await;
    assert_eq!(whole["choices"][0]["message"]["content"], "aA");
    assert_eq!(whole["choices"][1]["message"]["content"], "b");
    assert_eq!(whole["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 2);
    assert_eq!(whole["choices"][0]["logprobs"]["content"][1]["top_logprobs"][0]["logprob"], -0.25);
    assert_eq!(whole["usage"]["completion_tokens"], 6);
    let (job, _) = script.jobs.lock().unwrap().pop().unwrap();
    assert_eq!((job.n, job.top_logprobs, job.logit_bias), (2, Some(1), vec![(5, 2.5), (7, -100.0)]));
    let stream = post(&url, ask(true).to_string(), &[]).await.text().await.unwrap();
    for (index, text) in [(0, "aA"), (1, "b")] {
        let of = |c: &Value| c["choices"][0]["index"] == index;
        let all = chunks(&stream);
        let found: String = all
            .iter()
            .filter(|c| of(c))
            .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(found, text);
        let scored =
            all.iter().filter(|c| of(c)).filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array());
        assert_eq!(scored.map(Vec::len).sum::<usize>(), text.len());
    }
}

#[tokio::test]
async fn tools_are_parsed_out_of_the_text() {
    let text = ["<tool", "_call>{\"name\": \"f\", \"argu", "ments\": {\"a\"", ": 1}}</tool_call>"];
    let events: Vec<_> = text.iter().map(|t| token(0, t)).chain([done(0)]).collect();
    let (script, url) = serve(Script { events: events.into(), ..Default::default() }).await;
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let ask = |choice: Value, stream: bool| {
        json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool.clone()],
            "tool_choice": choice, "stream": stream})
    };
    let whole = post_to(&url, "/v1/chat/completions", ask(json!("auto"), false)).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"],
        json!({"name": "f", "arguments": "{\"a\": 1}"})
    );
    let stream = post(&url, ask(json!("required"), true).to_string(), &[]).await.text().await.unwrap();
    let calls: Vec<Value> = chunks(&stream)
        .iter()
        .map(|c| c["choices"][0]["delta"]["tool_calls"][0].clone())
        .filter(|c| !c.is_null())
        .collect();
    assert_eq!((&calls[0]["index"], &calls[0]["function"]["name"]), (&json!(0), &json!("f")));
    assert_eq!(calls[0]["id"], choice["message"]["tool_calls"][0]["id"]);
    let arguments: String = calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"a\": 1}");
    let (job, _) = script.jobs.lock().unwrap().pop().unwrap();
    assert!(matches!(job.format, Format::ToolCalls { ref tools, parallel: true } if tools[0].0 == "f"));
    let none = post_to(&url, "/v1/chat/completions", ask(json!("none"), false)).await;
    assert!(none["choices"][0]["message"]["content"].as_str().unwrap().starts_with("<tool_call>"));
    let wrong = post_to(
        &url,
        "/v1/chat/completions",
        ask(json!({"type": "function", "function": {"name": "g"}}), false),
    )
    .await;
    assert_eq!(wrong["error"]["param"], "tool_choice");
}

#[tokio::test]
async fn raw_completions_and_responses() {
    let (script, url) = serve(Script { events: answer().into(), ..Default::default() }).await;
    let raw = json!({"model": "tiny", "prompt": "Say: ", "echo": true, "logprobs": 1});
    let whole = post_to(&url, "/v1/completions", raw).await;
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["text"]),
        (&json!("text_completion"), &json!("Say: Héllo \"you\"\n"))
    );
    assert_eq!(whole["choices"][0]["logprobs"]["text_offset"], json!([5, 7, 7]));
    let several = post_to(&url, "/v1/completions", json!({"model": "tiny", "prompt": ["a", "b"]})).await;
    assert_eq!(several["error"]["param"], "prompt");

    let ask = json!({"model": "tiny", "input": "Hi", "instructions": "Be kind", "max_output_tokens": 5, "stream": true});
    let response = reqwest::Client::new()
        .post(format!("{url}/v1/responses"))
        .body(ask.to_string())
        .send()
        .await
        .unwrap();
    let stream = response.text().await.unwrap();
    let (committed, _) = stream.split_once(": og-seal ").unwrap();
    assert_eq!(script.sealed.lock().unwrap().pop().unwrap(), committed.as_bytes());
    let events = chunks(committed);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    assert!(events.iter().enumerate().all(|(i, e)| e["sequence_number"] == i));
    let last = &events[events.len() - 1]["response"];
    assert_eq!(last["output"][0]["content"][0]["text"], "Héllo \"you\"\n");
    assert_eq!((&last["status"], &last["usage"]["output_tokens"]), (&json!("completed"), &json!(3)));
    let (job, _) = script.jobs.lock().unwrap().pop().unwrap();
    assert!(
        matches!(job.input, Input::Chat { ref messages, .. } if messages.len() == 2 && messages[0].content == "Be kind")
    );
    assert_eq!(post_to(&url, "/v1/responses", json!({"model": "tiny"})).await["error"]["param"], "input");
}

#[tokio::test]
async fn embeddings_tokens_and_draining() {
    let (_, url) = serve(Script { draining: true, ..Default::default() }).await;
    let ask = |format: &str| json!({"model": "tiny", "input": ["a", "b"], "encoding_format": format});
    let floats = post_to(&url, "/v1/embeddings", ask("float")).await;
    assert_eq!(
        (&floats["data"][1]["embedding"], &floats["usage"]["prompt_tokens"]),
        (&json!([0.5, -1.0]), &json!(9))
    );
    assert_eq!(post_to(&url, "/v1/embeddings", ask("base64")).await["data"][0]["embedding"], "AAAAPwAAgL8=");
    assert_eq!(
        post_to(&url, "/v1/embeddings", json!({"model": "t", "input": []})).await["error"]["param"],
        "input"
    );
    assert_eq!(post_to(&url, "/tokenize", json!({"content": "hi"})).await, json!({"tokens": [104, 105]}));
    assert_eq!(post_to(&url, "/detokenize", json!({"tokens": [104]})).await, json!({"content": "h"}));
    let health = reqwest::get(format!("{url}/health")).await.unwrap();
    assert_eq!(health.status(), 503);
    assert!(
        reqwest::get(format!("{url}/metrics"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("og_node_queued 3")
    );
}
