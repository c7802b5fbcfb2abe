use crate::{
    CheckpointProof, FinalityCertificate, Handover, NetworkConfig, TypesError, limits, proof::decimal_u256,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};

/// The `format` of chain proofs that this version reads and writes.
pub const CHAIN_PROOF_FORMAT: &str = "og-chain/2";

/// What a final block says about the chain, to be checked with no network: an account and some of its slots, transactions, receipts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainProof {
    /// Always [`CHAIN_PROOF_FORMAT`].
    pub format: String,
    /// The network's configuration; its commitment is in the genesis header.
    pub network: NetworkConfig,
    /// RLP of the genesis header; its hash is the network's name.
    pub genesis_header: Bytes,
    /// Where the reader's trust begins; genesis when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointProof>,
    /// Changes of the validator set, from genesis or from the checkpoint, in order.
    pub handovers: Vec<Handover>,
    /// RLP of the headers from the block in question to the certified one: each names the hash of the one before. One header, when the block has a
    /// certificate of its own.
    pub headers: Vec<Bytes>,
    /// Quorum of validators that finalised the last header.
    pub certificate: FinalityCertificate,
    /// An account in the state after the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountFact>,
    /// Transactions and receipts of the block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemFact>,
}

/// An account, or that there is none (then all its values are zero).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFact {
    /// Its address.
    pub address: Address,
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// Balance in wei.
    #[serde(with = "decimal_u256")]
    pub balance: U256,
    /// keccak-256 of the code.
    pub code_hash: B256,
    /// Merkle-Patricia nodes from the state root down (EIP-1186).
    pub proof: Vec<Bytes>,
    /// Storage slots.
    pub slots: Vec<SlotFact>,
}

/// A storage slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotFact {
    /// Which one.
    pub slot: B256,
    /// Its value; zero when it was never written.
    pub value: B256,
    /// Merkle-Patricia nodes from the account's storage root down.
    pub proof: Vec<Bytes>,
}

/// Which list of a block an item is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// Under `transactionsRoot`.
    Transaction,
    /// Under `receiptsRoot`.
    Receipt,
}

/// A transaction or a receipt of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemFact {
    /// Which list.
    pub kind: ItemKind,
    /// Position in the block.
    pub index: u64,
    /// EIP-2718 encoding.
    pub bytes: Bytes,
    /// Merkle-Patricia nodes from the root down.
    pub proof: Vec<Bytes>,
}

impl ChainProof {
    /// Reads a chain proof and checks every bound.
    ///
    /// # Errors
    /// [`TypesError`] when too long, or not JSON of this format.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let encoding = |detail: String| TypesError::Encoding { what: "chain proof", detail };
        let bound = |what, size, max| {
            if size > max { Err(TypesError::TooLarge { what, size, max }) } else { Ok(()) }
        };
        bound("chain proof", bytes.len(), limits::PROOF_BYTES_MAX)?;
        let proof: Self = serde_json::from_slice(bytes).map_err(|e| encoding(e.to_string()))?;
        if proof.format != CHAIN_PROOF_FORMAT {
            return Err(encoding(format!("format is {:?}; expected {CHAIN_PROOF_FORMAT:?}", proof.format)));
        }
        bound("number of handovers", proof.handovers.len(), limits::HANDOVERS_MAX)?;
        bound("number of headers", proof.headers.len(), limits::HEADERS_MAX)?;
        bound("number of items", proof.items.len(), limits::ITEMS_MAX)?;
        let slots = proof.account.iter().flat_map(|a| &a.slots);
        bound("number of slots", slots.clone().count(), limits::ITEMS_MAX)?;
        let proofs = proof.account.iter().map(|a| &a.proof).chain(slots.map(|s| &s.proof));
        for nodes in proofs.chain(proof.items.iter().map(|i| &i.proof)) {
            bound("trie proof", nodes.len(), limits::TRIE_PROOF_NODES_MAX)?;
        }
        proof.network.check()?;
        Ok(proof)
    }
}
