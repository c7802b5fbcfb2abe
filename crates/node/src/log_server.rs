//! The receipt log as C2SP tiles with a signed checkpoint.

use crate::receipt_log::ReceiptLog;
use api::ports::TransparencyLog;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use types::{
    B256, TypesError,
    tlog::{Checkpoint, NodeOrigin, Note, SigningKey, node_keys, tiles},
};

/// Serves what is on the ledger of one node's log: a checkpoint never runs ahead of the root that was posted, so that losing
/// the newest entries cannot make the node contradict itself.
pub(crate) struct LogServer {
    origin: NodeOrigin,
    keys: [SigningKey; 2],
    log: Arc<ReceiptLog>,
    posted: Arc<AtomicU64>,
    /// The newest checkpoint and its size.
    newest: Mutex<Option<(u64, String)>>,
}

impl LogServer {
    pub(crate) fn new(
        origin: NodeOrigin,
        secret: &B256,
        log: Arc<ReceiptLog>,
        posted: Arc<AtomicU64>,
    ) -> Result<Self, TypesError> {
        let keys = node_keys(&origin, secret)?;
        Ok(Self { origin, keys, log, posted, newest: Mutex::default() })
    }

    fn size(&self) -> u64 {
        self.posted.load(Ordering::Acquire)
    }
}

impl TransparencyLog for LogServer {
    fn checkpoint(&self) -> String {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self.size();
        if let Some((known, note)) = &*newest
            && *known >= size
        {
            return note.clone();
        }
        let root = self.log.root_at(size).unwrap_or_default();
        let text = Checkpoint::new(self.origin.to_string(), size, root).to_string();
        let time = crate::inference::now_ms() / 1000;
        // Keys and text are our own: signing them cannot fail.
        let note = Note::sign(text, &self.keys, time).map(|n| n.to_string()).unwrap_or_default();
        *newest = Some((size, note.clone()));
        note
    }

    fn tile(&self, level: u8, index: u64, width: u16) -> Option<Vec<u8>> {
        self.log.with_tree(|tree| tiles::tile(tree, self.size(), level, index, width))
    }

    fn entries(&self, index: u64, width: u16) -> Option<Vec<u8>> {
        let first = index.checked_mul(256)?;
        let end = first.checked_add(u64::from(width)).filter(|end| *end <= self.size())?;
        let leaves: Option<Vec<Vec<u8>>> = (first..end)
            .map(|i| self.log.entry(i).ok().flatten().and_then(|(receipt, _)| receipt.log_leaf().ok()))
            .collect();
        tiles::bundle(&leaves?).ok()
    }
}
