use super::{
    Leaf, Link,
    node::{Node, damaged},
};
use crate::{LedgerError, state::Account};
use alloy_primitives::{B256, Bytes, U256};
use quick_cache::sync::Cache;
use std::sync::Arc;

/// Where nodes and codes are read from when they are not in memory.
pub(crate) trait Nodes: Send + Sync {
    /// The record of node `id`.
    fn node(&self, id: u64) -> Result<Option<Vec<u8>>, LedgerError>;
    /// The code with this keccak-256.
    fn code(&self, hash: &B256) -> Result<Option<Bytes>, LedgerError>;
}

/// Nothing on disk.
pub(crate) struct NoNodes;

impl Nodes for NoNodes {
    fn node(&self, _id: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(None)
    }
    fn code(&self, _hash: &B256) -> Result<Option<Bytes>, LedgerError> {
        Ok(None)
    }
}

/// Nodes of one kind kept in memory. A node takes some 100 to 1100 bytes.
const ACCOUNT_NODES: usize = 200_000;
const SLOT_NODES: usize = 100_000;

/// Nodes of one kind by id.
pub(crate) type NodeCache<L> = Cache<u64, Arc<Node<L>>>;
pub(crate) type AccountCache = NodeCache<Account>;
pub(crate) type SlotCache = NodeCache<U256>;

/// Reads nodes, through a bounded cache.
pub(crate) struct Reader {
    source: Arc<dyn Nodes>,
    accounts: AccountCache,
    slots: SlotCache,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    pub(crate) fn new(source: Arc<dyn Nodes>) -> Self {
        Self { source, accounts: Cache::new(ACCOUNT_NODES), slots: Cache::new(SLOT_NODES) }
    }

    /// A reader of nothing, for states that live in memory only.
    pub(crate) fn empty() -> Self {
        Self { source: Arc::new(NoNodes), accounts: Cache::new(1), slots: Cache::new(1) }
    }

    pub(crate) fn accounts(&self) -> &AccountCache {
        &self.accounts
    }

    pub(crate) fn slots(&self) -> &SlotCache {
        &self.slots
    }

    pub(crate) fn code(&self, hash: &B256) -> Result<Option<Bytes>, LedgerError> {
        self.source.code(hash)
    }

    /// The node behind a link. What comes from disk is compared with the hash in the link.
    pub(super) fn resolve<L: Leaf>(&self, link: &Link<L>) -> Result<Arc<Node<L>>, LedgerError> {
        let (rlp, id) = match link {
            Link::Loaded(node) => return Ok(node.clone()),
            Link::Stored { rlp, id } => (rlp, *id),
        };
        let cached = L::cache(self).get(&id);
        let known = cached.is_some();
        let node = match cached {
            Some(node) => node,
            None => {
                let record = self.source.node(id)?.ok_or(LedgerError::MissingNode { id })?;
                Arc::new(Node::read(&record, id)?)
            }
        };
        // Also for a cached node: the link may be what is damaged.
        if node.rlp() != *rlp {
            return Err(damaged(&format!("node {id} does not have the hash that its parent names")));
        }
        if !known {
            L::cache(self).insert(id, node.clone());
        }
        Ok(node)
    }
}
