//! When a node that shows nothing withholds: not after one error, which may be anybody's.

use super::fetch::{FetchError, KEPT_BACK_MAX};
use std::time::{Duration, Instant};

/// Fewest tries before a node is called silent.
const TRIES_MIN: u32 = 5;

/// Tries to see one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Over how long the tries must be spread.
    span: Duration,
    started: Instant,
    /// When the node first failed to show it.
    first: Option<Instant>,
    tries: u32,
    /// How many of the tries got an answer from the node: then the network between works.
    answered: u32,
}

impl Patience {
    /// Patience for a duty that leaves `left` time: the tries are spread over at least half of it.
    pub(crate) fn new(left: Duration, now: Instant) -> Self {
        Self { span: left / 2, started: now, first: None, tries: 0, answered: 0 }
    }

    /// Counts a failed try. What is our own fault does not count.
    pub(crate) fn record(&mut self, error: &FetchError, now: Instant) {
        match error {
            FetchError::Own(_) => return,
            FetchError::Early if now.duration_since(self.started) < KEPT_BACK_MAX => return,
            FetchError::Early | FetchError::KeptBack(_) => self.answered += 1,
            FetchError::Unreachable(_) => (),
        }
        self.tries += 1;
        self.first.get_or_insert(now);
    }

    /// Whether the node withholds it: enough tries over enough time. A node that gave no answer at all is called silent only when
    /// this machine is `online`, so that its own cut cable convicts nobody.
    pub(crate) fn is_over(&self, now: Instant, online: bool) -> bool {
        let lasted = self.first.is_some_and(|first| now.duration_since(first) >= self.span);
        self.tries >= TRIES_MIN && lasted && (self.answered > 0 || online)
    }

    /// How long to wait before the next try.
    pub(crate) fn pause(&self) -> Duration {
        (self.span / (TRIES_MIN + 1)).clamp(Duration::from_millis(200), Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LEFT: Duration = Duration::from_secs(3_600);

    fn tried(error: &FetchError, times: u32, every: Duration) -> (Patience, Instant) {
        let start = Instant::now();
        let mut patience = Patience::new(LEFT, start);
        for n in 0..times {
            patience.record(error, start + every * n);
        }
        (patience, start + every * times)
    }

    #[test]
    fn a_short_outage_or_an_own_fault_convicts_nobody() {
        let refused = FetchError::KeptBack("status 500".into());
        // Many tries in a short time, as while the node restarts.
        let (patience, end) = tried(&refused, 100, Duration::from_secs(1));
        assert!(!patience.is_over(end, true));
        // Few tries over a long time.
        let (patience, end) = tried(&refused, 4, Duration::from_secs(900));
        assert!(!patience.is_over(end, true));
        let (patience, end) = tried(&FetchError::Own("no ledger".into()), 100, Duration::from_secs(60));
        assert!(!patience.is_over(end, true));
    }

    #[test]
    fn a_node_that_never_shows_it_withholds() {
        let (patience, end) = tried(&FetchError::KeptBack("status 404".into()), 6, Duration::from_secs(360));
        assert!(patience.is_over(end, false));
    }

    #[test]
    fn silence_counts_only_while_this_machine_is_online() {
        let (patience, end) =
            tried(&FetchError::Unreachable("timed out".into()), 6, Duration::from_secs(360));
        assert!(!patience.is_over(end, false));
        assert!(patience.is_over(end, true));
    }

    #[test]
    fn an_answer_may_wait_for_its_group() {
        let (patience, end) = tried(&FetchError::Early, 20, Duration::from_secs(3));
        assert!(!patience.is_over(end, true));
        let (patience, end) = tried(&FetchError::Early, 20, Duration::from_secs(170));
        assert!(patience.is_over(end, true));
    }

    #[test]
    fn the_tries_fit_into_the_time() {
        for seconds in [6, 60, 3_600] {
            let patience = Patience::new(Duration::from_secs(seconds), Instant::now());
            assert!(patience.pause() * TRIES_MIN <= Duration::from_secs(seconds) / 2);
        }
    }
}
