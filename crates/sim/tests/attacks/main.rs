//! Nodes that lie on a real development network, with real processes: what catches each lie, after how many answers, and what it costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod evil;
mod flood;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use client::{
    RpcClient,
    contracts::{Disputes, NodeRegistry},
};
use evil::{Evil, Lie};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use wallet::{Account, Call, Config, Wallet};

const COIN: u128 = 1_000_000_000_000_000_000;
/// Longest time until a lie must be punished.
const PATIENCE: Duration = Duration::from_secs(150);
/// Answers that each node gives at most.
const ANSWERS: usize = 12;

struct Devnet {
    child: Child,
    about: Value,
    _dir: tempfile::TempDir,
}

impl Drop for Devnet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Devnet {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready.json");
        // The program is built beside the tests.
        let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("og");
        assert!(program.exists(), "{} is not built; run: cargo build", program.display());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .args([
                "devnet",
                "--json",
                "--rpc-port",
                "0",
                "--proxy-port",
                "0",
                "--node-port",
                "0",
                "--p2p-port",
                "0",
            ])
            .args(["--nodes", "1", "--auditors", "2", "--ready-file"])
            .arg(&ready)
            .env("OG_LOG", "info,commonware=warn")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ready.exists() {
            assert!(Instant::now() < deadline, "the devnet did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        let about = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        Self { child, about, _dir: dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._dir.path().join("log")).unwrap_or_default()
    }
}

/// What became of a node.
#[derive(Debug)]
struct Outcome {
    lie: Lie,
    answers: usize,
    seconds: f64,
    lost: U256,
}

async fn stake(rpc: &RpcClient, registry: Address, node: Address) -> U256 {
    rpc.view(registry, &NodeRegistry::nodeInfoCall { node }).await.unwrap().stake
}

async fn ask(url: &str, model: &str, i: usize) -> Option<()> {
    let body = json!({"model": model, "prompt": [5, 9, 300, 41, 77, 12, 80 + i, 9], "max_tokens": 6, "temperature": 0.9, "seed": 40 + i});
    let nonce = keccak256(format!("{url} {i}"));
    let response = reqwest::Client::new()
        .post(format!("{url}/v1/completions"))
        .header("og-nonce", nonce.to_string())
        .header("og-assurance", "audited")
        .json(&body)
        .send()
        .await
        .ok()?;
    response.status().is_success().then_some(())
}

async fn attack(lie: Lie, number: usize, rpc_url: String, gguf: Vec<u8>, model: String) -> Outcome {
    let rpc = RpcClient::new(&rpc_url);
    let contracts = rpc.network().await.unwrap().network.contracts;
    let secret = keccak256(format!("evil {number}"));
    let (evil, url) = Evil::start(lie, secret, &rpc_url, &gguf).await;
    let full = stake(&rpc, contracts.node_registry, evil.address).await;
    let began = Instant::now();
    let mut answers = 0;
    let mut lost = U256::ZERO;
    // Long enough for every verdict on an honest answer.
    let patience = if lie == Lie::Honest { PATIENCE / 2 } else { PATIENCE };
    while lost.is_zero() && began.elapsed() < patience {
        if answers < ANSWERS {
            if ask(&url, &model, answers).await.is_some() {
                answers += 1;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        lost = full - stake(&rpc, contracts.node_registry, evil.address).await;
    }
    Outcome { lie, answers, seconds: began.elapsed().as_secs_f64(), lost }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lie_costs_its_node_half_of_its_stake_and_honesty_costs_nothing() {
    let devnet = Devnet::start();
    let rpc_url = devnet.about["rpc_url"].as_str().unwrap().to_owned();
    let rich: B256 = devnet.about["keys"][0]["private_key"].as_str().unwrap().parse().unwrap();
    let model = devnet.about["model"]["name"].as_str().unwrap().to_owned();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../models/taskmaster-chat/taskmaster-chat-q8_0.gguf");
    let gguf = std::fs::read(path).unwrap();
    // `OG_LIE` tries a single one.
    let only = std::env::var("OG_LIE").ok();
    let mut lies = vec![
        Lie::Honest,
        Lie::OtherWeights,
        Lie::OtherSeed,
        Lie::CachedAnswer,
        Lie::TruncatedContext,
        Lie::EditedText,
        Lie::OverchargedTokens,
        Lie::WrongPrice,
        Lie::InventedTrace,
        Lie::Withheld,
    ];
    lies.retain(|l| only.as_ref().is_none_or(|o| *o == format!("{l:?}")));
    let rpc = RpcClient::new(&rpc_url);
    let network = rpc.network().await.unwrap().network;
    let config = Config::new(Account::new(rich).unwrap(), network.chain_id);
    let wallet = Wallet::open(config, Arc::new(rpc.clone())).unwrap();
    for (i, _) in lies.iter().enumerate() {
        let secret = keccak256(format!("evil {i}"));
        let to = types::signing::address_of(&secret).unwrap();
        let gift = Call::new(to, Bytes::new()).with_value(U256::from(200 * COIN));
        wallet.send(gift).await.unwrap();
    }
    let mut running = tokio::task::JoinSet::new();
    for (i, lie) in lies.into_iter().enumerate() {
        running.spawn(attack(lie, i, rpc_url.clone(), gguf.clone(), model.clone()));
    }
    let mut outcomes = running.join_all().await;
    outcomes.sort_by_key(|o| o.lie);
    for o in &outcomes {
        println!("{:?}: lost {} after {} answers and {:.0} s", o.lie, o.lost, o.answers, o.seconds);
    }
    let games = rpc.view(network.contracts.disputes, &Disputes::gameCountCall {}).await.unwrap();
    println!("{games} games");
    let log = devnet.log();
    for o in outcomes {
        // A lie costs half of the stake; who lied in two answers may have lost both games by now.
        match o.lie {
            Lie::Honest => assert_eq!(o.lost, U256::ZERO, "{log}"),
            lie => assert!(o.lost >= U256::from(50 * COIN), "{lie:?}\n{log}"),
        }
    }
    assert!(log.contains("a dispute has ended"), "{log}");
}
