//! From a node's checkpoint to verdicts: draw, look, commit, reveal, and go to a judge.

use super::{
    Bench, Refuted, Verdict,
    fetch::{self, Answer, KEPT_BACK_MAX, KeptBack},
};
use alloy_sol_types::{SolEvent as _, SolValue as _};
use anyhow::Context as _;
use client::contracts::{Auditors, Audits, Jury, ReceiptLog};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use referee::Opening;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashSet, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use types::{Address, B256, U256, keccak256};

/// Rounds under way by node and size, as JSON: what was committed must be revealed after a crash too.
const ROUNDS: TableDefinition<'_, ([u8; 20], u64), &[u8]> = TableDefinition::new("rounds");
/// First block that was not looked at.
const NEXT: TableDefinition<'_, (), u64> = TableDefinition::new("next");

/// Blocks between a batch and its draw (the contract's `SEED_DELAY`).
const SEED_DELAY: u64 = 2;
/// One expected draw, in the contract's unit.
const ONE: u64 = 1_000_000;
/// Batches that are looked at at once.
const PLACES: usize = 4;
/// How long to wait before answers that were kept back are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// Most receipts in one round (the contract's bound).
const VERDICTS_MAX: usize = 256;

/// Verdicts on the receipts of one batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Round {
    node: Address,
    size: u64,
    indices: Vec<u64>,
    verdicts: Vec<u8>,
    salt: B256,
    commit_until: u64,
}

/// All rounds of an auditor.
pub(super) struct Rounds {
    bench: Arc<Bench>,
    db: Arc<Database>,
    /// Bounds what is computed at once.
    places: Arc<Semaphore>,
    /// Rounds that are being revealed.
    revealing: Arc<Mutex<HashSet<(Address, u64)>>>,
    /// Batches whose draw is not known yet: node, size, block.
    waiting: VecDeque<(Address, u64, u64)>,
    reveal_seconds: Option<u64>,
}

impl Rounds {
    pub(super) fn open(bench: Arc<Bench>, path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot open {}", path.display());
        let db = Database::builder()
            .create_file(ledger::private_file(path).with_context(failed)?)
            .with_context(failed)?;
        let write = db.begin_write()?;
        write.open_table(ROUNDS)?;
        write.open_table(NEXT)?;
        write.commit()?;
        Ok(Self {
            bench,
            db: Arc::new(db),
            places: Arc::new(Semaphore::new(PLACES)),
            revealing: Arc::default(),
            waiting: VecDeque::new(),
            reveal_seconds: None,
        })
    }

    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        let head = self.bench.court.rpc.block_number().await?;
        self.read(head).await?;
        while let Some((node, size, block)) = self.waiting.front().copied() {
            if head < block + SEED_DELAY {
                break;
            }
            self.waiting.pop_front();
            let (bench, db) = (self.bench.clone(), self.db.clone());
            let places = self.places.clone();
            let since = Instant::now();
            tokio::spawn(async move {
                loop {
                    let Ok(place) = places.acquire().await else { return };
                    match begin(&bench, &db, node, size, since).await {
                        Ok(true) => return,
                        Ok(false) => drop(place),
                        Err(e) => return warn!(%node, size, "a batch could not be audited: {e:#}"),
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        self.reveal().await
    }

    /// New batches.
    async fn read(&mut self, head: u64) -> anyhow::Result<()> {
        let saved = self.db.begin_read()?.open_table(NEXT)?.get(())?.map(|v| v.value());
        // A new auditor cannot be drawn for what was posted before.
        let from = saved.unwrap_or(head);
        if from > head {
            return Ok(());
        }
        let to = head.min(from + 999);
        let log = self.bench.court.network.contracts.receipt_log;
        let topics = [ReceiptLog::CheckpointPosted::SIGNATURE_HASH];
        for entry in self.bench.court.rpc.logs(log, &topics, from, to).await? {
            if let Some(e) = entry.decode::<ReceiptLog::CheckpointPosted>() {
                self.waiting.push_back((e.node, e.size, e.blockNumber));
            }
        }
        let write = self.db.begin_write()?;
        write.open_table(NEXT)?.insert((), to + 1)?;
        write.commit()?;
        Ok(())
    }

    /// Reveals what is due, and takes faults to their judges.
    async fn reveal(&mut self) -> anyhow::Result<()> {
        let bench = self.bench.clone();
        let contracts = bench.court.network.contracts;
        let reveal_seconds = match self.reveal_seconds {
            Some(seconds) => seconds,
            None => bench.court.rpc.view(contracts.audits, &Audits::REVEAL_SECONDSCall {}).await?,
        };
        self.reveal_seconds = Some(reveal_seconds);
        let mut due = Vec::new();
        for entry in self.db.begin_read()?.open_table(ROUNDS)?.iter()? {
            due.push(serde_json::from_slice::<Round>(entry?.1.value())?);
        }
        if due.is_empty() {
            return Ok(());
        }
        let time = bench.court.rpc.block_time().await?;
        for round in due {
            if time <= round.commit_until {
                continue;
            }
            if time > round.commit_until + reveal_seconds {
                warn!(node = %round.node, size = round.size, "verdicts were not revealed in time");
                drop_round(&self.db, &round)?;
                continue;
            }
            let key = (round.node, round.size);
            if !self.revealing.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
                continue;
            }
            let (bench, db, revealing) = (self.bench.clone(), self.db.clone(), self.revealing.clone());
            tokio::spawn(async move {
                let until = round.commit_until + reveal_seconds;
                if let Err(e) = reveal_one(&bench, &db, round, until).await {
                    warn!(node = %key.0, size = key.1, "verdicts: {e:#}");
                }
                revealing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            });
        }
        Ok(())
    }
}

/// Looks at the receipts that we are drawn for, and commits to what we found. False when it is too early: answers are kept back.
async fn begin(
    bench: &Bench,
    db: &Database,
    node: Address,
    size: u64,
    since: Instant,
) -> anyhow::Result<bool> {
    let contracts = bench.court.network.contracts;
    let batch = bench.court.rpc.view(contracts.audits, &Audits::batchOfCall { node, size }).await?;
    let block_number = U256::from(batch.blockNumber - 1);
    let call = Auditors::weightsCall { auditor: bench.me(), blockNumber: block_number };
    let weights = bench.court.rpc.view(contracts.auditors, &call).await?;
    if weights.stake.is_zero() {
        return Ok(true);
    }
    let drawn =
        |index: &u64| is_drawn(batch.seed, *index, bench.me(), batch.rate, weights.stake, weights.total);
    let drawn: Vec<u64> = (batch.first..size).filter(drawn).take(VERDICTS_MAX).collect();
    let mut answers = Vec::new();
    for index in drawn {
        let answer = fetch::answer(bench, node, size, index).await;
        let is_early = answer.as_ref().is_err_and(|e| e.is::<KeptBack>());
        if !is_early || since.elapsed() > KEPT_BACK_MAX {
            answers.push((index, answer));
            continue;
        }
        // The second half of the time is for computing; where times are that short, nothing is said of this one.
        let half = bench.court.rpc.view(contracts.audits, &Audits::REVEAL_SECONDSCall {}).await? / 2;
        if bench.court.rpc.block_time().await? + half < batch.commitUntil {
            return Ok(false);
        }
    }
    let (mut indices, mut verdicts) = (Vec::new(), Vec::new());
    for (index, answer) in answers {
        if let Some(verdict) = look(bench, node, size, index, answer).await? {
            indices.push(index);
            verdicts.push(verdict as u8);
        }
    }
    if indices.is_empty() {
        return Ok(true);
    }
    let salt = B256::from(rand::random::<[u8; 32]>());
    let round = Round { node, size, indices, verdicts, salt, commit_until: batch.commitUntil };
    save(db, &round)?;
    // As words: a list of bytes would be encoded as a byte string.
    let words: Vec<U256> = round.verdicts.iter().map(|v| U256::from(*v)).collect();
    let hash = keccak256((bench.me(), node, size, round.indices.clone(), words, salt).abi_encode_params());
    let call = Audits::commitCall { node, size, hash };
    bench.court.send_by(batch.commitUntil, contracts.audits, U256::ZERO, call).await?;
    info!(%node, size, receipts = round.indices.len(), "committed to verdicts");
    Ok(true)
}

fn save(db: &Database, round: &Round) -> anyhow::Result<()> {
    let write = db.begin_write()?;
    write
        .open_table(ROUNDS)?
        .insert((round.node.into_array(), round.size), serde_json::to_vec(round)?.as_slice())?;
    write.commit()?;
    Ok(())
}

fn drop_round(db: &Database, round: &Round) -> anyhow::Result<()> {
    let write = db.begin_write()?;
    write.open_table(ROUNDS)?.remove((round.node.into_array(), round.size))?;
    write.commit()?;
    Ok(())
}

/// Reveals verdicts and takes faults to their judges.
async fn reveal_one(bench: &Bench, db: &Database, round: Round, until: u64) -> anyhow::Result<()> {
    let audits = bench.court.network.contracts.audits;
    let Round { node, size, indices, verdicts, salt, .. } = round.clone();
    let call = Audits::revealCall { node, size, indices, verdicts, salt };
    match bench.court.send_by(until, audits, U256::ZERO, call).await {
        Ok(_) => info!(%node, size, "revealed verdicts"),
        // It is tried again.
        Err(e) if !e.is_revert() => return Err(e.into()),
        Err(e) => {
            drop_round(db, &round)?;
            return Err(anyhow::Error::from(e).context("they were refused"));
        }
    }
    drop_round(db, &round)?;
    for (index, verdict) in round.indices.iter().zip(&round.verdicts) {
        if *verdict != Verdict::Right as u8
            && let Err(e) = accuse(bench, node, size, *index, *verdict).await
        {
            warn!(%node, index, "a fault was not taken to its judge: {e:#}");
        }
    }
    Ok(())
}

/// The lot of the contract `Sortition`.
fn is_drawn(seed: B256, index: u64, auditor: Address, rate: u32, stake: U256, total: U256) -> bool {
    let hash = keccak256((seed, U256::from(index), auditor).abi_encode());
    let lot = U256::from(u64::from_be_bytes(hash[24..].try_into().unwrap_or_default()));
    lot * total * U256::from(ONE) < (U256::from(rate) * stake) << 64
}

/// Our verdict; `None` when the client showed the answer to nobody, or the model is not here.
async fn look(
    bench: &Bench,
    node: Address,
    size: u64,
    index: u64,
    answer: anyhow::Result<Answer>,
) -> anyhow::Result<Option<Verdict>> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(e) => {
            info!(%node, index, "withheld: {e:#}");
            return Ok(Some(Verdict::Withheld));
        }
    };
    let Some(disclosure) = answer.disclosure.clone() else { return Ok(None) };
    let Some((verdict, words)) = bench.judge(answer.receipt.claim.clone(), disclosure).await? else {
        return Ok(None);
    };
    if verdict != Verdict::Right {
        warn!(%node, index, "a wrong answer: {words}");
    }
    // Also what is right may be disputed later, by others, and then our word counts.
    bench.note(Refuted { node, size, index, answer });
    Ok(Some(verdict))
}

/// Takes a fault to its judge.
async fn accuse(bench: &Bench, node: Address, size: u64, index: u64, verdict: u8) -> anyhow::Result<()> {
    let contracts = bench.court.network.contracts;
    let known = {
        let cases = bench.cases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cases.values().find(|c| (c.node, c.index) == (node, index)).cloned()
    };
    if verdict == Verdict::WrongComputation as u8 {
        let case = known.context("the answer is no longer known")?;
        let claim = case.answer.receipt.claim.clone();
        let model =
            bench.models.iter().find(|m| m.id().0 == claim.model).cloned().context("no such model here")?;
        let disclosed = case.answer.disclosure.clone().context("an answer that was not shown")?;
        let opening = tokio::task::spawn_blocking(move || -> anyhow::Result<Opening> {
            // A claim that contradicts itself needs no computation.
            if claim.computed_price() != Some(claim.price) || claim.completion_tokens > claim.max_tokens {
                return Ok(Opening::Trace);
            }
            let player = crate::court::case::player(&model, &claim, &disclosed, false)?;
            player.allegation().context("this machine computes the same")
        })
        .await??;
        let logged = case.answer.logged()?;
        let receipt = case.answer.receipt.claim.receipt_id().0;
        let place = crate::court::Place { node, size, index, receipt };
        let opened = bench.court.dispute(place, logged.clone(), opening.encode().into()).await;
        opened.context("opening a dispute")?;
        let call = Audits::backCall { node, size, index, logged };
        bench.court.send(contracts.audits, U256::ZERO, call).await.context("showing that it was disputed")?;
        info!(%node, index, "opened a dispute");
        return Ok(());
    }
    // A jury. Who withholds the answer may still show the claim, and then it is named.
    let logged = match &known {
        Some(case) => case.answer.logged()?,
        None => Default::default(),
    };
    let bond = bench.court.rpc.view(contracts.jury, &Jury::BONDCall {}).await?;
    let call = Jury::escalateCall { node, size, index, logged };
    bench.court.send(contracts.jury, bond, call).await.context("calling a jury")?;
    info!(%node, index, "called a jury");
    Ok(())
}
