//! A node's append-only log of receipts: durable before the receipt leaves the node.

use anyhow::{Context as _, ensure};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};
use types::{B256, LogProof, Receipt, ReceiptId, merkle};

const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
const INDEX: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("index");

/// The log of one node.
pub(crate) struct ReceiptLog {
    db: Database,
    tree: Mutex<merkle::Log>,
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
        Ok(Self { db, tree: Mutex::new(tree) })
    }

    fn tree(&self) -> MutexGuard<'_, merkle::Log> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a receipt; it is on disk when this returns. Its index.
    pub(crate) fn append(&self, receipt: &Receipt) -> anyhow::Result<u64> {
        let id = receipt.claim.receipt_id();
        let leaf = merkle::leaf_hash(&receipt.log_leaf()?);
        // One writer at a time: the order of the tree is the order on disk.
        let mut tree = self.tree();
        let index = tree.len();
        let write = self.db.begin_write()?;
        {
            let mut ids = write.open_table(INDEX)?;
            // Signing two receipts under one id would be equivocation.
            ensure!(ids.insert(id.0.0, index)?.is_none(), "there is a receipt {id} already");
            write.open_table(RECEIPTS)?.insert(index, receipt.encode().as_slice())?;
        }
        write.commit()?;
        tree.push(leaf);
        Ok(index)
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
        self.tree().len()
    }

    /// Root of the first `size` receipts.
    pub(crate) fn root_at(&self, size: u64) -> Option<B256> {
        self.tree().root_at(size)
    }

    /// Inclusion of entry `index` among the first `size`.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        let path = self.tree().path_at(index, size)?;
        Some(LogProof { index, size, path })
    }
}
