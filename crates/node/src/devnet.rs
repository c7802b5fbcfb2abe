//! A whole network in one process, with real parts: consensus over encrypted TCP, one ledger a validator, staked nodes, proxy.

use crate::{
    auditor::{self, AuditorConfig, RunningAuditor},
    cli::DevnetArgs,
    files,
    genesis::{self, COIN, NewNetwork, dev_keys},
    network_file::{NetworkFile, Peer},
    node::{self, Node, NodeConfig},
    proxy::{self, RunningProxy},
    validator::{self, Keys, Running, Setup},
};
use anyhow::{Context as _, ensure};
use api::{
    ServeOptions,
    http::{BrowserRules, PeerLimits},
    rpc::RpcConfig,
};
use client::{
    Ceilings,
    proxy::{Payer, ProxyConfig, Replicas},
};
use engine::{Engine, EngineConfig, Model};
use ledger::{Retention, SNAPSHOT_BLOCKS};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use types::{B256, U256, signing};

/// Longest time until the first block.
const FIRST_BLOCK_MAX: Duration = Duration::from_secs(15);
/// Prices of the development nodes, in wei per token.
const PRICE_INPUT: u128 = 1_000_000_000;
const PRICE_OUTPUT: u128 = 2_000_000_000;

/// Oldest newest block that the proxy acts on, in seconds.
const STALE_MAX: u64 = 120;

/// Stake of a development auditor, in coins.
const AUDITOR_STAKE: u128 = 20;

/// Memory for keys and values of each node: they share one machine.
const KV_BYTES: usize = 512 << 20;

/// A running development network. Dropping it stops everything.
pub(crate) struct Devnet {
    /// Addresses, URLs and keys.
    pub(crate) about: Value,
    proxy: Option<RunningProxy>,
    nodes: Vec<Node>,
    auditors: Vec<RunningAuditor>,
    validators: Vec<Running>,
    /// Removes the folder at the end when nobody asked to keep it.
    _temporary: Option<tempfile::TempDir>,
}

/// The sockets of all servers, bound before anything else starts.
struct Sockets {
    rpc: Vec<TcpListener>,
    nodes: Vec<TcpListener>,
    proxy: TcpListener,
    p2p: Vec<SocketAddr>,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn ports(first: u16, n: u16, flag: &str) -> anyhow::Result<Vec<u16>> {
    if first == 0 {
        return Ok(vec![0; n.into()]);
    }
    ensure!(
        first.checked_add(n - 1).is_some(),
        "{n} ports from {first} on do not exist; choose a lower {flag}"
    );
    Ok((first..=first + (n - 1)).collect())
}

impl Sockets {
    fn bind(args: &DevnetArgs) -> anyhow::Result<Self> {
        let bind = |first, n, what, flag| -> anyhow::Result<Vec<TcpListener>> {
            let bound = ports(first, n, flag)?.into_iter().map(|p| api::bind(local(p), what, flag));
            Ok(bound.collect::<Result<_, _>>()?)
        };
        let rpc = bind(args.rpc_port, args.validators, "JSON-RPC", "--rpc-port")?;
        let nodes = bind(args.node_port, args.nodes, "inference node", "--node-port")?;
        let proxy = api::bind(local(args.proxy_port), "proxy", "--proxy-port")?;
        // The consensus network binds for itself; this finds a taken port early, with a clear message.
        let probes = bind(args.p2p_port, args.validators, "peer-to-peer", "--p2p-port")?;
        let p2p = probes.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        Ok(Self { rpc, nodes, proxy, p2p })
    }
}

fn url(listener: &TcpListener) -> anyhow::Result<String> {
    Ok(format!("http://{}", listener.local_addr()?))
}

/// Starts a network.
pub(crate) async fn start(args: &DevnetArgs) -> anyhow::Result<Devnet> {
    let began = Instant::now();
    let rules = args.browser.rules()?;
    let sockets = Sockets::bind(args)?;
    let model = crate::commands::load_model(args.model.as_deref())?;
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("og-devnet-").tempdir()?),
    };
    let dir = args.data.clone().or_else(|| temporary.as_ref().map(|t| t.path().to_owned()));
    let dir = dir.context("no data folder")?;
    files::private_dir(&dir)?;
    let keys: Vec<_> = (0..usize::from(args.validators))
        .map(|i| Keys::open(&validator_dir(&dir, i)))
        .collect::<Result<_, _>>()?;
    let file = load_or_create(&dir, args, &keys)?;

    let mut devnet = Devnet {
        about: Value::Null,
        proxy: None,
        nodes: vec![],
        auditors: vec![],
        validators: vec![],
        _temporary: temporary,
    };
    let rpc_urls = sockets.rpc.iter().map(url).collect::<anyhow::Result<Vec<_>>>()?;
    let peers: Vec<_> = keys
        .iter()
        .zip(&sockets.p2p)
        .map(|(k, address)| Peer { key: k.validator.peer(), address: *address })
        .collect();
    for (i, (keys, rpc)) in keys.into_iter().zip(sockets.rpc).enumerate() {
        let setup = Setup {
            dir: validator_dir(&dir, i),
            keys,
            listen: sockets.p2p[i],
            announce: sockets.p2p[i],
            peers: peers.clone(),
            peers_max: usize::from(args.validators) * 2,
            retention: Retention::Full,
            snapshot_every: SNAPSHOT_BLOCKS,
            rpc,
            rpc_config: RpcConfig { browser: rules.clone(), ..RpcConfig::default() },
        };
        devnet.validators.push(validator::start(setup, &file).with_context(|| format!("validator {i}"))?);
    }
    devnet.wait_for_blocks().await?;
    let node_urls = sockets.nodes.iter().map(url).collect::<anyhow::Result<Vec<_>>>()?;
    devnet.start_nodes(&dir, &model, sockets.nodes, &rpc_urls, &rules).await?;
    let auditors = devnet.start_auditors(&dir, &model, args.auditors, &rpc_urls).await?;
    let proxy_url = url(&sockets.proxy)?;
    // The proxy's user is the last of the well-known accounts.
    let payer = dev_keys()?.last().map(|k| Payer { secret: k.secret, deposit: U256::from(COIN) });
    let config = ProxyConfig {
        rpc_urls: rpc_urls.clone(),
        network: Some(devnet.genesis()),
        data_dir: dir.join("proxy"),
        release_verified: false,
        payer,
        ceilings: Ceilings::default(),
        names: Default::default(),
        stale_max: Duration::from_secs(STALE_MAX),
        idle_max: Duration::from_secs(120),
        replicas: Replicas::default(),
    };
    let running = proxy::start(
        config,
        sockets.proxy,
        ServeOptions { browser: rules.clone(), ..ServeOptions::default() },
    )
    .await?;
    let paying = running.proxy.clone();
    tokio::spawn(async move {
        if let Err(e) = paying.fill_pockets().await {
            tracing::warn!("the proxy could not deposit coins: {e}");
        }
    });
    devnet.proxy = Some(running);
    let keys: Vec<_> = dev_keys()?
        .iter()
        .map(|k| json!({"address": k.address.to_string(), "private_key": k.secret}))
        .collect();
    let c = file.network.contracts;
    devnet.about = json!({
        "chain_id": file.network.chain_id,
        "network": devnet.genesis(),
        "rpc_url": rpc_urls[0],
        "rpc_urls": rpc_urls,
        "proxy_url": proxy_url,
        "node_urls": node_urls,
        "nodes": devnet.nodes.iter().map(|n| n.address.to_string()).collect::<Vec<_>>(),
        "auditors": auditors,
        "model": {"name": model.manifest().name, "id": model.id()},
        "keys": keys,
        "contracts": {
            "ModelRegistry": c.model_registry.to_string(), "NodeRegistry": c.node_registry.to_string(), "ReceiptLog": c.receipt_log.to_string(),
            "WrappedNative": c.wrapped_native.to_string(), "Staking": c.staking.to_string(),
            "Beacon": c.beacon.to_string(), "Auditors": c.auditors.to_string(), "Audits": c.audits.to_string(),
            "Disputes": c.disputes.to_string(), "Jury": c.jury.to_string(), "Escrow": c.escrow.to_string(),
        },
        "data": dir,
        "ready_after_ms": began.elapsed().as_millis() as u64,
    });
    if let Some(path) = &args.ready_file {
        files::write(path, format!("{:#}\n", devnet.about).as_bytes(), 0o600)?;
    }
    Ok(devnet)
}

fn validator_dir(dir: &Path, i: usize) -> PathBuf {
    dir.join("validators").join(i.to_string())
}

fn node_dir(dir: &Path, i: usize) -> PathBuf {
    dir.join("nodes").join(i.to_string())
}

fn auditor_dir(dir: &Path, i: usize) -> PathBuf {
    dir.join("auditors").join(i.to_string())
}

/// The network of the folder, or a new one.
fn load_or_create(dir: &Path, args: &DevnetArgs, keys: &[Keys]) -> anyhow::Result<NetworkFile> {
    let path = dir.join("network.json");
    if path.exists() {
        let saved = NetworkFile::read(&path)?;
        let n = &saved.network;
        let same = (n.chain_id, n.block_time_ms, n.epoch_blocks, n.validators.len())
            == (args.chain_id, args.block_time, args.epoch(), usize::from(args.validators));
        ensure!(
            same,
            "the folder {} holds a network with --chain-id {} --block-time {} --epoch-blocks {} --validators {}; start it \
             with those",
            dir.display(),
            n.chain_id,
            n.block_time_ms,
            n.epoch_blocks,
            n.validators.len()
        );
        let trust = args.trust();
        ensure!(
            (n.window_seconds, n.game_seconds) == (trust.window_seconds, trust.game_seconds()),
            "the folder {} holds a network with other --rules or another --time-scale: disputes take {} s there",
            dir.display(),
            n.window_seconds
        );
        return Ok(saved);
    }
    let rich = U256::from(1_000_000 * COIN);
    let mut funded: Vec<_> = dev_keys()?.iter().map(|k| (k.address, rich)).collect();
    for i in 0..usize::from(args.nodes) {
        let dir = node_dir(dir, i);
        files::private_dir(&dir)?;
        let secret = files::secret(&dir.join("node.key"), rand::random::<[u8; 32]>)?;
        funded.push((signing::address_of(&B256::from(secret))?, rich));
    }
    for i in 0..usize::from(args.auditors) {
        let dir = auditor_dir(dir, i);
        files::private_dir(&dir)?;
        let secret = files::secret(&dir.join("auditor.key"), rand::random::<[u8; 32]>)?;
        funded.push((signing::address_of(&B256::from(secret))?, rich));
    }
    let mut validators = vec![];
    for keys in keys {
        let operator = keys.operator()?;
        funded.push((operator, validator::operator_funds()));
        validators.push((operator, keys.validator.public(args.chain_id)));
    }
    let new = NewNetwork {
        chain_id: args.chain_id,
        block_time_ms: args.block_time,
        epoch_blocks: args.epoch(),
        timestamp: crate::inference::now_ms() / 1000,
        validators,
        funded,
        staking: genesis::scaled_staking(genesis::staking_rules(), args.time_scale),
        trust: args.trust(),
    };
    let (genesis, network) = new.build()?;
    // The peers' ports change from run to run, so they are not in this file.
    let file = NetworkFile { network, genesis, peers: vec![] };
    file.write(&path)?;
    Ok(file)
}

impl Devnet {
    fn genesis(&self) -> B256 {
        self.validators[0].chain.genesis().hash()
    }

    /// Waits until the network makes blocks.
    async fn wait_for_blocks(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + FIRST_BLOCK_MAX;
        let start = self.validators[0].chain.head().number();
        while self.validators[0].chain.head().number() < start + 2
            || self.validators[0].chain.certified()?.is_none()
        {
            self.check()?;
            ensure!(Instant::now() < deadline, "the validators made no block within {FIRST_BLOCK_MAX:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Fails when a validator has failed.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (i, validator) in self.validators.iter().enumerate() {
            validator.check().with_context(|| format!("validator {i}"))?;
        }
        Ok(())
    }

    async fn start_nodes(
        &mut self,
        dir: &Path,
        model: &Arc<Model>,
        listeners: Vec<TcpListener>,
        rpc_urls: &[String],
        rules: &BrowserRules,
    ) -> anyhow::Result<()> {
        let mut starting = tokio::task::JoinSet::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let config = NodeConfig {
                rpc_url: rpc_urls[i % rpc_urls.len()].clone(),
                data_dir: node_dir(dir, i),
                endpoint: url(&listener)?,
                stake_wei: U256::from(100 * COIN),
                price_input: PRICE_INPUT,
                price_output: PRICE_OUTPUT,
                require_payment: false,
                browser: rules.clone(),
                limits: PeerLimits::default(),
            };
            let engine =
                Engine::new(model.clone(), EngineConfig { kv_bytes: KV_BYTES, ..EngineConfig::default() })?;
            starting.spawn(async move { (i, node::start(config, engine, listener).await) });
        }
        let mut started = starting.join_all().await;
        started.sort_by_key(|(i, _)| *i);
        for (i, node) in started {
            self.nodes.push(node.with_context(|| format!("node {i}"))?);
        }
        Ok(())
    }

    /// Starts auditors; their addresses.
    async fn start_auditors(
        &mut self,
        dir: &Path,
        model: &Arc<Model>,
        count: u16,
        rpc_urls: &[String],
    ) -> anyhow::Result<Vec<String>> {
        let mut starting = tokio::task::JoinSet::new();
        for i in 0..usize::from(count) {
            let config = AuditorConfig {
                rpc_url: rpc_urls[i % rpc_urls.len()].clone(),
                data_dir: auditor_dir(dir, i),
                stake_wei: U256::from(AUDITOR_STAKE * COIN),
            };
            let models = vec![model.clone()];
            starting.spawn(async move { (i, auditor::start(config, models).await) });
        }
        let mut started = starting.join_all().await;
        started.sort_by_key(|(i, _)| *i);
        for (i, auditor) in started {
            self.auditors.push(auditor.with_context(|| format!("auditor {i}"))?);
        }
        Ok(self.auditors.iter().map(|a| a.address.to_string()).collect())
    }

    /// Stops everything, servers first.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.proxy = None;
        self.auditors.clear();
        self.nodes.clear();
        for validator in self.validators.drain(..) {
            validator.stop()?;
        }
        Ok(())
    }
}
