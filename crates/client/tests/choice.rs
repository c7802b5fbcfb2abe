//! Whom a proxy chooses: price ceilings, what names mean, and lists that spam does not end.
#![allow(missing_docs, clippy::unwrap_used)]

mod network;

use alloy_primitives::{Address, B256, U256};
use client::{Ceilings, proxy::Payer};
use network::{Network, STAKE, Seen, Setup, chain::Listed, manifest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::ModelManifest;

fn request(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10})
}

fn code(seen: &Seen) -> Value {
    serde_json::from_str::<Value>(&seen.body).unwrap()["error"]["code"].clone()
}

async fn ask(network: &Network, headers: &[(&str, &str)]) -> Seen {
    network.ask_with(request("tiny").to_string(), headers).await
}

#[tokio::test]
async fn a_node_that_asks_for_a_fortune_is_never_asked() {
    let network = Network::start_plain(4).await;
    network
        .change(|nodes, _| {
            nodes[0].stake = 5 * STAKE;
            nodes[0].offers[0].2 = 20 * 435_000;
        })
        .await;
    for _ in 0..30 {
        assert_eq!(ask(&network, &[]).await.status, 200);
    }
    let asked = network.asked();
    assert_eq!((asked[0], asked.iter().sum::<usize>()), (0, 30), "{asked:?}");
}

#[tokio::test]
async fn a_ceiling_for_one_answer_holds_for_every_request() {
    let network = Network::start_plain(2).await;
    // At most 128 tokens of the prompt at 10 and 10 generated ones at 20.
    for (max, status) in
        [("1", 402), ("1479", 402), ("1480", 200), ("340282366920938463463374607431768211455", 200)]
    {
        let seen = ask(&network, &[("og-max-price", max)]).await;
        assert_eq!(seen.status, status, "{max}: {}", seen.body);
        if status == 402 {
            assert_eq!(code(&seen), "price_ceiling");
            assert!(seen.body.contains("up to 1480 wei") && seen.body.contains(max), "{}", seen.body);
        }
    }
    assert_eq!(network.asked().iter().sum::<usize>(), 2, "whoever is too expensive is not asked");
    for bad in ["", "-1", "1e9", "0x10", "much"] {
        let seen = ask(&network, &[("og-max-price", bad)]).await;
        assert_eq!((seen.status, code(&seen)), (400, json!("invalid_value")), "{bad:?}");
    }
    // Several nodes are paid for a replicated answer, and the ceiling is for all of them.
    let headers = |max| [("og-assurance", "replicated"), ("og-replicas", "2"), ("og-max-price", max)];
    let seen = ask(&network, &headers("2959")).await;
    assert_eq!((seen.status, code(&seen)), (402, json!("price_ceiling")), "{}", seen.body);
    assert_ne!(ask(&network, &headers("2960")).await.status, 402);
}

#[tokio::test]
async fn ceilings_of_the_user_hold() {
    for (ceilings, words) in [
        (Ceilings { token: Some(19), ..Ceilings::default() }, "--max-token"),
        (Ceilings { answer: Some(1479), ..Ceilings::default() }, "--max-answer"),
    ] {
        let network = Network::build(Setup { ceilings, ..Setup::default() }).await;
        let seen = ask(&network, &[("og-max-price", "100000")]).await;
        assert_eq!((seen.status, code(&seen)), (402, json!("price_ceiling")), "{}", seen.body);
        assert!(seen.body.contains(words), "{}", seen.body);
    }
}

#[tokio::test]
async fn a_day_has_an_end() {
    let payer = Some(Payer { secret: B256::repeat_byte(0x51), deposit: U256::from(100) });
    let ceilings = Ceilings { day: Some(U256::from(1600)), ..Ceilings::default() };
    let setup = Setup { payer, ceilings, ..Setup::default() };
    let network =
        Network::build(Setup { payer: setup.payer.clone(), ..Setup { ceilings, ..Setup::default() } }).await;
    // Each may cost 1480 and costs 80.
    for _ in 0..2 {
        let seen = ask(&network, &[]).await;
        assert_eq!(seen.status, 200, "{}", seen.body);
    }
    let seen = ask(&network, &[]).await;
    assert_eq!((seen.status, code(&seen)), (402, json!("day_limit")), "{}", seen.body);
    assert!(seen.body.contains("160 wei") && seen.body.contains("--max-day"), "{}", seen.body);
    // A restart does not begin a new day.
    std::fs::create_dir(network.folder("restarted")).unwrap();
    std::fs::copy(network.folder("proxy").join("spent.day"), network.folder("restarted").join("spent.day"))
        .unwrap();
    let url = network.start_proxy(&setup, "restarted").await.unwrap();
    assert_eq!(network.chat(&url, &request("tiny"), &[]).await.status, 402);
    assert_eq!(network.asked(), [2]);
}

/// Another model with the same name, offered by the last node.
async fn squat(network: &Network) -> B256 {
    let other = ModelManifest { weights_root: B256::repeat_byte(0x66), ..manifest() };
    let id = other.id().0;
    network
        .change(|nodes, models| {
            models.push(other);
            let last = nodes.last_mut().unwrap();
            last.offers = vec![(id, 1, 1)];
            last.stake = 50 * STAKE;
        })
        .await;
    id
}

#[tokio::test]
async fn a_name_stays_with_the_model_that_it_meant_first() {
    let network = Network::start_plain(2).await;
    let first = manifest().id().0;
    assert_eq!(ask(&network, &[]).await.header("og-model"), first.to_string());
    let second = squat(&network).await;
    for _ in 0..10 {
        let seen = ask(&network, &[]).await;
        assert_eq!((seen.status, seen.header("og-model")), (200, &*first.to_string()), "{}", seen.body);
    }
    // The other model can be had, by its id.
    let by_header = ask(&network, &[("og-model-id", &second.to_string())]).await;
    assert_eq!(
        (by_header.status, by_header.header("og-model")),
        (200, &*second.to_string()),
        "{}",
        by_header.body
    );
    let by_name = network.ask(request(&second.to_string()).to_string()).await;
    assert_eq!((by_name.status, by_name.header("og-model")), (200, &*second.to_string()), "{}", by_name.body);
    // Both are listed, each under what asks for it.
    let listed: Value = serde_json::from_str(&network.get("/v1/models").await.body).unwrap();
    let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&*second.to_string(), "tiny"], "the most stake first");
    // When nobody offers the first any more, its name does not quietly mean the second; a restart forgets nothing.
    network.change(|nodes, _| nodes[0].offers.clear()).await;
    let setup = Setup::default();
    let restarted = network.start_proxy(&setup, "proxy").await.unwrap();
    for seen in [ask(&network, &[]).await, network.chat(&restarted, &request("tiny"), &[]).await] {
        assert_eq!((seen.status, code(&seen)), (400, json!("model_ambiguous")), "{}", seen.body);
        assert!(seen.body.contains(&first.to_string()) && seen.body.contains(&second.to_string()));
        assert!(seen.body.contains("og-model-id"));
    }
    // The user decides.
    let setup = Setup { names: BTreeMap::from([("tiny".into(), second)]), ..Setup::default() };
    let decided = network.start_proxy(&setup, "proxy").await.unwrap();
    assert_eq!(network.chat(&decided, &request("tiny"), &[]).await.header("og-model"), second.to_string());
}

#[tokio::test]
async fn a_name_of_two_models_is_an_error_that_names_both() {
    let network = Network::start_plain(2).await;
    let (first, second) = (manifest().id().0, squat(&network).await);
    let seen = ask(&network, &[]).await;
    assert_eq!((seen.status, code(&seen)), (400, json!("model_ambiguous")), "{}", seen.body);
    assert!(
        seen.body.contains(&first.to_string()) && seen.body.contains(&second.to_string()),
        "{}",
        seen.body
    );
    let seen = ask(&network, &[("og-model-id", &first.to_string())]).await;
    assert_eq!((seen.status, seen.header("og-model")), (200, &*first.to_string()), "{}", seen.body);
    let wrong = network.ask_with(request("other").to_string(), &[("og-model-id", &first.to_string())]).await;
    assert_eq!((wrong.status, code(&wrong)), (400, json!("model_ambiguous")), "{}", wrong.body);
    assert_eq!(ask(&network, &[("og-model-id", "tiny")]).await.status, 400);
    assert_eq!(ask(&network, &[("og-model-id", &B256::ZERO.to_string())]).await.status, 404);
}

#[tokio::test]
async fn spam_does_not_hide_a_model() {
    let network = Network::start().await;
    network
        .change(|nodes, models| {
            let honest = nodes.pop().unwrap();
            for i in 0..3u8 {
                let offers = (0..64u8).map(|j| {
                    let weights_root = B256::from(U256::from(u32::from(i) * 100 + u32::from(j) + 1));
                    let model = ModelManifest { name: format!("spam-{i}-{j}"), weights_root, ..manifest() };
                    models.push(model.clone());
                    (model.id().0, 1, 1)
                });
                let (node, endpoint) = (Address::repeat_byte(0xa0 + i), "http://127.0.0.1:1".into());
                nodes.push(Listed { node, endpoint, stake: STAKE / 2, offers: offers.collect() });
            }
            nodes.push(honest);
        })
        .await;
    let list = |body: String| serde_json::from_str::<Value>(&body).unwrap();
    let mut all = Value::Null;
    for _ in 0..100 {
        all = list(network.get("/v1/models").await.body);
        if all["data"].as_array().unwrap().len() > 1 {
            break;
        }
        network.settle().await;
    }
    assert_eq!(ask(&network, &[]).await.status, 200, "the last of 193 models is reached");
    assert_eq!(all["data"].as_array().unwrap().len(), 193);
    assert_eq!(all["data"][0]["id"], "tiny", "the most stake first");
    // In pages it is the same.
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(network.get(&format!("/v1/models?limit=50{after}")).await.body);
        pages.extend(page["data"].as_array().unwrap().clone());
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", pages.last().unwrap()["id"].as_str().unwrap());
    }
    assert_eq!(json!(pages), all["data"]);
    assert_eq!(network.get("/v1/models?after=nothing").await.status, 400);
}
