//! A local server that speaks OpenAI and checks every answer before its end reaches the client.

mod accounts;
mod assemble;
mod budget;
mod disputes;
mod error;
mod exchange;
mod forward;
mod metrics;
mod paying;
mod purse;
mod relay;
mod replicate;
mod sse;
mod store;

use crate::{
    Ceilings, ClientError, Directory, LedgerConfig, NetworkInfo, ProvenLedger, directory::Names,
    rpc::http_client,
};
use alloy_primitives::{Address, B256, U256};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use budget::{Budget, Reservation};
use disputes::Disputes;
pub use disputes::{Dispute, DisputeKind};
use error::Fault;
use metrics::Metrics;
use parking_lot::Mutex;
use purse::Purse;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use types::{ModelManifest, ReceiptId, limits::REQUEST_BYTES_MAX};
use verify::Registry;

pub use purse::Payer;
pub use replicate::Replicas;
pub(crate) use sse::Splitter;
pub use store::Answered;
use store::Store;

/// Longest time that a client may wait for a proof.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest time to connect to a node.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How a proxy is run.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// JSON-RPC servers, tried in turn. None is trusted: see [`ProvenLedger`].
    pub rpc_urls: Vec<String>,
    /// Genesis hash of the network that the user means; the one that the folder remembers, or the first one served, when absent.
    pub network: Option<B256>,
    /// Folder for receipts, the network, and what models' names mean.
    pub data_dir: PathBuf,
    /// Withhold whole streams until they are verified, not only their end.
    pub release_verified: bool,
    /// Who pays for answers; nobody when absent.
    pub payer: Option<Payer>,
    /// What answers may cost.
    pub ceilings: Ceilings,
    /// Models that names mean, whatever they meant before.
    pub names: BTreeMap<String, B256>,
    /// Oldest newest block that counts as the present.
    pub stale_max: Duration,
    /// Longest silence of a node before its answer is given up.
    pub idle_max: Duration,
    /// How answers are replicated for those who ask for it.
    pub replicas: Replicas,
}

/// A running proxy's state.
#[derive(Debug)]
pub struct Proxy {
    ledger: Arc<ProvenLedger>,
    directory: Arc<Directory>,
    store: Store,
    disputes: Disputes,
    registry: Registry,
    http: reqwest::Client,
    metrics: Metrics,
    purse: Option<Purse>,
    budget: Arc<Budget>,
    /// What was promised to nodes since their pockets were looked at.
    unfilled: Mutex<HashMap<Address, U256>>,
    config: ProxyConfig,
}

impl Proxy {
    /// Connects to the network, proves its newest block and registries, opens the folder and keeps up with the ledger.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::OtherNetwork`] when the folder or the user means another network than the servers.
    pub async fn connect(config: ProxyConfig) -> Result<Arc<Self>, ClientError> {
        let dir = &config.data_dir;
        let store = Store::open(dir)?;
        let disputes = Disputes::open(&dir.join("disputes"))?;
        let names = Names::open(dir.join("names.pin"), &config.names)?;
        let budget = Budget::open(config.ceilings.day, dir.join("spent.day"))?;
        let ledger = ProvenLedger::connect(LedgerConfig {
            urls: config.rpc_urls.clone(),
            network: config.network,
            folder: Some(dir.clone()),
            stale_max: config.stale_max,
        })
        .await?;
        let ledger = Arc::new(ledger);
        let directory = Directory::open(ledger.clone(), names, config.ceilings).await?;
        let purse = match &config.payer {
            Some(payer) => {
                let (rpc, network) = (ledger.rpc().clone(), ledger.network().network.clone());
                let path = dir.join("owed.totals");
                Some(Purse::open(payer.clone(), rpc, network, ledger.genesis(), path)?)
            }
            None => None,
        };
        directory.follow();
        let idle_max = config.idle_max;
        let proxy = Arc::new(Self {
            ledger,
            directory,
            store,
            disputes,
            registry: crate::registry(),
            http: http_client(|b| b.connect_timeout(CONNECT_MAX).read_timeout(idle_max)),
            metrics: Metrics::new(),
            purse,
            budget,
            unfilled: Mutex::default(),
            config,
        });
        paying::follow(&proxy);
        Ok(proxy)
    }

    /// Genesis hash of the network.
    pub fn genesis(&self) -> B256 {
        self.ledger.genesis()
    }

    fn network(&self) -> &NetworkInfo {
        self.ledger.network()
    }

    /// Puts coins into the escrow for every node, so that first answers need not wait for it.
    ///
    /// # Errors
    /// [`ClientError`]; some nodes may have been served.
    pub async fn fill_pockets(&self) -> Result<(), ClientError> {
        let Some(purse) = &self.purse else { return Ok(()) };
        self.directory.read().await?;
        for node in self.directory.nodes() {
            purse.fill(node).await?;
        }
        Ok(())
    }

    /// Fills the pocket for a node, unless the day's money is spent.
    async fn fill(&self, node: Address) -> Result<(), ClientError> {
        let Some(purse) = &self.purse else { return Err(ClientError::Unpaid) };
        // Nothing more would be spent out of it today.
        self.budget.reserve(1)?;
        purse.fill(node).await
    }

    /// Looks at a node's pocket while there is still something in it, so that no request has to wait for a deposit.
    fn fill_ahead(self: &Arc<Self>, node: Address, price: u128) {
        let Some(payer) = &self.config.payer else { return };
        {
            let mut unfilled = self.unfilled.lock();
            let sum = unfilled.entry(node).or_default();
            *sum = sum.saturating_add(U256::from(price));
            if *sum < payer.deposit / U256::from(4) {
                return;
            }
            unfilled.remove(&node);
        }
        let proxy = self.clone();
        tokio::spawn(async move {
            if let Err(e) = proxy.fill(node).await {
                tracing::warn!(%node, "its pocket was not filled: {e}");
            }
        });
    }

    /// Keeps money for an answer that may cost `price`; nothing when nobody pays here.
    fn reserve(&self, price: u128) -> Result<Option<Arc<Reservation>>, ClientError> {
        self.purse.as_ref().map(|_| self.budget.reserve(price).map(Arc::new)).transpose()
    }

    /// The routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/chat/completions", post(forward::forward))
            .route("/v1/completions", post(forward::forward))
            .route("/v1/responses", post(forward::forward))
            .route("/v1/embeddings", post(forward::forward))
            .route("/v1/models", get(models))
            .route("/v1/models/{model}", get(model))
            .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
            .route("/metrics", get(metrics_text))
            .route("/og/v1/network", get(network))
            .route("/og/v1/receipts", get(receipts))
            .route("/og/v1/receipts/{id}", get(receipt))
            .route("/og/v1/receipts/{id}/proof", get(proof))
            .fallback(|| async { Fault::new(StatusCode::NOT_FOUND, "not_found", "no such path") })
            .method_not_allowed_fallback(|| async {
                Fault::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "this path takes another method",
                )
            })
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(self.clone())
    }
}

/// To whom the client lets nodes show the answer: passed on as it is.
fn disclose(headers: &HeaderMap) -> HeaderMap {
    let name = HeaderName::from_static("og-disclose");
    headers.get(&name).map(|to| (name, to.clone())).into_iter().collect()
}

fn model_json(name: &str, m: &ModelManifest) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "og", "og_model_id": m.id(),
        "context_length": m.context_length, "og_name": m.name})
}

#[derive(Deserialize)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

/// All models, those with the most stake behind them first; `?limit=N&after=ID` gives a part.
async fn models(
    State(proxy): State<Arc<Proxy>>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Fault> {
    let wrong = || {
        let message = "use ?limit=N&after=ID with a number and the id of the last model that you have";
        Fault::new(StatusCode::BAD_REQUEST, "invalid_value", message)
    };
    let Query(page) = page.map_err(|_| wrong())?;
    let all = proxy.directory.list()?;
    let from = match &page.after {
        None => 0,
        Some(id) => all.iter().position(|(name, _)| name == id).ok_or_else(wrong)? + 1,
    };
    let rest = &all[from..];
    let part = &rest[..page.limit.unwrap_or(rest.len()).min(rest.len())];
    let data: Vec<_> = part.iter().map(|(name, m)| model_json(name, m)).collect();
    Ok(Json(json!({"object": "list", "data": data, "has_more": part.len() < rest.len()})).into_response())
}

async fn model(State(proxy): State<Arc<Proxy>>, Path(name): Path<String>) -> Result<Response, Fault> {
    let manifest = proxy.directory.model(&name)?;
    Ok(Json(model_json(&name, &manifest)).into_response())
}

async fn metrics_text(State(proxy): State<Arc<Proxy>>) -> Response {
    let wallet = proxy.purse.as_ref().map(|purse| purse.metrics()).unwrap_or_default();
    ([("content-type", "text/plain; version=0.0.4")], wallet + &proxy.metrics.text()).into_response()
}

async fn network(State(proxy): State<Arc<Proxy>>) -> Response {
    let n = proxy.network();
    Json(json!({"genesis": proxy.genesis(), "network": n.network, "genesis_header": n.genesis_header}))
        .into_response()
}

async fn receipts(State(proxy): State<Arc<Proxy>>) -> Result<Response, Fault> {
    let ids: Vec<_> = proxy.store.newest(100)?;
    Ok(Json(json!({"receipts": ids})).into_response())
}

fn parse_id(id: &str) -> Result<ReceiptId, Fault> {
    id.parse().map_err(|_| {
        Fault::new(StatusCode::BAD_REQUEST, "invalid_value", "a receipt id is 0x and 64 hexadecimal digits")
    })
}

async fn receipt(State(proxy): State<Arc<Proxy>>, Path(id): Path<String>) -> Result<Response, Fault> {
    Ok(Json(proxy.store.get(parse_id(&id)?)?).into_response())
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait: u64,
    /// `NUMBER:HASH`.
    checkpoint: Option<String>,
}

async fn proof(
    State(proxy): State<Arc<Proxy>>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Response, Fault> {
    let invalid = |message: String| Fault::new(StatusCode::BAD_REQUEST, "invalid_value", message);
    let Query(wait) = wait.map_err(|e| invalid(e.to_string()))?;
    let checkpoint = wait.checkpoint.map(|text| text.parse()).transpose().map_err(invalid)?;
    let wait = Duration::from_secs(wait.wait).min(WAIT_MAX);
    let bytes = proxy.proof(parse_id(&id)?, wait, checkpoint).await?;
    Ok(([("content-type", "application/json")], bytes).into_response())
}
