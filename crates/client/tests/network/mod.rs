//! A network in memory: a registry, a node that signs real receipts and cheats on demand, and a real proxy in front.
// Each file of tests uses a part of it.
#![allow(dead_code)]

pub(crate) mod group;

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolValue as _};
use axum::{
    Json, Router,
    body::Bytes as Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
    routing::post,
};
use client::{
    contracts::{Escrow, ModelRegistry, NodeRegistry},
    proxy::{Payer, Proxy, ProxyConfig, Replicas},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use types::{
    ARITHMETIC_EXACT, ARITHMETIC_SIGNED_ONLY, Claim, Evidence, ModelManifest, NetworkConfig, Receipt, Rung,
    Sampling, Seal, SystemContracts, Tokens, ValidatorKey, commit_bytes, commit_tokens, signing,
};

/// What the node says when it is honest.
pub(crate) const ANSWER: &str = "Here is your latte.";
const CHAIN_ID: u64 = 7;
const ANCHOR: (u64, B256) = (5, B256::repeat_byte(0xaa));

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
}

struct Shared {
    attack: Mutex<Attack>,
    last: Mutex<Option<Receipt>>,
    config: NetworkConfig,
    pub(super) genesis: Bytes,
    offers: Mutex<Vec<(Address, String)>>,
    /// Largest promise that each node got.
    promised: Mutex<HashMap<Address, U256>>,
    /// Times that a node wanted more coins in the escrow.
    refusals: AtomicUsize,
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
    proxy_url: String,
    dir: tempfile::TempDir,
}

fn secret() -> B256 {
    B256::repeat_byte(0x21)
}

fn node() -> Address {
    signing::address_of(&secret()).unwrap()
}

fn manifest() -> ModelManifest {
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

/// One validator with a real proof of possession.
fn config() -> NetworkConfig {
    let key = blst::min_sig::SecretKey::key_gen(&[7; 32], &[]).unwrap();
    let vote = key.sk_to_pk().compress();
    let namespace = NetworkConfig::possession_namespace(CHAIN_ID);
    let message = [&[namespace.len() as u8], namespace.as_slice(), &vote].concat();
    let possession = key.sign(&message, b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_", &[]).compress();
    NetworkConfig {
        version: types::NETWORK_VERSION,
        chain_id: CHAIN_ID,
        block_time_ms: 250,
        epoch_blocks: 100,
        window_seconds: 90,
        game_seconds: 600,
        unbonding_seconds: 7 * 24 * 3600,
        contracts: SystemContracts {
            model_registry: Address::repeat_byte(1),
            node_registry: Address::repeat_byte(2),
            receipt_log: Address::repeat_byte(3),
            wrapped_native: Address::repeat_byte(4),
            staking: Address::repeat_byte(5),
            ..SystemContracts::none()
        },
        validators: vec![ValidatorKey {
            peer: B256::repeat_byte(9),
            vote: FixedBytes::from_slice(&vote),
            possession: FixedBytes::from_slice(&possession),
        }],
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

impl Network {
    pub(crate) async fn start() -> Self {
        Self::build(false, &[], None).await
    }

    pub(crate) async fn start_with_dead_node() -> Self {
        Self::build(true, &[], None).await
    }

    async fn build(dead_node: bool, replicas: &[group::Replica], payer: Option<Payer>) -> Self {
        let config = config();
        let extra_data = Bytes::copy_from_slice(config.commitment().as_slice());
        let genesis = Bytes::from(alloy_rlp::encode(Header { extra_data, ..Default::default() }));
        let shared = Arc::new(Shared {
            attack: Mutex::new(Attack::None),
            last: Mutex::default(),
            config,
            genesis,
            offers: Mutex::default(),
            promised: Mutex::default(),
            refusals: AtomicUsize::new(0),
        });
        let rpc_url = serve(Router::new().route("/", post(rpc)).with_state(shared.clone())).await;
        if replicas.is_empty() {
            let router = Router::new().route("/v1/chat/completions", post(answer));
            let node_url = serve(router.with_state(shared.clone())).await;
            shared.offers.lock().push((node(), node_url));
        }
        group::serve_all(&shared, replicas).await;
        if dead_node {
            shared.offers.lock().push((Address::repeat_byte(0xdd), "http://127.0.0.1:1".into()));
        }
        let dir = tempfile::tempdir().unwrap();
        let proxy = Proxy::connect(ProxyConfig {
            rpc_url,
            network: Some(keccak256(&shared.genesis)),
            data_dir: dir.path().join("proxy"),
            release_verified: false,
            payer,
            idle_max: Duration::from_secs(5),
            replicas: Replicas { nodes: 3, late_max: Duration::from_secs(1) },
        })
        .await
        .unwrap();
        let proxy_url = serve(proxy.router()).await;
        Self { shared, proxy_url, dir }
    }

    pub(crate) fn attack(&self, attack: Attack) {
        *self.shared.attack.lock() = attack;
    }

    pub(crate) async fn ask(&self, body: String) -> Seen {
        self.ask_with(body, &[]).await
    }

    pub(crate) async fn ask_with(&self, body: String, headers: &[(&str, &str)]) -> Seen {
        let mut request =
            reqwest::Client::new().post(format!("{}/v1/chat/completions", self.proxy_url)).body(body);
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

/// The validator's JSON-RPC.
async fn rpc(State(s): State<Arc<Shared>>, Json(request): Json<Value>) -> Json<Value> {
    let result = match request["method"].as_str().unwrap() {
        "og_network" => json!({"network": s.config, "genesisHeader": s.genesis}),
        "eth_blockNumber" => json!("0x6"),
        "eth_getBlockByNumber" => json!({"hash": ANCHOR.1}),
        "eth_call" => {
            let input: Bytes = serde_json::from_value(request["params"][0]["input"].clone()).unwrap();
            json!(Bytes::from(view(&s, &input)))
        }
        other => panic!("{other}"),
    };
    Json(json!({"jsonrpc": "2.0", "id": 1, "result": result}))
}

fn view(s: &Shared, input: &[u8]) -> Vec<u8> {
    let selector: [u8; 4] = input[..4].try_into().unwrap();
    match selector {
        ModelRegistry::idsCall::SELECTOR => vec![manifest().id().0].abi_encode(),
        ModelRegistry::getCall::SELECTOR => {
            ModelRegistry::getCall::abi_encode_returns(&ModelRegistry::Model {
                publisher: node(),
                publishedAt: 1,
                manifest: manifest().encode().into(),
                uri: String::new(),
            })
        }
        NodeRegistry::nodesForCall::SELECTOR => {
            let offers = s.offers.lock();
            let offers = offers.iter().map(|(node, endpoint)| NodeRegistry::NodeOffer {
                node: *node,
                endpoint: endpoint.clone(),
                stake: U256::from(10).pow(U256::from(20)),
                pricePerInputToken: 10,
                pricePerOutputToken: 20,
            });
            NodeRegistry::nodesForCall::abi_encode_returns(&offers.collect::<Vec<_>>())
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

/// The node.
async fn answer(State(s): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let attack = *s.attack.lock();
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
    } else {
        json!({"object": "chat.completion", "choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}], "usage": usage})
            .to_string()
    };
    let receipt = match attack {
        Attack::Replay => s.last.lock().clone().unwrap(),
        _ => receipt(&s, attack, &nonce, &body, response.as_bytes()),
    };
    *s.last.lock() = Some(receipt.clone());
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

fn receipt(s: &Shared, attack: Attack, nonce: &B256, request: &[u8], response: &[u8]) -> Receipt {
    let is = |a| attack == a;
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
        genesis: if is(Attack::OtherGenesis) { B256::ZERO } else { keccak256(&s.genesis) },
        node: node(),
        model: if is(Attack::OtherModel) { B256::repeat_byte(5) } else { manifest().id().0 },
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
        price_input: 10,
        price_output: if is(Attack::WrongPrice) { 21 } else { 20 },
        price: 0,
        payer: Address::ZERO,
        anchor_number: ANCHOR.0,
        anchor_hash: if is(Attack::WrongAnchor) { B256::ZERO } else { ANCHOR.1 },
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
    let key = if is(Attack::OtherKey) { B256::repeat_byte(0x22) } else { secret() };
    let signature = signing::sign(&key, claim.digest()).unwrap();
    Receipt { claim, evidence: vec![Evidence { mode: Rung::Signed.mode(), body: signature.to_vec().into() }] }
}
