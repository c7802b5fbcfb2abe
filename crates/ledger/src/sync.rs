//! State sync: a state in parts, from one ledger's disk to another's.
//!
//! The parts are not proved one by one. Whoever takes them puts the trie together and compares its root with a finalised header before using
//! it, so a server that lies costs time and nothing else.

use crate::{Block, LedgerError, State, Store, block::Turn, state::Account, trie::NodeId};
use alloy_consensus::ReceiptEnvelope;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use std::ops::ControlFlow;
use types::{FinalityCertificate, Handover, ValidatorSet};

/// About this many bytes are in one part.
const PART_BYTES: usize = 512 << 10;
/// Longest part that is accepted: one entry may come on top.
const PART_BYTES_MAX: usize = 4 << 20;

/// Where a part begins: an account, and a slot in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, RlpEncodable, RlpDecodable)]
pub struct Cursor {
    /// keccak-256 of an address.
    pub account: B256,
    /// keccak-256 of a slot.
    pub slot: B256,
}

/// A piece of the state.
#[derive(Clone, Debug, Default, RlpEncodable, RlpDecodable)]
pub struct Part {
    entries: Vec<Entry>,
}

/// An account, with some of its slots.
#[derive(Clone, Debug, RlpEncodable, RlpDecodable)]
struct Entry {
    key: B256,
    nonce: u64,
    balance: U256,
    code_hash: B256,
    /// Only where the account begins.
    code: Bytes,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, RlpEncodable, RlpDecodable)]
struct Slot {
    key: B256,
    value: U256,
}

impl Part {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`LedgerError::Sync`] when too long or malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > PART_BYTES_MAX {
            return Err(LedgerError::Sync(format!("a part of {} bytes", bytes.len())));
        }
        alloy_rlp::decode_exact(bytes).map_err(|e| LedgerError::Sync(format!("a malformed part: {e}")))
    }

    /// A part with plain accounts, by address: for measuring with more accounts than a genesis file can hold.
    pub fn of_accounts(accounts: impl IntoIterator<Item = (Address, U256)>) -> Self {
        let entry = |(address, balance)| Entry {
            key: keccak256(address),
            nonce: 0,
            balance,
            code_hash: KECCAK256_EMPTY,
            code: Bytes::new(),
            slots: vec![],
        };
        Self { entries: accounts.into_iter().map(entry).collect() }
    }

    /// Number of accounts and slots.
    pub fn len(&self) -> usize {
        self.entries.iter().map(|e| 1 + e.slots.len()).sum()
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl State {
    /// The part of the state that begins at `cursor`, and where the next one begins.
    ///
    /// # Errors
    /// As [`State::account`].
    pub fn part(&self, cursor: Cursor) -> Result<(Part, Option<Cursor>), LedgerError> {
        let mut part = Part::default();
        let mut bytes = 0;
        let mut next = None;
        self.accounts_from(cursor.account, &mut |key, account| {
            if bytes >= PART_BYTES {
                next = Some(Cursor { account: key, slot: B256::ZERO });
                return Ok(ControlFlow::Break(()));
            }
            let from = if key == cursor.account { cursor.slot } else { B256::ZERO };
            let (nonce, balance, code_hash) = (account.nonce, account.balance, account.code_hash);
            let code = match from.is_zero() && code_hash != KECCAK256_EMPTY {
                true => self.code_by_hash(&code_hash)?.unwrap_or_default(),
                false => Bytes::new(),
            };
            let mut entry = Entry { key, nonce, balance, code_hash, code, slots: vec![] };
            bytes += 120 + entry.code.len();
            self.slots_from(account, from, &mut |slot, value| {
                if bytes >= PART_BYTES {
                    next = Some(Cursor { account: key, slot });
                    return Ok(ControlFlow::Break(()));
                }
                bytes += 68;
                entry.slots.push(Slot { key: slot, value: *value });
                Ok(ControlFlow::Continue(()))
            })?;
            part.entries.push(entry);
            Ok(if next.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok((part, next))
    }
}

/// The block that a synced ledger goes on from, and what it needs of the past.
#[derive(Debug)]
pub struct Anchor {
    /// The genesis block.
    pub genesis: Block,
    /// The block.
    pub block: Block,
    /// Whose turn it was.
    pub turn: Turn,
    /// Its receipts.
    pub receipts: Vec<ReceiptEnvelope>,
    /// Its certificate.
    pub certificate: FinalityCertificate,
    /// Hashes of the blocks before it, by number.
    pub hashes: Vec<(u64, B256)>,
    /// The first validator set.
    pub first: ValidatorSet,
    /// Changes since.
    pub handovers: Vec<Handover>,
    /// First epoch in which this node may vote: it has forgotten what it voted for before.
    pub votes_from: u64,
}

/// A state being put together in an empty store.
#[derive(Debug)]
pub struct Import {
    store: Store,
    state: State,
    dropped: Vec<NodeId>,
    number: u64,
}

impl Import {
    /// Begins the import of the state after block `number`.
    pub fn new(store: Store, number: u64) -> Self {
        let state = store.empty_state();
        Self { store, state, dropped: vec![], number }
    }

    /// Adds a part; what it says is on disk afterwards.
    ///
    /// # Errors
    /// [`LedgerError::Sync`] when the part contradicts itself, [`LedgerError::Store`].
    pub fn add(&mut self, part: Part) -> Result<(), LedgerError> {
        for entry in part.entries {
            let mut account = self.state.by_key(entry.key)?.unwrap_or_else(Account::default);
            if !entry.code.is_empty() {
                if keccak256(&entry.code) != entry.code_hash {
                    return Err(LedgerError::Sync(
                        "a code does not have the hash that its account names".into(),
                    ));
                }
                self.state.put_code(entry.code_hash, entry.code);
            }
            (account.nonce, account.balance, account.code_hash) =
                (entry.nonce, entry.balance, entry.code_hash);
            let slots = entry.slots.into_iter().map(|s| (s.key, s.value));
            self.state.put(entry.key, account, slots, &mut self.dropped)?;
        }
        self.store.state_db().write(self.number, &self.state, &self.dropped, self.number)?;
        self.dropped.clear();
        self.state.cut();
        Ok(())
    }

    /// The root of what was added so far.
    pub fn root(&self) -> B256 {
        self.state.root()
    }

    /// Ends the import: the state must have the root that the anchor's header names. The caller has checked that the header is final.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when the state has another root, [`LedgerError::Sync`] when the anchor contradicts itself.
    pub fn finish(self, anchor: &Anchor) -> Result<(), LedgerError> {
        let header = &anchor.block.header;
        let (number, found, expected) = (self.number, self.state.root(), header.state_root);
        if found != expected {
            return Err(LedgerError::Damaged { number, found, expected });
        }
        if header.number != number
            || header.receipts_root != alloy_consensus::proofs::calculate_receipt_root(&anchor.receipts)
        {
            return Err(LedgerError::Sync("the receipts are not those of the block".into()));
        }
        let mut sets = vec![anchor.first.clone()];
        sets.extend(anchor.handovers.iter().map(|h| h.next.clone()));
        self.store.block_db().import(anchor, &sets)
    }
}
