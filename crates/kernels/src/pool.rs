use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Rounds that an idle worker spins before it sleeps (some tens of microseconds).
const SPINS: u32 = 4_000;

/// A task: called once by every worker with the worker's number.
type Task = dyn Fn(usize) + Sync;

/// A few threads that run one task together. Worker 0 is the caller. Which worker does what never changes a bit of the
/// result; it only changes who computes which rows.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    /// One task at a time.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Copy of `State::epoch` for spinning.
    epoch: AtomicUsize,
    running: AtomicUsize,
    panicked: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    epoch: usize,
    task: Option<TaskPointer>,
    stop: bool,
}

#[derive(Clone, Copy, Debug)]
struct TaskPointer(*const Task);

// SAFETY: the pointee is `Sync`, and `Pool::run` keeps it alive until every worker is done with it.
unsafe impl Send for TaskPointer {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` workers, the caller included.
    ///
    /// # Panics
    /// When `threads` is 0 or the system gives no thread.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool needs at least one thread");
        let shared = Arc::<Shared>::default();
        let workers = (1..threads)
            .map(|i| {
                let shared = shared.clone();
                let spawned =
                    thread::Builder::new().name(format!("kernel-{i}")).spawn(move || work(i, &shared));
                spawned.expect("the system gives no more threads")
            })
            .collect();
        Self { shared, workers, turn: Mutex::default() }
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(i)` for every worker `i` and returns when all are done.
    ///
    /// # Panics
    /// When the task panics on any worker.
    pub fn run(&self, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return task(0);
        }
        let _turn = lock(&self.turn);
        // SAFETY: only the lifetime changes. The pointer is used by workers between the epoch's start and their decrement of
        // `running`; this function does not return (or unwind) before `running` is back at 0.
        let pointer = TaskPointer(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(task)
        });
        self.shared.running.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut state = lock(&self.shared.state);
            state.task = Some(pointer);
            state.epoch += 1;
            self.shared.epoch.store(state.epoch, Ordering::Release);
        }
        self.shared.wake.notify_all();
        let mine = catch_unwind(AssertUnwindSafe(|| task(0)));
        let mut spins = 0u32;
        while self.shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins > SPINS {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let others = self.shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = mine {
            std::panic::resume_unwind(payload);
        }
        assert!(!others, "a kernel worker panicked");
    }

    /// Splits `0..n` into one contiguous range a worker, in multiples of `unit`, and runs `task(range)` on each.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_ranges(&self, n: usize, unit: usize, task: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let share = n.div_ceil(unit).div_ceil(self.threads()) * unit;
        self.run(&|i| {
            let (from, to) = ((i * share).min(n), ((i + 1) * share).min(n));
            if from < to {
                task(from..to);
            }
        });
    }
}

fn work(index: usize, shared: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        let mut state = lock(&shared.state);
        while state.epoch == seen && !state.stop {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop {
            return;
        }
        seen = state.epoch;
        let task = state.task;
        drop(state);
        if let Some(TaskPointer(task)) = task {
            // SAFETY: `Pool::run` keeps the task alive until this worker has decremented `running` below.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*task)(index) }));
            if done.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// A pointer to an output buffer of which workers write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shards(*mut f32);

// SAFETY: whoever dereferences it promises to write only its own part.
unsafe impl Sync for Shards {}

impl Shards {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    pub(crate) fn ptr(&self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once_a_task() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for _ in 0..100 {
                let count = AtomicUsize::new(0);
                pool.run(&|i| {
                    assert!(i < threads);
                    count.fetch_add(1 << (8 * i), Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), (0..threads).map(|i| 1 << (8 * i)).sum());
            }
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        let pool = Pool::new(3);
        for n in [0, 1, 2, 7, 64, 100] {
            let seen: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            pool.run_ranges(n, 2, &|r| {
                for i in r {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_on_any_worker_is_passed_on_and_the_pool_lives() {
        let pool = Pool::new(3);
        for bad in 0..3 {
            let run = catch_unwind(AssertUnwindSafe(|| pool.run(&|i| assert_ne!(i, bad))));
            assert!(run.is_err());
        }
        pool.run(&|_| {});
    }
}
