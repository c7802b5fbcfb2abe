//! A proxy between its user and JSON-RPC servers that lie: nothing is believed without a proof.
#![allow(missing_docs, clippy::unwrap_used)]

mod network;

use client::{ClientError, Lie as Caught, proxy::Proxy};
use network::{
    Attack, Network, Setup,
    chain::Lie::{self, *},
};
use serde_json::{Value, json};

fn request(stream: bool) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
}

async fn connect(lies: &[Lie]) -> (Network, Result<String, ClientError>) {
    let setup = Setup { plain: 2, lies, ..Setup::default() };
    let network = Network::without_proxy(&setup).await;
    let proxy = network.start_proxy(&setup, "proxy").await;
    (network, proxy)
}

#[tokio::test]
async fn every_lie_about_the_registry_is_noticed_by_its_type() {
    for lie in [InventsNode, ChangesPrice, ChangesEndpoint, HidesNode] {
        let (_, refused) = connect(&[lie]).await;
        let is_caught = matches!(&refused, Err(ClientError::Disbelieved { lie: Caught::Slot(_), .. }));
        assert!(is_caught, "{lie:?}: {refused:?}");
    }
    let (_, refused) = connect(&[ForgesBlocks]).await;
    assert!(
        matches!(&refused, Err(ClientError::Disbelieved { lie: Caught::Finality(_), .. })),
        "{refused:?}"
    );
    let (_, refused) = connect(&[Down]).await;
    assert!(matches!(&refused, Err(ClientError::Malformed { .. })), "{refused:?}");
    // A model whose manifest is not what the id hashes is no model.
    let (network, proxy) = connect(&[OtherManifest]).await;
    let seen = network.chat(&proxy.unwrap(), &request(false), &[]).await;
    assert_eq!(seen.status, 404, "{}", seen.body);
}

#[tokio::test]
async fn an_honest_server_after_a_lying_one_suffices() {
    let lies =
        [InventsNode, ChangesPrice, ChangesEndpoint, HidesNode, ForgesBlocks, OldState, OtherManifest, Down];
    for lie in lies {
        let (network, proxy) = connect(&[lie, None]).await;
        let proxy = proxy.unwrap_or_else(|e| panic!("{lie:?}: {e}"));
        for stream in [false, true] {
            let seen = network.chat(&proxy, &request(stream), &[]).await;
            assert_eq!(seen.status, 200, "{lie:?}: {}", seen.body);
        }
    }
}

#[tokio::test]
async fn an_old_state_is_said_to_be_old() {
    let (network, proxy) = connect(&[OldState]).await;
    let proxy = proxy.unwrap();
    for path in ["/v1/models", "/v1/models/tiny"] {
        let seen = reqwest::get(format!("{proxy}{path}")).await.unwrap();
        assert_eq!(seen.status().as_u16(), 503);
    }
    let seen = network.chat(&proxy, &request(false), &[]).await;
    assert_eq!(seen.status, 503, "{}", seen.body);
    assert!(seen.body.contains("ledger_stale") && seen.body.contains("120 s is the bound"), "{}", seen.body);
    assert_eq!(network.asked(), [0, 0]);
}

#[tokio::test]
async fn a_server_that_begins_to_lie_changes_nothing() {
    let (network, proxy) = connect(&[None]).await;
    let proxy = proxy.unwrap();
    for lie in [ChangesPrice, ForgesBlocks, OtherNetwork, Down] {
        network.lie(0, lie);
        network.change(|nodes, _| nodes[0].offers[0].1 += 1).await;
        let seen = network.chat(&proxy, &request(false), &[]).await;
        // The changed price was not seen, so the second node answers, or the first at its price of before, which it does not honour.
        assert_eq!(seen.status, 200, "{lie:?}: {}", seen.body);
    }
}

#[tokio::test]
async fn the_network_of_the_first_use_stays() {
    let setup = Setup { lies: &[None], ..Setup::default() };
    let network = Network::without_proxy(&setup).await;
    network.start_proxy(&setup, "proxy").await.unwrap();
    network.lie(0, OtherNetwork);
    let refused = network.start_proxy(&setup, "proxy").await;
    let (us, them) = (network.genesis(), network.other_genesis());
    let is_other = |e: &ClientError, s, m| matches!(e, ClientError::OtherNetwork { served, meant, .. } if (*served, *meant) == (s, m));
    let e = refused.unwrap_err();
    assert!(is_other(&e, them, us), "{e}");
    assert!(e.to_string().contains(&us.to_string()) && e.to_string().contains(&them.to_string()), "{e}");
    // A fresh folder takes it, and another network by name is a contradiction.
    network.start_proxy(&setup, "fresh").await.unwrap_or_else(|e| panic!("{e}"));
    let config = network.proxy_config(&setup, "proxy");
    let meant = client::proxy::ProxyConfig { network: Some(them), ..config };
    assert!(is_other(&Proxy::connect(meant).await.unwrap_err(), us, them));
    // One wrong server among several is left out when it is known which network is meant, and an error when it is not.
    let setup = Setup { lies: &[OtherNetwork, None], ..Setup::default() };
    let network = Network::without_proxy(&setup).await;
    assert!(is_other(&network.start_proxy(&setup, "proxy").await.unwrap_err(), us, them));
    let config = network.proxy_config(&setup, "proxy");
    let meant = client::proxy::ProxyConfig { network: Some(us), ..config };
    assert_eq!(Proxy::connect(meant).await.unwrap().genesis(), us);
}

#[tokio::test]
async fn a_request_makes_no_call_of_json_rpc_on_its_way() {
    let setup = Setup { plain: 3, lies: &[None], ..Setup::default() };
    let network = Network::build(setup).await;
    // The task in the background hangs in one call from now on; a request would hang in another.
    network.lie(0, Hangs);
    network.settle().await;
    let before = network.calls();
    for i in 0..20 {
        let seen = network.ask(request(i % 2 == 0).to_string()).await;
        assert_eq!(seen.status, 200, "{}", seen.body);
        assert!(seen.body.contains("latte"));
    }
    for path in ["/v1/models", "/v1/models/tiny", "/og/v1/network", "/og/v1/receipts"] {
        assert_eq!(network.get(path).await.status, 200);
    }
    assert_eq!(network.calls() - before, 0);
}

#[tokio::test]
async fn a_block_that_cannot_be_proved_yet_is_looked_at_later() {
    let setup = Setup { lies: &[None], ..Setup::default() };
    let network = Network::build(setup).await;
    network.attack(Attack::NextBlock);
    let seen = network.ask(request(false).to_string()).await;
    assert_eq!(seen.status, 502, "nobody has it although the servers answer: {}", seen.body);
    // While no server answers, nobody can have it yet, and the answer is as good as any.
    network.lie(0, Down);
    network.settle().await;
    network.settle().await;
    let seen = network.ask(request(false).to_string()).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    let summary: Value = serde_json::from_str(seen.header("og-verified")).unwrap();
    assert!(
        !summary["checks"].as_array().unwrap().contains(&json!("anchor")),
        "it is not said to be checked"
    );
}

#[tokio::test]
async fn what_changes_on_the_ledger_is_seen() {
    let network = Network::start_plain(2).await;
    // A long endpoint is stored otherwise than a short one.
    let mut moved = String::new();
    network
        .change(|nodes, _| {
            moved = format!("{}/{}", nodes[0].endpoint, "a".repeat(200));
            nodes[1].endpoint = moved.clone();
            nodes.remove(0);
        })
        .await;
    let seen = network.ask(request(false).to_string()).await;
    assert_eq!(seen.status, 502, "{}", seen.body);
    assert!(seen.body.contains("404"), "{}", seen.body);
}
