pub(crate) mod v3;

pub use v3::PROOF_FORMAT_V3;

use crate::{
    FinalityCertificate, Handover, ModelManifest, NETWORK_VERSION, NetworkConfig, Receipt, Rung, TypesError,
    Validator, limits, validators::check_order,
};
use alloy_primitives::{B256, Bytes, U256};
use serde::{Deserialize, Serialize};

/// The `format` of proof files that this version reads and writes.
pub const PROOF_FORMAT: &str = "og-proof/4";

/// Proof file v4: all that is needed to check an answer with no network.
///
/// The file is JSON with exactly one accepted spelling: [`ProofFile::decode`] rejects bytes that differ from
/// [`ProofFile::encode`] of what they say. What each part must satisfy is checked in `client::proof`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofFile {
    /// [`PROOF_FORMAT`]; [`PROOF_FORMAT_V3`] in a file that was read in the format before.
    pub format: String,
    /// The claim and its evidence.
    pub receipt: Receipt,
    /// What the commitments in the claim open to.
    pub disclosure: Disclosure,
    /// The model.
    pub manifest: ModelManifest,
    /// Place of the receipt in the node's log.
    pub log: LogProof,
    /// Proof that the log's root is on the ledger.
    pub ledger: LedgerProof,
    /// The network's configuration; its commitment is in the genesis header.
    pub network: NetworkConfig,
    /// Instead of the first validators, their [root](NetworkConfig::validators_root): for readers whose trust begins at a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validators_root: Option<B256>,
    /// RLP of the genesis header; its hash is the network's name.
    pub genesis_header: Bytes,
}

/// The secrets behind a claim's salted commitments. Only the client that asked has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosure {
    /// The client's salt.
    pub nonce: B256,
    /// Raw request body (JSON is UTF-8, RFC 8259).
    pub request: String,
    /// Raw response: the JSON body, or the whole SSE stream up to and including `data: [DONE]`.
    pub response: String,
    /// Token ids of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Generated token ids.
    pub output_tokens: Vec<u32>,
}

/// Inclusion of a receipt in its node's log (RFC 6962).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogProof {
    /// Index of the receipt's leaf.
    pub index: u64,
    /// Size of the tree whose root is on the ledger.
    pub size: u64,
    /// Audit path from the leaf's sibling up.
    pub path: Vec<B256>,
}

/// A finalised header and what its state says about the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerProof {
    /// RLP of the header.
    pub header: Bytes,
    /// Where the reader's trust begins; genesis when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointProof>,
    /// Changes of the validator set from genesis or the checkpoint to the set that voted for the header, in order.
    pub handovers: Vec<Handover>,
    /// Quorum of validators that finalised the header; absent when the header is the checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<FinalityCertificate>,
    /// Merkle-Patricia proof of the `ReceiptLog` contract's account under the header's state root (EIP-1186).
    pub account_proof: Vec<Bytes>,
    /// Merkle-Patricia proof of the slot that holds the root of `log.size` under the account's storage root.
    pub storage_proof: Vec<Bytes>,
    /// What became of the answer; only for the rung `audited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditProof>,
}

/// A final block that the reader of a proof trusts, the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointProof {
    /// RLP of its header.
    pub header: Bytes,
    /// The validators that the header names, when handovers and the certificate go on from them; empty when the checkpoint is itself the block
    /// in whose state something is proved.
    pub members: Vec<Validator>,
}

/// What the state says about one answer: values of four slots, with their proofs (EIP-1186).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditProof {
    /// `Disputes.lost` of this receipt: zero when nobody found it wrong.
    pub lost: U256,
    /// `Disputes.disputedAt` of this receipt: zero when nobody disputed it.
    pub disputed_at: U256,
    /// Word of `Audits._right` that has this receipt's bit: whether a drawn auditor found it right.
    pub right: U256,
    /// `ReceiptLog._posted` of `log.size`: when the receipt was on the ledger.
    pub posted: U256,
    /// Slot of `posted`, under the account of `ReceiptLog`.
    pub posted_proof: Vec<Bytes>,
    /// Account of `Disputes`.
    pub disputes_proof: Vec<Bytes>,
    /// Slot of `lost`.
    pub lost_proof: Vec<Bytes>,
    /// Slot of `disputed_at`.
    pub disputed_proof: Vec<Bytes>,
    /// Account of `Audits`.
    pub audits_proof: Vec<Bytes>,
    /// Slot of `right`.
    pub right_proof: Vec<Bytes>,
}

impl ProofFile {
    /// The canonical bytes: indented JSON and a final line feed.
    ///
    /// # Errors
    /// [`TypesError::Encoding`] when a sampling parameter is not a number (it cannot come from a checked receipt).
    pub fn encode(&self) -> Result<Vec<u8>, TypesError> {
        let mut out = serde_json::to_vec_pretty(self)
            .map_err(|e| TypesError::Encoding { what: "proof file", detail: e.to_string() })?;
        out.push(b'\n');
        Ok(out)
    }

    /// Reads canonical bytes, of this format or of the one before, and checks every bound.
    ///
    /// # Errors
    /// [`TypesError`] when too long, not JSON of such a format, or spelled in another way than the only accepted one.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let encoding = |detail: String| TypesError::Encoding { what: "proof file", detail };
        if bytes.len() > limits::PROOF_BYTES_MAX {
            return Err(TypesError::TooLarge {
                what: "proof file",
                size: bytes.len(),
                max: limits::PROOF_BYTES_MAX,
            });
        }
        #[derive(Deserialize)]
        struct Format {
            format: String,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|e| encoding(e.to_string()))?;
        let file = match format.as_str() {
            PROOF_FORMAT => {
                let file: Self = serde_json::from_slice(bytes).map_err(|e| encoding(e.to_string()))?;
                same_spelling(&file.encode()?, bytes)?;
                if file.network.version != NETWORK_VERSION {
                    return Err(encoding(format!(
                        "format {PROOF_FORMAT:?}, but a network of version {}",
                        file.network.version
                    )));
                }
                file
            }
            PROOF_FORMAT_V3 => v3::decode(bytes)?,
            _ => {
                return Err(encoding(format!(
                    "format is {format:?}; this version reads {PROOF_FORMAT:?} and {PROOF_FORMAT_V3:?}"
                )));
            }
        };
        file.check_bounds()?;
        Ok(file)
    }

    fn check_bounds(&self) -> Result<(), TypesError> {
        let bound = |what, size, max| {
            if size > max { Err(TypesError::TooLarge { what, size, max }) } else { Ok(()) }
        };
        bound("request", self.disclosure.request.len(), limits::REQUEST_BYTES_MAX)?;
        bound("response", self.disclosure.response.len(), limits::RESPONSE_BYTES_MAX)?;
        bound("Merkle path", self.log.path.len(), limits::MERKLE_PATH_MAX)?;
        bound("account proof", self.ledger.account_proof.len(), limits::TRIE_PROOF_NODES_MAX)?;
        bound("storage proof", self.ledger.storage_proof.len(), limits::TRIE_PROOF_NODES_MAX)?;
        let audited = self.receipt.claim.rung_achieved == Rung::Audited as u8;
        if self.ledger.audit.is_some() && !audited {
            return Err(TypesError::Encoding {
                what: "proof file",
                detail: "it says what became of an answer that does not submit to audits".into(),
            });
        }
        if let Some(audit) = &self.ledger.audit {
            let proofs = [
                &audit.posted_proof,
                &audit.disputes_proof,
                &audit.lost_proof,
                &audit.disputed_proof,
                &audit.audits_proof,
                &audit.right_proof,
            ];
            for proof in proofs {
                bound("audit proof", proof.len(), limits::TRIE_PROOF_NODES_MAX)?;
            }
        }
        self.ledger.check_bounds()?;
        self.receipt.check_bounds()?;
        self.receipt.claim.sampling.validate()?;
        match (self.validators_root, &self.ledger.checkpoint) {
            (None, _) => self.network.check(),
            (Some(_), Some(_)) if self.network.validators.is_empty() => self.network.check_rules(),
            (Some(_), _) => Err(TypesError::Encoding {
                what: "proof file",
                detail: "the first validators can be left out only behind a checkpoint, and not in part"
                    .into(),
            }),
        }
    }
}

impl LedgerProof {
    /// Checks every bound, and that the parts fit each other: a certificate unless the header is the checkpoint's.
    ///
    /// # Errors
    /// [`TypesError`].
    pub fn check_bounds(&self) -> Result<(), TypesError> {
        let bound = |what, size, max| {
            if size > max { Err(TypesError::TooLarge { what, size, max }) } else { Ok(()) }
        };
        bound("number of handovers", self.handovers.len(), limits::HANDOVERS_MAX)?;
        for handover in &self.handovers {
            bound("header", handover.header.len(), limits::HEADER_BYTES_MAX)?;
            handover.next.check()?;
        }
        let mut vouched = false;
        if let Some(checkpoint) = &self.checkpoint {
            bound("header", checkpoint.header.len(), limits::HEADER_BYTES_MAX)?;
            vouched = checkpoint.header == self.header;
            if vouched != checkpoint.members.is_empty() {
                return Err(TypesError::Encoding {
                    what: "proof file",
                    detail: "a checkpoint has validators exactly when the header is another block's".into(),
                });
            }
            if !vouched {
                check_order("validators of the checkpoint", checkpoint.members.iter().map(|v| v.peer))?;
            }
        }
        if vouched != self.certificate.is_none() || (vouched && !self.handovers.is_empty()) {
            return Err(TypesError::Encoding {
                what: "proof file",
                detail:
                    "either the checkpoint vouches for the header, or validators do: not both, not neither"
                        .into(),
            });
        }
        Ok(())
    }
}

/// Refuses bytes that are not the canonical ones.
fn same_spelling(canonical: &[u8], bytes: &[u8]) -> Result<(), TypesError> {
    if canonical == bytes {
        return Ok(());
    }
    let offset = canonical.iter().zip(bytes).position(|(a, b)| a != b);
    Err(TypesError::NotCanonical { offset: offset.unwrap_or(canonical.len().min(bytes.len())) })
}

/// Numbers that other languages' JSON parsers would round: decimal strings.
pub(crate) mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        let text = String::deserialize(d)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("{text:?} is not a decimal number of at most 128 bits")))
    }
}

/// The same for 256 bits.
pub(crate) mod decimal_u256 {
    use alloy_primitives::U256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &U256, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<U256, D::Error> {
        let text = String::deserialize(d)?;
        U256::from_str_radix(&text, 10)
            .map_err(|_| D::Error::custom(format!("{text:?} is not a decimal number of at most 256 bits")))
    }
}
