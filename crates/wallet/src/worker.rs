//! The task that works on a wallet's calls.

use crate::{
    ALARM, Draft, Fault, Head, Included, SendError, WalletError,
    fees::Offer,
    job::{Attempt, Job, Sent},
    wallet::{Shared, unix_now},
};
use alloy_consensus::TxEip1559;
use alloy_primitives::{TxKind, keccak256};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tracing::{debug, error, info, warn};

/// Most transactions of an account under way at once. Mempools keep at least so many places for a node or auditor.
const IN_FLIGHT_MAX: usize = 8;
/// Longest pause after a fault, in polls (about 5 s).
const PAUSE_MAX: u32 = 32;
/// Blocks after which a transaction that was taken is replaced: with room for it, it would be in the first or second.
const BLOCKS_MAX: u64 = 6;
/// How long a transaction that was taken may wait although no new blocks are seen, in polls (about 20 s).
const TAKEN_FOR: u32 = 128;
/// Refusals after which the next attempt offers more.
const REFUSALS_MIN: u32 = 2;
/// Different blocks on which an estimate must revert before that is believed: a server may be behind.
const REVERTS_MIN: u32 = 2;
/// Times that a call is sent again after it failed in a block although an estimate says that it works.
const FAILURES_MAX: u32 = 3;
/// Looks at an account whose nonce was used before it is believed that another program has used it.
const ABSENCES_MIN: u32 = 5;
/// How long a nonce may be missing before it is used up, in polls (about 5 s).
const GAP_FOR: u32 = 32;
/// Most transactions with one nonce.
const ATTEMPTS_MAX: usize = 128;
/// Gas limit that no transaction may pass (EIP-7825).
const GAS_MAX: u64 = 1 << 24;

/// What is known of a call besides what is on disk.
#[derive(Default)]
struct Note {
    /// Not before.
    not_before: Option<Instant>,
    /// When and at which block it was taken last.
    taken: Option<(Instant, u64)>,
    refusals: u32,
    reverts: u32,
    reverted_at: u64,
    absences: u32,
    is_alarmed: bool,
    /// What went wrong last.
    last: Option<SendError>,
}

struct Worker {
    shared: Arc<Shared>,
    notes: HashMap<u64, Note>,
    gap_since: Option<Instant>,
}

/// Why a round ended early.
enum Stop {
    Ledger(Fault),
    Wallet(WalletError),
}

impl From<WalletError> for Stop {
    fn from(e: WalletError) -> Self {
        Self::Wallet(e)
    }
}

/// Works until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut worker = Worker { shared: shared.clone(), notes: HashMap::new(), gap_since: None };
    let mut pause = shared.config.poll;
    loop {
        let pending = shared.lock().jobs.len();
        shared.metrics.pending.set(pending as i64);
        if pending == 0 {
            worker.notes.clear();
            shared.wake.notified().await;
            continue;
        }
        match worker.round().await {
            Ok(()) => pause = shared.config.poll,
            Err(stop) => {
                pause = (pause * 2).min(shared.config.poll * PAUSE_MAX);
                worker.failed(stop).await;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait after the `n`th refusal, in polls.
fn backoff(n: u32) -> u32 {
    2u32.saturating_pow(n.min(6)).min(PAUSE_MAX)
}

impl Worker {
    fn note(&mut self, job: &Job) -> &mut Note {
        self.notes.entry(job.id).or_default()
    }

    fn jobs(&self) -> Vec<Job> {
        self.shared.lock().jobs.values().cloned().collect()
    }

    /// Nothing could be done: calls whose time is over by this machine's clock end.
    async fn failed(&mut self, stop: Stop) {
        let reason = match stop {
            Stop::Ledger(Fault::Unreachable(reason)) => SendError::Unreachable { reason },
            Stop::Ledger(Fault::Refused { code, message }) => SendError::Refused { code, message },
            Stop::Ledger(Fault::Reverted(data)) => SendError::Reverted { hash: None, data },
            Stop::Wallet(e) => SendError::Wallet(e),
        };
        warn!(account = %self.shared.config.account.address(), "transactions wait: {reason}");
        self.shared.metrics.retried.inc();
        for job in self.jobs() {
            self.note(&job).last = Some(reason.clone());
            let now = unix_now();
            self.watch(&job, now);
            // What may be on the ledger is looked for when the ledger can be reached again.
            if now >= job.until && !job.is_filler {
                let error = job.too_late(Some(reason.clone()));
                if let Err(e) = self.give_up(job, error).await {
                    warn!("{e}");
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), Stop> {
        let me = self.shared.config.account.address();
        let head = self.shared.ledger.head().await.map_err(Stop::Ledger)?;
        let (mined, pooled) = self.shared.ledger.nonces(me).await.map_err(Stop::Ledger)?;
        for job in self.jobs() {
            if job.nonce().is_some_and(|n| n < mined) {
                self.look_up(job).await?;
            }
        }
        for job in self.jobs() {
            self.watch(&job, head.time);
            if head.time >= job.until && !job.is_filler && job.nonce().is_none_or(|n| n >= mined) {
                let error = job.too_late(self.note(&job).last.clone());
                self.give_up(job, error).await?;
            }
        }
        self.fill_gap(mined, head).await?;
        self.send_waiting(head, mined, pooled).await?;
        self.push(head, mined).await
    }

    /// Warns of a deadline that comes near, once.
    fn watch(&mut self, job: &Job, now: u64) {
        let spent = job.spent(now);
        let metrics = self.shared.metrics.clone();
        let note = self.note(job);
        if job.is_deadline && spent >= crate::fees::WHOLE / 2 && !note.is_alarmed {
            note.is_alarmed = true;
            metrics.deadlines_at_risk.inc();
            let left = job.until.saturating_sub(now);
            let why = note.last.as_ref().map(ToString::to_string).unwrap_or_else(|| "no block has it".into());
            error!(target: ALARM, seconds_left = left, call = job.label, "a deadline is at risk: {why}");
        }
    }

    /// Its time is over. A nonce that was given away is used up, so that nothing is executed late and later ones can go on.
    async fn give_up(&mut self, job: Job, error: SendError) -> Result<(), WalletError> {
        if job.is_deadline {
            self.shared.metrics.deadlines_missed.inc();
            error!(target: ALARM, call = job.label, deadline = job.until, "a deadline was missed: {error}");
        } else {
            warn!(call = job.label, "given up: {error}");
        }
        let id = job.id;
        self.notes.remove(&id);
        if job.sent.is_none() {
            return self.shared.finish(id, Err(error)).await;
        }
        self.shared.put(job.into_filler(self.shared.config.account.address())).await?;
        self.shared.tell(id, Err(error));
        Ok(())
    }

    /// A call whose nonce was used: by one of its transactions, or by somebody else's.
    async fn look_up(&mut self, job: Job) -> Result<(), Stop> {
        let Some(sent) = &job.sent else { return Ok(()) };
        for attempt in sent.attempts.iter().rev() {
            let found = self.shared.ledger.receipt(attempt.hash).await.map_err(Stop::Ledger)?;
            let Some(receipt) = found else { continue };
            let included = Included { hash: attempt.hash, block: receipt.block };
            return Ok(self.included(job, included, receipt.success).await?);
        }
        let note = self.note(&job);
        note.absences += 1;
        if note.absences < ABSENCES_MIN {
            return Ok(());
        }
        self.notes.remove(&job.id);
        if job.is_filler {
            return Ok(self.shared.finish(job.id, Err(SendError::Closed)).await?);
        }
        warn!(
            call = job.label,
            nonce = sent.nonce,
            "another transaction of this account has used the nonce; sending again"
        );
        self.shared.metrics.retried.inc();
        Ok(self.shared.put(Job { sent: None, ..job }).await?)
    }

    async fn included(&mut self, job: Job, included: Included, success: bool) -> Result<(), WalletError> {
        self.notes.remove(&job.id);
        if job.is_filler {
            info!(call = job.label, hash = %included.hash, "a nonce is used up");
            return self.shared.finish(job.id, Ok(included)).await;
        }
        if success {
            debug!(call = job.label, hash = %included.hash, block = included.block, "included");
            self.shared.metrics.included.inc();
            return self.shared.finish(job.id, Ok(included)).await;
        }
        if job.failures < FAILURES_MAX && job.value.is_zero() {
            // Perhaps it came a block too early, or the state was another one: an estimate will tell.
            let failures = job.failures + 1;
            return self.shared.put(Job { failures, sent: None, ..job }).await;
        }
        self.shared.metrics.refused.inc();
        let error = SendError::Reverted { hash: Some(included.hash), data: Default::default() };
        self.shared.finish(job.id, Err(error)).await
    }

    /// A nonce that no transaction of ours has keeps all later ones waiting.
    async fn fill_gap(&mut self, mined: u64, head: Head) -> Result<(), Stop> {
        let lowest = self.jobs().iter().filter_map(Job::nonce).filter(|n| *n >= mined).min();
        if lowest.is_none_or(|n| n == mined) {
            self.gap_since = None;
            return Ok(());
        }
        if self.gap_since.get_or_insert_with(Instant::now).elapsed() > self.shared.config.poll * GAP_FOR {
            self.gap_since = None;
            let id = {
                let mut queue = self.shared.lock();
                queue.next_id += 1;
                queue.next_id - 1
            };
            let me = self.shared.config.account.address();
            warn!(nonce = mined, "a nonce is missing; using it up");
            self.shared.put(Job::filler(id, me, mined, head.time)).await?;
        }
        Ok(())
    }

    /// Gives nonces to calls that have none, the most urgent first.
    async fn send_waiting(&mut self, head: Head, mined: u64, pooled: u64) -> Result<(), Stop> {
        let jobs = self.jobs();
        let mut in_flight = jobs.iter().filter(|j| j.sent.is_some()).count();
        let highest = jobs.iter().filter_map(Job::nonce).max();
        let mut next = highest.map_or(pooled.max(mined), |n| (n + 1).max(mined));
        let mut waiting: Vec<Job> = jobs.into_iter().filter(|j| j.sent.is_none()).collect();
        waiting.sort_by_key(|j| (!j.is_deadline, j.until, j.id));
        for job in waiting {
            if in_flight >= IN_FLIGHT_MAX {
                return Ok(());
            }
            if self.note(&job).not_before.is_some_and(|t| Instant::now() < t) {
                continue;
            }
            let Some(gas) = self.estimate(&job, head).await? else { continue };
            let job = Job { sent: Some(Sent { nonce: next, gas, attempts: vec![] }), ..job };
            let offer = self.shared.config.fees.offer(head.base_fee, job.spent(head.time));
            self.broadcast(job, Some(offer), head).await?;
            in_flight += 1;
            next += 1;
        }
        Ok(())
    }

    /// Gas limit of a call; `None` when it would not work now.
    async fn estimate(&mut self, job: &Job, head: Head) -> Result<Option<u64>, Stop> {
        let from = self.shared.config.account.address();
        let draft = Draft { from, to: job.to, value: job.value, data: job.data.clone() };
        match self.shared.ledger.estimate(&draft).await {
            Ok(gas) => Ok(Some((gas + gas / 5).min(GAS_MAX))),
            Err(Fault::Reverted(data)) => {
                let note = self.note(job);
                if note.reverted_at != head.number {
                    (note.reverted_at, note.reverts) = (head.number, note.reverts + 1);
                }
                let error = SendError::Reverted { hash: None, data };
                if note.reverts >= REVERTS_MIN {
                    self.notes.remove(&job.id);
                    self.shared.metrics.refused.inc();
                    self.shared.finish(job.id, Err(error)).await?;
                } else {
                    note.last = Some(error);
                }
                Ok(None)
            }
            Err(Fault::Refused { code, message }) => {
                self.refused(job, SendError::Refused { code, message });
                Ok(None)
            }
            Err(e @ Fault::Unreachable(_)) => Err(Stop::Ledger(e)),
        }
    }

    fn refused(&mut self, job: &Job, error: SendError) {
        self.shared.metrics.retried.inc();
        let poll = self.shared.config.poll;
        let note = self.note(job);
        note.refusals += 1;
        note.not_before = Some(Instant::now() + poll * backoff(note.refusals));
        if note.refusals == 1 {
            warn!(call = job.label, "{error}; trying again");
        }
        note.last = Some(error);
    }

    /// Submits again what was refused, and replaces what waits for too long.
    async fn push(&mut self, head: Head, mined: u64) -> Result<(), Stop> {
        let mut jobs: Vec<Job> = self.jobs();
        jobs.retain(|j| j.nonce().is_some_and(|n| n >= mined));
        jobs.sort_by_key(|j| std::cmp::Reverse(j.nonce()));
        // What comes before something urgent is as urgent.
        let taken_for = self.shared.config.poll * TAKEN_FOR;
        let mut spent = 0;
        let mut due = Vec::new();
        for job in jobs {
            spent = spent.max(job.spent(head.time));
            let note = self.note(&job);
            let is_due = match (note.not_before, note.taken) {
                (Some(at), _) => Instant::now() >= at,
                (None, Some((since, block))) => {
                    head.number >= block + BLOCKS_MAX || since.elapsed() > taken_for
                }
                // Nobody knows what became of it before the last restart.
                (None, None) => true,
            };
            if is_due {
                due.push((job, spent));
            }
        }
        // The lowest nonce first: mempools like to know it before the others.
        for (job, spent) in due.into_iter().rev() {
            let fees = self.shared.config.fees;
            let wanted = fees.offer(head.base_fee, spent);
            let sent = job.sent.as_ref();
            let last = sent.and_then(|s| s.attempts.last()).map(Attempt::offer);
            let room = sent.is_some_and(|s| s.attempts.len() < ATTEMPTS_MAX);
            let note = self.note(&job);
            let is_raised = job.is_filler || note.taken.is_some() || note.refusals >= REFUSALS_MIN;
            let offer = match last {
                Some(last) if room && is_raised => fees.replacement(last, wanted, spent),
                Some(_) => None,
                None => Some(wanted),
            };
            self.broadcast(job, offer, head).await?;
        }
        Ok(())
    }

    /// Signs with a new offer, or the last one again; writes it down; submits it.
    async fn broadcast(&mut self, mut job: Job, offer: Option<Offer>, head: Head) -> Result<(), Stop> {
        let config = &self.shared.config;
        let Some(sent) = &mut job.sent else { return Ok(()) };
        let is_replacement = offer.is_some() && !sent.attempts.is_empty();
        let Some(offer) = offer.or_else(|| sent.attempts.last().map(Attempt::offer)) else { return Ok(()) };
        let raw = config
            .account
            .sign(TxEip1559 {
                chain_id: config.chain_id,
                nonce: sent.nonce,
                gas_limit: sent.gas,
                max_fee_per_gas: offer.fee,
                max_priority_fee_per_gas: offer.tip,
                to: TxKind::Call(job.to),
                value: job.value,
                input: job.data.clone(),
                ..Default::default()
            })
            .map_err(WalletError::from)?;
        let hash = keccak256(&raw);
        if sent.attempts.last().is_none_or(|a| a.hash != hash) {
            sent.attempts.push(Attempt { hash, fee: offer.fee, tip: offer.tip });
            // Before anybody sees it: after a crash it must be known that this nonce is that call's.
            self.shared.put(job.clone()).await?;
        }
        if is_replacement {
            self.shared.metrics.replaced.inc();
            debug!(call = job.label, fee = offer.fee, tip = offer.tip, "offering more");
        }
        match self.shared.ledger.submit(raw).await {
            Ok(()) => {
                let note = self.note(&job);
                (note.taken, note.not_before, note.refusals) = (Some((Instant::now(), head.number)), None, 0);
                Ok(())
            }
            Err(Fault::Refused { code, message }) => {
                self.refused(&job, SendError::Refused { code, message });
                Ok(())
            }
            Err(Fault::Reverted(data)) => {
                self.refused(&job, SendError::Reverted { hash: None, data });
                Ok(())
            }
            Err(e @ Fault::Unreachable(_)) => {
                // It may have arrived. The same one goes out again soon.
                let note = self.note(&job);
                note.not_before = Some(Instant::now());
                Err(Stop::Ledger(e))
            }
        }
    }
}
