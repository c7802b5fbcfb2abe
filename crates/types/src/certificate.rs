use crate::{TypesError, validators::vote_message};
use alloy_primitives::{B256, Bytes, FixedBytes};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// Proof that a quorum of validators finalised a block: one aggregated BLS signature and who took part.
///
/// The message is the consensus engine's *finalize* vote (simplex, `bls12381_multisig`, MinSig variant), so a verifier
/// needs only a BLS library; see `verify::finality`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct FinalityCertificate {
    /// Epoch; it says which validator set voted.
    pub epoch: u64,
    /// View in which the block was proposed.
    pub view: u64,
    /// View of its parent.
    pub parent_view: u64,
    /// Hash of the finalised block.
    pub block_hash: B256,
    /// Bit i (least significant first in each byte) is set when validator i signed.
    pub signers: Bytes,
    /// Aggregated signature, a compressed G1 point.
    pub signature: FixedBytes<48>,
}

impl FinalityCertificate {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`TypesError`] when too long or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        crate::error::decode_exact("finality certificate", bytes, 1024)
    }

    /// The bytes that each finalize vote signs: varint(len(ns)) ‖ ns ‖ proposal with ns = `namespace ‖ "_FINALIZE"` and
    /// proposal = varint(epoch) ‖ varint(view) ‖ varint(parent view) ‖ block hash (varints are LEB128).
    pub fn message(&self, namespace: &[u8]) -> Vec<u8> {
        let proposal = Some((self.parent_view, self.block_hash));
        vote_message(namespace, b"_FINALIZE", (self.epoch, self.view), proposal)
    }

    /// Indices of the validators that signed, ascending.
    ///
    /// # Errors
    /// [`TypesError::Encoding`] when the bitmap does not have exactly `validators` bits or sets a bit beyond them.
    pub fn signer_indices(&self, validators: usize) -> Result<Vec<usize>, TypesError> {
        let malformed =
            |detail: &str| TypesError::Encoding { what: "finality certificate", detail: detail.into() };
        if self.signers.len() != validators.div_ceil(8) {
            return Err(malformed("the signer bitmap has the wrong length for the validator set"));
        }
        let set: Vec<usize> =
            (0..self.signers.len() * 8).filter(|i| self.signers[i / 8] >> (i % 8) & 1 == 1).collect();
        if set.last().is_some_and(|last| *last >= validators) {
            return Err(malformed("the signer bitmap names a validator that does not exist"));
        }
        Ok(set)
    }
}
