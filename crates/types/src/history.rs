//! The accumulator of block hashes that the contract `History` keeps: a Merkle mountain range.
//!
//! Leaf i is block i. A range of n leaves consists of perfect trees ("mountains") over consecutive leaves; the set bits of n, highest
//! first, are their heights. The state after block n has the range of the n blocks before it, so whoever trusts block n can check every
//! older block with one path.

use alloy_primitives::{B256, keccak256};

/// Storage slot of `History.peaks`.
pub const PEAKS_SLOT: u64 = 1;

/// Hash of a leaf: keccak-256 of 0x00 ‖ block hash.
pub fn leaf(block_hash: B256) -> B256 {
    keccak256([&[0][..], block_hash.as_slice()].concat())
}

/// Hash of an inner node: keccak-256 of 0x01 ‖ left ‖ right.
pub fn parent(left: B256, right: B256) -> B256 {
    keccak256([&[1][..], left.as_slice(), right.as_slice()].concat())
}

/// Height and first leaf of the mountain that has leaf `index` in a range of `size` leaves; `None` when it has no such leaf.
pub fn mountain(index: u64, size: u64) -> Option<(u32, u64)> {
    if index >= size {
        return None;
    }
    let mut start = 0;
    for height in (0..64).rev() {
        let leaves = 1u64 << height;
        if size & leaves == 0 {
            continue;
        }
        // Does not overflow: start + leaves is at most `size`.
        if index < start + leaves {
            return Some((height, start));
        }
        start += leaves;
    }
    None
}

/// Root of the mountain of height `path.len()` that begins at leaf `start`, given one leaf and the siblings on its way up.
/// The caller knows from [`mountain`] which height the path must have.
pub fn root(block_hash: B256, index: u64, start: u64, path: &[B256]) -> B256 {
    let mut at = index - start;
    let mut node = leaf(block_hash);
    for sibling in path {
        node = if at & 1 == 0 { parent(node, *sibling) } else { parent(*sibling, node) };
        at >>= 1;
    }
    node
}

/// Siblings from leaf `index` up to the top of its mountain in a range of `size` leaves. `node(height, first leaf)` gives the root of
/// the perfect tree over 2^height leaves. `Ok(None)` when the range has no such leaf.
///
/// # Errors
/// What `node` fails with.
pub fn path<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u32, u64) -> Result<B256, E>,
) -> Result<Option<Vec<B256>>, E> {
    let Some((height, _)) = mountain(index, size) else { return Ok(None) };
    // A mountain of height h begins at a multiple of 2^h, so all trees in it are aligned.
    let sibling = |h: u32| ((index >> h) ^ 1) << h;
    (0..height).map(|h| node(h, sibling(h))).collect::<Result<_, E>>().map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, convert::Infallible};

    fn hash_of(block: u64) -> B256 {
        keccak256(block.to_be_bytes())
    }

    fn tree(height: u32, start: u64) -> B256 {
        match height {
            0 => leaf(hash_of(start)),
            h => parent(tree(h - 1, start), tree(h - 1, start + (1 << (h - 1)))),
        }
    }

    /// What the contract stores after `size` calls of `record`.
    fn peaks(size: u64) -> BTreeMap<u32, B256> {
        let mut peaks = BTreeMap::new();
        for n in 0..size {
            let mut root = leaf(hash_of(n));
            let mut height = 0;
            while n >> height & 1 == 1 {
                root = parent(peaks[&height], root);
                height += 1;
            }
            peaks.insert(height, root);
        }
        peaks
    }

    #[test]
    fn every_leaf_of_every_small_range_leads_to_its_peak() {
        for size in 1..70 {
            let peaks = peaks(size);
            for index in 0..size {
                let (height, start) = mountain(index, size).unwrap();
                let path = path::<Infallible>(index, size, |h, s| Ok(tree(h, s))).unwrap().unwrap();
                assert_eq!(path.len() as u32, height);
                assert_eq!(root(hash_of(index), index, start, &path), peaks[&height], "{index} of {size}");
            }
            assert_eq!(mountain(size, size), None);
        }
    }

    proptest! {
        #[test]
        fn the_mountains_of_any_size_cover_all_leaves_once(size in 1u64.., index in any::<u64>()) {
            let index = index % size;
            let (height, start) = mountain(index, size).unwrap();
            prop_assert!(start <= index && index - start < 1 << height);
            prop_assert!(size & 1 << height != 0 && start.is_multiple_of(1 << height));
            prop_assert_eq!(start, size >> height >> 1 << height << 1);
        }

        #[test]
        fn another_leaf_or_place_gives_another_root(size in 2u64..200, index in any::<u64>(), other in any::<u64>()) {
            let (index, other) = (index % size, other % size);
            prop_assume!(index != other);
            let (_, start) = mountain(index, size).unwrap();
            let path = path::<Infallible>(index, size, |h, s| Ok(tree(h, s))).unwrap().unwrap();
            let right = root(hash_of(index), index, start, &path);
            prop_assert_ne!(root(hash_of(other), index, start, &path), right);
            if let Some((height, start)) = mountain(other, size) && height as usize == path.len() && !path.is_empty() {
                prop_assert_ne!(root(hash_of(index), other, start, &path), right);
            }
        }
    }
}
