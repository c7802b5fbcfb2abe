//! Attack: everybody's mempool is filled with transactions that cannot run, again and again, while an honest node is accused. If one move of it
//! does not get onto the ledger in time, it loses half of its stake.

use super::{COIN, Devnet, PATIENCE, stake};
use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use client::{RpcClient, contracts::Disputes};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use types::Receipt;
use wallet::{Account, Call, Config, Wallet};

/// Accounts of the attacker, and what each needs for 63 transactions of 21,000 gas at 3 gwei.
const ACCOUNTS: usize = 328;
const COINS_EACH: u128 = 63 * 21_000 * FEE;
const FEE: u128 = 3_000_000_000;
/// Calls in one JSON-RPC batch.
const BATCH: usize = 100;

/// Every transaction of the flood, as JSON-RPC batches: nonces 1 to 63, never 0.
fn flood(chain_id: u64) -> Vec<Vec<Value>> {
    let sign = |i: usize| {
        let account = Account::new(keccak256(format!("flood {i}"))).unwrap();
        let to = TxKind::Call(account.address());
        (1..64).map(move |nonce| {
            let (max_fee_per_gas, max_priority_fee_per_gas) = (FEE, 1);
            let tx = TxEip1559 {
                chain_id,
                nonce,
                gas_limit: 21_000,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                ..Default::default()
            };
            let raw = account.sign(tx).unwrap();
            json!({"jsonrpc": "2.0", "id": nonce, "method": "eth_sendRawTransaction", "params": [raw]})
        })
    };
    let all: Vec<Value> = (0..ACCOUNTS).flat_map(sign).collect();
    all.chunks(BATCH).map(<[Value]>::to_vec).collect()
}

async fn pour(url: String, batches: Arc<Vec<Vec<Value>>>, rounds: Arc<AtomicBool>) {
    let http = reqwest::Client::new();
    while rounds.load(Ordering::Relaxed) {
        for batch in batches.iter() {
            if rounds.load(Ordering::Relaxed) {
                let _ = http.post(&url).json(batch).send().await;
            }
        }
    }
}

/// An answer of the node that nobody could find fault with, as the node signed it.
async fn honest_receipt(url: &str, model: &str) -> Receipt {
    let body = json!({"model": model, "prompt": [5, 9, 300, 41, 77], "max_tokens": 6, "temperature": 0});
    let request = reqwest::Client::new().post(format!("{url}/v1/completions")).json(&body);
    let request =
        request.header("og-nonce", keccak256("flood").to_string()).header("og-assurance", "audited");
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let bytes: Bytes = response.headers()["og-receipt"].to_str().unwrap().parse().unwrap();
    Receipt::decode(&bytes).unwrap()
}

/// Gives the attacker's accounts what they need, in blocks of many transfers.
async fn fund(wallet: &Wallet) {
    let mut tickets = Vec::new();
    for i in 0..ACCOUNTS {
        let to = types::signing::address_of(&keccak256(format!("flood {i}"))).unwrap();
        let gift = Call::new(to, Bytes::new()).with_value(U256::from(COINS_EACH));
        if wallet.pending() > 200 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        tickets.push(wallet.submit(gift).await.unwrap());
    }
    for ticket in tickets {
        ticket.wait().await.unwrap();
    }
}

/// How the dispute `id` ended.
async fn end_of(rpc: &RpcClient, disputes: Address, id: U256, from: u64) -> Option<Disputes::Ended> {
    let head = rpc.block_number().await.ok()?;
    let logs = rpc.logs(disputes, &[Disputes::Ended::SIGNATURE_HASH], from, head).await.ok()?;
    logs.iter().filter_map(|log| log.decode::<Disputes::Ended>()).find(|e| e.id == id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_node_defends_itself_while_the_mempools_are_flooded() {
    let devnet = Devnet::start();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (rpc_url, node_url) = (text(&devnet.about["rpc_url"]), text(&devnet.about["node_urls"][0]));
    let node: Address = devnet.about["nodes"][0].as_str().unwrap().parse().unwrap();
    let rpc = RpcClient::new(&rpc_url);
    let network = rpc.network().await.unwrap().network;
    let contracts = network.contracts;
    let open = |key: usize| {
        let secret: B256 = devnet.about["keys"][key]["private_key"].as_str().unwrap().parse().unwrap();
        let config = Config::new(Account::new(secret).unwrap(), network.chain_id);
        Wallet::open(config, Arc::new(rpc.clone())).unwrap()
    };
    let (rich, attacker) = (open(0), open(1));
    fund(&rich).await;
    let full = stake(&rpc, contracts.node_registry, node).await;
    let receipt = honest_receipt(&node_url, devnet.about["model"]["name"].as_str().unwrap()).await;

    // One attacker at every validator, without a pause.
    let (batches, go) = (Arc::new(flood(network.chain_id)), Arc::new(AtomicBool::new(true)));
    let urls: Vec<String> = devnet.about["rpc_urls"].as_array().unwrap().iter().map(text).collect();
    let pouring: Vec<_> =
        urls.iter().map(|url| tokio::spawn(pour(url.clone(), batches.clone(), go.clone()))).collect();
    let began = Instant::now();
    loop {
        let status: Value = rpc.call("txpool_status", json!([])).await.unwrap();
        let queued =
            u64::from_str_radix(status["queued"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        if queued >= 1000 {
            println!(
                "the pool holds {queued} transactions that cannot run after {:.0} s",
                began.elapsed().as_secs_f64()
            );
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the flood did not rise: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // A right answer is disputed. The attacker then does nothing but keep the pools full.
    let bond = rpc.view(contracts.disputes, &Disputes::BONDCall {}).await.unwrap();
    let (receipt_id, opening, salt) = (receipt.claim.receipt_id().0, Bytes::from(vec![0]), keccak256("salt"));
    let subject = Disputes::disputeSubjectCall { node, receiptId: receipt_id, opening: opening.clone() };
    let subject = rpc.view(contracts.disputes, &subject).await.unwrap();
    let hash = Disputes::announcementOfCall { sender: attacker.address(), subject, salt };
    let hash = rpc.view(contracts.disputes, &hash).await.unwrap();
    let announce = Disputes::announceCall { hash }.abi_encode();
    let announced = attacker.send(Call::new(contracts.disputes, announce)).await.unwrap().block;
    while rpc.block_number().await.unwrap() <= announced {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let call = Disputes::openCall {
        claim: alloy_rlp::encode(&receipt.claim).into(),
        signature: receipt.signature().unwrap().to_vec().into(),
        opening,
        salt,
    };
    let from = rpc.block_number().await.unwrap();
    let id = rpc.view(contracts.disputes, &Disputes::gameCountCall {}).await.unwrap() + U256::from(1);
    attacker.send(Call::new(contracts.disputes, call.abi_encode()).with_value(bond)).await.unwrap();
    println!("a dispute is open");
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = end_of(&rpc, contracts.disputes, id, from).await {
            break ended;
        }
        assert!(began.elapsed() < PATIENCE, "the dispute did not end\n{}", devnet.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    go.store(false, Ordering::Relaxed);
    for task in pouring {
        let _ = task.await;
    }
    let lost = full - stake(&rpc, contracts.node_registry, node).await;
    println!(
        "the dispute ended after {:.0} s: node lost {}, {lost} wei; flooded for {:.0} s",
        began.elapsed().as_secs_f64(),
        ended.nodeLost,
        began.elapsed().as_secs_f64()
    );
    assert!(!ended.nodeLost && lost.is_zero(), "{}", devnet.log());
    assert!(full >= U256::from(COIN));
}
