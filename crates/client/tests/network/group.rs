//! Nodes that answer one request each for itself, under commit and reveal; some cheat.

use super::{ANSWER, Attack, Network, Setup, Shared, receipt, serve};
use alloy_primitives::{Address, B256, U256};
use axum::{
    Json, Router,
    body::Bytes as Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use client::proxy::Payer;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use types::{
    Claim, Evidence, Receipt, ReceiptId, Rung, Seal, Tokens, Voucher, commit_bytes, commit_tokens,
    replica::{Commitment, RevealRequest, Revealed, commitment},
    signing,
};

/// What a liar says.
pub(crate) const LIE: &str = "Here is your mocha.";

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    Honest,
    /// Says something else, and is true to it. Liars with one number agree.
    Liar(u32),
    /// Commits to nothing, and reveals what an honest node would.
    Copycat,
    /// Passes off the commitment of another key.
    Borrower,
    /// Commits and does not reveal.
    Withholds,
    /// Commits and then hangs.
    Hangs,
    /// Takes ten seconds to commit.
    Slow,
    /// Asks for more than its price.
    Overcharges,
    /// Sets the clock of its prompt elsewhere.
    OtherTime,
    /// Wants more coins in the escrow before it answers the first time.
    WantsCoins,
    /// Wants more coins whatever it gets.
    NeverPaid,
    /// Has a full queue.
    Busy,
    /// Was asked the same before, by somebody else.
    Used,
    /// Takes the request for a mistake.
    Refuses,
    /// Falls over.
    Broken,
}

struct Node {
    replica: Replica,
    secret: B256,
    shared: Arc<Shared>,
    /// What waits to be revealed: request hash, group, commitment, answer.
    kept: Mutex<HashMap<String, (B256, B256, Commitment, Revealed)>>,
    is_content: AtomicBool,
}

/// Key of node `i`.
fn secret(i: usize) -> B256 {
    B256::repeat_byte(0x31 + i as u8)
}

/// Address of node `i`.
pub(crate) fn address(i: usize) -> Address {
    signing::address_of(&secret(i)).unwrap()
}

/// Serves a node for each replica and registers it.
pub(super) async fn serve_all(shared: &Arc<Shared>, replicas: &[Replica]) {
    for (i, replica) in replicas.iter().enumerate() {
        let (list, secret) = (shared.clone(), secret(i));
        let shared = shared.clone();
        let (kept, is_content) = (Mutex::default(), AtomicBool::new(false));
        let node = Node { replica: *replica, secret, shared, kept, is_content };
        let router = Router::new()
            .route("/v1/chat/completions", post(commit))
            .route("/og/v1/reveal/{id}", post(reveal))
            .route("/og/v1/payments", post(pay))
            .with_state(Arc::new(node));
        let url = serve(router).await;
        list.list(address(i), url);
    }
}

impl Network {
    pub(crate) async fn start_group(replicas: &[Replica]) -> Self {
        Self::build(Setup { replicas, ..Setup::default() }).await
    }

    /// The same with a proxy that pays.
    pub(crate) async fn start_paid_group(replicas: &[Replica]) -> Self {
        let payer = Payer { secret: B256::repeat_byte(0x51), deposit: U256::from(100) };
        Self::build(Setup { replicas, payer: Some(payer), ..Setup::default() }).await
    }

    /// What the proxy has promised to each node, once `count` nodes have a promise of `total`.
    pub(crate) async fn promised(&self, count: usize, total: u64) -> HashMap<Address, U256> {
        for _ in 0..200 {
            let promised = self.shared.promised.lock().clone();
            if promised.values().filter(|t| **t == U256::from(total)).count() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // One payment too many would come now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.shared.promised.lock().clone()
    }

    /// Times that nodes wanted more coins in the escrow.
    pub(crate) fn refusals(&self) -> usize {
        self.shared.refusals.load(Ordering::SeqCst)
    }

    /// What the proxy keeps of nodes that did not agree, by node.
    pub(crate) fn disputes(&self) -> HashMap<Address, client::proxy::Dispute> {
        let dir = self.dir.path().join("proxy/disputes");
        let read = |e: std::fs::DirEntry| {
            let dispute: client::proxy::Dispute =
                serde_json::from_slice(&std::fs::read(e.path()).unwrap()).unwrap();
            (dispute.node, dispute)
        };
        std::fs::read_dir(dir).unwrap().map(|e| read(e.unwrap())).collect()
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn error(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({"error": {"message": "no", "type": "x", "param": null, "code": code}})))
        .into_response()
}

/// The response and the tokens of an answer.
fn say(node: &Node, stream: bool) -> (String, Vec<u32>) {
    let (answer, tokens) = match node.replica {
        Replica::Liar(i) => (LIE, vec![3, 4, 6 + i]),
        _ => (ANSWER, vec![3, 4, 5]),
    };
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5});
    let id = format!("chatcmpl-{:#x}", signing::address_of(&node.secret).unwrap());
    let object = "chat.completion";
    let response = if stream {
        let chunk = |delta: Value, finish: Value| {
            let choice = json!({"delta": delta, "finish_reason": finish});
            format!("data: {}\n\n", json!({"id": id, "object": object, "choices": [choice]}))
        };
        [
            chunk(json!({"content": answer}), Value::Null),
            chunk(json!({}), json!("stop")),
            "data: [DONE]\n\n".into(),
        ]
        .concat()
    } else {
        let choice = json!({"message": {"content": answer}, "finish_reason": "stop"});
        json!({"id": id, "object": object, "choices": [choice], "usage": usage}).to_string()
    };
    (response, tokens)
}

/// Takes a promise; who gave it.
fn take(node: &Node, headers: &HeaderMap) -> Option<Address> {
    let promise = headers.get("og-payment")?.to_str().unwrap();
    let parts: Vec<_> = promise.split(' ').collect();
    let (client, total) = (parts[0].parse().unwrap(), parts[1].parse::<U256>().unwrap());
    let signature: alloy_primitives::Bytes = parts[2].parse().unwrap();
    let me = signing::address_of(&node.secret).unwrap();
    let config = &node.shared.config;
    let genesis = node.shared.genesis;
    let digest =
        Voucher { client, node: me, total }.digest(config.chain_id, genesis, config.contracts.escrow);
    assert_eq!(signing::recover(digest, signature[..].try_into().unwrap()).unwrap(), client);
    let mut promised = node.shared.promised.lock();
    let largest = promised.entry(me).or_default();
    *largest = total.max(*largest);
    Some(client)
}

async fn pay(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    take(&node, &headers).unwrap();
    Json(json!({"status": "ok"})).into_response()
}

async fn commit(State(node): State<Arc<Node>>, headers: HeaderMap, body: Body) -> Response {
    let payer = take(&node, &headers);
    let is_content = match node.replica {
        Replica::WantsCoins => node.is_content.swap(true, Ordering::SeqCst),
        other => other != Replica::NeverPaid,
    };
    if !is_content {
        node.shared.refusals.fetch_add(1, Ordering::SeqCst);
        return error(StatusCode::PAYMENT_REQUIRED, "payment_required");
    }
    match node.replica {
        Replica::Busy => return StatusCode::TOO_MANY_REQUESTS.into_response(),
        Replica::Refuses => return error(StatusCode::BAD_REQUEST, "invalid_value"),
        Replica::Used => return error(StatusCode::CONFLICT, "duplicate_request"),
        Replica::Broken => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Replica::Slow => tokio::time::sleep(Duration::from_secs(10)).await,
        _ => {}
    }
    assert_eq!(text(&headers, "og-assurance"), "replicated");
    let nonce: B256 = text(&headers, "og-nonce").parse().unwrap();
    let group: B256 = text(&headers, "og-group").parse().unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let (response, tokens) = say(&node, request["stream"] == true);
    let me = signing::address_of(&node.secret).unwrap();
    let mut claim: Claim = receipt(&node.shared, Attack::None, &nonce, &body, response.as_bytes()).claim;
    claim.node = me;
    claim.payer = payer.unwrap_or_default();
    claim.response_hash = commit_bytes(&nonce, &body, response.as_bytes()).1;
    claim.output_hash = commit_tokens(&nonce, Tokens::Output, &tokens);
    claim.sampling.seed = text(&headers, "og-seed").parse().unwrap();
    claim.time_ms = text(&headers, "og-time-ms").parse::<u64>().unwrap();
    (claim.rung_requested, claim.rung_achieved) = (Rung::Replicated as u8, Rung::Replicated as u8);
    match node.replica {
        Replica::Overcharges => claim.price += 1,
        Replica::OtherTime => claim.time_ms += 1,
        _ => {}
    }
    let signature = signing::sign(&node.secret, claim.digest()).unwrap();
    let evidence = vec![Evidence { mode: Rung::Signed.mode(), body: signature.to_vec().into() }];
    let id = claim.receipt_id();
    let salt = B256::from(rand::random::<[u8; 32]>());
    let output = if node.replica == Replica::Copycat { B256::ZERO } else { claim.output_hash };
    let c = commitment(group, me, output, claim.trace_root, salt);
    let key = if node.replica == Replica::Borrower { B256::repeat_byte(0x77) } else { node.secret };
    let signature = signing::sign(&key, c).unwrap().to_vec().into();
    let commitment = Commitment { node: me, commitment: c, signature };
    let request_hash = claim.request_hash;
    let receipt = Receipt { claim, evidence };
    let seal = Seal { receipt: receipt.encode().into(), prompt_tokens: vec![1, 2], output_tokens: tokens };
    let kept = (request_hash, group, commitment.clone(), Revealed { response, seal, salt });
    node.kept.lock().insert(id.to_string(), kept);
    Json(commitment).into_response()
}

async fn reveal(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    Json(request): Json<RevealRequest>,
) -> Response {
    match node.replica {
        Replica::Withholds => return error(StatusCode::NOT_FOUND, "not_found"),
        Replica::Hangs => tokio::time::sleep(Duration::from_secs(10)).await,
        _ => {}
    }
    let id: ReceiptId = id.parse().unwrap();
    let (request_hash, group, own, revealed) = node.kept.lock()[&id.to_string()].clone();
    assert_eq!(request.check(request_hash, group, &own), Ok(()));
    Json(revealed).into_response()
}
