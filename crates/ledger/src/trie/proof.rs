//! Proofs (EIP-1186) and parts of tries for state sync.

use super::{Leaf, Reader, Trie, node::Body};
use crate::LedgerError;
use alloy_primitives::{B256, Bytes};
use alloy_trie::Nibbles;

impl<L: Leaf> Trie<L> {
    /// The encoded nodes from the root towards `key`, as `eth_getProof` gives them: nodes shorter than 32 bytes are inside their parents.
    pub(crate) fn proof(&self, key: B256, reader: &Reader) -> Result<Vec<Bytes>, LedgerError> {
        let mut rest = Nibbles::unpack_array(&key.0);
        let mut out: Vec<Bytes> = Vec::new();
        let mut next = self.0.clone();
        while let Some(link) = next.take() {
            let node = reader.resolve(&link)?;
            let encoded = node.encode();
            if out.is_empty() || encoded.len() >= 32 {
                out.push(encoded.into());
            }
            next = match &node.body {
                Body::Leaf { .. } => None,
                Body::Extension { path, child } => rest.starts_with(path).then(|| {
                    rest = rest.slice(path.len()..);
                    child.clone()
                }),
                Body::Branch(children) => match rest.first() {
                    None => None,
                    Some(nibble) => {
                        rest = rest.slice(1..);
                        children.get(nibble).cloned()
                    }
                },
            };
        }
        Ok(out)
    }
}
