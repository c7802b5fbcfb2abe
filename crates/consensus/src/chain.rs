mod pool;

use crate::{Block, ConsensusError, epochs, flusher::Flusher, keys, lane::Lane};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_sol_types::{SolCall as _, sol};
use futures::channel::mpsc;
use ledger::{
    BlockInput, CallOutcome, Executed, Genesis, Ledger, Mempool, Overrides, RecoveredTx, Store, Turn,
};
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::AtomicBool},
};
use types::{Equivocation, FinalityCertificate, Handover, NetworkConfig};

/// Final blocks whose whole state is kept in memory for queries (they share structure).
const RECENT_BLOCKS: usize = 128;

/// Executed blocks that are not final, at most.
const PENDING_BLOCKS: usize = 512;

/// Checked transactions that are remembered.
const CHECKED: usize = 40_000;

/// Pieces of evidence that wait for somebody to take them.
const EVIDENCE_QUEUE: usize = 64;

/// Candidates of one call, and in all.
const CANDIDATES_PAGE: u64 = 100;
const CANDIDATES_MAX: u64 = 256;

sol! {
    struct Candidate {
        address operator; bytes32 peer; uint256 stake; bool active; uint64 jailedUntil; uint64 exitAt; bool tombstoned;
    }
    function candidates(uint256 offset, uint256 limit) external view returns (Candidate[] memory page);
}

type OnCommit = Box<dyn Fn(&Executed) + Send + Sync>;
type OnTransaction = Box<dyn Fn(&Arc<RecoveredTx>) + Send + Sync>;

/// How a validator keeps its chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainOptions {
    /// Receives the tips of blocks that this validator proposes.
    pub fee_recipient: Address,
    /// Write states to disk on a thread of its own. Without it every run does the same things in the same order, for simulations.
    pub background: bool,
}

/// What one validator knows of the chain: executed blocks, mempool and store.
///
/// Thread-safe; consensus writes, servers read.
pub struct Chain {
    ledger: Ledger,
    network: NetworkConfig,
    genesis: Executed,
    options: ChainOptions,
    /// Executed blocks that are not final yet, and the final head, by hash.
    pending: Mutex<HashMap<B256, Executed>>,
    /// The newest final blocks, oldest first; never empty.
    recent: RwLock<VecDeque<Executed>>,
    mempool: Mutex<Mempool>,
    /// Transactions whose signatures were checked a while ago, whether they came by gossip, from a client or in a block: checking is most of
    /// the work that a transfer makes.
    checked: Cache<B256, Arc<RecoveredTx>>,
    store: Arc<Store>,
    flusher: Option<Flusher>,
    on_commit: RwLock<Vec<OnCommit>>,
    on_transaction: RwLock<Vec<OnTransaction>>,
    gossip: Mutex<Option<mpsc::Sender<Bytes>>>,
    committed: Mutex<Vec<mpsc::UnboundedSender<u64>>>,
    lane: Lane,
    evidence: Mutex<VecDeque<Equivocation>>,
    failure: Arc<Mutex<Option<String>>>,
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
    /// [`ConsensusError::OtherNetwork`] when the store belongs to another genesis, [`ConsensusError::Key`] for a bad first validator set,
    /// [`ConsensusError::Ledger`] when the store is damaged.
    pub fn open(
        genesis: &Genesis,
        network: NetworkConfig,
        store: Arc<Store>,
        options: ChainOptions,
    ) -> Result<Self, ConsensusError> {
        keys::check_genesis(&network)?;
        let executed = genesis.execute(&network)?;
        let ledger = Ledger::new(genesis.params(&network), executed.hash());
        if let Some(found) = store.block_hash(0)?.filter(|found| *found != executed.hash()) {
            return Err(ConsensusError::OtherNetwork { found, expected: executed.hash() });
        }
        if store.range()?.is_none() {
            store.initialise(&executed)?;
        }
        let head = store.recover(&ledger)?.ok_or(ConsensusError::Stopped("the store is empty".into()))?;
        let failure = Arc::new(Mutex::new(None));
        let flusher =
            options.background.then(|| Flusher::start(store.clone(), failure.clone())).transpose()?;
        let mut mempool = Mempool::default();
        let waiting = store.waiting()?;
        let known = waiting.par_iter().map(|raw| RecoveredTx::decode(raw, network.chain_id));
        for tx in known.collect::<Vec<_>>().into_iter().flatten() {
            // What was executed meanwhile, or cannot be any more, is refused; that is as it should be.
            let _ = mempool.insert(Arc::new(tx), &head);
        }
        Ok(Self {
            ledger,
            network,
            genesis: executed,
            options,
            pending: Mutex::new(HashMap::from([(head.hash(), head.clone())])),
            recent: RwLock::new(VecDeque::from([head])),
            mempool: Mutex::new(mempool),
            checked: Cache::new(CHECKED),
            store,
            flusher,
            on_commit: RwLock::default(),
            on_transaction: RwLock::default(),
            gossip: Mutex::default(),
            committed: Mutex::default(),
            lane: Lane::default(),
            evidence: Mutex::default(),
            failure,
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
    pub fn store(&self) -> &Arc<Store> {
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

    /// The final block `number` with its state, from memory or disk.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the disk cannot be read.
    pub fn with_state(&self, number: u64) -> Result<Option<Executed>, ConsensusError> {
        match self.recent(number) {
            Some(executed) => Ok(Some(executed)),
            None => Ok(self.store.executed(&self.ledger, number)?),
        }
    }

    /// Calls `listener` after every final block, in order. It must return quickly and not call back.
    pub fn on_commit(&self, listener: impl Fn(&Executed) + Send + Sync + 'static) {
        self.on_commit.write().push(Box::new(listener));
    }

    /// Calls `listener` for every new transaction in the mempool. It must return quickly and not call back.
    pub fn on_transaction(&self, listener: impl Fn(&Arc<RecoveredTx>) + Send + Sync + 'static) {
        self.on_transaction.write().push(Box::new(listener));
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

    /// The executed block with this hash: the head, or one that is not final yet.
    pub fn executed(&self, hash: &B256) -> Option<Executed> {
        self.pending.lock().get(hash).cloned()
    }

    fn remember(&self, executed: &Executed) {
        let mut pending = self.pending.lock();
        if pending.len() >= PENDING_BLOCKS {
            // A flood of proposals that never become final; what is dropped can be executed again.
            let head = self.head().hash();
            pending.retain(|hash, _| *hash == head);
        }
        pending.insert(executed.hash(), executed.clone());
    }

    /// Builds a block on `parent` from the mempool and remembers its state.
    pub(crate) fn build(
        &self,
        parent: &Executed,
        timestamp: u64,
        seal: B256,
        randomness: B256,
        turn: Turn,
    ) -> Result<Executed, ConsensusError> {
        let beneficiary = self.options.fee_recipient;
        let input = BlockInput { timestamp, seal, beneficiary, randomness, turn };
        let candidates = self.mempool.lock().best(parent)?;
        let built = self.ledger.build(parent, &input, candidates)?;
        self.remember(&built);
        Ok(built)
    }

    /// What the order of turns is drawn from in the epoch of the block that follows `parent`.
    pub(crate) fn turn_seed(&self, parent: &Executed) -> Result<B256, ConsensusError> {
        Ok(ledger::turn_seed(parent, self.ledger.params().staking)?)
    }

    /// Executes `block` on `parent`, checks every header field and remembers its state.
    pub(crate) fn execute(&self, parent: &Executed, block: &Block) -> Result<Executed, ConsensusError> {
        if let Some(known) = self.executed(&block.hash()) {
            return Ok(known);
        }
        let turn = epochs::turn(parent.validators(), self.turn_seed(parent)?, block.context_ref())
            .ok_or(ConsensusError::UnknownLeader)?;
        let txs = &block.ledger_block().transactions;
        let chain_id = self.network.chain_id;
        txs.par_iter().filter(|tx| self.checked.peek(tx.tx_hash()).is_none()).for_each(|tx| {
            // A bad one is found again, and refused, when it is executed.
            if let Ok(tx) = RecoveredTx::recover(tx.clone(), chain_id) {
                self.checked.insert(tx.hash(), Arc::new(tx));
            }
        });
        let known = |hash: &B256| self.checked.get(hash);
        let executed = self.ledger.execute(parent, block.ledger_block(), &turn, &known)?;
        self.remember(&executed);
        Ok(executed)
    }

    /// Makes a final block durable. Delivery is at least once, so older blocks are ignored.
    pub(crate) fn commit(&self, block: &Block) -> Result<(), ConsensusError> {
        let head = self.head();
        if block.ledger_block().header.number <= head.number() {
            return Ok(());
        }
        let executed = self.execute(&head, block)?;
        let number = executed.number();
        if let Some(flush) = self.store.commit(&executed)? {
            let waiting = self.waiting();
            match &self.flusher {
                Some(flusher) => flusher.push(flush, waiting)?,
                None => {
                    self.store.flush(&flush)?;
                    save(&self.store, &waiting)?;
                }
            }
        }
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
        self.renew_pool(&executed)?;
        for listener in self.on_commit.read().iter() {
            listener(&executed);
        }
        self.committed.lock().retain(|c| c.unbounded_send(number).is_ok());
        Ok(())
    }

    /// Writes what is only in memory: the newest state and the mempool. Nothing final is lost without it, but the next start is quicker.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the disk cannot be written.
    pub fn close(&self) -> Result<(), ConsensusError> {
        if let Some(flusher) = &self.flusher {
            flusher.wait();
        }
        self.store.close(&self.head())?;
        save(&self.store, &self.waiting())
    }

    fn waiting(&self) -> Vec<Arc<RecoveredTx>> {
        self.mempool.lock().iter().cloned().collect()
    }

    /// The newest final block that has a certificate of its own and whose state is in memory, with the certificate.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the store cannot be read.
    pub fn certified(&self) -> Result<Option<(Executed, FinalityCertificate)>, ConsensusError> {
        let recent: Vec<_> = self.recent.read().iter().rev().cloned().collect();
        for executed in recent {
            if let Some(certificate) = self.store.certificate(executed.number())? {
                return Ok(Some((executed, certificate)));
            }
        }
        Ok(None)
    }

    /// How the validators of epoch 0 handed over, set by set, to those who vote in `epoch`.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the store cannot be read or a certificate is not there yet.
    pub fn handovers(&self, epoch: u64) -> Result<Vec<Handover>, ConsensusError> {
        let sets = self.store.validator_changes(epoch)?;
        sets.into_iter()
            .map(|next| {
                if let Some(known) = self.store.handover(next.epoch)? {
                    return Ok(known);
                }
                let number = next.epoch * self.network.epoch_blocks - 1;
                let missing = || ConsensusError::Stopped(format!("block {number} has no certificate here"));
                let header = self.store.header(number)?.ok_or_else(missing)?;
                let certificate = self.store.certificate(number)?.ok_or_else(missing)?;
                Ok(Handover { header: alloy_rlp::encode(header).into(), certificate, next })
            })
            .collect()
    }

    /// Whether a validator with this peer key votes now, or registered to.
    pub fn is_candidate(&self, peer: &B256) -> bool {
        self.head().validators().members.iter().any(|v| v.peer == *peer) || self.candidates().contains(peer)
    }

    /// Peer keys of those who registered with the staking contract, voting or not, as of the newest block.
    pub(crate) fn candidates(&self) -> Vec<B256> {
        let staking = self.network.contracts.staking;
        if staking.is_zero() {
            return vec![];
        }
        let head = self.head();
        let never = AtomicBool::new(false);
        let page = |offset: u64| -> Option<Vec<Candidate>> {
            let data = candidatesCall { offset: U256::from(offset), limit: U256::from(CANDIDATES_PAGE) };
            let call = TransactionRequest::default().to(staking).input(data.abi_encode().into());
            match self.ledger.queries(&never).call(&head, &call, &Overrides::default()).ok()? {
                CallOutcome::Success { output, .. } => candidatesCall::abi_decode_returns(&output).ok(),
                _ => None,
            }
        };
        let mut out = vec![];
        for offset in (0..CANDIDATES_MAX).step_by(CANDIDATES_PAGE as usize) {
            let Some(found) = page(offset) else { break };
            let last = (found.len() as u64) < CANDIDATES_PAGE;
            out.extend(found.into_iter().map(|c| c.peer));
            if last {
                break;
            }
        }
        out
    }

    /// Keeps evidence until somebody takes it to the staking contract.
    pub(crate) fn report(&self, evidence: Equivocation) {
        let mut queue = self.evidence.lock();
        if queue.len() < EVIDENCE_QUEUE && !queue.iter().any(|e| e.vote_key == evidence.vote_key) {
            queue.push_back(evidence);
        }
    }

    /// Takes a piece of evidence, if there is one.
    pub fn take_evidence(&self) -> Option<Equivocation> {
        self.evidence.lock().pop_front()
    }

    /// Takes back a piece of evidence that could not be used yet.
    pub fn keep_evidence(&self, evidence: Equivocation) {
        self.report(evidence);
    }

    pub(crate) fn committed_heights(&self) -> mpsc::UnboundedReceiver<u64> {
        let (sender, receiver) = mpsc::unbounded();
        self.committed.lock().push(sender);
        receiver
    }
}

/// Writes the mempool.
pub(crate) fn save(store: &Store, waiting: &[Arc<RecoveredTx>]) -> Result<(), ConsensusError> {
    let raw: Vec<_> = waiting.iter().map(|tx| tx.raw()).collect();
    Ok(store.put_waiting(raw.iter().map(Vec::as_slice))?)
}
