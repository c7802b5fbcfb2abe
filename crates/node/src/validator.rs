//! One validator: keys, ledger, consensus, JSON-RPC, and what it does by itself.

use crate::{
    chain_port::ChainPort,
    court::call_of,
    files,
    genesis::staking_rules,
    lane,
    network_file::{NetworkFile, Peer},
    own_chain::OwnChain,
};
use anyhow::{bail, ensure};
use api::rpc::{RpcConfig, RpcServer};
use client::contracts::Staking;
use consensus::{Chain, ChainOptions, Validator, ValidatorConfig, ValidatorSecret};
use ledger::{Retention, Store};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use types::{Address, B256, U256};
use wallet::{Account, Config, Wallet};

/// How often a validator looks for evidence that it has seen.
const EVIDENCE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a report is tried: an hour, far less than a stake is bound.
const EVIDENCE_MAX: Duration = Duration::from_secs(3600);

/// The secrets of a validator: its own keys, and the account that owns its stake.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) validator: ValidatorSecret,
    pub(crate) operator: B256,
}

impl Keys {
    /// Reads the keys in `dir`, making them on first use.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        files::private_dir(dir)?;
        let bytes = files::secret(&dir.join("validator.key"), || ValidatorSecret::generate().to_bytes())?;
        let operator = files::secret(&dir.join("operator.key"), rand::random::<[u8; 32]>)?;
        Ok(Self { validator: ValidatorSecret::from_bytes(&bytes)?, operator: B256::from(operator) })
    }

    pub(crate) fn operator(&self) -> anyhow::Result<Address> {
        Ok(types::signing::address_of(&self.operator)?)
    }
}

/// Peers of one epoch that a validator is ready for unless told otherwise.
pub(crate) const PEERS_MAX: usize = 64;

/// How a validator is run.
pub(crate) struct Setup {
    pub(crate) dir: PathBuf,
    pub(crate) keys: Keys,
    pub(crate) listen: SocketAddr,
    pub(crate) announce: SocketAddr,
    pub(crate) peers: Vec<Peer>,
    pub(crate) peers_max: usize,
    pub(crate) retention: Retention,
    /// Blocks between two snapshots.
    pub(crate) snapshot_every: u64,
    pub(crate) rpc: TcpListener,
    pub(crate) rpc_config: RpcConfig,
}

/// A running validator. Dropping it stops everything.
pub(crate) struct Running {
    pub(crate) chain: Arc<Chain>,
    /// Owner of the stake.
    pub(crate) operator: Address,
    validator: Option<Validator>,
    server: Option<RpcServer>,
    evidence: JoinHandle<()>,
}

/// Opens the ledger in `dir`.
pub(crate) fn open_chain(
    dir: &Path,
    file: &NetworkFile,
    fee_recipient: Address,
    retention: Retention,
    snapshot_every: u64,
) -> anyhow::Result<Arc<Chain>> {
    files::private_dir(dir)?;
    let store = Arc::new(Store::open(dir, retention)?.with_snapshots_every(snapshot_every));
    let options = ChainOptions { fee_recipient, background: true };
    let chain = Chain::open(&file.genesis, file.network.clone(), store, options)?;
    Ok(Arc::new(chain.with_lane(lane::rules(&file.network.contracts))))
}

/// Starts a validator on the ledger in its folder.
pub(crate) fn start(setup: Setup, file: &NetworkFile) -> anyhow::Result<Running> {
    let chain = open_chain(&setup.dir, file, setup.keys.operator()?, setup.retention, setup.snapshot_every)?;
    let me = setup.keys.validator.peer();
    let peers = setup.peers.iter().filter(|p| p.key != me).map(|p| (p.key, p.address)).collect();
    let config = ValidatorConfig {
        secret: setup.keys.validator.clone(),
        listen: setup.listen,
        announce: setup.announce,
        peers,
        peers_max: setup.peers_max,
        data_dir: setup.dir.join("consensus"),
    };
    let validator = Validator::start(config, chain.clone())?;
    let port = Arc::new(ChainPort::new(chain.clone()));
    let wallet = Config::new(Account::new(setup.keys.operator)?, file.network.chain_id);
    let wallet =
        Wallet::open(wallet.kept_in(setup.dir.join("calls.redb")), Arc::new(OwnChain(port.clone())))?;
    let server = api::rpc::serve(setup.rpc, port, setup.rpc_config)?;
    let evidence = tokio::spawn(report_evidence(chain.clone(), wallet));
    let operator = setup.keys.operator()?;
    Ok(Running { chain, operator, validator: Some(validator), server: Some(server), evidence })
}

impl Running {
    /// Fails when the validator has failed.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(why) = self.chain.failure() {
            bail!("it stopped: {why}");
        }
        let running = self.validator.as_ref().is_some_and(Validator::is_running);
        ensure!(running, "it stopped; see the log");
        Ok(())
    }

    /// Calls of its JSON-RPC server that execute something: how many run, and how many wait.
    pub(crate) fn rpc_load(&self) -> (usize, usize) {
        self.server.as_ref().map_or((0, 0), RpcServer::load)
    }

    /// Stops the servers, then the validator, and writes what is only in memory.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.evidence.abort();
        if let Some(server) = self.server.take() {
            server.stop();
        }
        match self.validator.take() {
            Some(validator) => Ok(validator.stop()?),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.evidence.abort();
    }
}

/// Takes evidence of equivocation to the staking contract, for the reward.
async fn report_evidence(chain: Arc<Chain>, wallet: Wallet) {
    let mut ticks = tokio::time::interval(EVIDENCE_INTERVAL);
    loop {
        ticks.tick().await;
        while let Some(evidence) = chain.take_evidence() {
            let (epoch, view) = (evidence.epoch, evidence.view);
            let call = Staking::reportEquivocationCall { evidence: evidence.encode().into() };
            let call = call_of(chain.network().contracts.staking, &call).within(EVIDENCE_MAX);
            match wallet.submit(call).await {
                Ok(ticket) => drop(tokio::spawn(async move {
                    match ticket.wait().await {
                        Ok(done) => info!(hash = %done.hash, epoch, view, "reported an equivocation"),
                        // Who reports it first gets the reward.
                        Err(e) => warn!(epoch, view, "an equivocation was not reported: {e}"),
                    }
                })),
                Err(e) => {
                    warn!(epoch, view, "cannot report an equivocation: {e}; trying again");
                    chain.keep_evidence(evidence);
                    break;
                }
            }
        }
    }
}

/// What a validator needs at least: stake and some coins for fees.
pub(crate) fn operator_funds() -> U256 {
    staking_rules().min_stake * U256::from(10)
}
