use super::{node_hash, root, split, subtree};
use crate::{TypesError, limits::MERKLE_PATH_MAX};
use alloy_primitives::B256;
use std::{ops::Range, slice};

/// Proof that a run of leaves is in the tree: the roots of the largest subtrees that have no leaf of the run, from left to
/// right. There is no proof with fewer hashes. For one leaf they are those of its audit path, in another order.
///
/// Returns `None` when the range is empty or there are not so many leaves.
pub fn range_path(leaves: &[B256], range: Range<usize>) -> Option<Vec<B256>> {
    (range.start < range.end && range.end <= leaves.len())
        .then(|| path(&subtree(leaves), range.start as u64..range.end as u64, leaves.len() as u64))
}

/// The same, out of roots of subtrees: `subtree(lo, n)` is the root of `n` leaves from `lo`.
pub(super) fn path(subtree: &impl Fn(u64, u64) -> B256, range: Range<u64>, size: u64) -> Vec<B256> {
    let mut out = Vec::new();
    collect(subtree, (0, size), &range, &mut out);
    out
}

fn collect(
    subtree: &impl Fn(u64, u64) -> B256,
    (lo, n): (u64, u64),
    range: &Range<u64>,
    out: &mut Vec<B256>,
) {
    match place(lo, n, range) {
        Place::Outside => out.push(subtree(lo, n)),
        Place::Inside => {}
        Place::Across => {
            let k = split(n);
            collect(subtree, (lo, k), range, out);
            collect(subtree, (lo + k, n - k), range, out);
        }
    }
}

/// Where a subtree lies in respect of the run.
enum Place {
    Inside,
    Outside,
    Across,
}

fn place(lo: u64, n: u64, range: &Range<u64>) -> Place {
    if lo + n <= range.start || range.end <= lo {
        Place::Outside
    } else if range.start <= lo && lo + n <= range.end {
        Place::Inside
    } else {
        Place::Across
    }
}

/// Recomputes the root of a tree of `size` leaves from a run of leaf hashes that begins at `from`, and its
/// [`range_path`]. Time and memory are proportional to the run and the path.
///
/// # Errors
/// [`TypesError`] when the run is empty or not inside the tree, or the path has the wrong length.
pub fn root_from_range(leaves: &[B256], from: u64, size: u64, path: &[B256]) -> Result<B256, TypesError> {
    let bad = |detail: &str| TypesError::Encoding { what: "range path", detail: detail.into() };
    // A path goes down both sides of the run.
    let max = 2 * MERKLE_PATH_MAX;
    if path.len() > max {
        return Err(TypesError::TooLarge { what: "range path", size: path.len(), max });
    }
    let to = from.checked_add(leaves.len() as u64).filter(|to| *to <= size && !leaves.is_empty());
    let to = to.ok_or_else(|| bad("the run of leaves is empty or reaches past the end of the tree"))?;
    let mut path = path.iter();
    let hash = rebuild((0, size), &(from..to), leaves, &mut path).ok_or_else(|| bad("it is too short"))?;
    match path.next() {
        None => Ok(hash),
        Some(_) => Err(bad("it is too long")),
    }
}

fn rebuild(
    (lo, n): (u64, u64),
    range: &Range<u64>,
    leaves: &[B256],
    path: &mut slice::Iter<'_, B256>,
) -> Option<B256> {
    match place(lo, n, range) {
        Place::Outside => path.next().copied(),
        Place::Inside => {
            let from = (lo - range.start) as usize;
            Some(root(&leaves[from..from + n as usize]))
        }
        Place::Across => {
            let k = split(n);
            let left = rebuild((lo, k), range, leaves, path)?;
            Some(node_hash(&left, &rebuild((lo + k, n - k), range, leaves, path)?))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Log, inclusion_path, leaf_hash};
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: usize) -> Vec<B256> {
        (0..n as u32).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn all_ranges_of_all_sizes_up_to_70() {
        let all = leaves(70);
        let mut log = Log::default();
        all.iter().for_each(|l| _ = log.push(*l));
        for n in 1..=70 {
            let good = root(&all[..n]);
            for from in 0..n {
                for to in from + 1..=n {
                    let path = range_path(&all[..n], from..to).unwrap();
                    assert_eq!(log.range_path(from as u64..to as u64, n as u64).as_ref(), Some(&path));
                    let again = root_from_range(&all[from..to], from as u64, n as u64, &path);
                    assert_eq!(again, Ok(good));
                    if to == from + 1 {
                        let (mut a, mut b) = (path, inclusion_path(&all[..n], from).unwrap());
                        a.sort();
                        b.sort();
                        assert_eq!(a, b, "one leaf: the hashes of the audit path");
                    }
                }
            }
        }
        assert_eq!(range_path(&all, 3..3), None);
        assert_eq!(range_path(&all, 3..71), None);
        assert_eq!(log.range_path(3..3, 70), None);
        assert_eq!(log.range_path(3..60, 59), None);
        assert_eq!(log.range_path(3..60, 71), None);
    }

    /// Every node of the tree of `n` leaves from `lo`, with its parent.
    fn nodes(lo: u64, n: u64, parent: (u64, u64), out: &mut Vec<[(u64, u64); 2]>) {
        out.push([(lo, n), parent]);
        if n > 1 {
            let k = 1 << (n - 1).ilog2();
            nodes(lo, k, (lo, n), out);
            nodes(lo + k, n - k, (lo, n), out);
        }
    }

    /// Fewest hashes: every leaf outside the run must be under a node of the path, and no node of the path may have a leaf of
    /// the run under it, so the path has at least the nodes outside the run whose parents are not.
    #[test]
    fn no_proof_is_shorter() {
        let all = leaves(40);
        for n in 1..=40u64 {
            let mut tree = Vec::new();
            nodes(0, n, (0, n), &mut tree);
            for from in 0..n {
                for to in from + 1..=n {
                    let outside = |(lo, n): (u64, u64)| lo + n <= from || to <= lo;
                    let fewest = tree.iter().filter(|[node, up]| outside(*node) && !outside(*up)).count();
                    let path = range_path(&all[..n as usize], from as usize..to as usize).unwrap();
                    assert_eq!(path.len(), fewest);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_else_gives_the_root(n in 1usize..70, a in 0usize..70, b in 0usize..70, at in 0usize..70, d in 1u64..70) {
            let all = leaves(n);
            let (from, to) = ((a % n).min(b % n), (a % n).max(b % n) + 1);
            let (good, other) = (root(&all), B256::repeat_byte(9));
            let path = range_path(&all, from..to).unwrap();
            let check = |leaves: &[B256], from: u64, size: u64, path: &[B256]| {
                root_from_range(leaves, from, size, path) == Ok(good)
            };
            let (run, start, size) = (&all[from..to], from as u64, n as u64);
            prop_assert!(check(run, start, size, &path));
            let i = at % (path.len() + 1);
            let mut longer = path.clone();
            longer.insert(i, other);
            prop_assert!(!check(run, start, size, &longer));
            if i < path.len() {
                let (mut shorter, mut changed) = (path.clone(), path.clone());
                shorter.remove(i);
                changed[i] = other;
                prop_assert!(!check(run, start, size, &shorter));
                prop_assert!(!check(run, start, size, &changed));
            }
            let mut forged = run.to_vec();
            forged[at % run.len()] = other;
            prop_assert!(!check(&forged, start, size, &path));
            prop_assert!(!check(&run[1..], start, size, &path));
            prop_assert!(!check(run, start + d, size, &path));
            prop_assert!(start < d || !check(run, start - d, size, &path));
            prop_assert!(!check(&[], start, size, &path));
        }

        #[test]
        fn arbitrary_input_never_panics(from: u64, size: u64, n in 0usize..5, path in 0usize..130) {
            let _ = root_from_range(&vec![B256::ZERO; n], from, size, &vec![B256::ZERO; path]);
        }
    }
}
