//! Commit and reveal among nodes that answer one request each on its own (rung `replicated`).
//!
//! The client asks a group of nodes under one nonce. Each node computes its answer, but first gives only a signed
//! commitment to it ([`commitment`]); it reveals the answer when it has seen the commitments of others. A node that waits for
//! another's answer to copy it has nothing to commit to. A node's address is in what it commits to, so a commitment cannot be
//! copied either.

use crate::{Seal, TypesError, signing};
use alloy_primitives::{Address, B256, Bytes, Keccak256};
use serde::{Deserialize, Serialize};

/// Fewest nodes of a group.
pub const NODES_MIN: usize = 2;
/// Most nodes of a group.
pub const NODES_MAX: usize = 16;

/// Name of a group: keccak-256 of `og/group/1` ‖ request hash ‖ addresses in ascending order. `None` when there are too few or too
/// many nodes, or they are not in strictly ascending order.
pub fn group_hash(request_hash: B256, nodes: &[Address]) -> Option<B256> {
    let ordered = nodes.windows(2).all(|pair| pair[0] < pair[1]);
    if !ordered || !(NODES_MIN..=NODES_MAX).contains(&nodes.len()) {
        return None;
    }
    let mut h = Keccak256::new();
    h.update(b"og/group/1");
    h.update(request_hash);
    for node in nodes {
        h.update(node);
    }
    Some(h.finalize())
}

/// What `node` commits to: keccak-256 of `og/commit/1` ‖ group ‖ node ‖ output hash ‖ trace root ‖ salt.
pub fn commitment(group: B256, node: Address, output_hash: B256, trace_root: B256, salt: B256) -> B256 {
    let mut h = Keccak256::new();
    h.update(b"og/commit/1");
    h.update(group);
    h.update(node);
    h.update(output_hash);
    h.update(trace_root);
    h.update(salt);
    h.finalize()
}

/// A node's signed commitment, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// Who commits.
    pub node: Address,
    /// To what; see [`commitment`].
    pub commitment: B256,
    /// The node's signature over the commitment itself, which begins with a domain of its own: 65 bytes r ‖ s ‖ v.
    pub signature: Bytes,
}

impl Commitment {
    /// The signature, when `node` made it.
    ///
    /// # Errors
    /// [`TypesError::BadSignature`].
    pub fn check(&self) -> Result<[u8; 65], TypesError> {
        let signature: [u8; 65] = self.signature.as_ref().try_into().map_err(|_| TypesError::BadSignature)?;
        match signing::recover(self.commitment, &signature)? == self.node {
            true => Ok(signature),
            false => Err(TypesError::BadSignature),
        }
    }
}

/// Asks a node to reveal its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevealRequest {
    /// All nodes of the group in ascending order.
    pub nodes: Vec<Address>,
    /// The commitments that came, the asked node's own among them.
    pub commitments: Vec<Commitment>,
}

impl RevealRequest {
    /// Checks that these are commitments of `group`, which was asked the request of `request_hash`, and that `own` is one of them.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, request_hash: B256, group: B256, own: &Commitment) -> Result<(), &'static str> {
        if group_hash(request_hash, &self.nodes) != Some(group) {
            return Err("`nodes` are not those of the group `og-group`, in ascending order");
        }
        if self.commitments.len() < NODES_MIN || self.commitments.len() > self.nodes.len() {
            return Err("`commitments` must have at least 2, and at most one a node");
        }
        if !self.commitments.windows(2).all(|pair| pair[0].node < pair[1].node) {
            return Err("`commitments` must be in ascending order of their nodes");
        }
        if !self.commitments.contains(own) {
            return Err("this node's own commitment is not in `commitments`");
        }
        for commitment in &self.commitments {
            if self.nodes.binary_search(&commitment.node).is_err() {
                return Err("a commitment is of a node outside of the group");
            }
            commitment.check().map_err(|_| "a commitment is not signed by its node")?;
        }
        Ok(())
    }
}

/// A revealed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revealed {
    /// The response: a JSON body, or a whole SSE stream.
    pub response: String,
    /// Receipt and token ids.
    pub seal: Seal,
    /// Opens the commitment.
    pub salt: B256,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret(i: u8) -> B256 {
        B256::repeat_byte(i)
    }

    fn group() -> (Vec<Address>, Vec<Commitment>, B256) {
        let mut keys: Vec<_> =
            (1..=3).map(|i| (signing::address_of(&secret(i)).unwrap(), secret(i))).collect();
        keys.sort_unstable();
        let nodes: Vec<_> = keys.iter().map(|(node, _)| *node).collect();
        let hash = group_hash(B256::ZERO, &nodes).unwrap();
        let commitments = keys
            .iter()
            .map(|(node, secret)| {
                let commitment = commitment(hash, *node, B256::ZERO, B256::ZERO, B256::repeat_byte(9));
                let signature = signing::sign(secret, commitment).unwrap().to_vec().into();
                Commitment { node: *node, commitment, signature }
            })
            .collect();
        (nodes, commitments, hash)
    }

    #[test]
    fn a_group_has_one_spelling() {
        let (nodes, _, hash) = group();
        assert_ne!(group_hash(B256::repeat_byte(1), &nodes), Some(hash));
        assert_ne!(group_hash(B256::ZERO, &nodes[..2]), Some(hash));
        let mut other = nodes.clone();
        other.swap(0, 1);
        assert_eq!(group_hash(B256::ZERO, &other), None);
        assert_eq!(group_hash(B256::ZERO, &[nodes[0], nodes[0]]), None);
        assert_eq!(group_hash(B256::ZERO, &nodes[..1]), None);
        let many: Vec<_> = (0..17).map(Address::repeat_byte).collect();
        assert_eq!(group_hash(B256::ZERO, &many), None);
        assert!(group_hash(B256::ZERO, &many[..16]).is_some());
    }

    #[test]
    fn only_the_commitments_of_the_group_reveal() {
        let (nodes, commitments, hash) = group();
        let own = commitments[1].clone();
        let good = RevealRequest { nodes, commitments };
        assert_eq!(good.check(B256::ZERO, hash, &own), Ok(()));
        assert!(good.check(B256::repeat_byte(1), hash, &own).is_err(), "another request");
        let refused = |change: &dyn Fn(&mut RevealRequest)| {
            let mut request = good.clone();
            change(&mut request);
            assert_ne!(request, good);
            assert!(request.check(B256::ZERO, hash, &own).is_err());
        };
        refused(&|r| _ = r.nodes.pop());
        refused(&|r| r.commitments = vec![own.clone()]);
        refused(&|r| _ = r.commitments.remove(1));
        refused(&|r| r.commitments.swap(0, 1));
        refused(&|r| r.commitments[0] = r.commitments[1].clone());
        refused(&|r| r.commitments[0].commitment = B256::ZERO);
        refused(&|r| r.commitments[0].signature = own.signature.clone());
        refused(&|r| r.commitments[1].signature = r.commitments[0].signature.clone());
        refused(&|r| {
            let outsider = signing::address_of(&secret(4)).unwrap();
            let signature = signing::sign(&secret(4), B256::ZERO).unwrap().to_vec().into();
            r.commitments[0] = Commitment { node: outsider, commitment: B256::ZERO, signature };
            r.commitments.sort_unstable_by_key(|c| c.node);
        });
    }

    #[test]
    fn a_commitment_is_to_all_of_its_parts() {
        let (g, n) = (B256::repeat_byte(1), Address::repeat_byte(2));
        let (o, t, s) = (B256::repeat_byte(3), B256::repeat_byte(4), B256::repeat_byte(5));
        let good = commitment(g, n, o, t, s);
        assert_ne!(commitment(o, n, g, t, s), good);
        assert_ne!(commitment(g, Address::ZERO, o, t, s), good);
        assert_ne!(commitment(g, n, t, o, s), good);
        assert_ne!(commitment(g, n, o, s, t), good);
        // keccak256("og/commit/1" ‖ 32 x 01 ‖ 20 x 02 ‖ 32 x 03 ‖ 32 x 04 ‖ 32 x 05), by eth_utils.
        assert_eq!(good.to_string(), "0x99e12d736d5f4341fa5dead0a10226e205db9bb9ef680892393568b591a4a8e5");
    }
}
