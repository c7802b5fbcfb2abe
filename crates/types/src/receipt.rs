use crate::{Claim, Evidence, Rung, TypesError, error::decode_exact, limits, signing};
use alloy_primitives::{Address, B256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// Receipt v1: a claim and the evidence that backs it. The first piece of evidence is always the node's
/// signature (mode `signed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// What is claimed.
    pub claim: Claim,
    /// What backs it, the node's signature first.
    pub evidence: Vec<Evidence>,
}

impl Receipt {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes and checks every bound.
    ///
    /// # Errors
    /// [`TypesError`] when too long, not canonical, or without a node signature.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let max = limits::EVIDENCE_BYTES_MAX * limits::EVIDENCE_COUNT_MAX;
        let receipt: Self = decode_exact("receipt", bytes, max)?;
        receipt.check_bounds()?;
        Ok(receipt)
    }

    pub(crate) fn check_bounds(&self) -> Result<(), TypesError> {
        let too_large = |what, size, max| Err(TypesError::TooLarge { what, size, max });
        if self.evidence.len() > limits::EVIDENCE_COUNT_MAX {
            return too_large(
                "number of pieces of evidence",
                self.evidence.len(),
                limits::EVIDENCE_COUNT_MAX,
            );
        }
        for e in &self.evidence {
            if e.body.len() > limits::EVIDENCE_BYTES_MAX {
                return too_large("evidence", e.body.len(), limits::EVIDENCE_BYTES_MAX);
            }
        }
        if !self.evidence.is_sorted_by(|a, b| a.mode < b.mode) {
            return Err(TypesError::Encoding {
                what: "receipt",
                detail: "evidence is ordered by mode, one piece a mode".into(),
            });
        }
        self.signature().map(|_| ())
    }

    /// The node's signature: 65 bytes r ‖ s ‖ v of the first evidence.
    ///
    /// # Errors
    /// [`TypesError::Encoding`] when the first evidence is not a signature.
    pub fn signature(&self) -> Result<[u8; 65], TypesError> {
        self.evidence
            .first()
            .filter(|e| e.mode == Rung::Signed.mode())
            .and_then(|e| <[u8; 65]>::try_from(e.body.as_ref()).ok())
            .ok_or_else(|| TypesError::Encoding {
                what: "receipt",
                detail: "the first evidence must be a 65-byte signature of mode 1".into(),
            })
    }

    /// The account whose key signed the claim; compare it with `claim.node`.
    ///
    /// # Errors
    /// [`TypesError::BadSignature`] when no key fits.
    pub fn signer(&self) -> Result<Address, TypesError> {
        signing::recover(self.claim.digest(), &self.signature()?)
    }

    /// The receipt-log leaf of this receipt.
    ///
    /// # Errors
    /// As [`Receipt::signature`].
    pub fn log_leaf(&self) -> Result<Vec<u8>, TypesError> {
        Ok(log_leaf(self.claim.digest(), &self.signature()?))
    }
}

/// Leaf data of the receipt log: the claim's digest and the node's signature (97 bytes). It says nothing about the
/// prompt, and binds the node even if it later withholds the receipt.
pub fn log_leaf(claim_digest: B256, signature: &[u8; 65]) -> Vec<u8> {
    let mut leaf = Vec::with_capacity(97);
    leaf.extend_from_slice(claim_digest.as_slice());
    leaf.extend_from_slice(signature);
    leaf
}
