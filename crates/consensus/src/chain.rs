use crate::{Block, ConsensusError};
use alloy_primitives::{Address, B256, Bytes};
use futures::channel::mpsc;
use ledger::{BlockInput, Executed, Genesis, Ledger, Mempool, RecoveredTx, Store};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use types::{FinalityCertificate, NetworkConfig};

/// Final blocks whose whole state is kept in memory for queries (they share structure).
const RECENT_BLOCKS: usize = 256;

/// Transactions waiting to be sent to peers.
const GOSSIP_QUEUE: usize = 4096;

type Listener = Box<dyn Fn(&Executed) + Send + Sync>;

/// What one validator knows of the chain: executed blocks, mempool and store.
///
/// Thread-safe; consensus writes, servers read.
pub struct Chain {
    ledger: Ledger,
    network: NetworkConfig,
    genesis: Executed,
    fee_recipient: Address,
    /// Executed blocks that are not final yet, and the final head, by hash.
    pending: Mutex<HashMap<B256, Executed>>,
    /// The newest final blocks, oldest first; never empty.
    recent: RwLock<VecDeque<Executed>>,
    mempool: Mutex<Mempool>,
    store: Store,
    listeners: Mutex<Vec<Listener>>,
    gossip: Mutex<Option<mpsc::Sender<Bytes>>>,
    committed: Mutex<Option<mpsc::UnboundedSender<u64>>>,
    failure: Mutex<Option<String>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain(head {})", self.head().number())
    }
}

impl Chain {
    /// Opens the chain of `genesis` in `store`, going on from what the store holds.
    ///
    /// # Errors
    /// [`ConsensusError::OtherNetwork`] when the store belongs to another genesis, [`ConsensusError::Ledger`] when it is damaged.
    pub fn open(
        genesis: &Genesis,
        network: NetworkConfig,
        store: Store,
        fee_recipient: Address,
    ) -> Result<Self, ConsensusError> {
        let ledger = Ledger::new(genesis.params());
        let genesis = genesis.execute(network.commitment())?;
        let head = match store.load_head()? {
            Some(head) => {
                let found = store.block_hash(0)?.unwrap_or_default();
                if found != genesis.hash() {
                    return Err(ConsensusError::OtherNetwork { found, expected: genesis.hash() });
                }
                head
            }
            None => {
                store.commit(&genesis, None)?;
                genesis.clone()
            }
        };
        Ok(Self {
            ledger,
            network,
            genesis,
            fee_recipient,
            pending: Mutex::new(HashMap::from([(head.hash(), head.clone())])),
            recent: RwLock::new(VecDeque::from([head])),
            mempool: Mutex::new(Mempool::default()),
            store,
            listeners: Mutex::default(),
            gossip: Mutex::default(),
            committed: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    /// The ledger's rules.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The network's configuration.
    pub fn network(&self) -> &NetworkConfig {
        &self.network
    }

    /// The executed genesis block.
    pub fn genesis(&self) -> &Executed {
        &self.genesis
    }

    /// Blocks, receipts and certificates on disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest final block.
    pub fn head(&self) -> Executed {
        self.recent.read().back().unwrap_or_else(|| unreachable!("never empty")).clone()
    }

    /// The final block `number` with its state, when it is one of the newest.
    pub fn recent(&self, number: u64) -> Option<Executed> {
        let recent = self.recent.read();
        let first = recent.front()?.number();
        recent.get(usize::try_from(number.checked_sub(first)?).ok()?).cloned()
    }

    /// Calls `listener` after every final block, in order. It must return quickly and not call back.
    pub fn on_commit(&self, listener: impl Fn(&Executed) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }

    /// Why this validator had to stop, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub(crate) fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
    }

    pub(crate) fn block_time_ms(&self) -> u64 {
        self.network.block_time_ms
    }

    pub(crate) fn executed(&self, hash: &B256) -> Option<Executed> {
        self.pending.lock().get(hash).cloned()
    }

    /// Builds a block on `parent` from the mempool and remembers its state.
    pub(crate) fn build(
        &self,
        parent: &Executed,
        timestamp_ms: u64,
        seal: B256,
    ) -> Result<Executed, ConsensusError> {
        let input = BlockInput { timestamp: timestamp_ms / 1000, seal, beneficiary: self.fee_recipient };
        let candidates = self.mempool.lock().best(parent);
        let built = self.ledger.build(parent, input, candidates)?;
        self.pending.lock().insert(built.hash(), built.clone());
        Ok(built)
    }

    /// Executes `block` on `parent`, checks every header field and remembers its state.
    pub(crate) fn execute(&self, parent: &Executed, block: &Block) -> Result<Executed, ConsensusError> {
        if let Some(known) = self.executed(&block.hash()) {
            return Ok(known);
        }
        let executed = self.ledger.execute(parent, block.ledger_block())?;
        self.pending.lock().insert(executed.hash(), executed.clone());
        Ok(executed)
    }

    /// Makes a final block durable. Delivery is at least once, so older blocks are ignored.
    pub(crate) fn commit(&self, block: &Block) -> Result<(), ConsensusError> {
        let head = self.head();
        let number = block.ledger_block().header.number;
        if number <= head.number() {
            return Ok(());
        }
        let executed = self.execute(&head, block)?;
        self.store.commit(&executed, None)?;
        {
            let mut pending = self.pending.lock();
            // Whatever is not above the new head can no longer become final.
            pending.retain(|_, e| e.number() > number);
            pending.insert(executed.hash(), executed.clone());
        }
        {
            let mut recent = self.recent.write();
            recent.push_back(executed.clone());
            if recent.len() > RECENT_BLOCKS {
                recent.pop_front();
            }
        }
        self.mempool.lock().on_committed(&executed);
        for listener in self.listeners.lock().iter() {
            listener(&executed);
        }
        if let Some(committed) = self.committed.lock().as_ref() {
            let _ = committed.unbounded_send(number);
        }
        Ok(())
    }

    /// Keeps the certificate of final block `number`.
    pub(crate) fn record_certificate(
        &self,
        number: u64,
        certificate: &FinalityCertificate,
    ) -> Result<(), ConsensusError> {
        Ok(self.store.put_certificate(number, &certificate.encode())?)
    }

    /// The newest final block that has a certificate of its own and whose state is in memory, with the certificate.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the store cannot be read.
    pub fn certified(&self) -> Result<Option<(Executed, FinalityCertificate)>, ConsensusError> {
        let recent: Vec<_> = self.recent.read().iter().rev().cloned().collect();
        for executed in recent {
            if let Some(bytes) = self.store.certificate(executed.number())? {
                let certificate = FinalityCertificate::decode(&bytes)
                    .map_err(|e| ConsensusError::Stopped(format!("stored certificate: {e}")))?;
                return Ok(Some((executed, certificate)));
            }
        }
        Ok(None)
    }

    /// Takes a raw transaction from a client: checks it, puts it into the mempool and hands it to the peers.
    ///
    /// # Errors
    /// [`ConsensusError::Transaction`] with geth's wording.
    pub fn submit(&self, raw: Bytes) -> Result<B256, ConsensusError> {
        let hash = self.admit(&raw)?;
        if let Some(gossip) = self.gossip.lock().as_mut()
            && gossip.try_send(raw).is_err()
        {
            tracing::debug!("the gossip queue is full; the transaction stays in this validator's mempool");
        }
        Ok(hash)
    }

    /// Takes a raw transaction into the mempool without telling the peers.
    pub(crate) fn admit(&self, raw: &[u8]) -> Result<B256, ConsensusError> {
        let refuse = |e: ledger::LedgerError| ConsensusError::Transaction(e.to_string());
        let tx = RecoveredTx::decode(raw, self.network.chain_id).map_err(refuse)?;
        let hash = tx.hash();
        self.mempool
            .lock()
            .insert(Arc::new(tx), &self.head())
            .map_err(|e| ConsensusError::Transaction(e.to_string()))?;
        Ok(hash)
    }

    /// The next nonce of `address`, counting transactions in the mempool.
    pub fn pending_nonce(&self, address: Address) -> u64 {
        let state = self.head().state().nonce(address);
        self.mempool.lock().pending_nonce(address).map_or(state, |n| n.max(state))
    }

    /// A transaction of the mempool.
    pub fn pooled(&self, hash: &B256) -> Option<Arc<RecoveredTx>> {
        self.mempool.lock().get(hash)
    }

    pub(crate) fn gossip_queue(&self) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(GOSSIP_QUEUE);
        *self.gossip.lock() = Some(sender);
        receiver
    }

    pub(crate) fn committed_heights(&self) -> mpsc::UnboundedReceiver<u64> {
        let (sender, receiver) = mpsc::unbounded();
        *self.committed.lock() = Some(sender);
        receiver
    }
}
