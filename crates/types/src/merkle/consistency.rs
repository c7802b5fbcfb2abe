use super::{empty_root, node_hash, split, subtree};
use crate::{TypesError, limits::MERKLE_PATH_MAX};
use alloy_primitives::B256;

/// Proof that the tree of the first `old` leaves is the beginning of the tree of all of them (RFC 6962, section 2.1.2).
/// It is empty when `old` is 0 or all of them.
///
/// Returns `None` when there are fewer than `old` leaves.
pub fn consistency_path(leaves: &[B256], old: usize) -> Option<Vec<B256>> {
    (old <= leaves.len()).then(|| path(&subtree(leaves), old as u64, leaves.len() as u64))
}

/// The same, out of roots of subtrees: `subtree(lo, n)` is the root of `n` leaves from `lo`.
pub(super) fn path(subtree: &impl Fn(u64, u64) -> B256, old: u64, new: u64) -> Vec<B256> {
    let mut out = Vec::new();
    if old != 0 {
        collect(subtree, (0, new), old, true, &mut out);
    }
    out
}

/// SUBPROOF of RFC 6962 for `n` leaves from `lo`, of which the old tree has the first `m`. `whole`: this subtree is all of
/// the old tree, so the verifier knows its root.
fn collect(
    subtree: &impl Fn(u64, u64) -> B256,
    (lo, n): (u64, u64),
    m: u64,
    whole: bool,
    out: &mut Vec<B256>,
) {
    if m == n {
        if !whole {
            out.push(subtree(lo, n));
        }
        return;
    }
    let k = split(n);
    if m <= k {
        collect(subtree, (lo, k), m, whole, out);
        out.push(subtree(lo + k, n - k));
    } else {
        collect(subtree, (lo + k, n - k), m - k, false, out);
        out.push(subtree(lo, k));
    }
}

/// Checks that the tree (`old_size`, `old_root`) is the beginning of (`new_size`, `new_root`) (RFC 9162, section 2.1.4.2).
/// For the empty tree and for equal sizes the path must be empty.
///
/// The sizes must come from a signed checkpoint: a root does not commit to the number of leaves, and a new tree of three
/// leaves passes for one of four whose last two are its last.
///
/// # Errors
/// [`TypesError`] when the sizes are in the wrong order, the path has the wrong length, or it leads to another root.
pub fn verify_consistency(
    old_size: u64,
    old_root: B256,
    new_size: u64,
    new_root: B256,
    path: &[B256],
) -> Result<(), TypesError> {
    let bad = |detail: &str| TypesError::Encoding { what: "consistency path", detail: detail.into() };
    if path.len() > MERKLE_PATH_MAX {
        let what = "consistency path";
        return Err(TypesError::TooLarge { what, size: path.len(), max: MERKLE_PATH_MAX });
    }
    if old_size > new_size {
        return Err(bad("the old tree is larger than the new one"));
    }
    for (size, root) in [(old_size, old_root), (new_size, new_root)] {
        if size == 0 && root != empty_root() {
            return Err(bad("the root of an empty tree must be SHA-256 of nothing"));
        }
    }
    if old_size == new_size && old_root != new_root {
        return Err(bad("trees of one size have different roots"));
    }
    if old_size == 0 || old_size == new_size {
        return if path.is_empty() { Ok(()) } else { Err(bad("it must be empty")) };
    }
    // A complete old tree is a subtree of the new one, and its root is left out of the path.
    let (mut fr, rest) = match path.split_first() {
        _ if old_size.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (*first, rest),
        None => return Err(bad("it is too short")),
    };
    let mut sr = fr;
    let (mut fn_, mut sn) = (old_size - 1, new_size - 1);
    let skip = fn_.trailing_ones();
    // 64 ones would be an old tree of 2^64 leaves.
    (fn_, sn) = (fn_ >> skip, sn >> skip);
    for hash in rest {
        if sn == 0 {
            return Err(bad("it is too long"));
        }
        if fn_ & 1 == 1 || fn_ == sn {
            fr = node_hash(hash, &fr);
            sr = node_hash(hash, &sr);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            sr = node_hash(&sr, hash);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    match (sn, fr == old_root, sr == new_root) {
        (0, true, true) => Ok(()),
        (0, false, _) => Err(bad("it does not lead to the old root")),
        (0, ..) => Err(bad("it does not lead to the new root")),
        _ => Err(bad("it is too short")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Log, leaf_hash, root};
    use super::*;
    use alloy_primitives::b256;
    use proptest::prelude::*;

    fn leaves(n: usize) -> Vec<B256> {
        (0..n as u32).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn all_sizes_up_to_70() {
        let all = leaves(70);
        let mut log = Log::default();
        all.iter().for_each(|l| _ = log.push(*l));
        for new in 0..=70 {
            let new_root = root(&all[..new]);
            for old in 0..=new {
                let path = consistency_path(&all[..new], old).unwrap();
                assert_eq!(log.consistency_path(old as u64, new as u64).as_ref(), Some(&path));
                let old_root = root(&all[..old]);
                let check = |m, a, n, b, p: &[B256]| verify_consistency(m, a, n, b, p);
                let (m, n) = (old as u64, new as u64);
                assert_eq!(check(m, old_root, n, new_root, &path), Ok(()));
                // Another root, and a path with one hash more, less or changed, prove nothing.
                let other = B256::repeat_byte(9);
                assert!(check(m, other, n, new_root, &path).is_err());
                // Nothing at all is said about a tree that begins with nothing.
                assert!(m == 0 || check(m, old_root, n, other, &path).is_err());
                for i in 0..=path.len() {
                    let mut longer = path.clone();
                    longer.insert(i, other);
                    assert!(check(m, old_root, n, new_root, &longer).is_err());
                    if i < path.len() {
                        let (mut shorter, mut changed) = (path.clone(), path.clone());
                        shorter.remove(i);
                        changed[i] = other;
                        assert!(check(m, old_root, n, new_root, &shorter).is_err());
                        assert!(check(m, old_root, n, new_root, &changed).is_err());
                    }
                }
                // Nor do right roots with a wrong old size.
                for wrong in (1..=n + 2).filter(|w| *w != m && m != 0) {
                    assert!(check(wrong, old_root, n, new_root, &path).is_err(), "{wrong} for {m} of {n}");
                }
            }
            assert_eq!(consistency_path(&all[..new], new + 1), None);
        }
        assert_eq!(log.consistency_path(3, 71), None);
        assert_eq!(log.consistency_path(4, 3), None);
    }

    /// Why the sizes must be signed with the roots.
    #[test]
    fn a_root_does_not_commit_to_its_size() {
        let all = leaves(3);
        let path = consistency_path(&all, 2).unwrap();
        assert_eq!(verify_consistency(2, root(&all[..2]), 4, root(&all), &path), Ok(()));
        assert!(verify_consistency(2, root(&all[..2]), 5, root(&all), &path).is_err());
    }

    #[test]
    fn matches_the_certificate_transparency_vectors() {
        // Test tree and proofs of the reference implementation (eight leaves).
        let data: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let hashes: Vec<_> = data.iter().map(|d| leaf_hash(d)).collect();
        assert_eq!(root(&hashes), b256!("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"));
        assert_eq!(
            consistency_path(&hashes, 6).unwrap(),
            [
                b256!("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"),
                b256!("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
                b256!("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            ]
        );
    }

    proptest! {
        /// A log that changed, dropped or swapped an old leaf cannot prove that it grew.
        #[test]
        fn a_rewritten_log_is_noticed(old in 1usize..70, more in 0usize..30, at in 0usize..70) {
            let honest = leaves(old + more);
            let mut forged = honest.clone();
            forged[at % old] = B256::repeat_byte(0xee);
            let path = consistency_path(&forged, old).unwrap();
            let got = verify_consistency(
                old as u64, root(&honest[..old]), (old + more) as u64, root(&forged), &path);
            prop_assert!(got.is_err());
        }

        #[test]
        fn arbitrary_input_never_panics(m: u64, n: u64, path in proptest::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let path: Vec<_> = path.into_iter().map(B256::from).collect();
            let _ = verify_consistency(m, B256::ZERO, n, B256::repeat_byte(1), &path);
        }
    }
}
