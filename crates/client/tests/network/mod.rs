//! A network in memory: a registry, a node that signs real receipts and cheats on demand, and a real proxy in front.
// Each file of tests uses a part of it.
#![allow(dead_code)]

pub(crate) mod chain;
pub(crate) mod group;
mod plain;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::post,
};
use chain::{Chain, Lie, Listed, State as Ledger};
use client::{
    Ceilings, ClientError,
    contracts::{Escrow, ModelRegistry},
    proxy::{Payer, Proxy, ProxyConfig, Replicas},
};
use parking_lot::Mutex;
pub(crate) use plain::Attack;
use plain::{Plain, answer, receipt};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use types::{ModelManifest, NetworkConfig, signing};

/// What the node says when it is honest.
pub(crate) const ANSWER: &str = "Here is your latte.";
/// Stake of a node that is nothing special.
pub(crate) const STAKE: u128 = 100_000_000_000_000_000_000;

struct Shared {
    chain: Mutex<Chain>,
    /// The chain of another network.
    other: Chain,
    /// How each JSON-RPC server lies.
    lies: Mutex<Vec<Lie>>,
    /// Calls that JSON-RPC servers got.
    calls: AtomicUsize,
    models: Mutex<Vec<ModelManifest>>,
    config: NetworkConfig,
    genesis: B256,
    anchor: (u64, B256),
    nodes: Mutex<Vec<Listed>>,
    /// Largest promise that each node got.
    promised: Mutex<HashMap<Address, U256>>,
    /// Times that a node wanted more coins in the escrow.
    refusals: AtomicUsize,
}

impl Shared {
    /// Registers a node for the usual model at the usual price.
    fn list(&self, node: Address, endpoint: String) {
        let offers = vec![(manifest().id().0, 10, 20)];
        self.nodes.lock().push(Listed { node, endpoint, stake: STAKE, offers });
    }

    /// Makes a block with what is registered now.
    fn commit(&self, age: u64) {
        let mut state = Ledger::default();
        state.register(self.config.contracts.node_registry, &self.nodes.lock());
        self.chain.lock().block(state, age);
    }
}

/// What a client saw.
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub(crate) struct Network {
    shared: Arc<Shared>,
    plain: Vec<Arc<Plain>>,
    rpc_urls: Vec<String>,
    proxy_url: String,
    dir: tempfile::TempDir,
}

fn secret() -> B256 {
    B256::repeat_byte(0x21)
}

fn node() -> Address {
    signing::address_of(&secret()).unwrap()
}

/// The model that all nodes serve.
pub(crate) fn manifest() -> ModelManifest {
    ModelManifest {
        version: 1,
        name: "tiny".into(),
        architecture: "llama".into(),
        arithmetic_version: 1,
        context_length: 128,
        vocab_size: 100,
        parameters: 1,
        hyperparameters: vec![],
        weights_root: B256::repeat_byte(1),
        tokenizer_hash: B256::repeat_byte(2),
        template_hash: B256::repeat_byte(3),
        licence: String::new(),
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// What a test wants of a network.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// A registered node that nobody reaches.
    pub(crate) dead_node: bool,
    /// Nodes that answer by themselves; one when there are no others.
    pub(crate) plain: usize,
    pub(crate) replicas: &'a [group::Replica],
    pub(crate) payer: Option<Payer>,
    pub(crate) ceilings: Ceilings,
    /// JSON-RPC servers that lie, in the order in which they are tried; one honest one when there are none.
    pub(crate) lies: &'a [Lie],
    /// Names that the user sets.
    pub(crate) names: BTreeMap<String, B256>,
}

impl Network {
    pub(crate) async fn start() -> Self {
        Self::build(Setup::default()).await
    }

    pub(crate) async fn start_with_dead_node() -> Self {
        Self::build(Setup { dead_node: true, ..Setup::default() }).await
    }

    /// With this many nodes that answer by themselves.
    pub(crate) async fn start_plain(nodes: usize) -> Self {
        Self::build(Setup { plain: nodes, ..Setup::default() }).await
    }

    pub(crate) async fn build(setup: Setup<'_>) -> Self {
        let mut network = Self::without_proxy(&setup).await;
        network.proxy_url = network.start_proxy(&setup, "proxy").await.unwrap();
        network
    }

    /// All but the proxy.
    pub(crate) async fn without_proxy(setup: &Setup<'_>) -> Self {
        let mut chain = Chain::new(7);
        let mut other = Chain::new(8);
        other.block(Ledger::default(), 0);
        for _ in 0..5 {
            chain.block(Ledger::default(), 3600);
        }
        let lies = if setup.lies.is_empty() { vec![Lie::None] } else { setup.lies.to_vec() };
        let shared = Arc::new(Shared {
            config: chain.config.clone(),
            genesis: chain.name(),
            anchor: chain.head(),
            chain: Mutex::new(chain),
            other,
            lies: Mutex::new(lies.clone()),
            calls: AtomicUsize::new(0),
            models: Mutex::new(vec![manifest()]),
            nodes: Mutex::default(),
            promised: Mutex::default(),
            refusals: AtomicUsize::new(0),
        });
        let mut rpc_urls = Vec::new();
        for i in 0..lies.len() {
            let router = Router::new().route("/", post(rpc)).with_state((shared.clone(), i));
            rpc_urls.push(serve(router).await);
        }
        let mut plain = Vec::new();
        let count = if setup.replicas.is_empty() { setup.plain.max(1) } else { 0 };
        for i in 0..count {
            let node = Arc::new(Plain {
                shared: shared.clone(),
                secret: B256::repeat_byte(0x21 + i as u8),
                attack: Mutex::new(Attack::None),
                last: Mutex::default(),
                asked: AtomicUsize::new(0),
            });
            let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(node.clone());
            shared.list(node.address(), serve(router).await);
            plain.push(node);
        }
        group::serve_all(&shared, setup.replicas).await;
        if setup.dead_node {
            shared.list(Address::repeat_byte(0xdd), "http://127.0.0.1:1".into());
        }
        shared.commit(0);
        Self { shared, plain, rpc_urls, proxy_url: String::new(), dir: tempfile::tempdir().unwrap() }
    }

    /// Starts a proxy with its data in `folder`; its URL.
    pub(crate) async fn start_proxy(&self, setup: &Setup<'_>, folder: &str) -> Result<String, ClientError> {
        let proxy = Proxy::connect(self.proxy_config(setup, folder)).await?;
        Ok(serve(proxy.router()).await)
    }

    pub(crate) fn proxy_config(&self, setup: &Setup<'_>, folder: &str) -> ProxyConfig {
        ProxyConfig {
            rpc_urls: self.rpc_urls.clone(),
            network: None,
            data_dir: self.folder(folder),
            release_verified: false,
            payer: setup.payer.clone(),
            ceilings: setup.ceilings,
            names: setup.names.clone(),
            stale_max: Duration::from_secs(120),
            idle_max: Duration::from_secs(5),
            replicas: Replicas { nodes: 3, late_max: Duration::from_secs(1) },
        }
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn genesis(&self) -> B256 {
        self.shared.genesis
    }

    pub(crate) fn other_genesis(&self) -> B256 {
        self.shared.other.name()
    }

    /// The first node cheats from now on.
    pub(crate) fn attack(&self, attack: Attack) {
        self.attack_by(0, attack);
    }

    pub(crate) fn attack_by(&self, i: usize, attack: Attack) {
        *self.plain[i].attack.lock() = attack;
    }

    /// How often each node was asked.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.plain.iter().map(|p| p.asked.load(Ordering::SeqCst)).collect()
    }

    pub(crate) fn address_of(&self, i: usize) -> Address {
        self.plain[i].address()
    }

    /// Changes what is registered, and waits until the proxy has seen it.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Vec<Listed>, &mut Vec<ModelManifest>)) {
        change(&mut self.shared.nodes.lock(), &mut self.shared.models.lock());
        self.shared.commit(0);
        self.settle().await;
    }

    /// Longer than a proxy takes to see the newest block and to read the registries again.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }

    /// JSON-RPC server `i` lies from now on.
    pub(crate) fn lie(&self, i: usize, lie: Lie) {
        self.shared.lies.lock()[i] = lie;
    }

    /// Calls that JSON-RPC servers got until now.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    pub(crate) async fn chat(&self, url: &str, body: &Value, headers: &[(&str, &str)]) -> Seen {
        let mut request = reqwest::Client::new().post(format!("{url}/v1/chat/completions")).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::seen(request.send().await.unwrap()).await
    }

    pub(crate) async fn ask(&self, body: String) -> Seen {
        self.ask_with(body, &[]).await
    }

    pub(crate) async fn ask_with(&self, body: String, headers: &[(&str, &str)]) -> Seen {
        let mut request =
            reqwest::Client::new().post(format!("{}/v1/chat/completions", self.proxy_url)).body(body);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::seen(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Seen {
        Self::seen(reqwest::get(format!("{}{path}", self.proxy_url)).await.unwrap()).await
    }

    async fn seen(response: reqwest::Response) -> Seen {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Seen { status, headers, body: response.text().await.unwrap() }
    }
}

/// A validator's JSON-RPC.
async fn rpc(State((s, i)): State<(Arc<Shared>, usize)>, Json(request): Json<Value>) -> Response {
    s.calls.fetch_add(1, Ordering::SeqCst);
    let lie = s.lies.lock()[i];
    if lie == Lie::Hangs {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    if lie == Lie::Down {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (method, params) = (request["method"].as_str().unwrap(), &request["params"]);
    let result = match method {
        "eth_call" => {
            let input: Bytes = serde_json::from_value(params[0]["input"].clone()).unwrap();
            Some(json!(Bytes::from(view(&s, lie, &input))))
        }
        _ if lie == Lie::OtherNetwork => s.other.answer(Lie::None, method, params),
        _ => s.chain.lock().answer(lie, method, params),
    };
    let Some(result) = result else {
        let error = json!({"code": -32000, "message": "there is no such thing"});
        return Json(json!({"jsonrpc": "2.0", "id": 1, "error": error})).into_response();
    };
    Json(json!({"jsonrpc": "2.0", "id": 1, "result": result})).into_response()
}

fn view(s: &Shared, lie: Lie, input: &[u8]) -> Vec<u8> {
    let selector: [u8; 4] = input[..4].try_into().unwrap();
    match selector {
        ModelRegistry::getCall::SELECTOR => {
            let asked = ModelRegistry::getCall::abi_decode(input).unwrap().modelId;
            let models = s.models.lock();
            let found = models.iter().find(|m| m.id().0 == asked).unwrap().clone();
            let shown = match lie {
                Lie::OtherManifest => ModelManifest { weights_root: B256::repeat_byte(0xee), ..found },
                _ => found,
            };
            ModelRegistry::getCall::abi_encode_returns(&ModelRegistry::Model {
                publisher: node(),
                publishedAt: 1,
                manifest: shown.encode().into(),
                uri: String::new(),
            })
        }
        // Full: whoever wants to fill it finds that somebody else has.
        Escrow::pocketOfCall::SELECTOR => Escrow::pocketOfCall::abi_encode_returns(&Escrow::Pocket {
            held: 1000,
            taken: 0,
            refunded: 0,
            withdrawing: 0,
            withdrawAt: 0,
        }),
        other => panic!("{other:?}"),
    }
}
