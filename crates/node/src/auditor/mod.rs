//! `og audit`: computes answers again that it is drawn for, gives verdicts, disputes what is wrong, and sits in juries.

mod bring;
mod draw;
mod fetch;
mod juror;
mod look;
mod patience;
mod rounds;
mod store;

use crate::{
    court::{
        Court, call_of, case,
        games::{Ended, Games, Prepare},
    },
    files,
};
use anyhow::{Context as _, ensure};
use bring::Faults;
use client::{
    ClientError, RpcClient,
    contracts::{Auditors, Audits, Canaries, Disputes, Jury},
    light,
};
use engine::Model;
use fetch::Answer;
use juror::Juror;
use rounds::Rounds;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::Store;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
};
use tracing::{info, warn};
use types::{Address, B256, Claim, Disclosure, U256, keccak256};
use wallet::{Account, Config, Wallet};

/// How often the ledger is read.
const TICK: Duration = Duration::from_millis(400);
/// Most models of an auditor (the contract's bound).
const MODELS_MAX: usize = 64;
/// How often answers that nobody can ask for any more are deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// Requests at once to one node: a slow one keeps nobody from looking at the others.
const NODE_PLACES: usize = 4;
/// Answers that are computed at once.
const COMPUTE_PLACES: usize = 2;
/// How long an answer of some node shows that this machine is online.
const ONLINE: Duration = Duration::from_secs(60);

/// How long the transactions of the start are tried before the user is told.
const START_MAX: Duration = Duration::from_secs(60);

/// How an auditor is run.
pub(crate) struct AuditorConfig {
    pub(crate) rpc_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) stake_wei: U256,
}

/// A running auditor.
pub(crate) struct RunningAuditor {
    pub(crate) address: Address,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for RunningAuditor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// An answer that this auditor refutes, with the place of its receipt.
#[derive(Clone, Debug)]
pub(crate) struct Refuted {
    pub(crate) node: Address,
    pub(crate) size: u64,
    pub(crate) index: u64,
    pub(crate) answer: Answer,
}

/// What the parts share.
pub(crate) struct Bench {
    pub(crate) court: Court,
    pub(crate) genesis: B256,
    pub(crate) models: Vec<Arc<Model>>,
    pub(crate) http: reqwest::Client,
    pub(crate) secret: B256,
    /// What must outlive a crash, also answers that are or may be disputed: what games are played with.
    pub(crate) store: Store,
    pub(crate) rules: Rules,
    places: Mutex<HashMap<Address, Arc<Semaphore>>>,
    computing: Semaphore,
    /// When some node answered last.
    online: Mutex<Option<Instant>>,
}

/// Times of the contracts, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) reveal_seconds: u64,
    pub(crate) back_seconds: u64,
    pub(crate) jury_reveal_seconds: u64,
    /// How long an answer may have to be defended.
    pub(crate) keep_seconds: u64,
}

impl Rules {
    async fn read(court: &Court) -> Result<Self, ClientError> {
        let (rpc, contracts) = (&court.rpc, court.network.contracts);
        let canaries = rpc.view(contracts.audits, &Audits::CANARIESCall {}).await?;
        let reveal_seconds = rpc.view(contracts.audits, &Audits::REVEAL_SECONDSCall {}).await?;
        // A node accuses auditors until then, and the game takes its time.
        let accused = rpc.view(canaries, &Canaries::CANARY_SECONDSCall {}).await?;
        Ok(Self {
            reveal_seconds,
            back_seconds: rpc.view(contracts.audits, &Audits::BACK_SECONDSCall {}).await?,
            jury_reveal_seconds: rpc.view(contracts.jury, &Jury::REVEAL_SECONDSCall {}).await?,
            keep_seconds: 2 * reveal_seconds + accused + court.network.game_seconds,
        })
    }

    /// How long to wait before a fault is taken to its judge again.
    fn pause(&self) -> Duration {
        (Duration::from_secs(self.back_seconds) / 16).clamp(Duration::from_secs(1), Duration::from_secs(60))
    }
}

/// A verdict, by the numbers of the contract `Audits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// This machine computed the same.
    Right = 0,
    /// Tokens or trace are wrong: the referee will say so.
    WrongComputation = 1,
    /// Prompt, counts, price or text do not follow from the request: a jury will say so.
    WrongText = 2,
    /// The node does not show what it must.
    Withheld = 3,
}

impl Bench {
    pub(crate) fn me(&self) -> Address {
        self.court.me()
    }

    /// Computes an answer again. `None` when the model is not here.
    pub(crate) async fn judge(
        &self,
        claim: Claim,
        disclosed: Disclosure,
    ) -> anyhow::Result<Option<(Verdict, String)>> {
        let Some(model) = self.models.iter().find(|m| m.id().0 == claim.model).cloned() else {
            return Ok(None);
        };
        let judged = tokio::task::spawn_blocking(move || case::judge(&model, &claim, &disclosed)).await?;
        Ok(Some(match judged {
            Ok(()) => (Verdict::Right, String::new()),
            Err(crate::replay::Difference::Computation(words)) => (Verdict::WrongComputation, words),
            Err(crate::replay::Difference::Text(words)) => (Verdict::WrongText, words),
        }))
    }

    /// Keeps an answer as long as it may have to be attacked or defended.
    fn note(&self, known: &Refuted) -> anyhow::Result<()> {
        self.store.save_case(known, crate::inference::now_ms() / 1000 + self.rules.keep_seconds)
    }

    /// Places for requests to a node.
    fn fetch_place(&self, node: Address) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses are forgotten, so that the map grows with nodes at work only.
        places.retain(|_, place| Arc::strong_count(place) > 1);
        places.entry(node).or_insert_with(|| Arc::new(Semaphore::new(NODE_PLACES))).clone()
    }

    /// A turn to compute; it is free again when it is dropped.
    async fn compute_place(&self) -> Option<SemaphorePermit<'_>> {
        self.computing.acquire().await.ok()
    }

    /// Some node answered.
    fn answered(&self) {
        *self.online.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether some node answered lately: then this machine reaches others.
    fn is_online(&self) -> bool {
        self.online.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < ONLINE)
    }
}

/// Starts an auditor with the models that it can check.
pub(crate) async fn start(config: AuditorConfig, models: Vec<Arc<Model>>) -> anyhow::Result<RunningAuditor> {
    files::private_dir(&config.data_dir)?;
    let secret = B256::from(files::secret(&config.data_dir.join("auditor.key"), rand::random::<[u8; 32]>)?);
    let rpc = RpcClient::new(&config.rpc_url);
    let info = rpc.network().await?;
    let genesis = keccak256(&info.genesis_header);
    light::check_network(&info.network, &info.genesis_header, genesis).map_err(anyhow::Error::msg)?;
    let wallet = Config::new(Account::new(secret)?, info.network.chain_id);
    let wallet = Wallet::open(wallet.kept_in(config.data_dir.join("calls.redb")), Arc::new(rpc.clone()))?;
    let address = wallet.address();
    let court = Court::new(rpc, info.network, wallet);
    join(&court, config.stake_wei, &models).await?;
    let rules = Rules::read(&court).await.context("reading the rules of audits")?;
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()?;
    let store = Store::open(&config.data_dir.join("verdicts.redb"))?;
    let bench = Arc::new(Bench {
        court,
        genesis,
        models,
        http,
        secret,
        store,
        rules,
        places: Mutex::default(),
        computing: Semaphore::new(COMPUTE_PLACES),
        online: Mutex::default(),
    });
    // Each has its own pace: nobody waits for another's transactions.
    let tasks = vec![
        tokio::spawn(audit(Rounds::new(bench.clone()))),
        tokio::spawn(bring(Faults::new(bench.clone()))),
        tokio::spawn(judge(Juror::new(bench.clone()))),
        tokio::spawn(forget(bench.clone())),
        tokio::spawn(dispute(bench)),
    ];
    info!(auditor = %address, "an auditor is ready");
    Ok(RunningAuditor { address, tasks })
}

/// Stakes, unless that was done before, and registers the models that are here and no others.
async fn join(court: &Court, stake: U256, models: &[Arc<Model>]) -> anyhow::Result<()> {
    let ids: Vec<B256> = models.iter().map(|m| m.id().0).collect();
    ensure!(ids.len() <= MODELS_MAX, "an auditor registers at most {MODELS_MAX} models");
    let (me, auditors) = (court.me(), court.network.contracts.auditors);
    let known = court.rpc.view(auditors, &Auditors::auditorInfoCall { auditor: me }).await?;
    if !known.stake.is_zero() {
        ensure!(known.exitAt == 0, "auditor {me} has left; withdraw its stake and use a new folder");
        let old = court.rpc.view(auditors, &Auditors::modelsOfCall { auditor: me }).await?;
        let gone: Vec<B256> = old.iter().copied().filter(|id| !ids.contains(id)).collect();
        if !gone.is_empty() {
            let call = Auditors::removeModelsCall { models: gone };
            court
                .send_call(call_of(auditors, &call).within(START_MAX))
                .await
                .context("ending the duty for models that are not here")?;
        }
        let new: Vec<B256> = ids.into_iter().filter(|id| !old.contains(id)).collect();
        if !new.is_empty() {
            let call = Auditors::addModelsCall { models: new };
            let call = call_of(auditors, &call).within(START_MAX);
            court.send_call(call).await.context("registering the models")?;
        }
        return Ok(());
    }
    let balance = court.rpc.balance(me).await?;
    ensure!(
        balance > stake,
        "auditor {me} has {balance} wei, but needs a stake of {stake} and some wei for fees; send it coins first"
    );
    court
        .send_call(call_of(auditors, &Auditors::joinCall { models: ids }).with_value(stake).within(START_MAX))
        .await
        .context("joining (is the stake at least the minimum?)")?;
    Ok(())
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

async fn audit(mut rounds: Rounds) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        if let Err(e) = rounds.step().await {
            warn!("audits: {e:#}");
        }
    }
}

async fn bring(mut faults: Faults) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        if let Err(e) = faults.step().await {
            warn!("faults: {e:#}");
        }
    }
}

async fn forget(bench: Arc<Bench>) {
    let mut ticks = tokio::time::interval(FORGET_INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(e) = bench.store.forget(crate::inference::now_ms() / 1000) {
            warn!("old answers were not deleted: {e:#}");
        }
    }
}

async fn judge(mut juror: Juror) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        if let Err(e) = juror.step().await {
            warn!("juries: {e:#}");
        }
    }
}

async fn dispute(bench: Arc<Bench>) {
    let mut games: Option<Games> = None;
    let prepare: Arc<Prepare<'static>> = {
        let bench = bench.clone();
        Arc::new(move |claim: &Claim, defend: bool| {
            let known =
                bench.store.case(&claim.receipt_id().0)?.context("an answer that was not looked at")?;
            let model =
                bench.models.iter().find(|m| m.id().0 == claim.model).context("no such model here")?;
            let disclosed = known.answer.disclosure.context("an answer that was not shown")?;
            case::player(model, claim, &disclosed, defend)
        })
    };
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        if games.is_none() {
            match bench.court.rpc.block_number().await {
                Ok(head) => games = Some(Games::new(bench.court.clone(), head)),
                Err(e) => warn!("cannot read the newest block: {e}"),
            }
        }
        let Some(games) = &mut games else { continue };
        match games.step(prepare.clone()).await {
            Ok(ended) => {
                for game in ended {
                    if let Err(e) = settle(&bench, game).await {
                        warn!("after a dispute: {e:#}");
                    }
                }
            }
            Err(e) => warn!("disputes: {e:#}"),
        }
    }
}

/// After a game: takes the bond and bounty, and reports who had called the answer right.
async fn settle(bench: &Bench, game: Ended) -> anyhow::Result<()> {
    let contracts = bench.court.network.contracts;
    let me = bench.me();
    if game.challenger
        && game.node_lost
        && let Some(case) = bench.store.case(&game.receipt)?
    {
        report_lazy(bench, &case).await?;
    }
    let owed = bench.court.rpc.view(contracts.disputes, &Disputes::balancesCall { owner: me }).await?;
    if !owed.is_zero() {
        bench.court.send(contracts.disputes, U256::ZERO, Disputes::withdrawCall {}).await?;
        info!(wei = %owed, "a dispute paid");
    }
    Ok(())
}

/// Whoever called this answer right did not look.
async fn report_lazy(bench: &Bench, case: &Refuted) -> anyhow::Result<()> {
    use alloy_sol_types::SolEvent as _;
    let contracts = bench.court.network.contracts;
    let head = bench.court.rpc.block_number().await?;
    let topics = [Audits::Revealed::SIGNATURE_HASH];
    let from = head.saturating_sub(9_999);
    for first in (from..=head).step_by(1000) {
        let last = head.min(first + 999);
        for log in bench.court.rpc.logs(contracts.audits, &topics, first, last).await? {
            let Some(e) = log.decode::<Audits::Revealed>() else { continue };
            let mut verdicts = e.indices.iter().zip(&e.verdicts);
            let right = verdicts.any(|(i, v)| (*i, *v) == (case.index, Verdict::Right as u8));
            if (e.node, e.size) == (case.node, case.size) && right {
                let call = Audits::reportLazyCall {
                    node: case.node,
                    size: case.size,
                    index: case.index,
                    auditor: e.auditor,
                    logged: case.answer.logged()?,
                };
                match bench.court.send(contracts.audits, U256::ZERO, call).await {
                    Ok(_) => info!(auditor = %e.auditor, "reported an auditor that had not looked"),
                    Err(e) => warn!("a lazy auditor was not punished: {e}"),
                }
            }
        }
    }
    Ok(())
}
