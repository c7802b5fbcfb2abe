//! Jury duty: answers whose text does not follow from their request, or that are withheld.

use super::{
    Bench, Verdict,
    fetch::{self, KEPT_BACK_MAX, KeptBack},
};
use alloy_sol_types::{SolEvent as _, SolValue as _};
use client::{
    ClientError,
    contracts::{Disputes, Jury},
};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tracing::{info, warn};
use types::{Address, B256, U256, keccak256};

/// Outcome of a case that is not over.
const OPEN: u8 = 1;

/// A case.
struct Case {
    node: Address,
    size: u64,
    index: u64,
    plaintiff: bool,
    /// When we read of it.
    since: Instant,
    /// Vote and salt, once committed.
    vote: Option<(bool, B256)>,
    revealed: bool,
    /// Not drawn, or the vote failed: nothing more to do but to end it.
    idle: bool,
}

/// What an auditor does in juries.
pub(super) struct Juror {
    bench: Arc<Bench>,
    next: Option<u64>,
    cases: HashMap<B256, Case>,
    reveal_seconds: Option<u64>,
}

impl Juror {
    pub(super) fn new(bench: Arc<Bench>) -> Self {
        Self { bench, next: None, cases: HashMap::new(), reveal_seconds: None }
    }

    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        self.read().await?;
        if self.cases.is_empty() {
            return Ok(());
        }
        let reveal_seconds = match self.reveal_seconds {
            Some(seconds) => seconds,
            None => {
                let jury = self.bench.court.network.contracts.jury;
                self.bench.court.rpc.view(jury, &Jury::REVEAL_SECONDSCall {}).await?
            }
        };
        self.reveal_seconds = Some(reveal_seconds);
        // All cases at once: their times run at once.
        let bench = &self.bench;
        let work = self.cases.iter_mut().map(|(id, case)| async move {
            let over = work(bench, *id, case, reveal_seconds).await;
            (*id, over)
        });
        for (id, over) in futures::future::join_all(work).await {
            match over {
                Ok(false) => (),
                Ok(true) => {
                    self.cases.remove(&id);
                }
                Err(e) => warn!("case {id}: {e:#}"),
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
                let (node, size, index) = (e.node, e.size, e.index);
                let (since, idle) = (Instant::now(), plaintiff);
                let case = Case { node, size, index, plaintiff, since, vote: None, revealed: false, idle };
                self.cases.insert(e.id, case);
            }
        }
        self.next = Some(to + 1);
        Ok(())
    }
}

/// Does what is due in a case; true when it is over.
async fn work(bench: &Bench, id: B256, case: &mut Case, reveal_seconds: u64) -> anyhow::Result<bool> {
    let jury = bench.court.network.contracts.jury;
    let state = bench.court.rpc.view(jury, &Jury::caseOfCall { id }).await?;
    if state.outcome != OPEN {
        info!(case = %id, outcome = state.outcome, "a case has ended");
        settle(bench, id, case.plaintiff).await?;
        return Ok(true);
    }
    let time = bench.court.rpc.block_time().await?;
    if time > state.commitUntil + reveal_seconds {
        // Anybody may end it.
        let _ = bench.court.send(jury, U256::ZERO, Jury::resolveCall { id }).await;
    } else if time > state.commitUntil {
        if let (Some((guilty, salt)), false) = (case.vote, case.revealed) {
            let (until, call) = (state.commitUntil + reveal_seconds, Jury::revealCall { id, guilty, salt });
            match bench.court.send_by(until, jury, U256::ZERO, call).await {
                Ok(_) => case.revealed = true,
                // The contract's no is final; everything else is tried again.
                Err(e) => {
                    case.revealed = e.is_revert();
                    return Err(e.into());
                }
            }
        }
    } else if case.vote.is_none() && !case.idle {
        match bench.court.rpc.view(jury, &Jury::isJurorCall { id, auditor: bench.me() }).await {
            Ok(true) => (),
            Ok(false) => {
                case.idle = true;
                return Ok(false);
            }
            // The randomness of a later block decides; it is not there yet.
            Err(ClientError::Rpc { .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        let guilty = match is_guilty(bench, case).await {
            // It may be shown before the time for votes is over.
            Err(e) if e.is::<KeptBack>() => return Ok(false),
            guilty => guilty?,
        };
        let Some(guilty) = guilty else {
            case.idle = true;
            return Ok(false);
        };
        let salt = B256::from(rand::random::<[u8; 32]>());
        let hash = keccak256((bench.me(), id, guilty, salt).abi_encode());
        let call = Jury::commitCall { id, hash };
        bench.court.send_by(state.commitUntil, jury, U256::ZERO, call).await?;
        case.vote = Some((guilty, salt));
        info!(case = %id, guilty, "voted");
    }
    Ok(false)
}

/// Our own view of the case; `None` when we cannot tell.
async fn is_guilty(bench: &Bench, case: &Case) -> anyhow::Result<Option<bool>> {
    let Case { node, size, index, .. } = *case;
    let answer = match fetch::answer(bench, node, size, index).await {
        Ok(answer) => answer,
        Err(e) if e.is::<KeptBack>() && case.since.elapsed() < KEPT_BACK_MAX => return Err(e),
        Err(e) => {
            info!(%node, index, "withheld from the jury: {e:#}");
            return Ok(Some(true));
        }
    };
    let Some(disclosure) = answer.disclosure.clone() else { return Ok(Some(false)) };
    let judged = bench.judge(answer.receipt.claim.clone(), disclosure).await?;
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
