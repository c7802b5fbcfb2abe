//! RFC 6962 Merkle trees over SHA-256: leaves are hashed with prefix 0x00, inner nodes with 0x01, so a leaf can never
//! pass for a node. The same trees as Certificate Transparency and C2SP tlogs, so their tools can check our proofs.
//!
//! Three kinds of proof: that a leaf is in a tree (inclusion), that a run of leaves is (range), and that one tree is the
//! beginning of another (consistency).

mod consistency;
mod log;
mod range;

pub use consistency::{consistency_path, verify_consistency};
pub use log::Log;
pub use range::{range_path, root_from_range};

use crate::{TypesError, limits::MERKLE_PATH_MAX};
use alloy_primitives::B256;
use sha2::{Digest, Sha256};

/// Hash of a leaf: SHA-256(0x00 ‖ data).
pub fn leaf_hash(data: &[u8]) -> B256 {
    B256::from_slice(&Sha256::new().chain_update([0]).chain_update(data).finalize())
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &B256, right: &B256) -> B256 {
    B256::from_slice(&Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize())
}

/// Root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> B256 {
    B256::from_slice(&Sha256::new().finalize())
}

/// Root over leaf hashes (RFC 6962, section 2.1).
pub fn root(leaves: &[B256]) -> B256 {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let (l, r) = leaves.split_at(split(leaves.len() as u64) as usize);
            node_hash(&root(l), &root(r))
        }
    }
}

/// Audit path of leaf `index` (RFC 6962, section 2.1.1), from the leaf's sibling up.
///
/// Returns `None` when there is no such leaf.
pub fn inclusion_path(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    collect_path(leaves, index, &mut path);
    Some(path)
}

fn collect_path(leaves: &[B256], index: usize, path: &mut Vec<B256>) {
    if leaves.len() == 1 {
        return;
    }
    let k = split(leaves.len() as u64) as usize;
    let (l, r) = leaves.split_at(k);
    if index < k {
        collect_path(l, index, path);
        path.push(root(r));
    } else {
        collect_path(r, index - k, path);
        path.push(root(l));
    }
}

/// Recomputes the root from a leaf hash and its audit path (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`TypesError`] when the index is out of range or the path has the wrong length.
pub fn root_from_path(leaf: B256, index: u64, size: u64, path: &[B256]) -> Result<B256, TypesError> {
    let bad = |detail: &str| TypesError::Encoding { what: "Merkle path", detail: detail.into() };
    if path.len() > MERKLE_PATH_MAX {
        return Err(TypesError::TooLarge { what: "Merkle path", size: path.len(), max: MERKLE_PATH_MAX });
    }
    if index >= size {
        return Err(bad("the leaf's index is not below the size of the tree"));
    }
    let (mut fn_, mut sn, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if sn == 0 {
            return Err(bad("it is too long"));
        }
        if fn_ & 1 == 1 || fn_ == sn {
            hash = node_hash(sibling, &hash);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    if sn != 0 {
        return Err(bad("it is too short"));
    }
    Ok(hash)
}

/// Largest power of two strictly below `n` (n ≥ 2).
fn split(n: u64) -> u64 {
    debug_assert!(n >= 2);
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The root of `n` leaves from `lo`, out of plain leaf hashes.
fn subtree(leaves: &[B256]) -> impl Fn(u64, u64) -> B256 {
    |lo, n| root(&leaves[lo as usize..(lo + n) as usize])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::b256;
    use proptest::prelude::*;

    #[test]
    fn matches_the_certificate_transparency_vectors() {
        // Leaves and roots of the reference implementation's test tree.
        let leaves: [&[u8]; 3] = [b"", &[0x00], &[0x10]];
        let hashes: Vec<_> = leaves.iter().map(|l| leaf_hash(l)).collect();
        assert_eq!(empty_root(), b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        assert_eq!(
            root(&hashes[..1]),
            b256!("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
        );
        assert_eq!(
            root(&hashes[..2]),
            b256!("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125")
        );
        assert_eq!(root(&hashes), b256!("aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"));
    }

    proptest! {
        #[test]
        fn log_and_plain_tree_agree(n in 1usize..70, cut in 0usize..70) {
            let leaves: Vec<_> = (0..n as u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let mut log = Log::default();
            for l in &leaves { log.push(*l); }
            let size = cut % n + 1;
            prop_assert_eq!(log.root_at(size as u64).unwrap(), root(&leaves[..size]));
            for i in 0..size {
                let path = log.path_at(i as u64, size as u64).unwrap();
                prop_assert_eq!(&path, &inclusion_path(&leaves[..size], i).unwrap());
                prop_assert_eq!(root_from_path(leaves[i], i as u64, size as u64, &path).unwrap(), root(&leaves[..size]));
            }
        }

        #[test]
        fn a_wrong_index_size_leaf_or_path_gives_another_root(n in 2u64..70, i in 0u64..70, d in 1u64..69) {
            let leaves: Vec<_> = (0..n as u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let i = i % n;
            let path = inclusion_path(&leaves, i as usize).unwrap();
            let good = root(&leaves);
            let j = (i + d % (n - 1) + 1) % n;
            prop_assume!(j != i);
            prop_assert!(root_from_path(leaves[i as usize], j, n, &path) != Ok(good));
            prop_assert!(root_from_path(leaves[j as usize], i, n, &path) != Ok(good));
            prop_assert!(root_from_path(leaves[i as usize], i, n, &path[1..]) != Ok(good));
            prop_assert!(root_from_path(leaves[i as usize], n, n, &path).is_err());
        }
    }
}
