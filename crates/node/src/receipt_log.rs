//! A node's append-only log of receipts: durable before the receipt leaves the node.
//!
//! Appends that come while the disk is busy wait for the next write and share it: one sync of the disk for all of them.

use anyhow::{Context as _, anyhow, ensure};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use types::{Address, B256, Disclose, Disclosure, LogProof, Receipt, ReceiptId, U256, merkle};

const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
const INDEX: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("index");

/// Answers behind receipts, as JSON of [`Kept`].
const ANSWERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("answers");

/// A client's total in wei (big-endian), and its signature.
type Promise = ([u8; 32], &'static [u8]);
/// What clients have promised.
const PROMISES: TableDefinition<'_, [u8; 20], Promise> = TableDefinition::new("promises");

/// Most answers that are deleted at once.
const FORGET_MAX: usize = 1024;

/// What a node keeps of an answer until nobody can dispute it any more: without it, it could not defend itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The claim's time.
    pub(crate) time_ms: u64,
    /// Who may see it.
    pub(crate) disclose: Disclose,
    /// Request and answer.
    pub(crate) disclosure: Disclosure,
}

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
    answer: Vec<u8>,
    /// The index, or why there is none.
    result: Mutex<Option<Result<u64, String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReceiptLog {
    /// Opens or creates the log in the file `path` and rebuilds its tree.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot open the receipt log {}", path.display());
        let file = ledger::private_file(path).with_context(failed)?;
        let db = Database::builder().create_file(file).with_context(failed)?;
        let write = db.begin_write()?;
        write.open_table(RECEIPTS)?;
        write.open_table(INDEX)?;
        write.open_table(ANSWERS)?;
        write.open_table(PROMISES)?;
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
    pub(crate) fn append(&self, receipt: &Receipt, answer: &Kept) -> anyhow::Result<u64> {
        let entry = Arc::new(Entry {
            id: receipt.claim.receipt_id(),
            leaf: merkle::leaf_hash(&receipt.log_leaf()?),
            bytes: receipt.encode(),
            answer: serde_json::to_vec(answer)?,
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
            let mut answers = write.open_table(ANSWERS)?;
            for entry in group {
                // Signing two receipts under one id would be equivocation.
                if ids.get(entry.id.0.0)?.is_some() {
                    out.push(Err(format!("there is a receipt {} already", entry.id)));
                    continue;
                }
                ids.insert(entry.id.0.0, next)?;
                receipts.insert(next, entry.bytes.as_slice())?;
                answers.insert(next, entry.answer.as_slice())?;
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

    /// Payer and price of every answer that somebody pays for.
    pub(crate) fn prices(&self) -> anyhow::Result<Vec<(Address, u128)>> {
        let read = self.db.begin_read()?;
        let mut out = Vec::new();
        for entry in read.open_table(RECEIPTS)?.iter()? {
            let claim = Receipt::decode(entry?.1.value())?.claim;
            if !claim.payer.is_zero() {
                out.push((claim.payer, claim.price));
            }
        }
        Ok(out)
    }

    /// Largest promise of every client: total in wei and signature.
    pub(crate) fn promises(&self) -> anyhow::Result<Vec<(Address, U256, Vec<u8>)>> {
        let read = self.db.begin_read()?;
        let mut out = Vec::new();
        for entry in read.open_table(PROMISES)?.iter()? {
            let (client, value) = entry?;
            let (total, signature) = value.value();
            out.push((Address::from(client.value()), U256::from_be_bytes(total), signature.to_vec()));
        }
        Ok(out)
    }

    /// Keeps a client's largest promise.
    pub(crate) fn keep_promise(&self, client: Address, total: U256, signature: &[u8]) -> anyhow::Result<()> {
        let write = self.db.begin_write()?;
        write.open_table(PROMISES)?.insert(client.into_array(), (total.to_be_bytes::<32>(), signature))?;
        write.commit()?;
        Ok(())
    }

    /// The receipt at `index`, and the answer behind it as long as it is kept.
    pub(crate) fn entry(&self, index: u64) -> anyhow::Result<Option<(Receipt, Option<Kept>)>> {
        let read = self.db.begin_read()?;
        let Some(receipt) = read.open_table(RECEIPTS)?.get(index)?.map(|b| Receipt::decode(b.value())) else {
            return Ok(None);
        };
        let answer = read.open_table(ANSWERS)?.get(index)?.map(|b| serde_json::from_slice(b.value()));
        Ok(Some((receipt?, answer.transpose()?)))
    }

    /// Deletes the answers that were given before `time_ms`; the receipts, and so the log, stay. How many.
    pub(crate) fn forget(&self, time_ms: u64) -> anyhow::Result<usize> {
        let read = self.db.begin_read()?;
        let mut old = Vec::new();
        for entry in read.open_table(ANSWERS)?.iter()? {
            let (index, answer) = entry?;
            if serde_json::from_slice::<Kept>(answer.value())?.time_ms >= time_ms || old.len() == FORGET_MAX {
                break;
            }
            old.push(index.value());
        }
        if old.is_empty() {
            return Ok(0);
        }
        let write = self.db.begin_write()?;
        {
            let mut answers = write.open_table(ANSWERS)?;
            for index in &old {
                answers.remove(index)?;
            }
        }
        write.commit()?;
        Ok(old.len())
    }

    /// Number of receipts.
    pub(crate) fn size(&self) -> u64 {
        lock(&self.tree).len()
    }

    /// Root of the first `size` receipts.
    pub(crate) fn root_at(&self, size: u64) -> Option<B256> {
        lock(&self.tree).root_at(size)
    }

    /// Looks at the tree.
    pub(crate) fn with_tree<T>(&self, look: impl FnOnce(&merkle::Log) -> T) -> T {
        look(&lock(&self.tree))
    }

    /// Inclusion of entry `index` among the first `size`.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        let path = lock(&self.tree).path_at(index, size)?;
        Some(LogProof { index, size, path })
    }
}
