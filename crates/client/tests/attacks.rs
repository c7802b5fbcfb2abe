//! A proxy between an honest client and a node that cheats: every attack gives a clear error, never the whole answer.
#![allow(missing_docs, clippy::unwrap_used)]

mod network;

use network::{ANSWER, Attack, Network, Seen};
use serde_json::{Value, json};

const ATTACKS: [Attack; 18] = [
    Attack::OtherKey,
    Attack::NoSeal,
    Attack::GarbageSeal,
    Attack::ChangedResponse,
    Attack::OtherRequest,
    Attack::OtherModel,
    Attack::Overcharged,
    Attack::WrongPrice,
    Attack::WrongUsage,
    Attack::WrongTokens,
    Attack::MoreTokensThanAllowed,
    Attack::OtherChain,
    Attack::OtherGenesis,
    Attack::OtherRung,
    Attack::UnknownRung,
    Attack::WrongAnchor,
    Attack::StaleTime,
    Attack::SignedOnlyArithmetic,
];

fn request(stream: bool) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream,
        "stream_options": {"include_usage": true}})
}

async fn ask(network: &Network, stream: bool) -> Seen {
    network.ask(request(stream).to_string()).await
}

#[tokio::test]
async fn an_honest_answer_passes_unchanged() {
    let network = Network::start().await;
    let plain = ask(&network, false).await;
    assert_eq!(plain.status, 200, "{}", plain.body);
    let body: Value = serde_json::from_str(&plain.body).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], ANSWER);
    assert_eq!(plain.header("og-assurance"), "signed");
    assert_eq!(plain.header("og-receipt-id").len(), 66);

    let streamed = ask(&network, true).await;
    assert_eq!(streamed.status, 200);
    assert_eq!(streamed.header("og-assurance"), "signed");
    assert!(streamed.body.contains("data: [DONE]\n\n: og-seal {"), "{}", streamed.body);
    let summary = streamed.body.split(": og-verified ").nth(1).unwrap();
    let summary: Value = serde_json::from_str(summary.trim()).unwrap();
    assert_eq!(summary["receipt_id"], streamed.header("og-receipt-id"));

    // Both can be looked up, and no two receipts have one id.
    let list = network.get("/og/v1/receipts").await;
    let list: Value = serde_json::from_str(&list.body).unwrap();
    assert_eq!(list["receipts"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_attack_on_a_plain_answer_is_refused() {
    let network = Network::start().await;
    for attack in ATTACKS {
        network.attack(attack);
        let seen = ask(&network, false).await;
        assert_eq!(seen.status, 502, "{attack:?}: {}", seen.body);
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        assert_eq!(body["error"]["code"], "verification_failed", "{attack:?}");
        assert!(!seen.body.contains(ANSWER), "{attack:?}");
    }
    let receipts = network.get("/og/v1/receipts").await;
    assert_eq!(receipts.body, "{\"receipts\":[]}", "a refused answer is not kept");
    assert!(
        network.get("/metrics").await.body.contains(&format!("og_proxy_refused_total {}", ATTACKS.len()))
    );
}

#[tokio::test]
async fn every_attack_on_a_stream_ends_in_an_error_and_without_its_end() {
    let network = Network::start().await;
    for attack in ATTACKS.into_iter().chain([Attack::CutOff, Attack::BytesAfterSeal, Attack::StrangeEvent]) {
        network.attack(attack);
        let seen = ask(&network, true).await;
        assert!(!seen.body.contains("[DONE]"), "{attack:?}: {}", seen.body);
        assert!(!seen.body.contains("finish_reason\":\"stop"), "{attack:?}: {}", seen.body);
        assert!(!seen.body.contains("og-seal"), "{attack:?}");
        let last = seen.body.trim_end().rsplit("data: ").next().unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["error"]["code"], "verification_failed", "{attack:?}: {}", seen.body);
    }
}

#[tokio::test]
async fn a_client_can_ask_for_nothing_before_the_checks() {
    let network = Network::start().await;
    network.attack(Attack::Overcharged);
    let seen = network.ask_with(request(true).to_string(), &[("og-release", "verified")]).await;
    assert!(!seen.body.contains("choices"), "no text at all: {}", seen.body);
    assert!(seen.body.contains("verification_failed"));
}

#[tokio::test]
async fn an_older_receipt_does_not_cover_a_new_answer() {
    let network = Network::start().await;
    assert_eq!(ask(&network, false).await.status, 200);
    network.attack(Attack::Replay);
    let seen = ask(&network, false).await;
    assert_eq!(seen.status, 502);
    assert!(seen.body.contains("verification_failed"));
}

#[tokio::test]
async fn a_node_cannot_send_the_proxy_elsewhere() {
    let network = Network::start().await;
    network.attack(Attack::Redirect);
    let seen = ask(&network, false).await;
    // Following it would have failed with a connection error; the redirect itself is the node's answer, and no good one.
    assert_eq!(seen.status, 502, "{}", seen.body);
    assert!(seen.body.contains("upstream_error") && seen.body.contains("307"), "{}", seen.body);
}

#[tokio::test]
async fn busy_nodes_are_no_failure() {
    let network = Network::start().await;
    network.attack(Attack::Busy);
    let seen = ask(&network, false).await;
    assert_eq!((seen.status, seen.header("retry-after")), (429, "1"), "{}", seen.body);
    assert!(seen.body.contains("queue_full") && seen.body.contains("rate_limit_error"));
    network.attack(Attack::None);
    assert_eq!(ask(&network, false).await.status, 200);
}

#[tokio::test]
async fn a_dead_node_is_passed_over() {
    let network = Network::start_with_dead_node().await;
    for _ in 0..6 {
        assert_eq!(ask(&network, false).await.status, 200);
    }
}

#[tokio::test]
async fn mistakes_of_the_client_are_named() {
    let network = Network::start().await;
    let code = |seen: &Seen| serde_json::from_str::<Value>(&seen.body).unwrap()["error"]["code"].clone();
    for (body, status, expected) in [
        ("{".to_owned(), 400, "invalid_json"),
        (json!({"messages": []}).to_string(), 400, "missing_required_parameter"),
        (json!({"model": "tiny", "messages": []}).to_string(), 400, "invalid_value"),
        (
            json!({"model": "huge", "messages": [{"role": "user", "content": "Hi"}]}).to_string(),
            404,
            "model_not_found",
        ),
        ("x".repeat((1 << 20) + 1), 413, "request_too_large"),
    ] {
        let seen = network.ask(body).await;
        assert_eq!((seen.status, code(&seen)), (status, json!(expected)));
    }
    let rung = network.ask_with(request(false).to_string(), &[("og-assurance", "certain")]).await;
    assert_eq!((rung.status, code(&rung)), (400, json!("invalid_value")));
    let unknown = network.get(&format!("/og/v1/receipts/0x{}", "11".repeat(32))).await;
    assert_eq!((unknown.status, code(&unknown)), (404, json!("not_found")));
    assert_eq!(network.get("/og/v1/receipts/0x12").await.status, 400);
    assert_eq!(network.get("/nothing").await.status, 404);
}
