//! An inference node: registers itself, serves, and posts the roots of its log.

use crate::{
    court::{
        Court, call_of, case,
        games::{Games, Prepare},
    },
    files,
    inference::{Anchor, Identity, InferenceService},
    log_server::LogServer,
    payments::Till,
    receipt_log::ReceiptLog,
};
use alloy_sol_types::SolCall;
use anyhow::{Context as _, bail, ensure};
use api::Server;
use client::{
    ClientError, RpcClient,
    contracts::{Disputes, Escrow, ModelRegistry, NodeRegistry, ReceiptLog as LogContract},
    light,
};
use engine::{Engine, Model};
use signed::SignedProducer;
use std::{
    collections::VecDeque,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{info, warn};
use types::{Address, B256, Claim, NetworkConfig, U256, keccak256, tlog::NodeOrigin};
use wallet::{Account, Call, Config, SendError, Wallet};

/// How often the log's root is posted, when there is something new.
const POST_INTERVAL: Duration = Duration::from_millis(500);
/// How often the newest final block is read.
const ANCHOR_INTERVAL: Duration = Duration::from_millis(500);
/// How long a block is known here before receipts name it. Proxies look for new blocks twice a second.
const ANCHOR_LAG: Duration = Duration::from_millis(1500);

/// How often earnings are taken.
const EARN_INTERVAL: Duration = Duration::from_secs(10);
/// How long the transactions of the start are tried before the user is told.
const START_MAX: Duration = Duration::from_secs(60);
/// Ticks of [`POST_INTERVAL`] between deletions of old answers.
const FORGET_TICKS: u64 = 120;

/// How a node is run.
pub(crate) struct NodeConfig {
    pub(crate) rpc_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) stake_wei: U256,
    pub(crate) price_input: u128,
    pub(crate) price_output: u128,
    /// Serve only clients that pay.
    pub(crate) require_payment: bool,
    /// Hosts and pages that are answered, besides loopback names, the listening address and the endpoint.
    pub(crate) browser: api::http::BrowserRules,
    /// What one peer may take of the server.
    pub(crate) limits: api::http::PeerLimits,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) address: Address,
    service: Arc<InferenceService>,
    server: Option<Server>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Takes no more requests, finishes those under way, at most for `limit`, and lets their receipts reach the ledger.
    pub(crate) async fn drain(mut self, limit: Duration) {
        let service = self.service.clone();
        let drained = tokio::task::spawn_blocking(move || service.drain(limit)).await.unwrap_or(false);
        if !drained {
            warn!("answers under way were cut off after {} s", limit.as_secs());
        }
        if let Some(server) = self.server.take() {
            server.shut_down(Duration::from_secs(2)).await;
        }
        let deadline = tokio::time::Instant::now() + POST_INTERVAL * 4;
        while self.service.has_unposted() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POST_INTERVAL / 4).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Everything that a node's tasks share.
struct Operator {
    rpc: RpcClient,
    network: NetworkConfig,
    log: Arc<ReceiptLog>,
    posted: Arc<AtomicU64>,
    court: Court,
    model: Arc<Model>,
}

impl NodeConfig {
    /// The node's secret key, made on first use.
    pub(crate) fn secret(&self) -> anyhow::Result<B256> {
        files::private_dir(&self.data_dir)?;
        Ok(B256::from(files::secret(&self.data_dir.join("node.key"), rand::random::<[u8; 32]>)?))
    }
}

/// Starts a node that serves `engine`'s model on `listener`.
pub(crate) async fn start(config: NodeConfig, engine: Engine, listener: TcpListener) -> anyhow::Result<Node> {
    let secret = config.secret()?;
    let rpc = RpcClient::new(&config.rpc_url);
    let network = rpc.network().await?;
    let genesis = keccak256(&network.genesis_header);
    light::check_network(&network.network, &network.genesis_header, genesis).map_err(anyhow::Error::msg)?;
    let log = Arc::new(ReceiptLog::open(&config.data_dir.join("receipts.redb"))?);
    let wallet = Config::new(Account::new(secret)?, network.network.chain_id);
    let wallet = Wallet::open(wallet.kept_in(config.data_dir.join("calls.redb")), Arc::new(rpc.clone()))?;
    let operator = Operator {
        rpc: rpc.clone(),
        network: network.network.clone(),
        log: log.clone(),
        posted: Arc::default(),
        court: Court::new(rpc.clone(), network.network.clone(), wallet),
        model: engine.model().clone(),
    };
    operator.resume().await?;
    operator.register(&config, &engine).await?;

    let (anchor_sender, anchor) = watch::channel(operator.read_anchor().await?);
    let identity = Identity {
        producer: SignedProducer::new(secret)?,
        chain_id: network.network.chain_id,
        genesis,
        price_input: config.price_input,
        price_output: config.price_output,
    };
    let address = operator.court.me();
    let court = operator.court.clone();
    let till = Till::open(court.clone(), genesis, address, config.require_payment, log.clone())?;
    let origin = NodeOrigin { chain_id: network.network.chain_id, genesis, node: address };
    let tiles = LogServer::new(origin, &secret, log.clone(), operator.posted.clone())?;
    let posted = operator.posted.clone();
    let service = Arc::new(InferenceService::new(engine, identity, log, anchor, posted, till.clone(), court));
    let router = api::openai::router(service.clone()).merge(api::tlog::log_router(Arc::new(tiles)));
    let rules = config.browser.clone().known_as(&config.endpoint);
    let server = api::serve_with(
        listener,
        router,
        api::ServeOptions { browser: rules, limits: config.limits, ..api::ServeOptions::default() },
    )?;
    let operator = Arc::new(operator);
    let tasks = vec![
        tokio::spawn(operator.clone().follow(anchor_sender)),
        tokio::spawn(operator.clone().post_roots()),
        tokio::spawn(operator.clone().defend()),
        tokio::spawn(operator.earn(till)),
    ];
    info!(node = %address, endpoint = config.endpoint, "a node is ready");
    Ok(Node { address, service, server: Some(server), tasks })
}

impl Operator {
    /// Sends what belongs to the start: its user waits, and must be told soon when it cannot be done.
    async fn start_with(&self, to: Address, value: U256, call: impl SolCall) -> Result<B256, SendError> {
        self.court.send_call(call_of(to, &call).with_value(value).within(START_MAX)).await
    }

    /// Compares the log on disk with what the ledger knows of it.
    async fn resume(&self) -> anyhow::Result<()> {
        let node = self.court.me();
        let latest =
            self.rpc.view(self.network.contracts.receipt_log, &LogContract::latestCall { node }).await?;
        if latest.size > 0 && self.log.root_at(latest.size) != Some(latest.root) {
            bail!(
                "the ledger holds {} receipts of node {node}, but the log in its folder is not that log ({} receipts); \
                 restore the folder, or start with a new key",
                latest.size,
                self.log.size()
            );
        }
        self.posted.store(latest.size, Ordering::Release);
        Ok(())
    }

    /// Publishes the model, stakes and offers it, as far as that is not done yet.
    async fn register(&self, config: &NodeConfig, engine: &Engine) -> anyhow::Result<()> {
        let contracts = self.network.contracts;
        let node = self.court.me();
        let manifest = engine.model().manifest();
        let model = manifest.id().0;
        let offset = U256::ZERO;
        if !self.rpc.view(contracts.node_registry, &NodeRegistry::isActiveCall { node }).await? {
            let balance = self.rpc.balance(node).await?;
            ensure!(
                balance > config.stake_wei,
                "node {node} has {balance} wei, but needs a stake of {} and some wei for fees; send it coins first",
                config.stake_wei
            );
            let call = NodeRegistry::registerCall { endpoint: config.endpoint.clone() };
            let sent = self.start_with(contracts.node_registry, config.stake_wei, call).await;
            sent.context("registering the node (is the stake at least the registry's minimum?)")?;
        } else {
            let call = NodeRegistry::updateEndpointCall { endpoint: config.endpoint.clone() };
            self.start_with(contracts.node_registry, U256::ZERO, call)
                .await
                .context("updating the endpoint")?;
        }
        if !self.rpc.view(contracts.model_registry, &ModelRegistry::existsCall { modelId: model }).await? {
            let call = ModelRegistry::publishCall {
                modelId: model,
                manifest: manifest.encode().into(),
                uri: String::new(),
            };
            let fee = self.rpc.view(contracts.model_registry, &ModelRegistry::PUBLISH_FEECall {}).await?;
            let sent = self.start_with(contracts.model_registry, fee, call).await;
            // Another node may have published it in the meantime; that is as good.
            let exists = ModelRegistry::existsCall { modelId: model };
            if !self.rpc.view(contracts.model_registry, &exists).await? {
                sent.context("publishing the model")?;
            }
        }
        let call = NodeRegistry::nodesForCall { modelId: model, offset, limit: U256::from(100) };
        let offers = self.rpc.view(contracts.node_registry, &call).await?;
        let offered = offers.iter().any(|o| {
            o.node == node
                && (o.pricePerInputToken, o.pricePerOutputToken) == (config.price_input, config.price_output)
        });
        if !offered {
            let call = NodeRegistry::setOfferCall {
                modelId: model,
                pricePerInputToken: config.price_input,
                pricePerOutputToken: config.price_output,
            };
            self.start_with(contracts.node_registry, U256::ZERO, call).await.context(
                "offering the model (are the prices at most MAX_TOKEN_PRICE of the registry? It is what its smallest stake \
                 answers for)",
            )?;
        }
        Ok(())
    }

    async fn read_anchor(&self) -> Result<Anchor, ClientError> {
        let finalized = self.rpc.finalized().await?;
        Ok((finalized.number, finalized.hash))
    }

    /// Keeps the anchor fresh, and a little behind the newest block: whoever checks a receipt has the block already.
    async fn follow(self: Arc<Self>, anchor: watch::Sender<Anchor>) {
        let mut ticks = tokio::time::interval(ANCHOR_INTERVAL);
        let mut recent: VecDeque<(Instant, Anchor)> = VecDeque::new();
        loop {
            ticks.tick().await;
            match self.read_anchor().await {
                Ok(fresh) => recent.push_back((Instant::now(), fresh)),
                Err(e) => warn!("cannot read the newest final block: {e}"),
            }
            let mut known = None;
            while let Some((_, old)) = recent.pop_front_if(|(seen, _)| seen.elapsed() >= ANCHOR_LAG) {
                known = Some(old);
            }
            if let Some(known) = known
                && anchor.send(known).is_err()
            {
                return;
            }
        }
    }

    /// Posts the log's root whenever it has grown.
    async fn post_roots(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(POST_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let posted = self.posted.load(Ordering::Acquire);
            let size = self.log.size();
            let Some(root) = self.log.root_at(size).filter(|_| size > posted) else { continue };
            let call = LogContract::appendCall { oldSize: posted, newSize: size, root };
            match self.court.send(self.network.contracts.receipt_log, U256::ZERO, call).await {
                Ok(_) => self.posted.store(size, Ordering::Release),
                Err(e) => {
                    warn!("cannot post the log's root: {e}; trying again");
                    // A transaction may have been included although we did not see it.
                    if let Err(e) = self.resume().await {
                        warn!("{e:#}");
                    }
                }
            }
        }
    }

    /// Defends answers that somebody disputes, and forgets those that nobody can dispute any more.
    async fn defend(self: Arc<Self>) {
        let disputes = self.network.contracts.disputes;
        let (window, head) = loop {
            let window = self.rpc.view(disputes, &Disputes::WINDOW_SECONDSCall {}).await;
            match (window, self.rpc.block_number().await) {
                (Ok(window), Ok(head)) => break (window, head),
                _ => tokio::time::sleep(POST_INTERVAL).await,
            }
        };
        // Games that began while this node was down go on: those are at most a game old.
        let seconds = window.saturating_add(self.network.game_seconds);
        let from = head.saturating_sub(seconds.saturating_mul(1000) / self.network.block_time_ms.max(1));
        let mut games = Games::new(self.court.clone(), from);
        let prepare: Arc<Prepare<'static>> = {
            let (log, model) = (self.log.clone(), self.model.clone());
            Arc::new(move |claim: &Claim, defend: bool| {
                let (_, index) = log.get(claim.receipt_id())?.context("a receipt of another log")?;
                let kept = log.entry(index)?.and_then(|(_, kept)| kept).context("the answer is forgotten")?;
                case::player(&model, claim, &kept.disclosure, defend)
            })
        };
        let mut ticks = tokio::time::interval(POST_INTERVAL);
        let mut count = 0u64;
        loop {
            ticks.tick().await;
            if let Err(e) = games.step(prepare.clone()).await {
                warn!("disputes: {e:#}");
            }
            count += 1;
            if count.is_multiple_of(FORGET_TICKS) {
                let before = crate::inference::now_ms().saturating_sub((2 * window + 3600) * 1000);
                match self.log.forget(before) {
                    Ok(0) => (),
                    Ok(n) => info!("forgot {n} answers that nobody can dispute any more"),
                    Err(e) => warn!("old answers were not deleted: {e:#}"),
                }
            }
        }
    }

    /// Takes what clients have promised, and what has waited long enough in the escrow.
    async fn earn(self: Arc<Self>, till: Arc<Till>) {
        let mut ticks = tokio::time::interval(EARN_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut released = U256::ZERO;
        loop {
            ticks.tick().await;
            if let Err(e) = self.earn_once(&till, &mut released).await {
                warn!("earnings: {e:#}");
            }
        }
    }

    async fn earn_once(&self, till: &Till, released: &mut U256) -> anyhow::Result<()> {
        let escrow = self.network.contracts.escrow;
        let posted = self.posted.load(Ordering::Acquire);
        if posted > 0
            && let Some(call) = till.settlement(posted).await?
        {
            self.court.send_call(Call::new(escrow, call).called("settle")).await?;
            info!("took what clients have promised");
        }
        let node = self.court.me();
        // Bonds of those who were wrong about this node. Both judges keep their books in the same way.
        for judge in [self.network.contracts.disputes, self.network.contracts.jury] {
            if !self.rpc.view(judge, &Disputes::balancesCall { owner: node }).await?.is_zero() {
                self.court.send(judge, U256::ZERO, Disputes::withdrawCall {}).await?;
            }
        }
        let reserve = self.rpc.view(escrow, &Escrow::reservesCall { node }).await?;
        if reserve > self.rpc.view(escrow, &Escrow::holdsCall { node }).await? {
            self.court.send(escrow, U256::ZERO, Escrow::releaseReserveCall { node }).await?;
        }
        let count = self.rpc.view(escrow, &Escrow::bucketCountCall { node }).await?;
        let time = self.rpc.block_time().await?;
        while *released < count {
            let bucket = self.rpc.view(escrow, &Escrow::bucketOfCall { node, index: *released }).await?;
            if bucket.amount > 0 && time < bucket.releaseAt {
                break;
            }
            if bucket.amount > 0 {
                let call = Escrow::releaseCall { node, index: *released };
                self.court.send(escrow, U256::ZERO, call).await?;
                info!(wei = bucket.amount, "earned");
            }
            *released += U256::from(1);
        }
        Ok(())
    }
}
