//! Threads for calls that can keep a core busy: few, of low priority, shared fairly between peers, and never longer than a deadline.
//!
//! The program that answers these calls also votes on blocks, so what strangers ask for may only use what is left. A call waits in
//! the queue of its peer; peers take turns. Each peer also has an account of time: who has used it up is told when to come back.

use crate::{http::Peer, ports::Stop};
use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};
use tokio::sync::oneshot;
use tracing::debug;

/// Priority of the threads, of 100: niceness 5, which is a quarter of what a thread of consensus gets when both want the same core.
const PRIORITY: u8 = 36;
/// Most calls of one peer that wait, and of all peers. This machine may have half of them.
const WAITING_PEER_MAX: usize = 32;
const WAITING_MAX: usize = 1024;
/// Time of the threads that a peer may use at once after a pause, in seconds; in the long run it may use [`SHARE`] of one thread.
const ACCOUNT: f64 = 20.0;
const SHARE: f64 = 0.25;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);

/// Bounds of heavy calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Threads, which is how many run at once.
    pub places: usize,
    /// Longest time of one call.
    pub time: Duration,
    /// Longest time that a call waits for a place.
    pub wait: Duration,
}

impl Default for CallLimits {
    /// Half of the cores, at most eight; two seconds are several times what the most gas costs on a slow machine.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let (time, wait) = (Duration::from_secs(2), Duration::from_secs(5));
        Self { places: (cores / 2).clamp(1, 8), time, wait }
    }
}

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No place, or the peer has used up its time.
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// Its time was over.
    TooLong(Duration),
    /// It panicked.
    Failed,
}

type Work = Box<dyn FnOnce(&Stop) + Send>;

struct Job {
    work: Work,
    stop: Stop,
    since: Instant,
}

/// What a peer has: calls that run and wait, and time.
struct Account {
    running: usize,
    waiting: VecDeque<Job>,
    /// Seconds that it may still use.
    left: f64,
    at: Instant,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self { running: 0, waiting: VecDeque::new(), left: ACCOUNT, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * SHARE).min(ACCOUNT);
        self.at = now;
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty() && self.left >= ACCOUNT
    }
}

#[derive(Default)]
struct State {
    closed: bool,
    accounts: HashMap<Peer, Account>,
    /// Peers with waiting calls; the first is next.
    turn: VecDeque<Peer>,
    waiting: usize,
    /// What runs: when it began, and its flag.
    running: HashMap<u64, (Instant, Stop)>,
    started: u64,
}

struct Shared {
    limits: CallLimits,
    state: Mutex<State>,
    ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Work never runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads. Dropping this ends them, and what runs on them.
pub(crate) struct Workers(Arc<Shared>);

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.accounts.clear();
        state.running.values().for_each(|(_, stop)| stop.set());
        self.0.ready.notify_all();
    }
}

/// Ends the work when the future that waits for it is dropped, which happens when the client leaves.
struct EndOnDrop(Stop);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has none.
    pub(crate) fn start(limits: CallLimits) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { limits, state: Mutex::default(), ready: Condvar::new() });
        let workers = Self(shared.clone());
        for i in 0..limits.places {
            let shared = shared.clone();
            thread::Builder::new().name(format!("rpc-call-{i}")).spawn(move || {
                lower_priority();
                while let Some((peer, number, job)) = next(&shared) {
                    run(&shared, peer, number, job);
                }
            })?;
        }
        thread::Builder::new().name("rpc-clock".into()).spawn(move || watch(&shared))?;
        Ok(workers)
    }

    /// Calls that run and that wait.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.running.len(), state.waiting)
    }

    /// Runs `work` for `peer`. When the future is dropped, the work is told to stop.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        peer: Peer,
        work: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let stop = Stop::default();
        let _end = EndOnDrop(stop.clone());
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move |stop| {
            let value = catch_unwind(AssertUnwindSafe(|| work(stop)));
            // Nobody may wait any more.
            let _ = done.send(value.map_err(|_| Refusal::Failed));
        });
        self.queue(peer, Job { work, stop: stop.clone(), since: Instant::now() })?;
        match result.await {
            Ok(value) if !stop.is_set() => value,
            Ok(_) => Err(Refusal::TooLong(self.0.limits.time)),
            // Dropped from the queue.
            Err(_) => Err(Refusal::Busy { retry_after: self.0.limits.time }),
        }
    }

    fn queue(&self, peer: Peer, job: Job) -> Result<(), Refusal> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        let busy = |retry_after| Err(Refusal::Busy { retry_after });
        if state.closed || state.waiting >= WAITING_MAX {
            return busy(self.0.limits.wait);
        }
        let now = job.since;
        state.accounts.retain(|p, account| {
            account.refill(now);
            *p == peer || !account.is_idle()
        });
        let account = state.accounts.entry(peer).or_insert_with(|| Account::new(now));
        if account.left <= 0.0 && !peer.is_this_machine() {
            return busy(Duration::from_secs_f64(-account.left / SHARE + 1.0));
        }
        let most = if peer.is_this_machine() { WAITING_MAX / 2 } else { WAITING_PEER_MAX };
        if account.waiting.len() >= most {
            return busy(self.0.limits.time);
        }
        if account.waiting.is_empty() {
            state.turn.push_back(peer);
        }
        account.waiting.push_back(job);
        state.waiting += 1;
        self.0.ready.notify_one();
        Ok(())
    }
}

fn lower_priority() {
    let set = ThreadPriorityValue::try_from(PRIORITY)
        .map(|value| ThreadPriority::Crossplatform(value).set_for_current());
    // Where the process itself has a lower one, for example.
    if !matches!(set, Ok(Ok(()))) {
        debug!("calls run at the priority of the process: {set:?}");
    }
}

/// Waits for the next call; none when the server has ended.
fn next(shared: &Shared) -> Option<(Peer, u64, Job)> {
    let mut guard = shared.lock();
    loop {
        let state = &mut *guard;
        if state.closed {
            return None;
        }
        if let Some((peer, job)) = take(state, shared.limits.places) {
            // Whoever left while it waited gets nothing.
            if job.stop.is_set() {
                continue;
            }
            state.started += 1;
            let number = state.started;
            state.running.insert(number, (Instant::now(), job.stop.clone()));
            if let Some(account) = state.accounts.get_mut(&peer) {
                account.running += 1;
            }
            return Some((peer, number, job));
        }
        guard = shared.ready.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The oldest call of the peer whose turn it is. One peer never has the last place, unless there is only one.
fn take(state: &mut State, places: usize) -> Option<(Peer, Job)> {
    for _ in 0..state.turn.len() {
        let peer = state.turn.pop_front()?;
        let Some(account) = state.accounts.get_mut(&peer) else { continue };
        if account.running >= places.saturating_sub(1).max(1) {
            state.turn.push_back(peer);
            continue;
        }
        let Some(job) = account.waiting.pop_front() else { continue };
        state.waiting = state.waiting.saturating_sub(1);
        if !account.waiting.is_empty() {
            state.turn.push_back(peer);
        }
        return Some((peer, job));
    }
    None
}

fn run(shared: &Shared, peer: Peer, number: u64, job: Job) {
    let began = Instant::now();
    (job.work)(&job.stop);
    let took = began.elapsed();
    let mut state = shared.lock();
    state.running.remove(&number);
    if let Some(account) = state.accounts.get_mut(&peer) {
        account.running = account.running.saturating_sub(1);
        account.left -= took.as_secs_f64();
    }
    if took > shared.limits.time {
        debug!("a call of {peer:?} took {} ms", took.as_millis());
    }
}

/// Ends calls whose time is over, and drops those that waited too long or for nobody.
fn watch(shared: &Shared) {
    loop {
        thread::sleep(TICK);
        let mut guard = shared.lock();
        let state = &mut *guard;
        if state.closed {
            return;
        }
        let now = Instant::now();
        for (began, stop) in state.running.values() {
            if now.saturating_duration_since(*began) >= shared.limits.time {
                stop.set();
            }
        }
        for account in state.accounts.values_mut() {
            account.waiting.retain(|job| {
                !job.stop.is_set() && now.saturating_duration_since(job.since) < shared.limits.wait
            });
        }
        state.waiting = state.accounts.values().map(|a| a.waiting.len()).sum();
        let accounts = &state.accounts;
        state.turn.retain(|peer| accounts.get(peer).is_some_and(|a| !a.waiting.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(time: u64) -> CallLimits {
        CallLimits { places: 1, time: Duration::from_millis(time), wait: Duration::from_secs(60) }
    }

    fn peer(i: u8) -> Peer {
        Peer::of([203, 0, 113, i].into())
    }

    /// Runs until it is told to stop.
    fn endless(stop: &Stop) {
        while !stop.is_set() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    async fn until_idle(workers: &Workers) {
        while workers.load() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended() {
        let workers = Workers::start(limits(30)).unwrap();
        assert_eq!(workers.run(peer(1), endless).await, Err(Refusal::TooLong(Duration::from_millis(30))));
        until_idle(&workers).await;
        assert_eq!(workers.run(peer(1), |_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn who_leaves_takes_the_work_along() {
        let workers = Arc::new(Workers::start(limits(3_600_000)).unwrap());
        let clients: Vec<_> = (0..20)
            .map(|i| {
                let workers = workers.clone();
                tokio::spawn(async move { workers.run(peer(i % 4), endless).await })
            })
            .collect();
        while workers.load() != (1, 19) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        clients.iter().for_each(|c| c.abort());
        until_idle(&workers).await;
    }

    #[tokio::test]
    async fn peers_take_turns() {
        let workers = Arc::new(Workers::start(limits(60_000)).unwrap());
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let first = workers.clone();
        let first = tokio::spawn(async move { first.run(peer(9), move |_| gate.recv()).await });
        while workers.load().0 != 1 {
            tokio::task::yield_now().await;
        }
        let order = Arc::new(Mutex::new(vec![]));
        let mut clients = vec![];
        for (who, count) in [(1, 20), (2, 1), (3, 1)] {
            for _ in 0..count {
                let (queue, order, before) = (workers.clone(), order.clone(), workers.load().1);
                let run = async move { queue.run(peer(who), move |_| order.lock().unwrap().push(who)).await };
                clients.push(tokio::spawn(run));
                while workers.load().1 == before {
                    tokio::task::yield_now().await;
                }
            }
        }
        go.send(()).unwrap();
        first.await.unwrap().unwrap().unwrap();
        for client in clients {
            client.await.unwrap().unwrap();
        }
        assert_eq!(order.lock().unwrap()[..4], [1, 2, 3, 1]);
    }

    #[tokio::test]
    async fn queues_and_time_have_an_end() {
        let workers = Arc::new(Workers::start(limits(3_600_000)).unwrap());
        let mut clients = vec![];
        for _ in 0..=WAITING_PEER_MAX {
            let queue = workers.clone();
            clients.push(tokio::spawn(async move { queue.run(peer(1), endless).await }));
            while workers.load().0 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        while workers.load() != (1, WAITING_PEER_MAX) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(matches!(workers.run(peer(1), |_| ()).await, Err(Refusal::Busy { .. })));
        // Another peer still gets into the line.
        let other = {
            let workers = workers.clone();
            tokio::spawn(async move { workers.run(peer(2), |_| 5).await })
        };
        clients.iter().for_each(|c| c.abort());
        assert_eq!(other.await.unwrap(), Ok(5));
        until_idle(&workers).await;
        workers.0.lock().accounts.get_mut(&peer(1)).unwrap().left = -1.0;
        let Err(Refusal::Busy { retry_after }) = workers.run(peer(1), |_| ()).await else {
            panic!("its time was used up")
        };
        assert!(retry_after > Duration::from_secs(4) && retry_after < Duration::from_secs(6));
        assert_eq!(workers.run(peer(2), |_| 6).await, Ok(6));
    }

    #[tokio::test]
    async fn a_panic_is_one_failed_call() {
        let workers = Workers::start(limits(60_000)).unwrap();
        let work = |_: &Stop| -> u8 { panic!("a fault of ours") };
        assert_eq!(workers.run(peer(1), work).await, Err(Refusal::Failed));
        assert_eq!(workers.run(peer(1), |_| 8).await, Ok(8));
    }
}
