//! Nodes in memory and on disk.

use super::Leaf;
use crate::LedgerError;
use alloy_primitives::hex;
use alloy_rlp::{Encodable as _, Header};
use alloy_trie::{
    Nibbles,
    nodes::{RlpNode, encode_path_leaf},
};
use std::sync::{Arc, OnceLock};

/// Where a node is on disk, once it is there. Shared by all copies of the node in memory.
pub(crate) type NodeId = Arc<OnceLock<u64>>;

/// A node of a Merkle-Patricia trie. Immutable once it is shared.
#[derive(Debug)]
pub(crate) struct Node<L> {
    pub(super) body: Body<L>,
    /// Hash of the encoding, or the encoding itself when it is shorter than 32 bytes; computed when asked for.
    rlp: OnceLock<RlpNode>,
    pub(super) id: NodeId,
}

/// The three kinds of nodes. All keys have the same length, so branches hold no values.
#[derive(Clone, Debug)]
pub(super) enum Body<L> {
    Leaf { path: Nibbles, leaf: L },
    Extension { path: Nibbles, child: Link<L> },
    Branch(Children<L>),
}

/// A pointer to a node.
#[derive(Debug)]
pub(crate) enum Link<L> {
    /// In memory.
    Loaded(Arc<Node<L>>),
    /// On disk, under this id; `rlp` is what the parent commits to.
    Stored { rlp: RlpNode, id: u64 },
}

impl<L> Clone for Link<L> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(node) => Self::Loaded(node.clone()),
            Self::Stored { rlp, id } => Self::Stored { rlp: rlp.clone(), id: *id },
        }
    }
}

/// The children of a branch, those that exist, by nibble.
#[derive(Clone, Debug)]
pub(super) struct Children<L> {
    mask: u16,
    links: Vec<Link<L>>,
}

impl<L> Children<L> {
    pub(super) fn new() -> Self {
        Self { mask: 0, links: Vec::with_capacity(2) }
    }

    fn position(&self, nibble: u8) -> usize {
        (self.mask & ((1u16 << nibble) - 1)).count_ones() as usize
    }

    pub(super) fn get(&self, nibble: u8) -> Option<&Link<L>> {
        (self.mask >> nibble & 1 == 1).then(|| &self.links[self.position(nibble)])
    }

    pub(super) fn take(&mut self, nibble: u8) -> Option<Link<L>> {
        if self.mask >> nibble & 1 == 0 {
            return None;
        }
        let at = self.position(nibble);
        self.mask &= !(1 << nibble);
        Some(self.links.remove(at))
    }

    pub(super) fn put(&mut self, nibble: u8, link: Link<L>) {
        debug_assert!(self.mask >> nibble & 1 == 0, "the slot is taken");
        let at = self.position(nibble);
        self.mask |= 1 << nibble;
        self.links.insert(at, link);
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, &Link<L>)> {
        (0..16u8).filter(|n| self.mask >> n & 1 == 1).zip(&self.links)
    }

    /// The only child, when there is one.
    pub(super) fn into_only(mut self) -> Option<(u8, Link<L>)> {
        (self.links.len() == 1).then(|| (self.mask.trailing_zeros() as u8, self.links.remove(0)))
    }

    /// Forgets children in memory that are on disk: what is not touched need not stay in memory.
    fn cut(&mut self)
    where
        L: Leaf,
    {
        for link in &mut self.links {
            link.cut();
        }
    }
}

impl<L: Leaf> Link<L> {
    pub(super) fn rlp(&self) -> RlpNode {
        match self {
            Self::Loaded(node) => node.rlp(),
            Self::Stored { rlp, .. } => rlp.clone(),
        }
    }

    fn cut(&mut self) {
        if let Self::Loaded(node) = self
            && let Some(id) = node.id.get()
        {
            *self = Self::Stored { rlp: node.rlp(), id: *id };
        }
    }

    /// The id on disk, if it is there.
    pub(super) fn id(&self) -> Option<u64> {
        match self {
            Self::Loaded(node) => node.id.get().copied(),
            Self::Stored { id, .. } => Some(*id),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let rlp = self.rlp();
        let id = self.id().unwrap_or_else(|| unreachable!("children are written before their parents"));
        out.push(rlp.as_slice().len() as u8);
        out.extend_from_slice(rlp.as_slice());
        out.extend_from_slice(&id.to_be_bytes());
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, LedgerError> {
        let len = usize::from(input.byte()?);
        let rlp = RlpNode::from_raw_rlp(input.bytes(len)?).map_err(|e| damaged(&e.to_string()))?;
        Ok(Self::Stored { rlp, id: input.u64()? })
    }
}

impl<L: Leaf> Node<L> {
    pub(super) fn new(body: Body<L>) -> Arc<Self> {
        Arc::new(Self { body, rlp: OnceLock::new(), id: NodeId::default() })
    }

    /// A node as read from disk under `id`.
    pub(super) fn stored(body: Body<L>, id: u64) -> Self {
        Self { body, rlp: OnceLock::new(), id: Arc::new(OnceLock::from(id)) }
    }

    /// A copy whose children are on disk only. All children must be there.
    pub(super) fn shallow(&self) -> Arc<Self> {
        let mut body = self.body.clone();
        body.cut();
        Arc::new(Self { body, rlp: self.rlp.clone(), id: self.id.clone() })
    }

    /// What a parent commits to.
    pub(super) fn rlp(&self) -> RlpNode {
        self.rlp.get_or_init(|| RlpNode::from_rlp(&self.encode())).clone()
    }

    /// The encoding that Ethereum hashes (Yellow Paper, appendix D).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(560);
        match &self.body {
            Body::Leaf { path, leaf } => {
                encode_path_leaf(path, true).as_slice().encode(&mut payload);
                leaf.value().as_slice().encode(&mut payload);
            }
            Body::Extension { path, child } => {
                encode_path_leaf(path, false).as_slice().encode(&mut payload);
                payload.extend_from_slice(child.rlp().as_slice());
            }
            Body::Branch(children) => {
                for nibble in 0..16 {
                    match children.get(nibble) {
                        Some(child) => payload.extend_from_slice(child.rlp().as_slice()),
                        None => payload.push(alloy_rlp::EMPTY_STRING_CODE),
                    }
                }
                payload.push(alloy_rlp::EMPTY_STRING_CODE);
            }
        }
        let mut out = Vec::with_capacity(payload.len() + 3);
        Header { list: true, payload_length: payload.len() }.encode(&mut out);
        out.extend_from_slice(&payload);
        out
    }

    /// The bytes on disk: tag, path, then leaf or children with their ids.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        match &self.body {
            Body::Leaf { path, leaf } => {
                out.push(LEAF);
                write_path(path, &mut out);
                leaf.write(&mut out);
            }
            Body::Extension { path, child } => {
                out.push(EXTENSION);
                write_path(path, &mut out);
                child.write(&mut out);
            }
            Body::Branch(children) => {
                out.push(BRANCH);
                out.extend_from_slice(&children.mask.to_be_bytes());
                for link in &children.links {
                    link.write(&mut out);
                }
            }
        }
        out
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(super) fn read(bytes: &[u8], id: u64) -> Result<Self, LedgerError> {
        let mut input = Input(bytes);
        let body = match input.byte()? {
            LEAF => Body::Leaf { path: read_path(&mut input)?, leaf: L::read(&mut input)? },
            EXTENSION => Body::Extension { path: read_path(&mut input)?, child: Link::read(&mut input)? },
            BRANCH => {
                let mask = u16::from_be_bytes(input.array()?);
                let links =
                    (0..mask.count_ones()).map(|_| Link::read(&mut input)).collect::<Result<_, _>>()?;
                Body::Branch(Children { mask, links })
            }
            tag => return Err(damaged(&format!("unknown node tag {tag}"))),
        };
        match input.0 {
            [] => Ok(Self::stored(body, id)),
            rest => Err(damaged(&format!("{} bytes left over: {}", rest.len(), hex::encode(&rest[..1])))),
        }
    }
}

impl<L: Leaf> Body<L> {
    pub(super) fn cut(&mut self) {
        match self {
            Self::Leaf { leaf, .. } => leaf.cut(),
            Self::Extension { child, .. } => child.cut(),
            Self::Branch(children) => children.cut(),
        }
    }
}

const LEAF: u8 = 0;
const EXTENSION: u8 = 1;
const BRANCH: u8 = 2;

fn write_path(path: &Nibbles, out: &mut Vec<u8>) {
    out.push(path.len() as u8);
    out.extend_from_slice(&path.pack());
}

fn read_path(input: &mut Input<'_>) -> Result<Nibbles, LedgerError> {
    let len = usize::from(input.byte()?);
    if len > 64 {
        return Err(damaged("a path of more than 64 nibbles"));
    }
    Ok(Nibbles::unpack(input.bytes(len.div_ceil(2))?).slice(..len))
}

/// The rest of a record.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], LedgerError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| damaged("a record ends early"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], LedgerError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().unwrap_or_else(|_| unreachable!("N bytes")))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, LedgerError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, LedgerError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

pub(crate) fn damaged(what: &str) -> LedgerError {
    LedgerError::Store(format!("the state on disk is damaged: {what}; restore the data folder or sync anew"))
}
