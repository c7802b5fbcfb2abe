use std::{
    cell::UnsafeCell,
    ops::Range,
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
    /// Counts tasks; a worker runs each once.
    epoch: AtomicUsize,
    task: TaskCell,
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that sleep or are about to.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct TaskCell(UnsafeCell<Option<*const Task>>);

// SAFETY: `Pool::run` writes the cell only while no worker reads it: between two tasks, when `running` is 0. The pointee is `Sync`.
unsafe impl Sync for TaskCell {}
// SAFETY: see above; the pointer itself is only data.
unsafe impl Send for TaskCell {}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
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
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is used by workers between the epoch's start and their decrement of
        // `running`; this function does not return (or unwind) before `running` is back at 0.
        let pointer = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(task) };
        // SAFETY: `running` is 0, so every worker is done with the last task and waits for the next epoch.
        unsafe { *shared.task.0.get() = Some(pointer) };
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        // Pairs with the workers' look at `epoch` after they have counted themselves as sleepers: one of both sees the other.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _lock = lock(&shared.lock);
            shared.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| task(0)));
        let mut spins = 0u32;
        while shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins > SPINS {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let others = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = mine {
            std::panic::resume_unwind(payload);
        }
        assert!(!others, "a kernel worker panicked");
    }

    /// Splits `0..n` into one contiguous range a worker, in multiples of `unit`, and runs `task(range)` on each.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_ranges(&self, n: usize, unit: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        let share = n.div_ceil(unit).div_ceil(self.threads()) * unit;
        self.run(&|i| {
            let (from, to) = ((i * share).min(n), ((i + 1) * share).min(n));
            if from < to {
                task(from..to);
            }
        });
    }

    /// Gives `0..n` away in pieces of `unit` to whoever is free.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_pieces(&self, n: usize, unit: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        if n <= unit || self.workers.is_empty() {
            for from in (0..n).step_by(unit) {
                task(from..(from + unit).min(n));
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let from = next.fetch_add(unit, Ordering::Relaxed);
                if from >= n {
                    break;
                }
                task(from..(from + unit).min(n));
            }
        });
    }

    /// Runs `task(i, chunk i)` for the chunks of `data`, each `chunk` elements long (the last may be shorter), on all workers.
    ///
    /// # Panics
    /// When `chunk` is 0, and as [`run`](Self::run).
    pub fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let (n, len) = (data.len().div_ceil(chunk), data.len());
        let base = Shards::new(data);
        self.run_pieces(n, 1, &|range| {
            for i in range {
                let from = i * chunk;
                // SAFETY: chunk `i` lies inside `data`, and every `i` is given to one worker only, so the parts are disjoint.
                let part =
                    unsafe { std::slice::from_raw_parts_mut(base.ptr().add(from), chunk.min(len - from)) };
                task(i, part);
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
        if shared.epoch.load(Ordering::Acquire) == seen {
            let mut guard = lock(&shared.lock);
            shared.sleepers.fetch_add(1, Ordering::SeqCst);
            while shared.epoch.load(Ordering::SeqCst) == seen {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            shared.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        seen += 1;
        // SAFETY: the epoch has begun, so the cell holds its task, and `Pool::run` leaves it alone until `running` is 0.
        if let Some(task) = unsafe { *shared.task.0.get() } {
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
        self.shared.stop.store(true, Ordering::Release);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        let guard = lock(&self.shared.lock);
        self.shared.wake.notify_all();
        drop(guard);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// A pointer to an output buffer of which workers write disjoint parts.
pub(crate) struct Shards<T>(*mut T);

// SAFETY: whoever dereferences it promises to write only its own part; `T: Send` lets a part be written on another thread.
unsafe impl<T: Send> Sync for Shards<T> {}

impl<T> Shards<T> {
    pub(crate) fn new(out: &mut [T]) -> Self {
        Self(out.as_mut_ptr())
    }

    pub(crate) fn ptr(&self) -> *mut T {
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
            for round in 0..200 {
                if round % 50 == 0 {
                    // Long enough for the workers to fall asleep.
                    thread::sleep(std::time::Duration::from_millis(5));
                }
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
    fn ranges_pieces_and_chunks_cover_everything_once() {
        let pool = Pool::new(3);
        for n in [0, 1, 2, 7, 64, 100] {
            let seen: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let mark = |r: Range<usize>| {
                for i in r {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                }
            };
            pool.run_ranges(n, 2, &mark);
            pool.run_pieces(n, 3, &mark);
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 2));
            let mut data = vec![0usize; n];
            pool.for_each_chunk(&mut data, 5, &|i, part| part.iter_mut().for_each(|x| *x += i + 1));
            assert!(data.iter().enumerate().all(|(at, x)| *x == at / 5 + 1));
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
