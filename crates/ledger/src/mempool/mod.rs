//! Transactions that wait for a block.

mod order;
mod places;
mod rules;

pub use order::Candidates;
pub use places::{Limits, Place};
pub use rules::check_fixed;

use crate::{Executed, LedgerError, RecoveredTx};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use order::runnable;
use places::Places;
use rules::{PER_SENDER_MAX, check, cost, outbids};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Blocks after which a transaction that was not executed is forgotten (three hours at 250 ms).
const LIFETIME_BLOCKS: u64 = 43_200;
/// The same for one that cannot run (five minutes at 250 ms).
const IDLE_LIFETIME_BLOCKS: u64 = 1_200;

/// Transactions that wait for a block: one queue of nonces a sender. Plain data, bounded in count, bytes and age.
///
/// There are three kinds of places, and none of one kind is ever given up for another kind: *ordinary* ones for transactions that can run,
/// where the dearest stay; a few *idle* ones for those that cannot run yet, where the newest stay; and the *lane*, for protocol calls of
/// senders with standing, which is shared evenly among them. Which calls those are, the caller says.
#[derive(Debug, Default)]
pub struct Mempool {
    by_sender: BTreeMap<Address, BTreeMap<u64, Waiting>>,
    by_hash: HashMap<B256, Arc<RecoveredTx>>,
    /// By the block at which they came.
    by_age: BTreeSet<(u64, B256)>,
    places: Places,
    arrivals: u64,
    /// What came from clients and can run now, for the peers.
    news: Vec<Arc<RecoveredTx>>,
}

#[derive(Clone, Debug)]
struct Waiting {
    tx: Arc<RecoveredTx>,
    since: u64,
    /// Order of arrival.
    number: u64,
    place: Place,
    arrival: Arrival,
}

/// How a transaction came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// From a client of this validator, which tells its peers as soon as the transaction can run.
    pub from_client: bool,
    /// It is a protocol call, and its sender has standing in it: it may use the lane.
    pub is_protocol_call: bool,
}

/// Where a waiting transaction stands, as in geth's `txpool_` methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All nonces before it are used or wait too.
    Pending,
    /// A nonce before it is missing.
    Queued,
}

/// Number of transactions in each kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Ordinary places.
    pub ready: usize,
    /// Places of what cannot run yet.
    pub idle: usize,
    /// Places of protocol calls.
    pub lane: usize,
}

impl Mempool {
    /// An empty one with other bounds than the usual ones.
    pub fn with_limits(limits: Limits) -> Self {
        Self { places: Places::new(limits), ..Self::default() }
    }

    /// Number of transactions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Number of transactions in each kind of place.
    pub fn occupancy(&self) -> Occupancy {
        let (ready, idle, lane) = self.places.counts();
        Occupancy { ready, idle, lane }
    }

    /// The transaction with this hash.
    pub fn get(&self, hash: &B256) -> Option<Arc<RecoveredTx>> {
        self.by_hash.get(hash).cloned()
    }

    /// Which kind of place the transaction with this hash has.
    pub fn place_of(&self, hash: &B256) -> Option<Place> {
        let tx = self.by_hash.get(hash)?;
        Some(self.by_sender.get(&tx.sender())?.get(&tx.tx().nonce())?.place)
    }

    /// All transactions with where they stand after `head`, by sender and nonce.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn all(&self, head: &Executed) -> Result<Vec<(Standing, Arc<RecoveredTx>)>, LedgerError> {
        let mut out = Vec::with_capacity(self.len());
        for (sender, queue) in &self.by_sender {
            let mut next = head.state().nonce(*sender)?;
            for (nonce, waiting) in queue {
                let standing = if next == *nonce { Standing::Pending } else { Standing::Queued };
                next += u64::from(next == *nonce);
                out.push((standing, waiting.tx.clone()));
            }
        }
        Ok(out)
    }

    /// All transactions, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RecoveredTx>> {
        self.by_sender.values().flat_map(|queue| queue.values().map(|w| &w.tx))
    }

    /// The nonce that `address` should use next: its state's nonce `from`, after the transactions that follow it without a gap.
    pub fn pending_nonce(&self, address: Address, from: u64) -> u64 {
        let queue = self.by_sender.get(&address);
        (from..).find(|n| !queue.is_some_and(|q| q.contains_key(n))).unwrap_or(from)
    }

    /// What came from clients and can run since the last call: the peers should know it.
    pub fn take_news(&mut self) -> Vec<Arc<RecoveredTx>> {
        std::mem::take(&mut self.news)
    }

    /// Takes a transaction that could be executed on `head`, now or once the nonces before it are; an ordinary one from a peer.
    ///
    /// # Errors
    /// [`LedgerError`] with geth's wording.
    pub fn insert(&mut self, tx: Arc<RecoveredTx>, head: &Executed) -> Result<(), LedgerError> {
        self.insert_as(tx, head, Arrival::default())
    }

    /// Takes a transaction as [`insert`](Self::insert) does.
    ///
    /// # Errors
    /// [`LedgerError`] with geth's wording.
    pub fn insert_as(
        &mut self,
        tx: Arc<RecoveredTx>,
        head: &Executed,
        arrival: Arrival,
    ) -> Result<(), LedgerError> {
        if self.by_hash.contains_key(&tx.hash()) {
            return Err(LedgerError::AlreadyKnown);
        }
        let (sender, nonce) = (tx.sender(), tx.tx().nonce());
        let queue = self.by_sender.get(&sender);
        let replaced = queue.and_then(|q| q.get(&nonce)).cloned();
        // One balance pays for all that a sender has waiting.
        let others = queue.into_iter().flat_map(BTreeMap::iter).filter(|(n, _)| **n != nonce);
        let reserved = others.fold(U256::ZERO, |sum, (_, w)| sum.saturating_add(cost(&w.tx)));
        check(&tx, head, reserved)?;
        match &replaced {
            Some(old) if !outbids(&tx, &old.tx) => return Err(LedgerError::ReplacementUnderpriced),
            Some(old) => self.remove(&old.tx),
            None if queue.is_some_and(|q| q.len() >= PER_SENDER_MAX) => return Err(LedgerError::PoolFull),
            None => (),
        }
        let number = self.arrivals;
        self.arrivals += 1;
        let waiting = Waiting { tx: tx.clone(), since: head.number(), number, place: Place::Idle, arrival };
        if let Err(e) = self.admit(waiting, head) {
            if let Some(old) = replaced {
                self.put(old);
            }
            return Err(e);
        }
        // What waited for it may run now.
        self.settle(&sender, head)
    }

    /// Finds a place for a new transaction.
    fn admit(&mut self, mut waiting: Waiting, head: &Executed) -> Result<(), LedgerError> {
        let (tx, sender) = (waiting.tx.clone(), waiting.tx.sender());
        let next = head.state().nonce(sender)?;
        let queue = self.by_sender.get(&sender);
        // That its sender can pay for all of them was checked.
        let runs = (next..tx.tx().nonce()).all(|n| queue.is_some_and(|q| q.contains_key(&n)));
        let place = match runs {
            true => self.room_to_run(&tx, waiting.arrival.is_protocol_call),
            false => self.room_to_wait(&tx).then_some(Place::Idle),
        };
        waiting.place = place.ok_or(LedgerError::PoolFull)?;
        self.put(waiting);
        Ok(())
    }

    /// A place for a transaction that can run, made by evicting what has less right to it.
    fn room_to_run(&mut self, tx: &RecoveredTx, may_use_lane: bool) -> Option<Place> {
        if may_use_lane && self.places.may_use_lane(tx) {
            while !self.places.has_lane(tx)
                && let Some(sender) = self.places.greedier_than(tx)
            {
                self.evict_last_of_lane(&sender);
            }
            if self.places.has_lane(tx) {
                return Some(Place::Lane);
            }
        }
        while !self.places.has_ready(tx) {
            let cheapest = {
                let mut cheaper = self.places.cheaper_than(tx).filter_map(|hash| self.by_hash.get(hash));
                cheaper.find(|c| c.sender() != tx.sender() && !self.is_before_a_call(c)).cloned()?
            };
            self.evict(&cheapest);
        }
        Some(Place::Ready)
    }

    /// Whether something in the lane waits for `tx`: what is evicted takes along what waits for it.
    fn is_before_a_call(&self, tx: &RecoveredTx) -> bool {
        let after = self.by_sender.get(&tx.sender()).into_iter().flat_map(|q| q.range(tx.tx().nonce()..));
        after.into_iter().any(|(_, w)| w.place == Place::Lane)
    }

    /// A place for a transaction that cannot run yet.
    fn room_to_wait(&mut self, tx: &RecoveredTx) -> bool {
        if !self.places.may_idle(&tx.sender()) {
            return false;
        }
        while let Some(oldest) = self.places.oldest_idle_for(tx).and_then(|hash| self.get(&hash)) {
            self.remove(&oldest);
        }
        true
    }

    /// Gives the transactions of a sender the places that they should have on `head`.
    fn settle(&mut self, sender: &Address, head: &Executed) -> Result<(), LedgerError> {
        let Some(queue) = self.by_sender.get(sender) else { return Ok(()) };
        let run = runnable(queue, head, sender)?;
        let call = |n: &&u64| queue.get(n).is_some_and(|w| w.arrival.is_protocol_call);
        let last_call = run.iter().rfind(call).copied();
        let last_run = run.last().copied();
        let wanted = |nonce: &u64, place: Place| {
            let runs = last_run.is_some_and(|last| *nonce <= last);
            // What comes before a protocol call must not be evicted before it.
            let is_call = runs && last_call.is_some_and(|last| *nonce <= last);
            match place {
                Place::Lane | Place::Ready if !runs => Some(Place::Idle),
                Place::Idle | Place::Ready if is_call => Some(Place::Lane),
                Place::Idle if runs => Some(Place::Ready),
                _ => None,
            }
        };
        let moves: Vec<_> =
            queue.iter().filter_map(|(n, w)| Some((wanted(n, w.place)?, w.clone()))).collect();
        for (wanted, waiting) in moves {
            if waiting.place == Place::Ready
                && wanted == Place::Lane
                && !self.places.may_use_lane(&waiting.tx)
            {
                continue;
            }
            self.remove(&waiting.tx);
            let place = match wanted {
                Place::Idle => self.room_to_wait(&waiting.tx).then_some(Place::Idle),
                _ => self.room_to_run(&waiting.tx, wanted == Place::Lane),
            };
            // What could run but finds no place waits on where it was; what cannot run and finds none is gone.
            match place {
                Some(place) => self.put(Waiting { place, ..waiting }),
                None if wanted != Place::Idle => self.put(waiting),
                None => (),
            }
        }
        Ok(())
    }

    fn put(&mut self, waiting: Waiting) {
        let tx = waiting.tx.clone();
        let mut waiting = waiting;
        if waiting.place != Place::Idle && waiting.arrival.from_client {
            waiting.arrival.from_client = false;
            self.news.push(tx.clone());
        }
        self.by_hash.insert(tx.hash(), tx.clone());
        self.by_age.insert((waiting.since, tx.hash()));
        self.places.take(waiting.place, &tx, waiting.number);
        self.by_sender.entry(tx.sender()).or_default().insert(tx.tx().nonce(), waiting);
    }

    /// Removes a transaction and those of its sender that wait for it.
    fn evict(&mut self, tx: &RecoveredTx) {
        let nonce = tx.tx().nonce();
        let after = self.by_sender.get(&tx.sender()).into_iter().flat_map(|q| q.range(nonce..));
        let gone: Vec<_> = after.map(|(_, w)| w.tx.clone()).collect();
        for tx in gone {
            self.remove(&tx);
        }
    }

    fn evict_last_of_lane(&mut self, sender: &Address) {
        let queue = self.by_sender.get(sender);
        let last =
            queue.and_then(|q| q.values().rev().find(|w| w.place == Place::Lane)).map(|w| w.tx.clone());
        if let Some(last) = last {
            self.evict(&last);
        }
    }

    fn remove(&mut self, tx: &RecoveredTx) {
        if self.by_hash.remove(&tx.hash()).is_none() {
            return;
        }
        let sender = tx.sender();
        if let Some(queue) = self.by_sender.get_mut(&sender) {
            if let Some(waiting) = queue.remove(&tx.tx().nonce()) {
                self.by_age.remove(&(waiting.since, tx.hash()));
                self.places.free(waiting.place, tx, waiting.number);
            }
            if queue.is_empty() {
                self.by_sender.remove(&sender);
            }
        }
    }

    /// Forgets what `executed` made obsolete, and what has waited too long, and finds out what can run now.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn on_committed(&mut self, executed: &Executed) -> Result<(), LedgerError> {
        // All senders, not only those of the block: coins and nonces also change by calls and delegations (EIP-7702).
        let senders: Vec<Address> = self.by_sender.keys().copied().collect();
        for sender in senders {
            let next = executed.state().nonce(sender)?;
            let queue = self.by_sender.get(&sender);
            let used: Vec<_> =
                queue.into_iter().flat_map(|q| q.range(..next)).map(|(_, w)| w.tx.clone()).collect();
            for tx in used {
                self.remove(&tx);
            }
            self.settle(&sender, executed)?;
        }
        let before = |blocks: u64| (executed.number().saturating_sub(blocks), B256::ZERO);
        let is_old = |tx: &&Arc<RecoveredTx>| {
            let waiting = self.by_sender.get(&tx.sender()).and_then(|q| q.get(&tx.tx().nonce()));
            waiting.is_some_and(|w| w.since + IDLE_LIFETIME_BLOCKS < executed.number())
        };
        let old = self.by_age.range(..before(LIFETIME_BLOCKS)).filter_map(|(_, hash)| self.by_hash.get(hash));
        let idle = self.places.idle_by_age().filter_map(|hash| self.by_hash.get(hash)).take_while(is_old);
        let gone: Vec<_> = old.chain(idle).cloned().collect();
        for tx in gone {
            self.remove(&tx);
        }
        Ok(())
    }
}
