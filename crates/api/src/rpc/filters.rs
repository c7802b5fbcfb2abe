use alloy_rpc_types_eth::Filter;
use std::{
    collections::HashMap,
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
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// First block that the next poll reports.
    next: u64,
    polled: Instant,
}

/// Filters of all clients; bounded in number and idle time.
#[derive(Debug, Default)]
pub(crate) struct Filters(Mutex<(u64, HashMap<u64, Entry>)>);

impl Filters {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Entry>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut guard = self.lock();
        let entry = guard.1.get_mut(&id)?;
        let from = entry.next;
        entry.next = head + 1;
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
