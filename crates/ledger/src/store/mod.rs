//! Final blocks, receipts, certificates and states on disk (redb: ACID, pure Rust).
//!
//! There are two files. `blocks.redb` gets every final block at once, durably: that is what the validator acknowledges. `state.redb` gets
//! the state every [`FLUSH_BLOCKS`] blocks (every block in archive mode); after a crash the blocks since then are executed again. Each
//! file is consistent after a crash at any point, and the state file is never ahead of the block file.

mod blocks;
mod nodes;
mod private;

pub use blocks::BlockRange;
pub use private::private_file;

use crate::{
    Block, Executed, Ledger, LedgerError, State,
    block::Turn,
    executed::{BLOCKHASH_WINDOW, Parts, Results},
    trie::{NodeId, Reader},
};
use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_primitives::B256;
use blocks::BlockDb;
use imbl::OrdMap;
use nodes::StateDb;
use parking_lot::Mutex;
use redb::{Database, StorageBackend, backends::InMemoryBackend};
use std::{path::Path, sync::Arc};
use types::{FinalityCertificate, Handover, ValidatorSet};

/// Blocks between two states on disk, in full mode.
pub const FLUSH_BLOCKS: u64 = 32;
/// Blocks between two snapshots that new validators can start from.
pub const SNAPSHOT_BLOCKS: u64 = 4096;
/// In full mode, states of at least this many newest blocks stay on disk.
const STATES_KEPT: u64 = 512;

/// Which states stay on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// The newest ones.
    #[default]
    Full,
    /// Every block's.
    Archive,
}

/// The ledger on disk.
pub struct Store {
    blocks: BlockDb,
    state: Arc<StateDb>,
    reader: Arc<Reader>,
    retention: Retention,
    snapshot_blocks: u64,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Newest block whose state is on disk, or on its way there.
    flushed: u64,
    /// Nodes that states since then no longer have.
    dropped: Vec<NodeId>,
}

/// A state that is due on disk. See [`Store::flush`].
#[derive(Debug)]
pub struct Flush {
    executed: Executed,
    dropped: Vec<NodeId>,
    keep_from: u64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

fn fault(e: impl std::fmt::Display) -> LedgerError {
    LedgerError::Store(e.to_string())
}

impl Store {
    /// Opens or creates the store in the folder `dir`.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when a file cannot be opened or another process has it open.
    pub fn open(dir: &Path, retention: Retention) -> Result<Self, LedgerError> {
        let open = |name: &str| {
            let path = dir.join(name);
            let failed = |e: &dyn std::fmt::Display| LedgerError::Store(format!("{}: {e}", path.display()));
            let file = private_file(&path).map_err(|e| failed(&e))?;
            Database::builder().create_file(file).map_err(|e| failed(&e))
        };
        Self::prepare(open("blocks.redb")?, open("state.redb")?, retention)
    }

    /// A store that lives in memory, for tests and simulations.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn in_memory() -> Result<Self, LedgerError> {
        Self::on(InMemoryBackend::new(), InMemoryBackend::new(), Retention::Full)
    }

    /// A store on given backends, for tests with failing disks.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn on(
        blocks: impl StorageBackend,
        state: impl StorageBackend,
        retention: Retention,
    ) -> Result<Self, LedgerError> {
        let blocks = Database::builder().create_with_backend(blocks).map_err(fault)?;
        let state = Database::builder().create_with_backend(state).map_err(fault)?;
        Self::prepare(blocks, state, retention)
    }

    fn prepare(blocks: Database, state: Database, retention: Retention) -> Result<Self, LedgerError> {
        let state = Arc::new(StateDb::prepare(state)?);
        let reader = Arc::new(Reader::new(state.clone()));
        let progress = Mutex::default();
        let blocks = BlockDb::prepare(blocks)?;
        Ok(Self { blocks, state, reader, retention, snapshot_blocks: SNAPSHOT_BLOCKS, progress })
    }

    /// The same store with another distance between snapshots than [`SNAPSHOT_BLOCKS`].
    #[must_use]
    pub fn with_snapshots_every(self, blocks: u64) -> Self {
        Self { snapshot_blocks: blocks.max(1), ..self }
    }

    /// Writes the genesis block into an empty store.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn initialise(&self, genesis: &Executed) -> Result<(), LedgerError> {
        self.state.write(genesis.number(), genesis.state(), &[], 0)?;
        self.blocks.commit(genesis)
    }

    /// Writes a final block, its receipts and what was kept of certificates. Durable on return. Returns the state when it is due on disk.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn commit(&self, executed: &Executed) -> Result<Option<Flush>, LedgerError> {
        self.blocks.commit(executed)?;
        let mut progress = self.progress.lock();
        progress.dropped.extend_from_slice(executed.dropped());
        let number = executed.number();
        let due = match self.retention {
            Retention::Full => {
                number >= progress.flushed + FLUSH_BLOCKS || number.is_multiple_of(self.snapshot_blocks)
            }
            Retention::Archive => true,
        };
        Ok(due.then(|| self.job(&mut progress, executed)))
    }

    fn job(&self, progress: &mut Progress, executed: &Executed) -> Flush {
        progress.flushed = executed.number();
        let keep_from = match self.retention {
            // The newest snapshot and the one before it stay, for those who read them.
            Retention::Full => {
                let snapshot = executed.number() - executed.number() % self.snapshot_blocks;
                let kept = snapshot.saturating_sub(self.snapshot_blocks);
                kept.min(executed.number().saturating_sub(STATES_KEPT))
            }
            Retention::Archive => 0,
        };
        Flush { executed: executed.clone(), dropped: std::mem::take(&mut progress.dropped), keep_from }
    }

    /// Writes a state that is due. Must be called in the order of [`commit`](Self::commit); another thread may do it.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn flush(&self, flush: &Flush) -> Result<(), LedgerError> {
        let (number, state) = (flush.executed.number(), flush.executed.state());
        self.state.write(number, state, &flush.dropped, flush.keep_from)
    }

    /// Keeps the certificate of block `number`; it is written with the next block.
    pub fn put_certificate(&self, number: u64, certificate: &FinalityCertificate) {
        self.blocks.put_certificate(number, certificate);
    }

    /// The certificate of block `number`, when it has one of its own.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn certificate(&self, number: u64) -> Result<Option<FinalityCertificate>, LedgerError> {
        self.blocks.certificate(number)
    }

    /// Block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn block(&self, number: u64) -> Result<Option<Block>, LedgerError> {
        self.blocks.block(number)
    }

    /// Header of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn header(&self, number: u64) -> Result<Option<Header>, LedgerError> {
        self.blocks.header(number)
    }

    /// Whose turn block `number` was.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn turn(&self, number: u64) -> Result<Option<Turn>, LedgerError> {
        self.blocks.turn(number)
    }

    /// Hash of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn block_hash(&self, number: u64) -> Result<Option<B256>, LedgerError> {
        self.blocks.hash(number)
    }

    /// Number of the block with `hash`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn number(&self, hash: &B256) -> Result<Option<u64>, LedgerError> {
        self.blocks.number(hash)
    }

    /// First and last block that are here, the genesis block aside.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn range(&self) -> Result<Option<BlockRange>, LedgerError> {
        self.blocks.range()
    }

    /// Receipts of block `number`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn receipts(&self, number: u64) -> Result<Option<Vec<ReceiptEnvelope>>, LedgerError> {
        self.blocks.receipts(number)
    }

    /// Block and position of a transaction.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn transaction(&self, hash: &B256) -> Result<Option<(u64, u32)>, LedgerError> {
        self.blocks.transaction(hash)
    }

    /// The validators that vote in `epoch`.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn validators(&self, epoch: u64) -> Result<Option<ValidatorSet>, LedgerError> {
        self.blocks.validators(epoch)
    }

    /// A handover that a state sync brought, by the first epoch of the new set.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn handover(&self, epoch: u64) -> Result<Option<Handover>, LedgerError> {
        self.blocks.handover(epoch)
    }

    /// Forbids this node to vote before `epoch`, because it may have forgotten what it voted for.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn put_votes_from(&self, epoch: u64) -> Result<(), LedgerError> {
        self.blocks.put_meta(blocks::VOTES_FROM, epoch)
    }

    /// First epoch in which this node may vote; above 0 after a state sync.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn votes_from(&self) -> Result<u64, LedgerError> {
        Ok(self.blocks.meta(blocks::VOTES_FROM)?.unwrap_or(0))
    }

    /// The block at which a state sync began this store, if one did.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn synced_at(&self) -> Result<Option<u64>, LedgerError> {
        self.blocks.meta(blocks::SYNCED_AT)
    }

    /// The newest snapshot: a block whose state is on disk and stays there for a while.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn snapshot(&self) -> Result<Option<u64>, LedgerError> {
        let newest = self.state.newest()?;
        Ok(newest.map(|n| n - n % self.snapshot_blocks).filter(|n| *n > 0))
    }

    /// All validator sets after the first, up to `epoch`, in order.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn validator_changes(&self, epoch: u64) -> Result<Vec<ValidatorSet>, LedgerError> {
        self.blocks.validator_changes(epoch)
    }

    /// Raw transactions that waited when the ledger was last stopped.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn waiting(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.blocks.waiting()
    }

    /// Replaces the raw transactions that wait.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn put_waiting<'a>(&self, raw: impl IntoIterator<Item = &'a [u8]>) -> Result<(), LedgerError> {
        self.blocks.put_waiting(raw)
    }

    /// Number of state nodes on disk, and their bytes.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn state_size(&self) -> Result<(u64, u64), LedgerError> {
        self.state.size()
    }

    /// Block `number` with its state, when both are on disk.
    ///
    /// # Errors
    /// [`LedgerError::Store`], [`LedgerError::Damaged`] when the state does not have the root that the header names.
    pub fn executed(&self, ledger: &Ledger, number: u64) -> Result<Option<Executed>, LedgerError> {
        let (Some(block), Some(state)) = (self.block(number)?, self.state.state(number, &self.reader)?)
        else {
            return Ok(None);
        };
        let (found, expected) = (state.root(), block.header.state_root);
        if found != expected {
            return Err(LedgerError::Damaged { number, found, expected });
        }
        let mut hashes = OrdMap::new();
        for n in number.saturating_sub(BLOCKHASH_WINDOW - 1)..number {
            if let Some(hash) = self.block_hash(n)? {
                hashes.insert(n, hash);
            }
        }
        let epoch = (number + 1) / ledger.params().epoch_blocks;
        let validators =
            self.validators(epoch)?.ok_or_else(|| fault(format!("no validators of epoch {epoch}")))?;
        Ok(Some(Executed::new(Parts {
            block: Arc::new(block),
            turn: self.turn(number)?.unwrap_or_default(),
            state,
            results: Results { receipts: self.receipts(number)?.unwrap_or_default(), outcomes: vec![] },
            dropped: vec![],
            hashes,
            validators: Arc::new(validators),
        })))
    }

    /// The newest final block with its state, or `None` in an empty store. Executes again what came after the newest state on disk.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when a stored state does not fit its block, [`LedgerError::Store`].
    pub fn recover(&self, ledger: &Ledger) -> Result<Option<Executed>, LedgerError> {
        let Some(range) = self.range()? else { return Ok(None) };
        let newest = self.state.newest()?.filter(|n| *n <= range.last);
        let newest = newest.ok_or_else(|| fault("the state file is missing or newer than the block file"))?;
        let mut head =
            self.executed(ledger, newest)?.ok_or_else(|| fault(format!("block {newest} is missing")))?;
        *self.progress.lock() = Progress { flushed: newest, ..Progress::default() };
        for number in newest + 1..=range.last {
            let missing = || fault(format!("block {number} is missing"));
            let block = Arc::new(self.block(number)?.ok_or_else(missing)?);
            let turn = self.turn(number)?.ok_or_else(missing)?;
            head = ledger.execute(&head, &block, &turn, &|_| None)?;
            self.progress.lock().dropped.extend_from_slice(head.dropped());
        }
        Ok(Some(head))
    }

    /// Writes the state after `head` at once, so that the next start has nothing to execute.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub fn close(&self, head: &Executed) -> Result<(), LedgerError> {
        let job = {
            let mut progress = self.progress.lock();
            (head.number() > progress.flushed).then(|| self.job(&mut progress, head))
        };
        job.map_or(Ok(()), |job| self.flush(&job))
    }

    pub(crate) fn state_db(&self) -> &StateDb {
        &self.state
    }

    pub(crate) fn block_db(&self) -> &BlockDb {
        &self.blocks
    }

    /// An empty state whose nodes go to this store.
    pub(crate) fn empty_state(&self) -> State {
        State::empty(self.reader.clone())
    }
}
