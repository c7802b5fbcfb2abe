use crate::{
    Account, Call, FeeRules, Included, Ledger, Metrics, SendError, Ticket, WalletError, job::Job,
    store::Store, worker,
};
use alloy_primitives::Address;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

/// Most calls that wait in one wallet.
const CALLS_MAX: usize = 256;
/// Most bytes of call data; mempools take transactions of 128 KiB.
const DATA_MAX: usize = 126 << 10;
/// How often the ledger is asked while something is under way.
const POLL: Duration = Duration::from_millis(150);
/// How long a call without a deadline is tried.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a wallet is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The key.
    pub account: Account,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// File for what is pending; without one it is lost with the process.
    pub path: Option<PathBuf>,
    /// What is offered.
    pub fees: FeeRules,
    /// How long a call without a deadline is tried.
    pub patience: Duration,
    /// How often the ledger is asked while something is under way; pauses after faults are multiples of it.
    pub poll: Duration,
}

impl Config {
    /// The usual rules, with nothing kept on disk.
    pub fn new(account: Account, chain_id: u64) -> Self {
        Self { account, chain_id, path: None, fees: FeeRules::default(), patience: PATIENCE, poll: POLL }
    }

    /// Keeps pending calls in this file.
    #[must_use]
    pub fn kept_in(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Tries calls without a deadline for so long.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// Calls and who waits for them.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) waiters: HashMap<u64, Vec<oneshot::Sender<Result<Included, SendError>>>>,
    pub(crate) next_id: u64,
}

/// What handles and worker share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) metrics: Metrics,
    pub(crate) wake: Notify,
    queue: Mutex<Queue>,
    store: Option<Store>,
    /// One submission at a time: equal calls must find each other.
    entrance: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a call, on disk first.
    pub(crate) async fn put(self: &Arc<Self>, job: Job) -> Result<(), WalletError> {
        let (this, on_disk) = (self.clone(), job.clone());
        if self.store.is_some() {
            let written = tokio::task::spawn_blocking(move || match &this.store {
                Some(store) => store.put(&on_disk),
                None => Ok(()),
            });
            written
                .await
                .map_err(|e| WalletError::Store { path: String::new(), reason: e.to_string() })??;
        }
        self.lock().jobs.insert(job.id, job);
        Ok(())
    }

    /// Forgets a call and tells who waits.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        id: u64,
        outcome: Result<Included, SendError>,
    ) -> Result<(), WalletError> {
        let this = self.clone();
        if self.store.is_some() {
            let written = tokio::task::spawn_blocking(move || match &this.store {
                Some(store) => store.remove(id),
                None => Ok(()),
            });
            written
                .await
                .map_err(|e| WalletError::Store { path: String::new(), reason: e.to_string() })??;
        }
        self.lock().jobs.remove(&id);
        self.tell(id, outcome);
        Ok(())
    }

    /// Tells who waits for a call.
    pub(crate) fn tell(&self, id: u64, outcome: Result<Included, SendError>) {
        let waiters = self.lock().waiters.remove(&id).unwrap_or_default();
        for waiter in waiters {
            // Who does not wait any more does not want to know.
            let _ = waiter.send(outcome.clone());
        }
    }
}

/// Stops the worker with the last handle.
struct Worker(JoinHandle<()>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An account that sends transactions and sees to it that they arrive. Clones are handles on the same one.
#[derive(Clone)]
pub struct Wallet {
    shared: Arc<Shared>,
    _worker: Arc<Worker>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wallet({})", self.address())
    }
}

impl Wallet {
    /// Opens the wallet of an account and goes on with what is pending in its file. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`WalletError`] when the file cannot be used.
    pub fn open(config: Config, ledger: Arc<dyn Ledger>) -> Result<Self, WalletError> {
        let mut queue = Queue::default();
        let mut store = None;
        if let Some(path) = &config.path {
            let (opened, jobs) = Store::open(path, config.account.address(), config.chain_id)?;
            queue.next_id = jobs.iter().map(|j| j.id + 1).max().unwrap_or_default();
            queue.jobs = jobs.into_iter().map(|job| (job.id, job)).collect();
            store = Some(opened);
        }
        let shared = Arc::new(Shared {
            config,
            ledger,
            metrics: Metrics::default(),
            wake: Notify::new(),
            queue: Mutex::new(queue),
            store,
            entrance: tokio::sync::Mutex::default(),
        });
        let task = tokio::spawn(worker::run(shared.clone()));
        Ok(Self { shared, _worker: Arc::new(Worker(task)) })
    }

    /// The account's address.
    pub fn address(&self) -> Address {
        self.shared.config.account.address()
    }

    /// What this wallet counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Number of calls under way.
    pub fn pending(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Takes a call. When this returns, the call is on disk (if the wallet has a file), and what can be done for it will be done. A call
    /// equal to one under way is that one.
    ///
    /// # Errors
    /// [`WalletError`] when the queue is full or the file cannot be written.
    pub async fn submit(&self, call: Call) -> Result<Ticket, WalletError> {
        if call.data.len() > DATA_MAX {
            return Err(WalletError::Oversized { size: call.data.len(), max: DATA_MAX });
        }
        let shared = &self.shared;
        let _one = shared.entrance.lock().await;
        let (sender, outcome) = oneshot::channel();
        let job = {
            let mut queue = shared.lock();
            let same = queue.jobs.values().find(|j| j.is_same(&call)).map(|j| j.id);
            if let Some(id) = same {
                queue.waiters.entry(id).or_default().push(sender);
                return Ok(Ticket { outcome });
            }
            if queue.jobs.len() >= CALLS_MAX {
                return Err(WalletError::Full(queue.jobs.len()));
            }
            let id = queue.next_id;
            queue.next_id += 1;
            queue.waiters.insert(id, vec![sender]);
            Job::new(id, call, unix_now(), shared.config.patience.as_secs())
        };
        let id = job.id;
        if let Err(e) = shared.put(job).await {
            shared.lock().waiters.remove(&id);
            return Err(e);
        }
        shared.wake.notify_one();
        Ok(Ticket { outcome })
    }

    /// Takes a call and waits until it is in a final block, or given up.
    ///
    /// # Errors
    /// [`SendError`] says who is to blame.
    pub async fn send(&self, call: Call) -> Result<Included, SendError> {
        self.submit(call).await?.wait().await
    }
}

/// Seconds since the Unix epoch by this machine's clock.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
