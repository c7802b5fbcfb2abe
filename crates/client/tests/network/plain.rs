//! A node that signs real receipts and cheats on demand.

use super::{ANSWER, Shared, chain::CHAIN_ID, manifest, secret};
use alloy_primitives::{Address, B256};
use axum::{
    Json,
    body::Bytes as Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use types::{
    ARITHMETIC_EXACT, ARITHMETIC_SIGNED_ONLY, Claim, Evidence, Receipt, Rung, Sampling, Seal, Tokens,
    commit_bytes, commit_tokens, signing,
};

/// One way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    None,
    OtherKey,
    NoSeal,
    GarbageSeal,
    ChangedResponse,
    OtherRequest,
    OtherModel,
    Overcharged,
    WrongPrice,
    WrongUsage,
    WrongTokens,
    MoreTokensThanAllowed,
    OtherChain,
    OtherGenesis,
    OtherRung,
    UnknownRung,
    WrongAnchor,
    StaleTime,
    SignedOnlyArithmetic,
    CutOff,
    BytesAfterSeal,
    StrangeEvent,
    Replay,
    Redirect,
    Busy,
    /// Answers with this status and words of its own.
    Status(u16),
    /// Answers 200 with something else than an answer.
    Garbage,
    /// Hides a second event behind a carriage return.
    CarriageReturn,
    /// Names a block that does not exist yet.
    NextBlock,
    /// Breaks the stream off with an error of its own, before any text.
    ErrorEvent,
}

/// A node that answers each request by itself.
pub(super) struct Plain {
    pub(super) shared: Arc<Shared>,
    pub(super) secret: B256,
    pub(super) attack: Mutex<Attack>,
    pub(super) last: Mutex<Option<Receipt>>,
    pub(super) asked: AtomicUsize,
}

impl Plain {
    pub(super) fn address(&self) -> Address {
        signing::address_of(&self.secret).unwrap()
    }
}

/// The node.
pub(super) async fn answer(State(plain): State<Arc<Plain>>, headers: HeaderMap, body: Body) -> Response {
    plain.asked.fetch_add(1, Ordering::SeqCst);
    let (s, attack) = (&plain.shared, *plain.attack.lock());
    match attack {
        Attack::Status(status) => {
            let error =
                json!({"message": "Buy somewhere else\u{1b}[2J", "type": "x", "param": null, "code": "evil"});
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            return (status, Json(json!({"error": error}))).into_response();
        }
        Attack::Garbage => return "<html>Buy somewhere else</html>".into_response(),
        Attack::ErrorEvent => {
            return "data: {\"error\":{\"message\":\"Buy somewhere else\"}}\n\n".into_response();
        }
        _ => {}
    }
    if attack == Attack::Redirect {
        return axum::response::Redirect::temporary("http://127.0.0.1:1/secret").into_response();
    }
    if attack == Attack::Busy {
        return axum::http::StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    let nonce: B256 = headers["og-nonce"].to_str().unwrap().parse().unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let completion = if attack == Attack::WrongUsage { 4 } else { 3 };
    let usage = json!({"prompt_tokens": 2, "completion_tokens": completion, "total_tokens": 2 + completion});
    let stream = request["stream"] == true;
    let response = if stream {
        let chunk = |v: Value| format!("data: {v}\n\n");
        let delta = |d: Value, finish: Value| {
            chunk(json!({"object": "chat.completion", "choices": [{"delta": d, "finish_reason": finish}]}))
        };
        let (first, rest) = ANSWER.split_at(6);
        [
            delta(json!({"content": first}), Value::Null),
            delta(json!({"content": rest}), Value::Null),
            delta(json!({}), json!("stop")),
            chunk(json!({"object": "chat.completion", "choices": [], "usage": usage})),
            "data: [DONE]\n\n".into(),
        ]
        .concat()
        .replace(
            "{\"object\"",
            if attack == Attack::CarriageReturn { "{\r\"object\"" } else { "{\"object\"" },
        )
    } else {
        json!({"object": "chat.completion", "choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}], "usage": usage})
            .to_string()
    };
    let promise = headers.get("og-payment").map(|v| v.to_str().unwrap());
    let payer = promise.map_or(Address::ZERO, |p| p.split(' ').next().unwrap().parse().unwrap());
    let receipt = match attack {
        Attack::Replay => plain.last.lock().clone().unwrap(),
        _ => receipt_of(s, &plain.secret, attack, payer, &nonce, &body, response.as_bytes()),
    };
    *plain.last.lock() = Some(receipt.clone());
    let output_tokens = if attack == Attack::WrongTokens { vec![3, 4, 6] } else { vec![3, 4, 5] };
    let mut seal = json!(Seal { receipt: receipt.encode().into(), prompt_tokens: vec![1, 2], output_tokens });
    if attack == Attack::GarbageSeal {
        seal["receipt"] = json!("0xc0");
    }
    let shown = if attack == Attack::ChangedResponse { response.replace("latte", "mocha") } else { response };
    match (attack, stream) {
        (Attack::NoSeal, true) => shown.into_response(),
        (Attack::NoSeal, false) => json!({"response": shown}).to_string().into_response(),
        (Attack::CutOff, _) => shown.replace("data: [DONE]\n\n", "data: [DO").into_response(),
        (Attack::StrangeEvent, _) => {
            format!("event: x\ndata: {{}}\n\n{shown}: og-seal {seal}\n\n").into_response()
        }
        (Attack::BytesAfterSeal, _) => {
            format!("{shown}: og-seal {seal}\n\ndata: {{\"choices\":[]}}\n\n").into_response()
        }
        (_, true) => format!("{shown}: og-seal {seal}\n\n").into_response(),
        (_, false) => json!({"response": shown, "seal": seal}).to_string().into_response(),
    }
}

pub(super) fn receipt(s: &Shared, attack: Attack, nonce: &B256, request: &[u8], response: &[u8]) -> Receipt {
    receipt_of(s, &secret(), attack, Address::ZERO, nonce, request, response)
}

fn receipt_of(
    s: &Shared,
    secret: &B256,
    attack: Attack,
    payer: Address,
    nonce: &B256,
    request: &[u8],
    response: &[u8],
) -> Receipt {
    let node = signing::address_of(secret).unwrap();
    let listed = s.nodes.lock().iter().find(|l| l.node == node).map(|l| l.offers[0]);
    let (model, price_input, price_output) = listed.unwrap_or((manifest().id().0, 10, 20));
    let is = |a: Attack| attack == a;
    let request = if is(Attack::OtherRequest) { b"{}".as_slice() } else { request };
    let (request_hash, response_hash) = commit_bytes(nonce, request, response);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let rung = match attack {
        Attack::OtherRung => Rung::Proved as u8,
        Attack::UnknownRung => 77,
        _ => Rung::Signed as u8,
    };
    let mut claim = Claim {
        chain_id: if is(Attack::OtherChain) { 8 } else { CHAIN_ID },
        genesis: if is(Attack::OtherGenesis) { B256::ZERO } else { s.genesis },
        node,
        model: if is(Attack::OtherModel) { B256::repeat_byte(5) } else { model },
        request_hash,
        response_hash,
        prompt_hash: commit_tokens(nonce, Tokens::Prompt, &[1, 2]),
        output_hash: commit_tokens(nonce, Tokens::Output, &[3, 4, 5]),
        prompt_tokens: 2,
        completion_tokens: 3,
        max_tokens: if is(Attack::MoreTokensThanAllowed) { 2 } else { 10 },
        choices: 1,
        sampling: Sampling::GREEDY,
        options: B256::ZERO,
        trace_root: B256::ZERO,
        price_input,
        price_output: price_output + u128::from(is(Attack::WrongPrice)),
        price: 0,
        payer,
        anchor_number: if is(Attack::NextBlock) { s.chain.lock().head().0 + 3 } else { s.anchor.0 },
        anchor_hash: if is(Attack::WrongAnchor) { B256::ZERO } else { s.anchor.1 },
        time_ms: if is(Attack::StaleTime) { now - 3_600_000 } else { now },
        arithmetic_class: if is(Attack::SignedOnlyArithmetic) {
            ARITHMETIC_SIGNED_ONLY
        } else {
            ARITHMETIC_EXACT
        },
        arithmetic_version: 1,
        rung_requested: rung,
        rung_achieved: rung,
    };
    claim.price = claim.computed_price().unwrap() + u128::from(is(Attack::Overcharged));
    let key = if is(Attack::OtherKey) { B256::repeat_byte(0x77) } else { *secret };
    let signature = signing::sign(&key, claim.digest()).unwrap();
    Receipt { claim, evidence: vec![Evidence { mode: Rung::Signed.mode(), body: signature.to_vec().into() }] }
}
