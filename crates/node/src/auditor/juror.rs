//! Jury duty: answers whose text does not follow from their request, or that are withheld.

use super::{
    Bench, Verdict,
    fetch::{self, Answer, FetchError, Place},
    patience::Patience,
};
use crate::court::KIND_WITHHELD;
use alloy_sol_types::{SolEvent as _, SolValue as _};
use client::{
    ClientError,
    contracts::{Disputes, Jury, ReceiptLog},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{info, warn};
use types::{Address, B256, U256, keccak256};

/// Outcome of a case that is not over.
const OPEN: u8 = 1;
/// Most bytes of an answer on the ledger (the contract's bounds).
const ANSWER_BYTES_MAX: usize = 32 * 65_536;

/// A case.
struct Case {
    node: Address,
    size: u64,
    index: u64,
    kind: u8,
    plaintiff: bool,
    /// Block in which it opened.
    block: u64,
    patience: Option<Patience>,
    tried: Option<Instant>,
    /// Vote and salt, once decided.
    vote: Option<(bool, B256)>,
    committed: bool,
    revealed: bool,
    /// Not drawn: nothing more to do but to end it.
    idle: bool,
}

/// What an auditor does in juries.
pub(super) struct Juror {
    bench: Arc<Bench>,
    next: Option<u64>,
    cases: HashMap<B256, Case>,
}

impl Juror {
    pub(super) fn new(bench: Arc<Bench>) -> Self {
        Self { bench, next: None, cases: HashMap::new() }
    }

    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        self.read().await?;
        // All cases at once: their times run at once.
        let bench = &self.bench;
        let work = self.cases.iter_mut().map(|(id, case)| async move {
            let over = work(bench, *id, case).await;
            (*id, over)
        });
        for (id, over) in futures::future::join_all(work).await {
            match over {
                Ok(false) => (),
                Ok(true) => {
                    self.cases.remove(&id);
                }
                Err(e) => warn!("case {id}: {e:#}; trying again"),
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let head = self.bench.court.rpc.block_number().await?;
        let from = self.next.unwrap_or(head);
        if from > head {
            return Ok(());
        }
        let to = head.min(from + 999);
        let jury = self.bench.court.network.contracts.jury;
        for log in self.bench.court.rpc.logs(jury, &[Jury::Escalated::SIGNATURE_HASH], from, to).await? {
            if let Some(e) = log.decode::<Jury::Escalated>() {
                let plaintiff = e.plaintiff == self.bench.me();
                let case = Case {
                    node: e.node,
                    size: e.size,
                    index: e.index,
                    kind: e.kind,
                    plaintiff,
                    block: from,
                    patience: None,
                    tried: None,
                    vote: None,
                    committed: false,
                    revealed: false,
                    idle: plaintiff,
                };
                self.cases.insert(e.id, case);
            }
        }
        self.next = Some(to + 1);
        Ok(())
    }
}

/// Does what is due in a case; true when it is over.
async fn work(bench: &Bench, id: B256, case: &mut Case) -> anyhow::Result<bool> {
    let jury = bench.court.network.contracts.jury;
    let state = bench.court.rpc.view(jury, &Jury::caseOfCall { id }).await?;
    if state.outcome != OPEN {
        info!(case = %id, outcome = state.outcome, "a case has ended");
        settle(bench, id, case.plaintiff).await?;
        return Ok(true);
    }
    let time = bench.court.rpc.block_time().await?;
    if time > state.commitUntil + bench.rules.jury_reveal_seconds {
        // Anybody may end it.
        let _ = bench.court.send(jury, U256::ZERO, Jury::resolveCall { id }).await;
    } else if time > state.commitUntil {
        if let (Some((guilty, salt)), true, false) = (case.vote, case.committed, case.revealed) {
            let until = state.commitUntil + bench.rules.jury_reveal_seconds;
            let call = Jury::revealCall { id, guilty, salt };
            match bench.court.send_by(until, jury, U256::ZERO, call).await {
                Ok(_) => case.revealed = true,
                // The contract's no is final; everything else is tried again.
                Err(e) => {
                    case.revealed = e.is_revert();
                    return Err(e.into());
                }
            }
        }
    } else if !case.idle && !case.committed {
        vote(bench, id, case, time, state.commitUntil).await?;
    }
    Ok(false)
}

/// Looks, and commits to a vote as soon as there is one; it is `time`, and there is time for that `until` then.
async fn vote(bench: &Bench, id: B256, case: &mut Case, time: u64, until: u64) -> anyhow::Result<()> {
    let jury = bench.court.network.contracts.jury;
    if case.patience.is_none() {
        match bench.court.rpc.view(jury, &Jury::isJurorCall { id, auditor: bench.me() }).await {
            Ok(true) => (),
            Ok(false) => {
                case.idle = true;
                return Ok(());
            }
            // The seed is not there yet.
            Err(ClientError::Rpc { .. }) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        case.patience = Some(Patience::new(Duration::from_secs(until - time), Instant::now()));
    }
    let Some(patience) = &mut case.patience else { return Ok(()) };
    if case.vote.is_none() {
        if case.tried.is_some_and(|last| last.elapsed() < patience.pause()) {
            return Ok(());
        }
        case.tried = Some(Instant::now());
        let (node, size, index, kind) = (case.node, case.size, case.index, case.kind);
        let guilty = match see(bench, id, (node, size, index), case.block).await {
            Ok(answer) => match judge(bench, kind, answer).await? {
                Some(guilty) => guilty,
                // Not our model: we abstain.
                None => {
                    case.idle = true;
                    return Ok(());
                }
            },
            Err(e) => {
                patience.record(&e, Instant::now());
                if !patience.is_over(Instant::now(), bench.is_online()) {
                    return Ok(());
                }
                info!(%node, index, "withheld from the jury: {e}");
                true
            }
        };
        case.vote = Some((guilty, B256::from(rand::random::<[u8; 32]>())));
    }
    if let Some((guilty, salt)) = case.vote {
        let hash = keccak256((bench.me(), id, guilty, salt).abi_encode());
        bench.court.send_by(until, jury, U256::ZERO, Jury::commitCall { id, hash }).await?;
        case.committed = true;
        info!(case = %id, guilty, "voted");
    }
    Ok(())
}

/// The answer, from the node or from the ledger.
async fn see(
    bench: &Bench,
    id: B256,
    (node, size, index): (Address, u64, u64),
    from: u64,
) -> Result<Answer, FetchError> {
    let log = bench.court.network.contracts.receipt_log;
    let posted = bench.court.rpc.view(log, &ReceiptLog::batchCall { node, size }).await?;
    let place = Place { node, size, index, root: posted.root };
    let error = match fetch::answer(bench, place, true).await {
        Ok(answer) => {
            bench.answered();
            return Ok(answer);
        }
        Err(e) => e,
    };
    // It may have answered where all jurors can read it.
    let bytes = answered(bench, id, from).await?;
    if bytes.is_empty() { Err(error) } else { fetch::read(place, &bytes, true) }
}

/// What the node said on the ledger.
async fn answered(bench: &Bench, id: B256, from: u64) -> Result<Vec<u8>, ClientError> {
    let jury = bench.court.network.contracts.jury;
    let head = bench.court.rpc.block_number().await?;
    let mut parts = std::collections::BTreeMap::new();
    for first in (from..=head).step_by(1000) {
        let last = head.min(first + 999);
        for log in bench.court.rpc.logs(jury, &[Jury::Answered::SIGNATURE_HASH], first, last).await? {
            if let Some(e) = log.decode::<Jury::Answered>().filter(|e| e.id == id) {
                parts.insert(e.part, e.data);
            }
        }
    }
    let mut bytes = Vec::new();
    for data in parts.into_values() {
        bytes.extend_from_slice(&data);
    }
    bytes.truncate(ANSWER_BYTES_MAX);
    Ok(bytes)
}

/// Whether the node is guilty of what it is accused of; `None` when we cannot tell.
async fn judge(bench: &Bench, kind: u8, answer: Answer) -> anyhow::Result<Option<bool>> {
    // What is shown is not withheld.
    let Some(disclosure) = answer.disclosure.filter(|_| kind != KIND_WITHHELD) else {
        return Ok(Some(false));
    };
    let judged = bench.judge(answer.receipt.claim, disclosure).await?;
    Ok(judged.map(|(verdict, _)| verdict == Verdict::WrongText))
}

/// Takes what is owed.
async fn settle(bench: &Bench, id: B256, plaintiff: bool) -> anyhow::Result<()> {
    let jury = bench.court.network.contracts.jury;
    if !plaintiff {
        // Nothing to settle is no fault.
        let _ = bench.court.send(jury, U256::ZERO, Jury::settleCall { id, juror: bench.me() }).await;
    }
    // The judges keep their books in the same way.
    let owed = bench.court.rpc.view(jury, &Disputes::balancesCall { owner: bench.me() }).await?;
    if !owed.is_zero() {
        bench.court.send(jury, U256::ZERO, Disputes::withdrawCall {}).await?;
        info!(wei = %owed, "a jury paid");
    }
    Ok(())
}
