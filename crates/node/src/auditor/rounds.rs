//! From a node's checkpoint to verdicts: draw, look, commit, reveal, and go to a judge.

use super::{
    Bench, Refuted, Verdict,
    fetch::{self, Answer, KEPT_BACK_MAX, KeptBack},
};
use alloy_sol_types::{SolEvent as _, SolValue as _};
use anyhow::Context as _;
use client::{
    ClientError,
    contracts::{Auditors, Audits, Disputes, Jury, ReceiptLog},
};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use referee::Opening;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, path::Path, sync::Arc, time::Instant};
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

/// A batch of receipts that was posted.
#[derive(Clone, Copy)]
struct Batch {
    node: Address,
    size: u64,
    block: u64,
    /// When we read of it.
    since: Instant,
}

/// All rounds of an auditor.
pub(super) struct Rounds {
    bench: Arc<Bench>,
    db: Database,
    /// Batches whose draw is not known yet, or whose answers are kept back.
    waiting: VecDeque<Batch>,
    reveal_seconds: Option<u64>,
}

impl Rounds {
    pub(super) fn open(bench: Arc<Bench>, path: &Path) -> anyhow::Result<Self> {
        let db = Database::create(path).with_context(|| format!("cannot open {}", path.display()))?;
        let write = db.begin_write()?;
        write.open_table(ROUNDS)?;
        write.open_table(NEXT)?;
        write.commit()?;
        Ok(Self { bench, db, waiting: VecDeque::new(), reveal_seconds: None })
    }

    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        let head = self.bench.court.rpc.block_number().await?;
        self.read(head).await?;
        for _ in 0..self.waiting.len() {
            let Some(batch) = self.waiting.pop_front() else { break };
            if head < batch.block + SEED_DELAY {
                self.waiting.push_back(batch);
                continue;
            }
            match self.begin(batch).await {
                Ok(true) => {}
                Ok(false) => self.waiting.push_back(batch),
                Err(e) => {
                    warn!(node = %batch.node, size = batch.size, "a batch could not be audited: {e:#}");
                }
            }
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
                let (node, size, block) = (e.node, e.size, e.blockNumber);
                self.waiting.push_back(Batch { node, size, block, since: Instant::now() });
            }
        }
        let write = self.db.begin_write()?;
        write.open_table(NEXT)?.insert((), to + 1)?;
        write.commit()?;
        Ok(())
    }

    /// Looks at the receipts that we are drawn for, and commits to what we found. False when it is too early for that.
    async fn begin(&mut self, posted: Batch) -> anyhow::Result<bool> {
        let Batch { node, size, .. } = posted;
        let bench = self.bench.clone();
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
            let answer = fetch::answer(&bench, node, size, index).await;
            let is_early = answer.as_ref().is_err_and(|e| e.is::<KeptBack>());
            if !is_early || posted.since.elapsed() > KEPT_BACK_MAX {
                answers.push((index, answer));
                continue;
            }
            // The second half of the time is for computing; where times are that short, nothing is said of this one.
            let half = self.reveal_seconds().await? / 2;
            if bench.court.rpc.block_time().await? + half < batch.commitUntil {
                return Ok(false);
            }
        }
        let (mut indices, mut verdicts) = (Vec::new(), Vec::new());
        for (index, answer) in answers {
            if let Some(verdict) = look(&bench, node, size, index, answer).await? {
                indices.push(index);
                verdicts.push(verdict as u8);
            }
        }
        if indices.is_empty() {
            return Ok(true);
        }
        let salt = B256::from(rand::random::<[u8; 32]>());
        let round = Round { node, size, indices, verdicts, salt, commit_until: batch.commitUntil };
        self.save(&round)?;
        let hash = keccak256(
            (bench.me(), node, size, round.indices.clone(), round.verdicts.clone(), salt).abi_encode_params(),
        );
        bench.court.send(contracts.audits, U256::ZERO, Audits::commitCall { node, size, hash }).await?;
        info!(%node, size, receipts = round.indices.len(), "committed to verdicts");
        Ok(true)
    }

    /// Time for reveals; that for commitments is the same.
    async fn reveal_seconds(&mut self) -> anyhow::Result<u64> {
        if let Some(seconds) = self.reveal_seconds {
            return Ok(seconds);
        }
        let court = &self.bench.court;
        let call = Audits::REVEAL_SECONDSCall {};
        let seconds = court.rpc.view(court.network.contracts.audits, &call).await?;
        self.reveal_seconds = Some(seconds);
        Ok(seconds)
    }

    fn save(&self, round: &Round) -> anyhow::Result<()> {
        let write = self.db.begin_write()?;
        write
            .open_table(ROUNDS)?
            .insert((round.node.into_array(), round.size), serde_json::to_vec(round)?.as_slice())?;
        write.commit()?;
        Ok(())
    }

    fn drop_round(&self, round: &Round) -> anyhow::Result<()> {
        let write = self.db.begin_write()?;
        write.open_table(ROUNDS)?.remove((round.node.into_array(), round.size))?;
        write.commit()?;
        Ok(())
    }

    /// Reveals what is due, and takes faults to their judges.
    async fn reveal(&mut self) -> anyhow::Result<()> {
        let bench = self.bench.clone();
        let contracts = bench.court.network.contracts;
        let reveal_seconds = self.reveal_seconds().await?;
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
                self.drop_round(&round)?;
                continue;
            }
            let Round { node, size, indices, verdicts, salt, .. } = round.clone();
            let call = Audits::revealCall { node, size, indices, verdicts, salt };
            match bench.court.send(contracts.audits, U256::ZERO, call).await {
                Ok(_) => info!(%node, size, "revealed verdicts"),
                Err(ClientError::Unreachable { .. }) => continue,
                Err(e) => warn!(%node, size, "verdicts were refused: {e}"),
            }
            self.drop_round(&round)?;
            for (index, verdict) in round.indices.iter().zip(&round.verdicts) {
                if *verdict != Verdict::Right as u8
                    && let Err(e) = accuse(&bench, node, size, *index, *verdict).await
                {
                    warn!(%node, index, "a fault was not taken to its judge: {e:#}");
                }
            }
        }
        Ok(())
    }
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
        let bond = bench.court.rpc.view(contracts.disputes, &Disputes::bondForCall { node }).await?;
        let call = Disputes::openCall {
            claim: logged.claim.clone(),
            signature: logged.signature.clone(),
            opening: opening.encode().into(),
        };
        bench.court.send(contracts.disputes, bond, call).await.context("opening a dispute")?;
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
