//! Who has how many places: the ordinary ones, the lane's, and those of transactions that cannot run yet.

use crate::RecoveredTx;
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one unit of the lane.
const UNIT: usize = 2048;

/// The bounds of a mempool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most transactions that can run, apart from the lane's.
    pub ready: usize,
    /// Most bytes of them.
    pub ready_bytes: usize,
    /// Most transactions that cannot run yet. They cost their sender nothing, so there are few places, and who comes takes the oldest one.
    pub idle: usize,
    /// Most bytes of them.
    pub idle_bytes: usize,
    /// Most of one sender: a wallet that sends a few at once may see them arrive in any order.
    pub idle_per_sender: usize,
    /// Room of the lane, in units of 2 KiB.
    pub lane_units: usize,
    /// Most transactions of one sender in the lane: an account's wallet has at most 8 under way.
    pub lane_per_sender: usize,
    /// Most units of one sender in the lane: four of the largest transactions.
    pub lane_units_per_sender: usize,
}

impl Default for Limits {
    /// 20,000 transactions in 64 MiB, 1,024 idle ones in 8 MiB, and 32 MiB of protocol calls.
    fn default() -> Self {
        Self {
            ready: 20_000,
            ready_bytes: 64 << 20,
            idle: 1024,
            idle_bytes: 8 << 20,
            idle_per_sender: 16,
            lane_units: 16_384,
            lane_per_sender: 16,
            lane_units_per_sender: 256,
        }
    }
}

/// Which kind of place a transaction uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Reserved for protocol calls of those who have standing.
    Lane,
    /// It can run.
    Ready,
    /// It cannot run yet: a nonce before it is missing, or its sender cannot pay for it any more.
    Idle,
}

fn units(tx: &RecoveredTx) -> usize {
    tx.raw_len().div_ceil(UNIT)
}

/// The use of all places. Knows nothing of nonces.
#[derive(Debug, Default)]
pub(super) struct Places {
    limits: Limits,
    /// Cheapest first; the hash breaks ties.
    ready: BTreeSet<(u128, B256)>,
    ready_bytes: usize,
    /// Oldest first.
    idle: BTreeSet<(u64, B256)>,
    idle_bytes: usize,
    idle_of: BTreeMap<Address, usize>,
    /// Transactions and units of each sender.
    lane_of: BTreeMap<Address, (usize, usize)>,
    /// Who uses how many units of the lane.
    lane_use: BTreeSet<(usize, Address)>,
    lane_units: usize,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a place for `tx`, the arrival number `number`. The caller has made room.
    pub(super) fn take(&mut self, place: Place, tx: &RecoveredTx, number: u64) {
        let sender = tx.sender();
        match place {
            Place::Ready => {
                self.ready.insert((tx.tx().max_fee_per_gas(), tx.hash()));
                self.ready_bytes += tx.raw_len();
            }
            Place::Idle => {
                self.idle.insert((number, tx.hash()));
                self.idle_bytes += tx.raw_len();
                *self.idle_of.entry(sender).or_default() += 1;
            }
            Place::Lane => {
                let (count, used) = self.lane_of.get(&sender).copied().unwrap_or_default();
                self.set_lane(sender, used, (count + 1, used + units(tx)));
                self.lane_units += units(tx);
            }
        }
    }

    /// Gives back the place of `tx`.
    pub(super) fn free(&mut self, place: Place, tx: &RecoveredTx, number: u64) {
        let sender = tx.sender();
        match place {
            Place::Ready => {
                self.ready.remove(&(tx.tx().max_fee_per_gas(), tx.hash()));
                self.ready_bytes -= tx.raw_len();
            }
            Place::Idle => {
                self.idle.remove(&(number, tx.hash()));
                self.idle_bytes -= tx.raw_len();
                if let Some(count) = self.idle_of.get_mut(&sender) {
                    *count -= 1;
                    if *count == 0 {
                        self.idle_of.remove(&sender);
                    }
                }
            }
            Place::Lane => {
                let (count, used) = self.lane_of.get(&sender).copied().unwrap_or_default();
                self.set_lane(sender, used, (count.saturating_sub(1), used.saturating_sub(units(tx))));
                self.lane_units -= units(tx);
            }
        }
    }

    fn set_lane(&mut self, sender: Address, before: usize, now: (usize, usize)) {
        self.lane_use.remove(&(before, sender));
        self.lane_of.remove(&sender);
        if now.0 > 0 {
            self.lane_use.insert((now.1, sender));
            self.lane_of.insert(sender, now);
        }
    }

    /// Whether an ordinary place is free for `tx`.
    pub(super) fn has_ready(&self, tx: &RecoveredTx) -> bool {
        self.ready.len() < self.limits.ready && self.ready_bytes + tx.raw_len() <= self.limits.ready_bytes
    }

    /// The transactions in ordinary places that pay less than `tx`, cheapest first.
    pub(super) fn cheaper_than(&self, tx: &RecoveredTx) -> impl Iterator<Item = &B256> {
        self.ready.range(..(tx.tx().max_fee_per_gas(), B256::ZERO)).map(|(_, hash)| hash)
    }

    /// Whether `sender` may have one more that cannot run yet.
    pub(super) fn may_idle(&self, sender: &Address) -> bool {
        self.idle_of.get(sender).is_none_or(|n| *n < self.limits.idle_per_sender)
    }

    /// The oldest that cannot run yet, when there is no free place for `tx` among them.
    pub(super) fn oldest_idle_for(&self, tx: &RecoveredTx) -> Option<B256> {
        let is_full =
            self.idle.len() >= self.limits.idle || self.idle_bytes + tx.raw_len() > self.limits.idle_bytes;
        self.idle.first().filter(|_| is_full).map(|(_, hash)| *hash)
    }

    /// Those that cannot run yet, oldest first.
    pub(super) fn idle_by_age(&self) -> impl Iterator<Item = &B256> {
        self.idle.iter().map(|(_, hash)| hash)
    }

    /// Whether `tx`'s sender has not used up its part of the lane.
    pub(super) fn may_use_lane(&self, tx: &RecoveredTx) -> bool {
        let (count, used) = self.lane_of.get(&tx.sender()).copied().unwrap_or_default();
        count < self.limits.lane_per_sender && used + units(tx) <= self.limits.lane_units_per_sender
    }

    /// Whether the lane has room for `tx`.
    pub(super) fn has_lane(&self, tx: &RecoveredTx) -> bool {
        self.lane_units + units(tx) <= self.limits.lane_units
    }

    /// Who uses most of the lane, when that is more than `tx`'s sender would use with it: a full lane is shared evenly.
    pub(super) fn greedier_than(&self, tx: &RecoveredTx) -> Option<Address> {
        let used = self.lane_of.get(&tx.sender()).map_or(0, |(_, used)| *used);
        let (most, sender) = self.lane_use.last()?;
        (*sender != tx.sender() && *most > used + units(tx)).then_some(*sender)
    }

    /// Number of transactions in each kind of place: ready, idle, lane.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.ready.len(), self.idle.len(), self.lane_of.values().map(|(count, _)| count).sum())
    }
}
