//! A local server that speaks OpenAI and checks every answer before its end reaches the client.

mod assemble;
mod disputes;
mod error;
mod forward;
mod metrics;
mod purse;
mod replicate;
mod sse;
mod store;

use crate::{ClientError, Directory, NetworkInfo, RpcClient, light, rpc::http_client};
use alloy_primitives::{B256, keccak256};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use disputes::Disputes;
pub use disputes::{Dispute, DisputeKind};
use error::Fault;
use metrics::Metrics;
use purse::Purse;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
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
    /// A validator's JSON-RPC.
    pub rpc_url: String,
    /// Genesis hash of the network that the user means; whatever the validator names when absent.
    pub network: Option<B256>,
    /// Folder for receipts.
    pub data_dir: PathBuf,
    /// Withhold whole streams until they are verified, not only their end.
    pub release_verified: bool,
    /// Who pays for answers; nobody when absent.
    pub payer: Option<Payer>,
    /// Longest silence of a node before its answer is given up.
    pub idle_max: Duration,
    /// How answers are replicated for those who ask for it.
    pub replicas: Replicas,
}

/// A running proxy's state.
#[derive(Debug)]
pub struct Proxy {
    rpc: RpcClient,
    network: NetworkInfo,
    genesis: B256,
    directory: Directory,
    store: Store,
    disputes: Disputes,
    registry: Registry,
    http: reqwest::Client,
    metrics: Metrics,
    purse: Option<Purse>,
    config: ProxyConfig,
}

impl Proxy {
    /// Connects to the network, checks its identity and opens the folder.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(config: ProxyConfig) -> Result<Arc<Self>, ClientError> {
        let rpc = RpcClient::new(&config.rpc_url);
        let network = rpc.network().await?;
        let genesis = keccak256(&network.genesis_header);
        let malformed = |reason| ClientError::Malformed { url: config.rpc_url.clone(), reason };
        light::check_network(&network.network, &network.genesis_header, genesis).map_err(malformed)?;
        if let Some(pin) = config.network.filter(|pin| *pin != genesis) {
            return Err(malformed(format!("it serves network {genesis}, but you named {pin}")));
        }
        let directory = Directory::new(rpc.clone(), network.network.clone());
        let idle_max = config.idle_max;
        let http = http_client(|b| b.connect_timeout(CONNECT_MAX).read_timeout(idle_max));
        let store = Store::open(&config.data_dir)?;
        let disputes = Disputes::open(&config.data_dir.join("disputes"))?;
        let metrics = Metrics::new();
        let purse = match &config.payer {
            Some(payer) => {
                let (path, network) = (config.data_dir.join("owed.totals"), network.network.clone());
                Some(Purse::open(payer.clone(), rpc.clone(), network, genesis, path)?)
            }
            None => None,
        };
        let registry = crate::registry();
        Ok(Arc::new(Self {
            rpc,
            network,
            genesis,
            directory,
            store,
            disputes,
            registry,
            http,
            metrics,
            purse,
            config,
        }))
    }

    /// Genesis hash of the network.
    pub fn genesis(&self) -> B256 {
        self.genesis
    }

    /// Puts coins into the escrow for every node, so that first answers need not wait for it.
    ///
    /// # Errors
    /// [`ClientError`]; some nodes may have been served.
    pub async fn fill_pockets(&self) -> Result<(), ClientError> {
        let Some(purse) = &self.purse else { return Ok(()) };
        self.directory.refresh().await?;
        for node in self.directory.nodes() {
            purse.fill(node).await?;
        }
        Ok(())
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

fn model_json(m: &ModelManifest) -> Value {
    json!({"id": m.name, "object": "model", "created": 0, "owned_by": "og", "og_model_id": m.id(),
        "context_length": m.context_length})
}

async fn models(State(proxy): State<Arc<Proxy>>) -> Result<Response, Fault> {
    proxy.directory.refresh().await?;
    let data: Vec<_> = proxy.directory.models().iter().map(model_json).collect();
    Ok(Json(json!({"object": "list", "data": data})).into_response())
}

async fn model(State(proxy): State<Arc<Proxy>>, Path(name): Path<String>) -> Result<Response, Fault> {
    proxy.directory.refresh().await?;
    let (manifest, _) = proxy.directory.choose(&name)?;
    Ok(Json(model_json(&manifest)).into_response())
}

async fn metrics_text(State(proxy): State<Arc<Proxy>>) -> Response {
    let wallet = proxy.purse.as_ref().map(|purse| purse.metrics()).unwrap_or_default();
    ([("content-type", "text/plain; version=0.0.4")], wallet + &proxy.metrics.text()).into_response()
}

async fn network(State(proxy): State<Arc<Proxy>>) -> Response {
    let n = &proxy.network;
    Json(json!({"genesis": proxy.genesis, "network": n.network, "genesis_header": n.genesis_header}))
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
