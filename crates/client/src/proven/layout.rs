//! Where the registries keep what is read here (Solidity documentation, "Layout of State Variables in Storage"). A test compares the numbers
//! with those that the compiler gave.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue as _;

/// Base slots of `NodeRegistry`.
pub(super) const NODES: u64 = 0;
pub(super) const ACTIVE: u64 = 1;
pub(super) const MODELS_OF: u64 = 3;
pub(super) const PRICES: u64 = 5;
/// Longest endpoint in bytes, as the contract bounds it.
const ENDPOINT_BYTES_MAX: u64 = 256;
/// Blocks that the history contract remembers (EIP-2935).
const HISTORY_WINDOW: u64 = 8191;

/// Slot of `mapping[key]` for a mapping at slot `base`.
pub(super) fn in_mapping(key: impl Into<B256>, base: B256) -> B256 {
    keccak256((key.into(), base).abi_encode())
}

/// Slot of element `index` (one slot each) of an array whose length is at slot `base`.
pub(super) fn in_array(base: B256, index: u64) -> B256 {
    (U256::from_be_bytes(keccak256(base).0).wrapping_add(U256::from(index))).into()
}

/// The slot `offset` after `base`.
pub(super) fn after(base: B256, offset: u64) -> B256 {
    U256::from_be_bytes(base.0).wrapping_add(U256::from(offset)).into()
}

pub(super) fn base(slot: u64) -> B256 {
    U256::from(slot).into()
}

/// Slot of the record of `node`; its endpoint is at the next one.
pub(super) fn node_slot(node: Address) -> B256 {
    in_mapping(node.into_word(), base(NODES))
}

/// Slot of the number of models that `node` offers; the list is an array there.
pub(super) fn models_of_slot(node: Address) -> B256 {
    in_mapping(node.into_word(), base(MODELS_OF))
}

/// Slot of both prices of `node` for `model`.
pub(super) fn price_slot(node: Address, model: B256) -> B256 {
    in_mapping(model, in_mapping(node.into_word(), base(PRICES)))
}

/// Slot of the history contract that has the hash of block `number`, as long as it is among the newest 8191 (EIP-2935).
pub fn history_slot(number: u64) -> B256 {
    base(number % HISTORY_WINDOW)
}

/// What a node's first slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Stake in wei.
    pub stake: u128,
    /// Unix time from which on it can be withdrawn; zero while the node is active.
    pub exit_at: u64,
}

impl NodeRecord {
    pub(super) fn decode(word: U256) -> Self {
        Self { stake: low(word), exit_at: (word >> 128usize).as_limbs()[0] }
    }
}

/// The lower 128 bits.
pub(super) fn low(word: U256) -> u128 {
    word.wrapping_to()
}

/// The upper 128 bits.
pub(super) fn high(word: U256) -> u128 {
    (word >> 128usize).wrapping_to()
}

/// How a string is stored whose first slot has this word: by itself when it has less than 32 bytes, else its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StringHead {
    Whole(Vec<u8>),
    Long(u64),
}

impl StringHead {
    /// `None` when the length is beyond the contract's bound: no contract of ours wrote it.
    pub(super) fn decode(word: U256) -> Option<Self> {
        let bytes = word.to_be_bytes::<32>();
        if bytes[31] & 1 == 0 {
            let length = usize::from(bytes[31] / 2);
            return (length < 32).then(|| Self::Whole(bytes[..length].to_vec()));
        }
        let length = (word >> 1usize).try_into().ok().filter(|l| (32..=ENDPOINT_BYTES_MAX).contains(l))?;
        Some(Self::Long(length))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    /// Slot and offset of a variable or of a member of its struct, as the compiler laid them out.
    fn compiled(contract: &str) -> Value {
        let path = format!("{}/../../contracts/artifacts/{contract}.json", env!("CARGO_MANIFEST_DIR"));
        let artifact: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        artifact["storageLayout"].clone()
    }

    #[test]
    fn the_slots_are_those_of_the_compiled_contract() {
        let layout = compiled("NodeRegistry");
        let slot = |name: &str| {
            let all = layout["storage"].as_array().unwrap();
            let found = all.iter().find(|v| v["label"] == name).unwrap();
            (
                found["slot"].as_str().unwrap().parse::<u64>().unwrap(),
                found["type"].as_str().unwrap().to_owned(),
            )
        };
        assert_eq!(slot("_nodes").0, NODES);
        assert_eq!(slot("_active").0, ACTIVE);
        assert_eq!(slot("_modelsOf").0, MODELS_OF);
        assert_eq!(slot("_prices").0, PRICES);
        assert!(slot("_prices").1.starts_with("t_mapping(t_address,t_mapping(t_bytes32,"));
        let members = |name: &str| {
            let types = layout["types"].as_object().unwrap();
            let (_, found) = types.iter().find(|(t, _)| t.starts_with(&format!("t_struct({name})"))).unwrap();
            let place = |m: &Value| {
                let text = |k: &str| m[k].as_str().unwrap().to_owned();
                (text("label"), text("slot"), m["offset"].as_u64().unwrap())
            };
            found["members"].as_array().unwrap().iter().map(place).collect::<Vec<_>>()
        };
        let of = |name: &str, slot: &str, offset: u64| (name.to_owned(), slot.to_owned(), offset);
        assert_eq!(members("Node"), [of("stake", "0", 0), of("exitAt", "0", 16), of("endpoint", "1", 0)]);
        assert_eq!(members("Price"), [of("perInputToken", "0", 0), of("perOutputToken", "0", 16)]);
        assert_eq!(members("Set"), [of("_values", "0", 0), of("_positions", "1", 0)]);
        for set in ["AddressSet", "Bytes32Set"] {
            assert_eq!(members(set), [of("_inner", "0", 0)]);
        }
    }

    #[test]
    fn strings_are_read_as_solidity_writes_them() {
        let mut short = [0; 32];
        short[..3].copy_from_slice(b"abc");
        short[31] = 6;
        assert_eq!(StringHead::decode(U256::from_be_bytes(short)), Some(StringHead::Whole(b"abc".to_vec())));
        assert_eq!(StringHead::decode(U256::ZERO), Some(StringHead::Whole(vec![])));
        assert_eq!(StringHead::decode(U256::from(2 * 256 + 1)), Some(StringHead::Long(256)));
        assert_eq!(StringHead::decode(U256::from(2 * 257 + 1)), None);
        assert_eq!(
            StringHead::decode(U256::from(2 * 31 + 1)),
            None,
            "short ones are never stored like long ones"
        );
        assert_eq!(StringHead::decode(U256::MAX), None);
        assert_eq!(StringHead::decode(U256::from(64)), None);
    }
}
