//! A node's append-only log of receipts: durable before the receipt leaves the node.
//!
//! Appends that come while the disk is busy wait for the next write and share it: one sync of the disk for all of them.

use anyhow::{Context as _, anyhow, ensure};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use types::{B256, LogProof, Receipt, ReceiptId, merkle};

const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
const INDEX: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("index");

/// Most entries of one write.
const GROUP_MAX: usize = 4096;

/// The log of one node.
pub(crate) struct ReceiptLog {
    db: Database,
    tree: Mutex<merkle::Log>,
    queue: Mutex<Queue>,
    /// Told when a write is over.
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Arc<Entry>>,
    /// Somebody is writing.
    busy: bool,
}

struct Entry {
    id: ReceiptId,
    leaf: B256,
    bytes: Vec<u8>,
    /// The index, or why there is none.
    result: Mutex<Option<Result<u64, String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReceiptLog {
    /// Opens or creates the log in the file `path` and rebuilds its tree.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let db = Database::create(path)
            .with_context(|| format!("cannot open the receipt log {}", path.display()))?;
        let write = db.begin_write()?;
        write.open_table(RECEIPTS)?;
        write.open_table(INDEX)?;
        write.commit()?;
        let mut tree = merkle::Log::default();
        let read = db.begin_read()?;
        for entry in read.open_table(RECEIPTS)?.iter()? {
            let (index, bytes) = entry?;
            ensure!(index.value() == tree.len(), "the receipt log misses entry {}", tree.len());
            tree.push(merkle::leaf_hash(&Receipt::decode(bytes.value())?.log_leaf()?));
        }
        Ok(Self { db, tree: Mutex::new(tree), queue: Mutex::default(), written: Condvar::new() })
    }

    /// Appends a receipt; it is on disk when this returns. Its index.
    pub(crate) fn append(&self, receipt: &Receipt) -> anyhow::Result<u64> {
        let entry = Arc::new(Entry {
            id: receipt.claim.receipt_id(),
            leaf: merkle::leaf_hash(&receipt.log_leaf()?),
            bytes: receipt.encode(),
            result: Mutex::new(None),
        });
        let mut queue = lock(&self.queue);
        queue.waiting.push(entry.clone());
        loop {
            if let Some(result) = lock(&entry.result).take() {
                return result.map_err(|e| anyhow!(e));
            }
            if queue.busy {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Nobody writes: this thread writes for everybody who waits.
            queue.busy = true;
            let count = queue.waiting.len().min(GROUP_MAX);
            let group: Vec<_> = queue.waiting.drain(..count).collect();
            drop(queue);
            self.write(&group);
            queue = lock(&self.queue);
            queue.busy = false;
            self.written.notify_all();
        }
    }

    fn write(&self, group: &[Arc<Entry>]) {
        // The order of the tree is the order on disk.
        let mut tree = lock(&self.tree);
        match self.write_all(group, tree.len()) {
            Ok(indices) => {
                for (entry, index) in group.iter().zip(indices) {
                    if index.is_ok() {
                        tree.push(entry.leaf);
                    }
                    *lock(&entry.result) = Some(index);
                }
            }
            Err(e) => {
                for entry in group {
                    *lock(&entry.result) = Some(Err(format!("cannot write the receipt log: {e:#}")));
                }
            }
        }
    }

    /// Writes a group in one transaction; gives each entry's index, from `next` on.
    fn write_all(&self, group: &[Arc<Entry>], mut next: u64) -> anyhow::Result<Vec<Result<u64, String>>> {
        let write = self.db.begin_write()?;
        let mut out = Vec::with_capacity(group.len());
        {
            let mut ids = write.open_table(INDEX)?;
            let mut receipts = write.open_table(RECEIPTS)?;
            for entry in group {
                // Signing two receipts under one id would be equivocation.
                if ids.get(entry.id.0.0)?.is_some() {
                    out.push(Err(format!("there is a receipt {} already", entry.id)));
                    continue;
                }
                ids.insert(entry.id.0.0, next)?;
                receipts.insert(next, entry.bytes.as_slice())?;
                out.push(Ok(next));
                next += 1;
            }
        }
        write.commit()?;
        Ok(out)
    }

    /// The receipt with this id, and its index.
    pub(crate) fn get(&self, id: ReceiptId) -> anyhow::Result<Option<(Receipt, u64)>> {
        let read = self.db.begin_read()?;
        let Some(index) = read.open_table(INDEX)?.get(id.0.0)?.map(|v| v.value()) else { return Ok(None) };
        let table = read.open_table(RECEIPTS)?;
        let bytes = table.get(index)?.with_context(|| format!("the receipt log misses entry {index}"))?;
        Ok(Some((Receipt::decode(bytes.value())?, index)))
    }

    /// Number of receipts.
    pub(crate) fn size(&self) -> u64 {
        lock(&self.tree).len()
    }

    /// Root of the first `size` receipts.
    pub(crate) fn root_at(&self, size: u64) -> Option<B256> {
        lock(&self.tree).root_at(size)
    }

    /// Inclusion of entry `index` among the first `size`.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        let path = lock(&self.tree).path_at(index, size)?;
        Some(LogProof { index, size, path })
    }
}
