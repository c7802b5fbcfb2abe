use alloy_primitives::B256;
use alloy_rpc_types_eth::Filter;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Most filters at once.
const FILTERS_MAX: usize = 1024;
/// A filter that nobody polls is dropped after this time, as in geth.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// What a filter watches.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Blocks,
    Logs(Box<Filter>),
    /// New transactions of the mempool.
    Pending,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// First block that the next poll reports.
    next: u64,
    polled: Instant,
}

/// Hashes of new transactions that are remembered for filters.
const PENDING_MAX: usize = 10_000;

/// Filters of all clients; bounded in number and idle time.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    filters: Mutex<(u64, HashMap<u64, Entry>)>,
    /// The newest hashes, and the number of the first of them.
    pending: Mutex<(u64, VecDeque<B256>)>,
}

impl Filters {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Entry>)> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a new transaction.
    pub(crate) fn add_pending(&self, hash: B256) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.1.push_back(hash);
        if pending.1.len() > PENDING_MAX {
            pending.1.pop_front();
            pending.0 += 1;
        }
    }

    /// The number that the next new transaction gets.
    pub(crate) fn newest_pending(&self) -> u64 {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.0 + pending.1.len() as u64
    }

    /// The remembered transactions from number `from` on.
    pub(crate) fn pending_since(&self, from: u64) -> Vec<B256> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(from.saturating_sub(pending.0)).unwrap_or(usize::MAX);
        pending.1.iter().skip(skip).copied().collect()
    }

    /// Adds a filter that reports from block `next` on; `None` when there are too many.
    pub(crate) fn add(&self, kind: Kind, next: u64) -> Option<u64> {
        let mut guard = self.lock();
        let now = Instant::now();
        guard.1.retain(|_, e| now - e.polled < IDLE_MAX);
        if guard.1.len() >= FILTERS_MAX {
            return None;
        }
        guard.0 += 1;
        let id = guard.0;
        guard.1.insert(id, Entry { kind, next, polled: now });
        Some(id)
    }

    /// The filter and the first block to report; later polls report from `head + 1`.
    pub(crate) fn poll(&self, id: u64, head: u64) -> Option<(Kind, u64)> {
        let newest_pending = self.newest_pending();
        let mut guard = self.lock();
        let entry = guard.1.get_mut(&id)?;
        let from = entry.next;
        entry.next = if matches!(entry.kind, Kind::Pending) { newest_pending } else { head + 1 };
        entry.polled = Instant::now();
        Some((entry.kind.clone(), from))
    }

    /// What a filter watches.
    pub(crate) fn kind(&self, id: u64) -> Option<Kind> {
        self.lock().1.get(&id).map(|e| e.kind.clone())
    }

    pub(crate) fn remove(&self, id: u64) -> bool {
        self.lock().1.remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_bounded_and_polls_move_on() {
        let filters = Filters::default();
        let first = filters.add(Kind::Blocks, 5);
        for _ in 1..FILTERS_MAX {
            assert!(filters.add(Kind::Blocks, 0).is_some());
        }
        assert_eq!(filters.add(Kind::Blocks, 0), None);
        let id = first.unwrap_or_default();
        assert_eq!(filters.poll(id, 9).map(|p| p.1), Some(5));
        assert_eq!(filters.poll(id, 9).map(|p| p.1), Some(10));
        assert!(filters.remove(id));
        assert!(!filters.remove(id));
        assert!(filters.poll(id, 9).is_none());
    }
}
