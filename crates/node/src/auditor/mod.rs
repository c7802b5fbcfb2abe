//! `og audit`: computes answers again that it is drawn for, gives verdicts, disputes what is wrong, and sits in juries.

mod fetch;
mod juror;
mod rounds;

use crate::{
    court::{
        Court, call_of, case,
        games::{Ended, Games, Prepare},
    },
    files,
};
use anyhow::{Context as _, ensure};
use client::{
    RpcClient,
    contracts::{Auditors, Audits, Disputes},
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
    time::Duration,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use types::{Address, B256, Claim, Disclosure, U256, keccak256};
use wallet::{Account, Config, Wallet};

/// How often the ledger is read.
const TICK: Duration = Duration::from_millis(400);

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
    /// Answers that are or were disputed, by receipt id: what games are played with.
    pub(crate) cases: Mutex<HashMap<B256, Refuted>>,
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

    pub(crate) fn note(&self, refuted: Refuted) {
        let id = refuted.answer.receipt.claim.receipt_id().0;
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).insert(id, refuted);
    }

    pub(crate) fn case(&self, id: &B256) -> Option<Refuted> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
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
    join(&court, config.stake_wei).await?;
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()?;
    let bench = Arc::new(Bench { court, genesis, models, http, secret, cases: Mutex::default() });
    let rounds = Rounds::open(bench.clone(), &config.data_dir.join("verdicts.redb"))?;
    let juror = Juror::new(bench.clone());
    // Each has its own pace: nobody waits for another's transactions.
    let tasks = vec![tokio::spawn(audit(rounds)), tokio::spawn(judge(juror)), tokio::spawn(dispute(bench))];
    info!(auditor = %address, "an auditor is ready");
    Ok(RunningAuditor { address, tasks })
}

/// Stakes, unless that was done before.
async fn join(court: &Court, stake: U256) -> anyhow::Result<()> {
    let (me, auditors) = (court.me(), court.network.contracts.auditors);
    let known = court.rpc.view(auditors, &Auditors::auditorInfoCall { auditor: me }).await?;
    if !known.stake.is_zero() {
        ensure!(known.exitAt == 0, "auditor {me} has left; withdraw its stake and use a new folder");
        return Ok(());
    }
    let balance = court.rpc.balance(me).await?;
    ensure!(
        balance > stake,
        "auditor {me} has {balance} wei, but needs a stake of {stake} and some wei for fees; send it coins first"
    );
    court
        .send_call(call_of(auditors, &Auditors::joinCall {}).with_value(stake).within(START_MAX))
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
            let known = bench.case(&claim.receipt_id().0).context("an answer that was not looked at")?;
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
        && let Some(case) = bench.case(&game.receipt)
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
