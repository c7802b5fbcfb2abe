//! Merkle trees over byte strings, opened a range at a time, and Merkle descents: how a dispute looks into what was only committed to.
//!
//! A byte string is cut into chunks (the last one shorter); its root is the RFC 6962 root over the chunks' leaf hashes. A [`RangeOpening`]
//! proves a run of chunks with the fewest sibling hashes, and there is exactly one valid path for a run. A *frontier* is the list of
//! subtree roots some levels below a root; naming one of them narrows a difference down by that many levels at once.

use crate::{TypesError, merkle};
use alloy_primitives::{B256, Bytes};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use std::ops::Range;

/// Levels that one step of a descent skips: a frontier has at most 64 nodes.
pub const FRONTIER_LEVELS: u32 = 6;

fn bad<T>(detail: &str) -> Result<T, TypesError> {
    Err(TypesError::Encoding { what: "Merkle opening", detail: detail.into() })
}

/// Leaf hashes of the chunks of `bytes`.
pub fn chunk_hashes(bytes: &[u8], chunk: usize) -> Vec<B256> {
    bytes.chunks(chunk).map(merkle::leaf_hash).collect()
}

/// Root of `bytes` cut into chunks.
pub fn chunked_root(bytes: &[u8], chunk: usize) -> B256 {
    merkle::root(&chunk_hashes(bytes, chunk))
}

/// Largest power of two strictly below `n` (n ≥ 2).
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Some consecutive chunks of a byte string, with the hashes that lead to the root.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct RangeOpening {
    /// Index of the first chunk.
    pub first: u64,
    /// The chunks' bytes.
    pub bytes: Bytes,
    /// Roots of the subtrees beside them, from left to right.
    pub path: Vec<B256>,
}

impl RangeOpening {
    /// Opens the chunks that hold the bytes of `range`. `hashes` are those of all chunks of `all`.
    ///
    /// # Panics
    /// When the range is empty or beyond the bytes.
    pub fn new(all: &[u8], hashes: &[B256], chunk: usize, range: Range<usize>) -> Self {
        assert!(range.start < range.end && range.end <= all.len(), "bytes that are there");
        let (first, end) = (range.start / chunk, range.end.div_ceil(chunk));
        let path = merkle::range_path(hashes, first..end).unwrap_or_default();
        let bytes = all[first * chunk..all.len().min(end * chunk)].to_vec().into();
        Self { first: first as u64, bytes, path }
    }

    /// The root that these chunks belong to, in a byte string of `len` bytes.
    ///
    /// # Errors
    /// [`TypesError`] when the chunks are not whole or the path is too short or too long.
    pub fn root(&self, len: u64, chunk: usize) -> Result<B256, TypesError> {
        let size = len.div_ceil(chunk as u64);
        let end = self.first.checked_add((self.bytes.len() as u64).div_ceil(chunk as u64));
        let Some(end) = end.filter(|end| self.first < *end && *end <= size) else {
            return bad("the chunks are not inside the byte string");
        };
        let expected = if end == size { len } else { end * chunk as u64 } - self.first * chunk as u64;
        if self.bytes.len() as u64 != expected {
            return bad("the chunks are not whole");
        }
        let leaves = chunk_hashes(&self.bytes, chunk);
        merkle::root_from_range(&leaves, self.first, size, &self.path)
    }

    /// The bytes of `range`, given in bytes of the whole string, if they are all here.
    pub fn get(&self, range: Range<usize>, chunk: usize) -> Option<&[u8]> {
        let start = range.start.checked_sub(usize::try_from(self.first).ok()?.checked_mul(chunk)?)?;
        self.bytes.get(start..start.checked_add(range.len())?)
    }
}

/// As [`merkle::range_path`] in a tree of `size` leaves of which not all are known: `root(first, size)` gives the roots of subtrees. `None` when it
/// does not know one that is needed.
pub fn range_path_of(
    size: u64,
    wanted: Range<u64>,
    root: &dyn Fn(u64, u64) -> Option<B256>,
) -> Option<Vec<B256>> {
    fn walk(
        at: u64,
        size: u64,
        wanted: &Range<u64>,
        root: &dyn Fn(u64, u64) -> Option<B256>,
        path: &mut Vec<B256>,
    ) -> Option<()> {
        if wanted.end <= at || at + size <= wanted.start {
            path.push(root(at, size)?);
        } else if size > 1 {
            let k = split(size);
            walk(at, k, wanted, root, path)?;
            walk(at + k, size - k, wanted, root, path)?;
        }
        Some(())
    }
    let mut path = Vec::new();
    walk(0, size, &wanted, root, &mut path)?;
    Some(path)
}

/// The two parts of a tree of `size` (at least 2) leaves: sizes of the left and the right one.
pub fn halves(size: u64) -> (u64, u64) {
    (split(size), size - split(size))
}

/// The parts (first leaf, number of leaves) of a tree of `size` leaves [`FRONTIER_LEVELS`] below its root, from left to right.
pub fn frontier_parts(size: u64) -> Vec<(u64, u64)> {
    fn walk(offset: u64, size: u64, levels: u32, out: &mut Vec<(u64, u64)>) {
        if levels == 0 || size <= 1 {
            return out.push((offset, size));
        }
        let k = split(size);
        walk(offset, k, levels - 1, out);
        walk(offset + k, size - k, levels - 1, out);
    }
    let mut out = Vec::new();
    walk(0, size, FRONTIER_LEVELS, &mut out);
    out
}

/// Roots of the [`frontier_parts`] of a tree over `leaves`.
pub fn frontier(leaves: &[B256]) -> Vec<B256> {
    let parts = frontier_parts(leaves.len() as u64);
    parts.into_iter().map(|(at, size)| merkle::root(&leaves[at as usize..(at + size) as usize])).collect()
}

/// Root of a tree of `size` leaves from its frontier; `None` when the number of nodes is not that of the frontier.
pub fn frontier_root(size: u64, nodes: &[B256]) -> Option<B256> {
    fn walk(size: u64, levels: u32, nodes: &mut std::slice::Iter<'_, B256>) -> Option<B256> {
        if levels == 0 || size <= 1 {
            return nodes.next().copied();
        }
        let k = split(size);
        let left = walk(k, levels - 1, nodes)?;
        let right = walk(size - k, levels - 1, nodes)?;
        Some(merkle::node_hash(&left, &right))
    }
    let mut nodes = nodes.iter();
    let root = walk(size, FRONTIER_LEVELS, &mut nodes)?;
    nodes.next().is_none().then_some(root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_open_to_the_root_and_nothing_else_does(
            bytes in prop::collection::vec(any::<u8>(), 1..700), chunk in 1usize..40, a: u16, b: u16, flip: u16,
        ) {
            let n = bytes.len();
            let (a, b) = (usize::from(a) % n, usize::from(b) % n);
            let range = a.min(b)..a.max(b) + 1;
            let (root, hashes) = (chunked_root(&bytes, chunk), chunk_hashes(&bytes, chunk));
            let opening = RangeOpening::new(&bytes, &hashes, chunk, range.clone());
            prop_assert_eq!(opening.root(n as u64, chunk).unwrap(), root);
            prop_assert_eq!(opening.get(range.clone(), chunk).unwrap(), &bytes[range]);
            let mut other = opening.clone();
            let mut changed = other.bytes.to_vec();
            let at = usize::from(flip) % changed.len();
            changed[at] ^= 1;
            other.bytes = changed.into();
            prop_assert_ne!(other.root(n as u64, chunk).unwrap(), root);
            let mut other = opening.clone();
            other.path.push(root);
            prop_assert!(other.root(n as u64, chunk).is_err());
            if !opening.path.is_empty() {
                let mut other = opening.clone();
                other.path.pop();
                prop_assert!(other.root(n as u64, chunk).is_err());
            }
            let mut other = opening.clone();
            other.first += 1;
            prop_assert!(other.root(n as u64, chunk) != Ok(root));
            let mut other = opening;
            other.bytes = other.bytes[1..].to_vec().into();
            prop_assert!(other.root(n as u64, chunk) != Ok(root));
        }

        #[test]
        fn a_frontier_has_the_root_and_names_every_leaf_once(n in 1usize..300) {
            let leaves: Vec<_> = (0..n as u32).map(|i| merkle::leaf_hash(&i.to_be_bytes())).collect();
            let nodes = frontier(&leaves);
            prop_assert!(nodes.len() <= 64);
            prop_assert_eq!(frontier_root(n as u64, &nodes), Some(merkle::root(&leaves)));
            prop_assert_eq!(frontier_root(n as u64, &nodes[1..]), None);
            let parts = frontier_parts(n as u64);
            let mut next = 0;
            for (at, size) in parts {
                prop_assert_eq!(at, next);
                next += size;
            }
            prop_assert_eq!(next, n as u64);
        }
    }
}
