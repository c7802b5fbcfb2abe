use crate::{ModelId, TypesError, error::decode_exact, limits::MANIFEST_BYTES_MAX};
use alloy_primitives::{B256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// One number or word of the architecture (for example `rope_theta` = `10000`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct HyperParameter {
    /// Name, unique in the list.
    pub name: String,
    /// Decimal integer, or the IEEE-754 bits of a float as `0x…`.
    pub value: String,
}

/// Everything that decides a model's answers. Its hash is the [`ModelId`], so two files with equal ids
/// give equal bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// Version of this struct; 1.
    pub version: u16,
    /// Name that people use, for example `taskmaster-chat`.
    pub name: String,
    /// Architecture, for example `llama`.
    pub architecture: String,
    /// Version of the exact arithmetic (`crates/kernels/SPEC.md`).
    pub arithmetic_version: u16,
    /// Longest context in tokens.
    pub context_length: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Number of weights.
    pub parameters: u64,
    /// Hyper-parameters, sorted by name.
    pub hyperparameters: Vec<HyperParameter>,
    /// Merkle root over the tensors, sorted by name.
    pub weights_root: B256,
    /// Hash of vocabulary, merges, special tokens and pre-tokeniser.
    pub tokenizer_hash: B256,
    /// keccak-256 of the chat template's text.
    pub template_hash: B256,
    /// SPDX licence of the weights, or empty when the file does not say.
    pub licence: String,
}

impl ModelManifest {
    /// Canonical bytes (RLP of the fields in order).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`TypesError`] when too long, not canonical, or hyper-parameters are not sorted and unique.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let manifest: Self = decode_exact("model manifest", bytes, MANIFEST_BYTES_MAX)?;
        if !manifest.hyperparameters.is_sorted_by(|a, b| a.name < b.name) {
            return Err(TypesError::Encoding {
                what: "model manifest",
                detail: "hyper-parameters must be sorted by name and unique".into(),
            });
        }
        Ok(manifest)
    }

    /// The content id.
    pub fn id(&self) -> ModelId {
        ModelId(keccak256(self.encode()))
    }
}
