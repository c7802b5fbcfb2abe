use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY as KECCAK_EMPTY, U256, keccak256};
use alloy_rlp::Encodable as _;
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles, TrieAccount, proof::ProofRetainer};
use imbl::OrdMap;
use std::collections::BTreeMap;

/// One account and its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// keccak-256 of the code.
    pub code_hash: B256,
    /// Non-zero storage slots.
    pub storage: OrdMap<U256, U256>,
    /// Merkle-Patricia root of `storage`.
    pub storage_root: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            nonce: 0,
            balance: U256::ZERO,
            code_hash: KECCAK_EMPTY,
            storage: OrdMap::new(),
            storage_root: EMPTY_ROOT_HASH,
        }
    }
}

impl Account {
    /// EIP-161: an account that need not exist.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code_hash == KECCAK_EMPTY
    }

    fn trie_account(&self) -> TrieAccount {
        TrieAccount {
            nonce: self.nonce,
            balance: self.balance,
            storage_root: self.storage_root,
            code_hash: self.code_hash,
        }
    }
}

/// What a block did to one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccountChange {
    /// `None` when the account no longer exists.
    pub(crate) info: Option<(u64, U256, B256)>,
    /// The storage was emptied before `storage` was written.
    pub(crate) cleared: bool,
    /// Slots written; zero means removed.
    pub(crate) storage: BTreeMap<U256, U256>,
}

/// Everything that a block did to the state, in order of address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) accounts: BTreeMap<Address, AccountChange>,
    pub(crate) codes: BTreeMap<B256, Bytes>,
}

/// The world state: an immutable map; clones share structure, so a clone is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    accounts: OrdMap<Address, Account>,
    codes: OrdMap<B256, Bytes>,
}

/// Proof of one account and some of its slots (EIP-1186).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountProof {
    /// The account (the empty account when there is none).
    pub account: Account,
    /// Merkle-Patricia nodes from the state root down.
    pub proof: Vec<Bytes>,
    /// One proof a slot, in the order asked.
    pub storage: Vec<StorageProof>,
}

/// Proof of one storage slot under the account's storage root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageProof {
    /// The slot.
    pub slot: U256,
    /// Its value.
    pub value: U256,
    /// Merkle-Patricia nodes from the storage root down.
    pub proof: Vec<Bytes>,
}

impl State {
    /// The account at `address`.
    pub fn account(&self, address: &Address) -> Option<&Account> {
        self.accounts.get(address)
    }

    /// All accounts, in order of address.
    pub fn accounts(&self) -> impl Iterator<Item = (&Address, &Account)> {
        self.accounts.iter()
    }

    /// Nonce of `address`; 0 when there is no such account.
    pub fn nonce(&self, address: Address) -> u64 {
        self.account(&address).map_or(0, |a| a.nonce)
    }

    /// Balance of `address` in wei.
    pub fn balance(&self, address: Address) -> U256 {
        self.account(&address).map_or(U256::ZERO, |a| a.balance)
    }

    /// Code at `address`; empty when there is none.
    pub fn code(&self, address: Address) -> Bytes {
        self.account(&address).and_then(|a| self.code_by_hash(&a.code_hash)).unwrap_or_default()
    }

    /// Code with the given keccak-256.
    pub fn code_by_hash(&self, hash: &B256) -> Option<Bytes> {
        self.codes.get(hash).cloned()
    }

    /// Storage slot `slot` of `address`; zero when never written.
    pub fn storage(&self, address: Address, slot: U256) -> U256 {
        self.account(&address).and_then(|a| a.storage.get(&slot)).copied().unwrap_or_default()
    }

    /// The state after `changes`. Only touched accounts' storage is hashed anew.
    pub(crate) fn apply(&self, changes: &Changes) -> Self {
        let mut next = self.clone();
        for (hash, code) in &changes.codes {
            next.codes.insert(*hash, code.clone());
        }
        for (address, change) in &changes.accounts {
            let Some((nonce, balance, code_hash)) = change.info else {
                next.accounts.remove(address);
                continue;
            };
            let mut account = next.accounts.get(address).cloned().unwrap_or_default();
            account.nonce = nonce;
            account.balance = balance;
            account.code_hash = code_hash;
            if change.cleared {
                account.storage = OrdMap::new();
            }
            for (slot, value) in &change.storage {
                if value.is_zero() {
                    account.storage.remove(slot);
                } else {
                    account.storage.insert(*slot, *value);
                }
            }
            if change.cleared || !change.storage.is_empty() {
                account.storage_root = storage_trie(&account, vec![]).0;
            }
            next.accounts.insert(*address, account);
        }
        next
    }

    /// Merkle-Patricia root over all accounts (Yellow Paper, section 4.1).
    pub fn root(&self) -> B256 {
        self.account_trie(vec![]).0
    }

    /// Proof of `address` and `slots` under [`root`](Self::root).
    pub fn proof(&self, address: Address, slots: &[U256]) -> AccountProof {
        let account = self.account(&address).cloned().unwrap_or_default();
        let proof = self.account_trie(vec![Nibbles::unpack(keccak256(address))]).1;
        let storage = slots
            .iter()
            .map(|slot| StorageProof {
                slot: *slot,
                value: account.storage.get(slot).copied().unwrap_or_default(),
                proof: storage_trie(&account, vec![Nibbles::unpack(keccak256(slot.to_be_bytes::<32>()))]).1,
            })
            .collect();
        AccountProof { account, proof, storage }
    }

    fn account_trie(&self, targets: Vec<Nibbles>) -> (B256, Vec<Bytes>) {
        let mut leaves: Vec<_> = self.accounts.iter().map(|(a, account)| (keccak256(a), account)).collect();
        leaves.sort_unstable_by_key(|(key, _)| *key);
        let encoded = leaves.into_iter().map(|(key, account)| {
            let mut out = Vec::with_capacity(110);
            account.trie_account().encode(&mut out);
            (key, out)
        });
        trie(encoded, targets)
    }
}

fn storage_trie(account: &Account, targets: Vec<Nibbles>) -> (B256, Vec<Bytes>) {
    let mut leaves: Vec<_> = account
        .storage
        .iter()
        .map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), alloy_rlp::encode(value)))
        .collect();
    leaves.sort_unstable_by_key(|(key, _)| *key);
    trie(leaves.into_iter(), targets)
}

/// Root of a trie of sorted leaves, and the nodes on the way to `targets`, root first.
fn trie(leaves: impl Iterator<Item = (B256, Vec<u8>)>, targets: Vec<Nibbles>) -> (B256, Vec<Bytes>) {
    let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::new(targets));
    for (key, value) in leaves {
        builder.add_leaf(Nibbles::unpack(key), &value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    (root, nodes.into_iter().map(|(_, node)| node).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_trie::proof::verify_proof;
    use proptest::prelude::*;

    type Entry = (u8, u64, Vec<(u64, u64)>);

    fn state(entries: &[Entry]) -> State {
        let mut changes = Changes::default();
        for (a, balance, slots) in entries {
            let change = AccountChange {
                info: Some((1, U256::from(*balance), KECCAK_EMPTY)),
                cleared: false,
                storage: slots.iter().map(|(k, v)| (U256::from(*k), U256::from(*v))).collect(),
            };
            changes.accounts.insert(Address::repeat_byte(*a), change);
        }
        State::default().apply(&changes)
    }

    proptest! {
        #[test]
        fn root_agrees_with_another_builder_and_proofs_verify(
            entries in prop::collection::vec((any::<u8>(), any::<u64>(), prop::collection::vec((0u64..50, 0u64..3), 0..20)), 0..20),
            probe: u8, slot in 0u64..50,
        ) {
            let state = state(&entries);
            let root = state.root();
            let expected = alloy_trie::root::state_root_unhashed(state.accounts().map(|(a, acc)| {
                let storage_root = alloy_trie::root::storage_root_unhashed(
                    acc.storage.iter().map(|(k, v)| (B256::from(*k), *v)));
                (*a, TrieAccount { nonce: acc.nonce, balance: acc.balance, storage_root, code_hash: acc.code_hash })
            }));
            prop_assert_eq!(root, expected);

            let address = Address::repeat_byte(probe);
            let proof = state.proof(address, &[U256::from(slot)]);
            let value = state.account(&address).map(|a| alloy_rlp::encode(a.trie_account()));
            prop_assert!(verify_proof(root, Nibbles::unpack(keccak256(address)), value, &proof.proof).is_ok());
            let s = &proof.storage[0];
            let value = (!s.value.is_zero()).then(|| alloy_rlp::encode(s.value));
            let key = Nibbles::unpack(keccak256(U256::from(slot).to_be_bytes::<32>()));
            prop_assert!(verify_proof(proof.account.storage_root, key, value, &s.proof).is_ok());
            prop_assert!(verify_proof(proof.account.storage_root, key, Some(alloy_rlp::encode(99u64)), &s.proof).is_err());
        }
    }
}
