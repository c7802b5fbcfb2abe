use super::{consistency, empty_root, node_hash, range, split};
use alloy_primitives::B256;
use std::ops::Range;

/// An append-only tree that keeps every complete subtree's root, so that roots and paths cost O(log² n) instead of O(n).
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `levels[h][i]` is the root of leaves `[i·2^h, (i+1)·2^h)`.
    levels: Vec<Vec<B256>>,
}

impl Log {
    /// Appends a leaf hash; returns its index.
    pub fn push(&mut self, leaf: B256) -> u64 {
        let index = self.len();
        let mut hash = leaf;
        for h in 0.. {
            if self.levels.len() == h {
                self.levels.push(Vec::new());
            }
            self.levels[h].push(hash);
            let n = self.levels[h].len();
            if n % 2 == 1 {
                break;
            }
            hash = node_hash(&self.levels[h][n - 2], &self.levels[h][n - 1]);
        }
        index
    }

    /// Number of leaves.
    pub fn len(&self) -> u64 {
        self.levels.first().map_or(0, |l| l.len() as u64)
    }

    /// True when there are no leaves.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leaf hash at `index`.
    pub fn leaf(&self, index: u64) -> Option<B256> {
        self.levels.first()?.get(usize::try_from(index).ok()?).copied()
    }

    /// Root of the first `size` leaves, or `None` when there are fewer.
    pub fn root_at(&self, size: u64) -> Option<B256> {
        if size > self.len() {
            return None;
        }
        Some(if size == 0 { empty_root() } else { self.range_root(0, size) })
    }

    /// Audit path of `index` in the tree of the first `size` leaves.
    pub fn path_at(&self, index: u64, size: u64) -> Option<Vec<B256>> {
        if index >= size || size > self.len() {
            return None;
        }
        let (mut lo, mut n, mut down) = (0u64, size, Vec::new());
        while n > 1 {
            let k = split(n);
            if index - lo < k {
                down.push(self.range_root(lo + k, n - k));
                n = k;
            } else {
                down.push(self.range_root(lo, k));
                lo += k;
                n -= k;
            }
        }
        down.reverse();
        Some(down)
    }

    /// Proof that the first `old` leaves are the beginning of the first `new` ones; see
    /// [`consistency_path`](super::consistency_path).
    pub fn consistency_path(&self, old: u64, new: u64) -> Option<Vec<B256>> {
        (old <= new && new <= self.len())
            .then(|| consistency::path(&|lo, n| self.range_root(lo, n), old, new))
    }

    /// Proof that a run of leaves is in the tree of the first `size`; see [`range_path`](super::range_path).
    pub fn range_path(&self, range: Range<u64>, size: u64) -> Option<Vec<B256>> {
        (range.start < range.end && range.end <= size && size <= self.len())
            .then(|| range::path(&|lo, n| self.range_root(lo, n), range, size))
    }

    /// Roots of the complete subtrees with 2^`height` leaves each, from the `from`-th on, `count` of them. `None` when
    /// the tree does not have them all.
    pub fn subtrees(&self, height: u32, from: u64, count: usize) -> Option<&[B256]> {
        let level = self.levels.get(height as usize)?;
        let from = usize::try_from(from).ok()?;
        level.get(from..from.checked_add(count)?)
    }

    /// Root of `n` leaves from `lo`; `lo` is a multiple of the largest power of two that is at most `n`.
    fn range_root(&self, lo: u64, n: u64) -> B256 {
        if n.is_power_of_two() {
            return self.levels[n.trailing_zeros() as usize][(lo / n) as usize];
        }
        let k = split(n);
        node_hash(&self.range_root(lo, k), &self.range_root(lo + k, n - k))
    }
}
