use crate::{Block, State, TransactionOutcome, block::Turn, evm::StateView, trie::NodeId};
use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_eips::eip1559::BaseFeeParams;
use alloy_primitives::B256;
use imbl::OrdMap;
use std::sync::Arc;
use types::ValidatorSet;

/// Ancestors whose hashes the EVM can ask for with BLOCKHASH.
pub(crate) const BLOCKHASH_WINDOW: u64 = 256;

/// A block, its receipts and the state after it. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Executed(Arc<Inner>);

/// What an [`Executed`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) block: Arc<Block>,
    pub(crate) turn: Turn,
    pub(crate) state: State,
    pub(crate) results: Results,
    /// Nodes that the parent's state had and this one has not.
    pub(crate) dropped: Vec<NodeId>,
    /// Hashes of the newest ancestors, by number.
    pub(crate) hashes: OrdMap<u64, B256>,
    /// Who votes for the next block.
    pub(crate) validators: Arc<ValidatorSet>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    hash: B256,
}

/// Receipts and outcomes, one a transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) receipts: Vec<ReceiptEnvelope>,
    pub(crate) outcomes: Vec<TransactionOutcome>,
}

impl Executed {
    pub(crate) fn new(mut parts: Parts) -> Self {
        let hash = parts.block.hash();
        let number = parts.block.header.number;
        parts.hashes.insert(number, hash);
        if let Some(old) = number.checked_sub(BLOCKHASH_WINDOW) {
            parts.hashes.remove(&old);
        }
        Self(Arc::new(Inner { parts, hash }))
    }

    /// The block.
    pub fn block(&self) -> &Arc<Block> {
        &self.0.parts.block
    }

    /// The block's header.
    pub fn header(&self) -> &Header {
        &self.0.parts.block.header
    }

    /// The block's hash.
    pub fn hash(&self) -> B256 {
        self.0.hash
    }

    /// The block's number.
    pub fn number(&self) -> u64 {
        self.header().number
    }

    /// Whose turn it was.
    pub fn turn(&self) -> &Turn {
        &self.0.parts.turn
    }

    /// The state after the block.
    pub fn state(&self) -> &State {
        &self.0.parts.state
    }

    /// Who votes for the next block.
    pub fn validators(&self) -> &Arc<ValidatorSet> {
        &self.0.parts.validators
    }

    /// One receipt a transaction.
    pub fn receipts(&self) -> &[ReceiptEnvelope] {
        &self.0.parts.results.receipts
    }

    /// One outcome a transaction; empty when the block was read from disk instead of executed.
    pub fn outcomes(&self) -> &[TransactionOutcome] {
        &self.0.parts.results.outcomes
    }

    /// Base fee of the next block, in wei (EIP-1559).
    pub fn next_base_fee(&self) -> u64 {
        let h = self.header();
        let base_fee = h.base_fee_per_gas.unwrap_or_default();
        BaseFeeParams::ethereum().next_block_base_fee(h.gas_used, h.gas_limit, base_fee)
    }

    pub(crate) fn hashes(&self) -> &OrdMap<u64, B256> {
        &self.0.parts.hashes
    }

    pub(crate) fn dropped(&self) -> &[NodeId] {
        &self.0.parts.dropped
    }

    pub(crate) fn view(&self) -> StateView {
        StateView { state: self.state().clone(), hashes: self.hashes().clone() }
    }
}
