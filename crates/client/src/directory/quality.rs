use alloy_primitives::Address;
use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// First and longest time that a failed node is avoided.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// Part of the newest outcome in the averages.
const NEWEST: f64 = 0.2;
/// Differences below this are the network's, not the node's.
const LATENCY_FLOOR: f64 = 0.05;
/// Least weight of a node that often fails or is slow: else nobody would notice that it is better now.
const LEAST: f64 = 0.02;

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Failures in a row, and until when the node is avoided.
    failures: u32,
    avoid_until: Option<Instant>,
    /// Moving average of failed requests, from 0 to 1.
    failing: f64,
    /// Moving average of the time until an answer begins, in seconds.
    latency: Option<f64>,
}

/// What was seen of nodes since this program started.
#[derive(Debug, Default)]
pub(super) struct Quality(HashMap<Address, Record>);

impl Quality {
    fn record(&mut self, node: Address) -> &mut Record {
        self.0.entry(node).or_insert(Record { failures: 0, avoid_until: None, failing: 0.0, latency: None })
    }

    pub(super) fn failed(&mut self, node: Address) {
        let record = self.record(node);
        let pause = BACKOFF_FIRST.saturating_mul(1 << record.failures.min(10)).min(BACKOFF_MAX);
        record.failures = record.failures.saturating_add(1);
        record.avoid_until = Some(Instant::now() + pause);
        record.failing += NEWEST * (1.0 - record.failing);
    }

    pub(super) fn succeeded(&mut self, node: Address, latency: Option<Duration>) {
        let record = self.record(node);
        (record.failures, record.avoid_until) = (0, None);
        record.failing -= NEWEST * record.failing;
        if let Some(new) = latency.map(|l| l.as_secs_f64()) {
            record.latency = Some(record.latency.map_or(new, |old| old + NEWEST * (new - old)));
        }
    }

    /// Whether the node failed lately and is asked last.
    pub(super) fn is_avoided(&self, node: Address) -> bool {
        self.0.get(&node).and_then(|r| r.avoid_until).is_some_and(|until| until > Instant::now())
    }

    /// A factor from [`LEAST`] to 1 for each node: the square of the part of requests that it answered, times how its latency compares with
    /// the best of these nodes.
    pub(super) fn factors(&self, nodes: &[Address]) -> Vec<f64> {
        let latency = |n: &Address| self.0.get(n).and_then(|r| r.latency).map(|l| l.max(LATENCY_FLOOR));
        let best = nodes.iter().filter_map(latency).fold(f64::INFINITY, f64::min);
        let factor = |n: &Address| {
            let answered = 1.0 - self.0.get(n).map_or(0.0, |r| r.failing);
            // Who was not asked yet may be the best.
            let speed = latency(n).map_or(1.0, |l| best / l);
            (answered * answered * speed).clamp(LEAST, 1.0)
        };
        nodes.iter().map(factor).collect()
    }

    /// Forgets nodes that are not registered any more.
    pub(super) fn keep(&mut self, nodes: &BTreeSet<Address>) {
        self.0.retain(|node, _| nodes.contains(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_latency_count_and_are_forgiven() {
        let [a, b, c] = [1, 2, 3].map(Address::repeat_byte);
        let mut quality = Quality::default();
        quality.succeeded(a, Some(Duration::from_millis(100)));
        quality.succeeded(b, Some(Duration::from_millis(400)));
        let factors = quality.factors(&[a, b, c]);
        assert!((factors[0] - 1.0).abs() < 1e-9 && (factors[1] - 0.25).abs() < 1e-9 && factors[2] == 1.0);
        for _ in 0..100 {
            quality.failed(a);
        }
        assert!(quality.is_avoided(a) && !quality.is_avoided(b));
        assert_eq!(quality.factors(&[a])[0], LEAST);
        for _ in 0..100 {
            quality.succeeded(a, None);
        }
        assert!(!quality.is_avoided(a) && quality.factors(&[a])[0] > 0.99);
        // Nobody is told apart within the noise of a network.
        quality.succeeded(c, Some(Duration::from_millis(1)));
        let mut fast = Quality::default();
        fast.succeeded(b, Some(Duration::from_millis(40)));
        fast.succeeded(c, Some(Duration::from_millis(1)));
        assert_eq!(fast.factors(&[b, c]), [1.0, 1.0]);
        quality.keep(&BTreeSet::from([c]));
        assert_eq!(quality.factors(&[a]), [1.0]);
    }
}
