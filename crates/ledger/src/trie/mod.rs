//! A persistent Merkle-Patricia trie (Yellow Paper, appendix D): immutable values that share structure, in memory as far as they
//! were touched, on disk for the rest.
//!
//! Every node on disk has an id and never changes; parents name children by id and commit to them by hash. A change copies the path
//! from the root and leaves the old trie as it was, so any number of states live side by side. Who drops a node from the newest trie is told
//! its id, so that the store can delete it once no kept state needs it.

mod node;
mod proof;
mod reader;
mod update;

pub(crate) use node::{Input, Link, NodeId, damaged};
pub(crate) use reader::{AccountCache, NodeCache, Nodes, Reader, SlotCache};
pub(crate) use update::Update;

use crate::LedgerError;
use alloy_primitives::{B256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};
use node::Body;
use std::{fmt::Debug, ops::ControlFlow};

/// What a leaf holds.
pub(crate) trait Leaf: Clone + Debug + Send + Sync + 'static {
    /// The value in the trie, RLP.
    fn value(&self) -> Vec<u8>;
    /// Appends the record on disk.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what [`write`](Self::write) wrote.
    fn read(input: &mut Input<'_>) -> Result<Self, LedgerError>;
    /// Forgets parts in memory that are on disk.
    fn cut(&mut self) {}
    /// Writes parts that have records of their own.
    fn persist(&self, _reader: &Reader, _writer: &mut Writer<'_>) -> Result<(), LedgerError> {
        Ok(())
    }
    /// The cache for nodes of this kind.
    fn cache(reader: &Reader) -> &NodeCache<Self>;
}

/// Looks at one leaf; decides whether to go on.
pub type Visit<'a, L> = dyn FnMut(B256, &L) -> Result<ControlFlow<()>, LedgerError> + 'a;

/// Takes new nodes: gives each its id.
pub(crate) type Writer<'a> = dyn FnMut(Vec<u8>) -> Result<u64, LedgerError> + 'a;

/// A map from 32-byte keys to leaves, with a root hash. Clones are cheap.
#[derive(Debug)]
pub(crate) struct Trie<L>(Option<Link<L>>);

impl<L> Clone for Trie<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L> Default for Trie<L> {
    fn default() -> Self {
        Self(None)
    }
}

impl<L: Leaf> Trie<L> {
    /// The Merkle-Patricia root.
    pub(crate) fn root(&self) -> B256 {
        match &self.0 {
            None => EMPTY_ROOT_HASH,
            Some(link) => {
                let rlp = link.rlp();
                // A root shorter than 32 bytes is hashed all the same.
                rlp.as_hash().unwrap_or_else(|| keccak256(rlp.as_slice()))
            }
        }
    }

    /// True when there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The leaf under `key`.
    pub(crate) fn get(&self, key: B256, reader: &Reader) -> Result<Option<L>, LedgerError> {
        let mut rest = Nibbles::unpack_array(&key.0);
        let Some(mut link) = self.0.clone() else { return Ok(None) };
        loop {
            let node = reader.resolve(&link)?;
            match &node.body {
                Body::Leaf { path, leaf } => return Ok((*path == rest).then(|| leaf.clone())),
                Body::Extension { path, child } => {
                    if !rest.starts_with(path) {
                        return Ok(None);
                    }
                    rest = rest.slice(path.len()..);
                    link = child.clone();
                }
                Body::Branch(children) => match rest.first().and_then(|n| children.get(n)) {
                    None => return Ok(None),
                    Some(child) => {
                        rest = rest.slice(1..);
                        link = child.clone();
                    }
                },
            }
        }
    }

    /// Calls `visit` for every leaf whose key is at least `start`, in order of keys, until it breaks.
    pub(crate) fn walk(
        &self,
        start: B256,
        reader: &Reader,
        visit: &mut Visit<'_, L>,
    ) -> Result<(), LedgerError> {
        if let Some(link) = &self.0 {
            let start = Nibbles::unpack_array(&start.0);
            let _ = walk(link, Nibbles::new(), &start, reader, visit)?;
        }
        Ok(())
    }

    /// Writes every node that is not on disk yet, children first. Returns the root's record, to be read by [`read_root`](Self::read_root).
    pub(crate) fn persist(&self, reader: &Reader, writer: &mut Writer<'_>) -> Result<(), LedgerError> {
        self.0.as_ref().map_or(Ok(()), |link| persist(link, reader, writer))
    }

    /// The record of the root, once [`persist`](Self::persist) was called.
    pub(crate) fn write_root(&self, out: &mut Vec<u8>) {
        match &self.0 {
            None => out.push(0),
            Some(link) => {
                out.push(1);
                link.write(out);
            }
        }
    }

    /// Reads what [`write_root`](Self::write_root) wrote.
    pub(crate) fn read_root(input: &mut Input<'_>) -> Result<Self, LedgerError> {
        Ok(match input.byte()? {
            0 => Self(None),
            1 => Self(Some(Link::read(input)?)),
            tag => return Err(damaged(&format!("unknown root tag {tag}"))),
        })
    }

    /// Forgets the nodes in memory when the root is on disk.
    pub(crate) fn cut(&mut self) {
        if let Some(link) = &mut self.0
            && let Some(id) = link.id()
        {
            *link = Link::Stored { rlp: link.rlp(), id };
        }
    }

    /// Ids of all nodes; reads the whole trie.
    pub(crate) fn ids(&self, reader: &Reader, out: &mut Vec<NodeId>) -> Result<(), LedgerError> {
        fn collect<L: Leaf>(
            link: &Link<L>,
            reader: &Reader,
            out: &mut Vec<NodeId>,
        ) -> Result<(), LedgerError> {
            let node = reader.resolve(link)?;
            out.push(node.id.clone());
            match &node.body {
                Body::Leaf { .. } => Ok(()),
                Body::Extension { child, .. } => collect(child, reader, out),
                Body::Branch(children) => children.iter().try_for_each(|(_, c)| collect(c, reader, out)),
            }
        }
        self.0.as_ref().map_or(Ok(()), |link| collect(link, reader, out))
    }
}

fn walk<L: Leaf>(
    link: &Link<L>,
    prefix: Nibbles,
    start: &Nibbles,
    reader: &Reader,
    visit: &mut Visit<'_, L>,
) -> Result<ControlFlow<()>, LedgerError> {
    // Whatever is below `prefix` is before `start` when `prefix` is, digit by digit.
    if prefix < start.slice(..prefix.len()) {
        return Ok(ControlFlow::Continue(()));
    }
    let node = reader.resolve(link)?;
    match &node.body {
        Body::Leaf { path, leaf } => {
            let key = prefix.join(path);
            if key < *start {
                return Ok(ControlFlow::Continue(()));
            }
            visit(B256::from_slice(&key.pack()), leaf)
        }
        Body::Extension { path, child } => walk(child, prefix.join(path), start, reader, visit),
        Body::Branch(children) => {
            for (nibble, child) in children.iter() {
                let mut path = prefix;
                path.push(nibble);
                if walk(child, path, start, reader, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
    }
}

fn persist<L: Leaf>(link: &Link<L>, reader: &Reader, writer: &mut Writer<'_>) -> Result<(), LedgerError> {
    let Link::Loaded(node) = link else { return Ok(()) };
    if node.id.get().is_some() {
        return Ok(());
    }
    match &node.body {
        Body::Leaf { leaf, .. } => leaf.persist(reader, writer)?,
        Body::Extension { child, .. } => persist(child, reader, writer)?,
        Body::Branch(children) => {
            for (_, child) in children.iter() {
                persist(child, reader, writer)?;
            }
        }
    }
    let id = writer(node.write())?;
    // The one writer of a store is the only one that sets ids.
    let _ = node.id.set(id);
    L::cache(reader).insert(id, node.shallow());
    Ok(())
}

#[cfg(test)]
mod tests;
