//! Nodes that refuse, fail or cheat: another node answers, and nobody's unsigned words become the answer.
#![allow(missing_docs, clippy::unwrap_used)]

mod network;

use network::{ANSWER, Attack, Network, STAKE, Seen};
use serde_json::{Value, json};

const WORDS: &str = "Buy somewhere else";

fn request(stream: bool) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream,
        "stream_options": stream.then(|| json!({"include_usage": true}))})
}

fn code(seen: &Seen) -> Value {
    serde_json::from_str::<Value>(&seen.body).unwrap()["error"]["code"].clone()
}

/// Three nodes, of which the first has so much stake that it is asked first.
async fn with_a_rich_node(attack: Attack) -> Network {
    let network = Network::start_plain(3).await;
    network.change(|nodes, _| nodes[0].stake = STAKE * 1_000_000).await;
    network.attack(attack);
    network
}

#[tokio::test]
async fn another_node_answers_whatever_the_first_one_refuses_with() {
    for status in [400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 418, 422, 425, 429, 451, 500, 502, 503] {
        let network = with_a_rich_node(Attack::Status(status)).await;
        for stream in [false, true, false, true] {
            let seen = network.ask(request(stream).to_string()).await;
            assert_eq!(seen.status, 200, "{status}: {}", seen.body);
            assert!(seen.body.contains("latte") && !seen.body.contains(WORDS), "{status}: {}", seen.body);
        }
        // Who refuses without a reason is not asked again at once; a full queue is no failure.
        let asked = network.asked()[0];
        assert!(asked >= 1 && (asked == 1 || status == 429), "{status}: {asked}");
    }
}

#[tokio::test]
async fn another_node_answers_whatever_check_fails() {
    for attack in [
        Attack::Garbage,
        Attack::OtherKey,
        Attack::NoSeal,
        Attack::Overcharged,
        Attack::WrongTokens,
        Attack::Redirect,
    ] {
        let network = with_a_rich_node(attack).await;
        let seen = network.ask(request(false).to_string()).await;
        assert_eq!(seen.status, 200, "{attack:?}: {}", seen.body);
        assert_eq!(network.asked()[0], 1, "{attack:?}");
    }
    // Of a stream nothing must have been released: at once for these, and for all when the whole is verified first.
    for attack in [Attack::Garbage, Attack::ErrorEvent, Attack::StrangeEvent, Attack::CarriageReturn] {
        let network = with_a_rich_node(attack).await;
        let seen = network.ask(request(true).to_string()).await;
        assert!(seen.status == 200 && seen.body.contains("og-verified"), "{attack:?}: {}", seen.body);
        assert!(!seen.body.contains(WORDS), "{attack:?}");
    }
    for attack in [Attack::Overcharged, Attack::CutOff, Attack::BytesAfterSeal] {
        let network = with_a_rich_node(attack).await;
        let seen = network.ask_with(request(true).to_string(), &[("og-release", "verified")]).await;
        assert!(seen.status == 200 && seen.body.contains("og-verified"), "{attack:?}: {}", seen.body);
        assert_eq!(network.asked()[0], 1, "{attack:?}");
    }
}

#[tokio::test]
async fn when_all_refuse_their_words_are_quoted_and_bounded() {
    let network = Network::start_plain(2).await;
    for (status, expected) in [(400, (400, json!("evil"))), (403, (502, json!("refused_by_nodes")))] {
        for i in 0..2 {
            network.attack_by(i, Attack::Status(status));
        }
        for stream in [false, true] {
            let seen = network.ask(request(stream).to_string()).await;
            assert_eq!((seen.status, code(&seen)), expected, "{}", seen.body);
            let error: Value = serde_json::from_str(&seen.body).unwrap();
            let message = error["error"]["message"].as_str().unwrap();
            for i in 0..2 {
                let node = network.address_of(i);
                assert!(
                    message
                        .contains(&format!("node {node} refused with status {status} (its words: \"{WORDS}"))
                );
            }
            assert!(!message.contains('\u{1b}'), "{message:?}");
        }
    }
    // Both say another thing: neither is believed.
    network.attack_by(0, Attack::Status(400));
    let seen = network.ask(request(false).to_string()).await;
    assert_eq!((seen.status, code(&seen)), (502, json!("refused_by_nodes")), "{}", seen.body);
}

#[tokio::test]
async fn what_the_proxy_finds_wrong_itself_no_node_is_asked_about() {
    let network = Network::start_plain(2).await;
    for (body, param) in [
        (json!({"model": "tiny"}), "messages"),
        (
            json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 9}),
            "temperature",
        ),
        (json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "n": 99}), "n"),
    ] {
        let seen = network.ask(body.to_string()).await;
        let error: Value = serde_json::from_str(&seen.body).unwrap();
        assert_eq!((seen.status, &error["error"]["param"]), (400, &json!(param)), "{}", seen.body);
    }
    assert_eq!(network.asked(), [0, 0]);
}

#[tokio::test]
async fn a_carriage_return_ends_a_stream() {
    let network = Network::start().await;
    network.attack(Attack::CarriageReturn);
    let seen = network.ask(request(true).to_string()).await;
    assert_eq!((seen.status, code(&seen)), (502, json!("verification_failed")), "{}", seen.body);
    assert!(!seen.body.contains(&ANSWER[..5]));
}
