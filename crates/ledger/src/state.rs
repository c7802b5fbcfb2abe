use crate::{
    LedgerError,
    trie::{Input, Leaf, NodeId, Reader, Trie, Update, Visit, Writer},
};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY as KECCAK_EMPTY, U256, keccak256};
use alloy_rlp::{Decodable as _, Encodable as _};
use alloy_trie::TrieAccount;
use imbl::OrdMap;
use std::{collections::BTreeMap, sync::Arc};

/// Codes kept in memory because they may not be on disk yet; beyond this number those on disk are forgotten.
const CODES_IN_MEMORY: usize = 1024;

/// One account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// keccak-256 of the code.
    pub code_hash: B256,
    pub(crate) storage: Trie<U256>,
}

impl Default for Account {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK_EMPTY, storage: Trie::default() }
    }
}

impl Account {
    /// EIP-161: an account that need not exist.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code_hash == KECCAK_EMPTY
    }

    /// Merkle-Patricia root of its storage.
    pub fn storage_root(&self) -> B256 {
        self.storage.root()
    }
}

impl Leaf for Account {
    fn value(&self) -> Vec<u8> {
        alloy_rlp::encode(TrieAccount {
            nonce: self.nonce,
            balance: self.balance,
            storage_root: self.storage.root(),
            code_hash: self.code_hash,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nonce.to_be_bytes());
        self.balance.encode(out);
        // Most accounts have no code.
        let code = if self.code_hash == KECCAK_EMPTY { &[][..] } else { self.code_hash.as_slice() };
        out.push(code.len() as u8);
        out.extend_from_slice(code);
        self.storage.write_root(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, LedgerError> {
        let nonce = input.u64()?;
        let balance = U256::read(input)?;
        let code_hash = match input.byte()? {
            0 => KECCAK_EMPTY,
            _ => B256::new(input.array()?),
        };
        Ok(Self { nonce, balance, code_hash, storage: Trie::read_root(input)? })
    }

    fn cut(&mut self) {
        self.storage.cut();
    }

    fn persist(&self, reader: &Reader, writer: &mut Writer<'_>) -> Result<(), LedgerError> {
        self.storage.persist(reader, writer)
    }

    fn cache(reader: &Reader) -> &crate::trie::AccountCache {
        reader.accounts()
    }
}

impl Leaf for U256 {
    fn value(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, LedgerError> {
        Self::decode(&mut input.0).map_err(|e| crate::trie::damaged(&e.to_string()))
    }

    fn cache(reader: &Reader) -> &crate::trie::SlotCache {
        reader.slots()
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

/// The world state: a persistent Merkle-Patricia trie, partly in memory and partly on disk. Clones are cheap, and no clone ever changes.
#[derive(Clone, Debug)]
pub struct State {
    accounts: Trie<Account>,
    /// Codes by keccak-256 that may not be on disk yet.
    codes: OrdMap<B256, Bytes>,
    reader: Arc<Reader>,
}

impl Default for State {
    /// The empty state, in memory only.
    fn default() -> Self {
        Self::empty(Arc::new(Reader::empty()))
    }
}

/// Proof of one account and some of its slots (EIP-1186).
#[derive(Clone, Debug)]
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

fn slot_key(slot: &U256) -> B256 {
    keccak256(slot.to_be_bytes::<32>())
}

impl State {
    pub(crate) fn empty(reader: Arc<Reader>) -> Self {
        Self { accounts: Trie::default(), codes: OrdMap::new(), reader }
    }

    /// A state whose nodes are on disk.
    pub(crate) fn stored(accounts: Trie<Account>, reader: Arc<Reader>) -> Self {
        Self { accounts, codes: OrdMap::new(), reader }
    }

    /// The account at `address`.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the disk cannot be read or is damaged, [`LedgerError::MissingNode`] when the state was pruned; so for all reads.
    pub fn account(&self, address: &Address) -> Result<Option<Account>, LedgerError> {
        self.accounts.get(keccak256(address), &self.reader)
    }

    /// Nonce of `address`; 0 when there is no such account.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn nonce(&self, address: Address) -> Result<u64, LedgerError> {
        Ok(self.account(&address)?.map_or(0, |a| a.nonce))
    }

    /// Balance of `address` in wei.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn balance(&self, address: Address) -> Result<U256, LedgerError> {
        Ok(self.account(&address)?.map_or(U256::ZERO, |a| a.balance))
    }

    /// Code at `address`; empty when there is none.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn code(&self, address: Address) -> Result<Bytes, LedgerError> {
        match self.account(&address)? {
            Some(account) => Ok(self.code_by_hash(&account.code_hash)?.unwrap_or_default()),
            None => Ok(Bytes::new()),
        }
    }

    /// Code with the given keccak-256.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn code_by_hash(&self, hash: &B256) -> Result<Option<Bytes>, LedgerError> {
        if *hash == KECCAK_EMPTY {
            return Ok(None);
        }
        match self.codes.get(hash) {
            Some(code) => Ok(Some(code.clone())),
            None => self.reader.code(hash),
        }
    }

    /// Storage slot `slot` of `address`; zero when never written.
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn storage(&self, address: Address, slot: U256) -> Result<U256, LedgerError> {
        match self.account(&address)? {
            Some(account) => self.slot(&account, slot),
            None => Ok(U256::ZERO),
        }
    }

    /// Storage slot `slot` of an account of this state.
    pub(crate) fn slot(&self, account: &Account, slot: U256) -> Result<U256, LedgerError> {
        if account.storage.is_empty() {
            return Ok(U256::ZERO);
        }
        Ok(account.storage.get(slot_key(&slot), &self.reader)?.unwrap_or_default())
    }

    /// The state after `changes`, and the nodes that it no longer has.
    pub(crate) fn apply(&self, changes: &Changes) -> Result<(Self, Vec<NodeId>), LedgerError> {
        let mut next = self.clone();
        let mut dropped = vec![];
        let mut update = Update { reader: &self.reader, dropped: &mut dropped };
        if next.codes.len() > CODES_IN_MEMORY {
            let mut kept = OrdMap::new();
            for (hash, code) in &next.codes {
                if self.reader.code(hash)?.is_none() {
                    kept.insert(*hash, code.clone());
                }
            }
            next.codes = kept;
        }
        for (hash, code) in &changes.codes {
            next.codes.insert(*hash, code.clone());
        }
        for (address, change) in &changes.accounts {
            let key = keccak256(address);
            let before = next.accounts.get(key, &self.reader)?;
            let mut account = before.unwrap_or_default();
            if (change.cleared || change.info.is_none()) && !account.storage.is_empty() {
                account.storage.ids(update.reader, update.dropped)?;
                account.storage = Trie::default();
            }
            let Some((nonce, balance, code_hash)) = change.info else {
                next.accounts.remove(key, &mut update)?;
                continue;
            };
            (account.nonce, account.balance, account.code_hash) = (nonce, balance, code_hash);
            for (slot, value) in &change.storage {
                match value.is_zero() {
                    true => account.storage.remove(slot_key(slot), &mut update)?,
                    false => account.storage.insert(slot_key(slot), *value, &mut update)?,
                }
            }
            next.accounts.insert(key, account, &mut update)?;
        }
        Ok((next, dropped))
    }

    /// Merkle-Patricia root over all accounts (Yellow Paper, section 4.1).
    pub fn root(&self) -> B256 {
        self.accounts.root()
    }

    /// Proof of `address` and `slots` under [`root`](Self::root).
    ///
    /// # Errors
    /// As [`account`](Self::account).
    pub fn proof(&self, address: Address, slots: &[U256]) -> Result<AccountProof, LedgerError> {
        let account = self.account(&address)?.unwrap_or_default();
        let proof = self.accounts.proof(keccak256(address), &self.reader)?;
        let storage = slots
            .iter()
            .map(|slot| {
                let proof = account.storage.proof(slot_key(slot), &self.reader)?;
                Ok(StorageProof { slot: *slot, value: self.slot(&account, *slot)?, proof })
            })
            .collect::<Result<_, LedgerError>>()?;
        Ok(AccountProof { account, proof, storage })
    }

    /// Calls `visit` for every account whose key (keccak-256 of its address) is at least `start`, in order of keys, until it breaks.
    ///
    /// # Errors
    /// As [`account`](Self::account), and what `visit` gives.
    pub fn accounts_from(&self, start: B256, visit: &mut Visit<'_, Account>) -> Result<(), LedgerError> {
        self.accounts.walk(start, &self.reader, visit)
    }

    /// The same for the slots of an account.
    pub(crate) fn slots_from(
        &self,
        account: &Account,
        start: B256,
        visit: &mut Visit<'_, U256>,
    ) -> Result<(), LedgerError> {
        account.storage.walk(start, &self.reader, visit)
    }

    /// The account whose address has this keccak-256.
    pub(crate) fn by_key(&self, key: B256) -> Result<Option<Account>, LedgerError> {
        self.accounts.get(key, &self.reader)
    }

    /// Puts an account and some of its slots, all by keccak-256.
    pub(crate) fn put(
        &mut self,
        key: B256,
        mut account: Account,
        slots: impl Iterator<Item = (B256, U256)>,
        dropped: &mut Vec<NodeId>,
    ) -> Result<(), LedgerError> {
        let reader = self.reader.clone();
        let mut update = Update { reader: &reader, dropped };
        for (slot, value) in slots {
            account.storage.insert(slot, value, &mut update)?;
        }
        self.accounts.insert(key, account, &mut update)
    }

    /// Puts a code.
    pub(crate) fn put_code(&mut self, hash: B256, code: Bytes) {
        self.codes.insert(hash, code);
    }

    /// Forgets what is in memory and on disk.
    pub(crate) fn cut(&mut self) {
        self.accounts.cut();
        self.codes = OrdMap::new();
    }

    pub(crate) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    pub(crate) fn trie(&self) -> &Trie<Account> {
        &self.accounts
    }

    /// Codes that may not be on disk yet.
    pub(crate) fn codes(&self) -> &OrdMap<B256, Bytes> {
        &self.codes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_trie::{Nibbles, proof::verify_proof};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn change(balance: u64, storage: &[(u64, u64)]) -> AccountChange {
        AccountChange {
            info: (balance > 0).then_some((1, U256::from(balance), KECCAK_EMPTY)),
            cleared: false,
            storage: storage.iter().map(|(k, v)| (U256::from(*k), U256::from(*v))).collect(),
        }
    }

    type Model = BTreeMap<Address, (u64, BTreeMap<u64, u64>)>;

    /// The root by alloy's reference implementation.
    fn reference_root(model: &Model) -> B256 {
        alloy_trie::root::state_root_unhashed(model.iter().map(|(address, (balance, slots))| {
            let storage_root = alloy_trie::root::storage_root_unhashed(
                slots.iter().map(|(k, v)| (B256::from(U256::from(*k)), U256::from(*v))),
            );
            let account = TrieAccount {
                nonce: 1,
                balance: U256::from(*balance),
                storage_root,
                code_hash: KECCAK_EMPTY,
            };
            (*address, account)
        }))
    }

    proptest! {
        #[test]
        fn root_and_proofs_agree_with_the_reference(
            blocks in prop::collection::vec(
                prop::collection::btree_map(0u8..40, (0u64..5, prop::collection::vec((0u64..8, 0u64..3), 0..4)), 1..12), 1..8)
        ) {
            let mut state = State::default();
            let mut model = Model::new();
            for block in blocks {
                let before = (state.clone(), state.root());
                let mut changes = Changes::default();
                for (byte, (balance, slots)) in block {
                    let address = Address::repeat_byte(byte);
                    changes.accounts.insert(address, change(balance, &slots));
                    if balance == 0 {
                        model.remove(&address);
                        continue;
                    }
                    let entry = model.entry(address).or_default();
                    entry.0 = balance;
                    for (k, v) in slots {
                        if v == 0 { entry.1.remove(&k); } else { entry.1.insert(k, v); }
                    }
                }
                state = state.apply(&changes).unwrap().0;
                prop_assert_eq!(state.root(), reference_root(&model));
                prop_assert_eq!(before.0.root(), before.1, "an old state changed");
            }
            for byte in [0u8, 1, 2, 200] {
                let address = Address::repeat_byte(byte);
                let proof = state.proof(address, &[U256::ZERO, U256::from(3)]).unwrap();
                let expected = state.account(&address).unwrap().map(|a| a.value());
                prop_assert!(verify_proof(state.root(), Nibbles::unpack(keccak256(address)), expected, &proof.proof).is_ok());
                for s in proof.storage {
                    let expected = (!s.value.is_zero()).then(|| alloy_rlp::encode(s.value));
                    let key = Nibbles::unpack(slot_key(&s.slot));
                    let root = proof.account.storage_root();
                    prop_assert!(verify_proof(root, key, expected, &s.proof).is_ok());
                    prop_assert!(verify_proof(root, key, Some(alloy_rlp::encode(99u64)), &s.proof).is_err());
                }
            }
        }
    }
}
