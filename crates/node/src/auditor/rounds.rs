//! From a node's checkpoint to verdicts: draw, look, commit, reveal.

use super::{
    Bench, Verdict,
    draw::{self, Candidate},
    fetch::Place,
    look::{self, Found},
    store::{Fault, Round},
};
use alloy_sol_types::{SolEvent as _, SolValue as _};
use client::{
    ClientError,
    contracts::{Audits, ReceiptLog},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::{info, warn};
use types::{Address, B256, U256, keccak256};

/// How long to wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the seed of a batch is waited for. It needs a few blocks of different validators.
const SEED_TRIES: u32 = 3_600;
/// Time between looks whether it is there.
const SEED_POLL: Duration = Duration::from_millis(250);
/// Batches of one node that are looked at at once; where the node's account could pay nobody, there is no duty, and fewer.
const BATCHES_MAX: usize = 128;
/// See [`BATCHES_MAX`].
const UNPAID_BATCHES_MAX: usize = 8;

/// Batches under way, by node.
type UnderWay = Arc<Mutex<HashMap<Address, usize>>>;

/// All rounds of an auditor.
pub(super) struct Rounds {
    bench: Arc<Bench>,
    under_way: UnderWay,
    /// Rounds that are being revealed.
    revealing: Arc<Mutex<HashSet<(Address, u64)>>>,
}

/// A place among the batches of a node; free again when it is dropped.
struct Slot(UnderWay, Address);

impl Slot {
    fn take(all: &UnderWay, node: Address) -> Option<Self> {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(node).or_default();
        if *count >= BATCHES_MAX {
            return None;
        }
        *count += 1;
        Some(Self(all.clone(), node))
    }

    fn others(&self) -> usize {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&self.1).map_or(0, |n| n.saturating_sub(1))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

impl Rounds {
    pub(super) fn new(bench: Arc<Bench>) -> Self {
        Self { bench, under_way: Arc::default(), revealing: Arc::default() }
    }

    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        self.read().await?;
        self.reveal().await
    }

    /// New batches: each is looked at by a task of its own, within the places of its node.
    async fn read(&mut self) -> anyhow::Result<()> {
        let head = self.bench.court.rpc.block_number().await?;
        // A new auditor cannot be drawn for what was posted before.
        let from = self.bench.store.next()?.unwrap_or(head);
        if from > head {
            return Ok(());
        }
        let to = head.min(from + 999);
        let log = self.bench.court.network.contracts.receipt_log;
        let topics = [ReceiptLog::CheckpointPosted::SIGNATURE_HASH];
        for entry in self.bench.court.rpc.logs(log, &topics, from, to).await? {
            let Some(e) = entry.decode::<ReceiptLog::CheckpointPosted>() else { continue };
            let Some(slot) = Slot::take(&self.under_way, e.node) else {
                warn!(node = %e.node, size = e.size, "too many batches of this node at once; one is left out");
                continue;
            };
            let bench = self.bench.clone();
            tokio::spawn(async move {
                if let Err(e2) = begin(&bench, e.node, e.size, e.root, &slot).await {
                    warn!(node = %e.node, size = e.size, "a batch could not be audited: {e2:#}");
                }
            });
        }
        self.bench.store.set_next(to + 1)
    }

    /// Reveals what is due.
    async fn reveal(&mut self) -> anyhow::Result<()> {
        let due = self.bench.store.rounds()?;
        if due.is_empty() {
            return Ok(());
        }
        let time = self.bench.court.rpc.block_time().await?;
        for round in due {
            if time <= round.commit_until {
                continue;
            }
            if time > round.commit_until + self.bench.rules.reveal_seconds {
                warn!(node = %round.node, size = round.size, "verdicts were not revealed in time");
                self.bench.store.drop_round(&round)?;
                continue;
            }
            let key = (round.node, round.size);
            if !self.revealing.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
                continue;
            }
            let (bench, revealing) = (self.bench.clone(), self.revealing.clone());
            tokio::spawn(async move {
                if let Err(e) = reveal_one(&bench, round).await {
                    warn!(node = %key.0, size = key.1, "verdicts were not revealed: {e:#}; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                revealing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            });
        }
        Ok(())
    }
}

/// The batch, as soon as its seed is known.
async fn batch_of(bench: &Bench, node: Address, size: u64) -> Result<Audits::Batch, ClientError> {
    let call = Audits::batchOfCall { node, size };
    let mut tries = 0;
    loop {
        match bench.court.rpc.view(bench.court.network.contracts.audits, &call).await {
            Ok(batch) => return Ok(batch),
            Err(e) if tries == SEED_TRIES => return Err(e),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(SEED_POLL).await;
    }
}

/// Looks at the receipts that we are drawn for, and commits to what we found.
async fn begin(bench: &Bench, node: Address, size: u64, root: B256, slot: &Slot) -> anyhow::Result<()> {
    let batch = batch_of(bench, node, size).await?;
    if batch.purse == 0 && !batch.duty && slot.others() >= UNPAID_BATCHES_MAX {
        return Ok(());
    }
    let mut candidates = draw::candidates(bench, size, &batch).await;
    while candidates.is_err() && bench.court.rpc.block_time().await.is_ok_and(|t| t < batch.commitUntil) {
        tokio::time::sleep(AGAIN).await;
        candidates = draw::candidates(bench, size, &batch).await;
    }
    let candidates = candidates?;
    if candidates.is_empty() {
        return Ok(());
    }
    let left = batch.commitUntil.saturating_sub(bench.court.rpc.block_time().await?);
    let left = Duration::from_secs(left);
    let looks = candidates.iter().map(|Candidate { index, models }| async move {
        let found = look::look(bench, Place { node, size, index: *index, root }, models, left).await;
        found.map(|found| (*index, found))
    });
    let found: Vec<(u64, Found)> = futures::future::join_all(looks).await.into_iter().flatten().collect();
    if found.is_empty() {
        info!(%node, size, seconds = left.as_secs(), "drawn, but nothing to say");
        return Ok(());
    }
    let round = Round {
        node,
        size,
        indices: found.iter().map(|(index, _)| *index).collect(),
        verdicts: found.iter().map(|(_, (verdict, _))| *verdict as u8).collect(),
        models: found.iter().map(|(_, (_, model))| *model).collect(),
        salt: B256::from(rand::random::<[u8; 32]>()),
        commit_until: batch.commitUntil,
    };
    // Before it is sent: what was committed must be revealed after a crash too.
    bench.store.save_round(&round)?;
    commit(bench, &round).await
}

/// Commits before the time for that is over.
async fn commit(bench: &Bench, round: &Round) -> anyhow::Result<()> {
    let Round { node, size, .. } = *round;
    // As words: a list of bytes would be encoded as a byte string.
    let words: Vec<U256> = round.verdicts.iter().map(|v| U256::from(*v)).collect();
    let sealed = (bench.me(), node, size, round.indices.clone(), words, round.models.clone(), round.salt);
    let hash = keccak256(sealed.abi_encode_params());
    let audits = bench.court.network.contracts.audits;
    let call = Audits::commitCall { node, size, hash };
    let sent = bench.court.send_by(round.commit_until, audits, U256::ZERO, call).await;
    if sent.is_err() {
        // A transaction may have been included although we did not see it.
        let stored = Audits::commitmentsCall { node, size, auditor: bench.me() };
        if bench.court.rpc.view(audits, &stored).await? != hash {
            bench.store.drop_round(round)?;
            sent?;
        }
    }
    info!(%node, size, receipts = round.indices.len(), "committed to verdicts");
    Ok(())
}

/// Reveals verdicts, and notes the faults that must go to judges.
async fn reveal_one(bench: &Bench, round: Round) -> anyhow::Result<()> {
    let audits = bench.court.network.contracts.audits;
    let Round { node, size, indices, verdicts, models, salt, commit_until } = round.clone();
    let until = commit_until + bench.rules.reveal_seconds + bench.rules.back_seconds;
    // Before it is sent, for a crash after it.
    for (index, verdict) in indices.iter().zip(&verdicts) {
        if *verdict != Verdict::Right as u8 {
            let fault = Fault { node, size, index: *index, verdict: *verdict, until };
            bench.store.save_fault(&fault)?;
        }
    }
    let call = Audits::revealCall { node, size, indices, verdicts, models, salt };
    let reveal_until = commit_until + bench.rules.reveal_seconds;
    if let Err(e) = bench.court.send_by(reveal_until, audits, U256::ZERO, call).await {
        let stored = Audits::commitmentsCall { node, size, auditor: bench.me() };
        let found = bench.court.rpc.view(audits, &stored).await?;
        // One means that it was revealed.
        if U256::from_be_bytes(found.0) != U256::from(1) {
            return Err(e.into());
        }
    }
    info!(%node, size, "revealed verdicts");
    bench.store.drop_round(&round)
}
