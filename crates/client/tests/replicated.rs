//! A proxy that asks several nodes: what most of them say is the answer, and what the others signed is kept.
#![allow(missing_docs, clippy::unwrap_used)]

mod network;

use client::proxy::DisputeKind;
use network::{
    ANSWER, Network, Seen,
    group::{LIE, Replica, Replica::*, address},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use types::{Receipt, Rung};
use verify::{Context, NoAnchors};

fn request(stream: bool) -> String {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}).to_string()
}

async fn ask(network: &Network, replicas: usize, stream: bool) -> Seen {
    let replicas = replicas.to_string();
    let headers = [("og-assurance", "replicated"), ("og-replicas", replicas.as_str())];
    network.ask_with(request(stream), &headers).await
}

/// A network of these nodes, all of them asked.
async fn asked(replicas: &[Replica]) -> (Network, Seen) {
    let network = Network::start_group(replicas).await;
    let seen = ask(&network, replicas.len(), false).await;
    (network, seen)
}

fn content(seen: &Seen) -> Value {
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    body["choices"][0]["message"]["content"].clone()
}

fn code(seen: &Seen) -> Value {
    serde_json::from_str::<Value>(&seen.body).unwrap()["error"]["code"].clone()
}

fn lowest(nodes: &[usize]) -> String {
    format!("{:#x}", nodes.iter().map(|i| address(*i)).min().unwrap())
}

#[tokio::test]
async fn nodes_that_agree_give_one_answer() {
    let network = Network::start_group(&[Honest; 5]).await;
    let seen = ask(&network, 5, false).await;
    assert_eq!((seen.status, content(&seen)), (200, json!(ANSWER)), "{}", seen.body);
    assert_eq!(seen.header("og-replicas"), "agreed 5 of 5");
    assert_eq!(seen.header("og-assurance"), "replicated");
    assert_eq!(seen.header("og-node"), lowest(&[0, 1, 2, 3, 4]));
    let summary: Value = serde_json::from_str(seen.header("og-verified")).unwrap();
    assert_eq!(summary["price_wei"], "80");
    assert_eq!(summary["price_total_wei"], "400");
    assert_eq!(summary["replicas"]["agreed"].as_array().unwrap().len(), 5);
    assert_eq!(summary["assurance"], "replicated");
    assert!(network.disputes().is_empty());

    // The kept receipt holds by itself, and shows who was asked.
    let kept = network.get(&format!("/og/v1/receipts/{}", seen.header("og-receipt-id"))).await;
    let kept: client::proxy::Answered = serde_json::from_str(&kept.body).unwrap();
    let receipt = Receipt::decode(&kept.receipt).unwrap();
    let context = Context { now_ms: 0, anchors: &NoAnchors, work_max: 100 };
    let findings = client::registry().check_receipt(&receipt, &context).unwrap();
    assert_eq!(findings.iter().map(|f| f.rung).collect::<Vec<_>>(), [Rung::Signed, Rung::Replicated]);
    let group = replicated::Group::decode(&receipt.evidence[1].body).unwrap();
    assert_eq!((group.k, group.asked.len(), group.members.len()), (5, 5, 5));
    // Without its evidence it is worth nothing: no silent downgrade.
    let bare = Receipt { evidence: receipt.evidence[..1].to_vec(), ..receipt };
    assert!(client::registry().check_receipt(&bare, &context).is_err());
}

#[tokio::test]
async fn three_are_asked_unless_told_otherwise() {
    let network = Network::start_group(&[Honest; 5]).await;
    let seen = network.ask_with(request(false), &[("og-assurance", "replicated")]).await;
    assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 3 of 3"), "{}", seen.body);
}

#[tokio::test]
async fn a_stream_comes_whole_and_verified() {
    let network = Network::start_group(&[Honest, Liar(0), Honest]).await;
    let seen = ask(&network, 3, true).await;
    assert_eq!((seen.status, seen.header("content-type")), (200, "text/event-stream"));
    assert_eq!(seen.header("og-replicas"), "agreed 2 of 3");
    assert!(seen.body.contains(ANSWER) && seen.body.contains("data: [DONE]\n\n: og-seal {"), "{}", seen.body);
    let summary: Value =
        serde_json::from_str(seen.body.split(": og-verified ").nth(1).unwrap().trim()).unwrap();
    assert_eq!(summary["receipt_id"], seen.header("og-receipt-id"));
    assert_eq!(summary["replicas"]["disagreed"], json!([address(1).to_string()]));
}

#[tokio::test]
async fn a_liar_in_the_minority_is_kept_and_not_heard() {
    let (network, seen) = asked(&[Honest, Liar(0), Honest]).await;
    assert_eq!((seen.status, content(&seen)), (200, json!(ANSWER)), "{}", seen.body);
    assert_eq!((seen.header("og-replicas"), seen.header("og-node")), ("agreed 2 of 3", &*lowest(&[0, 2])));
    let summary: Value = serde_json::from_str(seen.header("og-verified")).unwrap();
    assert_eq!(summary["price_total_wei"], "240", "who answers is paid, right or wrong");
    let disputes = network.disputes();
    assert_eq!(disputes.len(), 1);
    let dispute = &disputes[&address(1)];
    assert_eq!(dispute.kind, DisputeKind::Minority);
    // Both statements are signed by the node, and the winner's evidence is beside them.
    dispute.commitment.check().unwrap();
    let revealed = dispute.revealed.as_ref().unwrap();
    let receipt = Receipt::decode(&revealed.seal.receipt).unwrap();
    assert_eq!(receipt.signer().unwrap(), address(1));
    assert!(revealed.response.contains(LIE));
    let against = Receipt::decode(dispute.against.as_ref().unwrap()).unwrap();
    let group = replicated::Group::decode(&against.evidence[1].body).unwrap();
    assert!(group.members.iter().any(|m| m.claim == receipt.claim), "the liar cannot be hidden");
    assert_eq!(group.k, 2);
}

#[tokio::test]
async fn a_majority_that_lies_is_believed_and_the_honest_one_is_kept() {
    let (network, seen) = asked(&[Liar(0), Honest, Liar(0)]).await;
    assert_eq!((seen.status, content(&seen)), (200, json!(LIE)), "{}", seen.body);
    assert_eq!(seen.header("og-replicas"), "agreed 2 of 3");
    let disputes = network.disputes();
    assert_eq!(disputes.keys().collect::<Vec<_>>(), [&address(1)]);
    assert_eq!(disputes[&address(1)].kind, DisputeKind::Minority);
    assert!(disputes[&address(1)].revealed.as_ref().unwrap().response.contains(ANSWER));
}

#[tokio::test]
async fn without_a_majority_there_is_no_answer() {
    for replicas in [&[Liar(0), Honest, Liar(1)][..], &[Honest, Liar(0)], &[Honest, Liar(0), Honest, Liar(0)]]
    {
        let (network, seen) = asked(replicas).await;
        assert_eq!((seen.status, code(&seen)), (502, json!("replicas_disagree")), "{replicas:?}");
        assert!(!seen.body.contains(ANSWER) && !seen.body.contains(LIE));
        let disputes = network.disputes();
        assert_eq!(disputes.len(), replicas.len());
        assert!(disputes.values().all(|d| d.kind == DisputeKind::NoMajority && d.revealed.is_some()));
        assert_eq!(network.get("/og/v1/receipts").await.body, "{\"receipts\":[]}");
    }
}

#[tokio::test]
async fn a_copycat_is_caught_by_its_commitment() {
    let (network, seen) = asked(&[Honest, Copycat, Honest]).await;
    assert_eq!((seen.status, content(&seen)), (200, json!(ANSWER)), "{}", seen.body);
    assert_eq!(seen.header("og-replicas"), "agreed 2 of 3");
    let dispute = &network.disputes()[&address(1)];
    assert_eq!(dispute.kind, DisputeKind::Refused);
    assert!(dispute.reason.contains("another answer than it had committed to"), "{}", dispute.reason);
    assert!(dispute.revealed.is_some());
    // Two copycats leave no majority.
    let (_, seen) = asked(&[Honest, Copycat, Copycat]).await;
    assert_eq!((seen.status, code(&seen)), (502, json!("replicas_disagree")));
}

#[tokio::test]
async fn a_nonce_that_got_about_spoils_the_round() {
    // Who asked the second node first could have had its answer, and be the third.
    let (network, seen) = asked(&[Honest, Used, Honest]).await;
    assert_eq!((seen.status, code(&seen)), (502, json!("verification_failed")), "{}", seen.body);
    assert!(!seen.body.contains(ANSWER));
    assert_eq!(network.get("/og/v1/receipts").await.body, "{\"receipts\":[]}");
}

#[tokio::test]
async fn a_borrowed_commitment_is_none() {
    let (network, seen) = asked(&[Honest, Borrower, Honest]).await;
    assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 2 of 3"), "{}", seen.body);
    assert!(network.disputes().is_empty(), "it signed nothing");
}

#[tokio::test]
async fn who_commits_must_reveal() {
    let began = Instant::now();
    for replica in [Withholds, Hangs] {
        let (network, seen) = asked(&[Honest, Honest, replica]).await;
        assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 2 of 3"), "{replica:?}");
        let dispute = &network.disputes()[&address(2)];
        assert_eq!((dispute.kind, dispute.revealed.is_none()), (DisputeKind::Withheld, true));
        dispute.commitment.check().unwrap();
        let (network, seen) = asked(&[Honest, replica]).await;
        assert_eq!((seen.status, code(&seen)), (502, json!("replicas_disagree")), "{replica:?}");
        assert!(network.disputes().contains_key(&address(1)));
    }
    assert!(began.elapsed() < Duration::from_secs(9), "nobody waits for who hangs");
}

#[tokio::test]
async fn slow_and_dead_nodes_are_not_waited_for() {
    for replica in [Slow, Broken, Busy, Refuses] {
        let began = Instant::now();
        let (network, seen) = asked(&[Honest, replica, Honest]).await;
        assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 2 of 3"), "{replica:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{replica:?}");
        assert!(network.disputes().is_empty(), "{replica:?} signed nothing");
        let (_, seen) = asked(&[Honest, replica]).await;
        let expected = match replica {
            Busy => (429, json!("queue_full")),
            Refuses => (400, json!("invalid_value")),
            _ => (502, json!("replicas_disagree")),
        };
        assert_eq!((seen.status, code(&seen)), expected, "{replica:?}");
    }
}

#[tokio::test]
async fn each_answer_is_checked_by_itself() {
    for (replica, words) in [(Overcharges, "price"), (OtherTime, "time")] {
        let (network, seen) = asked(&[replica, Honest, Honest]).await;
        assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 2 of 3"), "{replica:?}");
        let dispute = &network.disputes()[&address(0)];
        assert_eq!(dispute.kind, DisputeKind::Refused);
        assert!(dispute.reason.contains(words), "{}", dispute.reason);
    }
}

#[tokio::test]
async fn too_few_nodes_are_an_error_and_no_downgrade() {
    let network = Network::start_group(&[Honest; 2]).await;
    for replicas in [3, 7] {
        let seen = ask(&network, replicas, false).await;
        assert_eq!((seen.status, code(&seen)), (400, json!("assurance_unavailable")), "{}", seen.body);
    }
    assert_eq!(ask(&network, 2, false).await.header("og-replicas"), "agreed 2 of 2");
    for bad in ["1", "8", "0", "-3", "many", ""] {
        let headers = [("og-assurance", "replicated"), ("og-replicas", bad)];
        let seen = network.ask_with(request(false), &headers).await;
        assert_eq!((seen.status, code(&seen)), (400, json!("invalid_value")), "{bad:?}");
    }
}

#[tokio::test]
async fn every_node_that_answers_is_paid_once() {
    let network = Network::start_paid_group(&[Honest, WantsCoins, Liar(0), Honest, Withholds]).await;
    let seen = ask(&network, 5, false).await;
    assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 3 of 5"), "{}", seen.body);
    assert_eq!(network.refusals(), 1, "its pocket was filled and it was asked again");
    let owed = network.owed(4, 80).await;
    let totals: Vec<_> = (0..5).map(|i| owed[&address(i)].to::<u64>()).collect();
    // Who reveals nothing gets nothing.
    assert_eq!(totals, [80, 80, 80, 80, 0]);

    let seen = ask(&network, 5, true).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    let owed = network.owed(4, 160).await;
    assert_eq!(owed[&address(1)].to::<u64>(), 160);
    assert_eq!(network.refusals(), 1);
}

#[tokio::test]
async fn answers_without_a_majority_are_paid() {
    let network = Network::start_paid_group(&[Liar(0), Liar(1), Honest]).await;
    let seen = ask(&network, 3, false).await;
    assert_eq!((seen.status, code(&seen)), (502, json!("replicas_disagree")), "{}", seen.body);
    let owed = network.owed(3, 80).await;
    assert!((0..3).all(|i| owed[&address(i)].to::<u64>() == 80), "{owed:?}");
}

#[tokio::test]
async fn a_node_that_is_never_paid_enough_is_asked_twice() {
    let network = Network::start_paid_group(&[NeverPaid, Honest, Honest]).await;
    let seen = ask(&network, 3, false).await;
    assert_eq!((seen.status, seen.header("og-replicas")), (200, "agreed 2 of 3"), "{}", seen.body);
    assert_eq!(network.refusals(), 2);

    let network = Network::start_paid_group(&[NeverPaid, NeverPaid, Honest]).await;
    let seen = ask(&network, 3, false).await;
    assert_eq!((seen.status, code(&seen)), (402, json!("payment_required")), "{}", seen.body);
    assert_eq!(network.refusals(), 4);
}

#[tokio::test]
async fn a_proxy_without_a_purse_says_so() {
    let (network, seen) = asked(&[WantsCoins, WantsCoins, Honest]).await;
    assert_eq!((seen.status, code(&seen)), (402, json!("payment_required")), "{}", seen.body);
    assert_eq!(network.refusals(), 2, "asking again would not help");
    assert!(network.disputes().is_empty());
}
