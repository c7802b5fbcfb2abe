use super::Stop;
use alloy_consensus::{Header, ReceiptEnvelope, TxEnvelope};
use alloy_eips::{eip2930::AccessList, eip4895::Withdrawal};
use alloy_rpc_types_eth::{
    BlockOverrides, TransactionRequest,
    simulate::{SimCallResult, SimulatePayload},
    state::StateOverride,
};
use alloy_rpc_types_trace::geth::{GethDebugTracingCallOptions, GethDebugTracingOptions};
use serde_json::Value;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::broadcast;
use types::{Address, B256, Bytes, U256};

/// Which block a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRef {
    /// By number.
    Number(u64),
    /// By hash.
    Hash(B256),
    /// The newest final block.
    Latest,
}

/// A block with senders.
#[derive(Clone, Debug)]
pub struct BlockData {
    /// Block hash.
    pub hash: B256,
    /// Header.
    pub header: Header,
    /// Transactions and who signed them.
    pub transactions: Vec<(TxEnvelope, Address)>,
    /// Rewards of validators.
    pub withdrawals: Vec<Withdrawal>,
    /// Encoded size in bytes.
    pub size: usize,
}

/// What a call pretends to be otherwise than it is.
#[derive(Clone, Debug, Default)]
pub struct CallOverrides {
    /// Accounts.
    pub state: Option<StateOverride>,
    /// The block.
    pub block: Option<Box<BlockOverrides>>,
}

/// A transaction that waits.
#[derive(Clone, Debug)]
pub struct Pooled {
    /// The transaction.
    pub tx: TxEnvelope,
    /// Who signed it.
    pub sender: Address,
    /// False when a nonce before it is missing.
    pub pending: bool,
}

/// The access list that a call needs.
#[derive(Clone, Debug)]
pub struct AccessListData {
    /// The list.
    pub list: AccessList,
    /// Gas used with it.
    pub gas_used: u64,
    /// Why the call failed, if it did.
    pub error: Option<String>,
}

/// A block of `eth_simulateV1`.
#[derive(Clone, Debug)]
pub struct SimulatedData {
    /// The block.
    pub block: BlockData,
    /// What its calls gave.
    pub calls: Vec<SimCallResult>,
}

/// Something that subscribers hear of.
#[derive(Clone, Debug)]
pub enum ChainEvent {
    /// A final block and its receipts.
    Block(Arc<BlockData>, Arc<Vec<ReceiptEnvelope>>),
    /// A new transaction in the mempool.
    Transaction(Arc<(TxEnvelope, Address)>),
}

/// EIP-1186 proof.
#[derive(Clone, Debug)]
pub struct AccountProofData {
    /// Nonce.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// keccak-256 of the code.
    pub code_hash: B256,
    /// Root of the storage trie.
    pub storage_root: B256,
    /// Nodes from the state root down.
    pub account_proof: Vec<Bytes>,
    /// Slot, value and nodes from the storage root down.
    pub storage: Vec<(U256, U256, Vec<Bytes>)>,
}

/// Why a query has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainFault {
    /// The transaction or call is refused; geth's wording.
    #[error("{0}")]
    Rejected(String),
    /// The call reverted with this data.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// It is refused with this JSON-RPC error code.
    #[error("{message}")]
    Coded {
        /// The code.
        code: i32,
        /// What is wrong.
        message: String,
    },
    /// State of so old a block is not kept.
    #[error("historical state of block {0} is not available; this node keeps the newest blocks only")]
    StateUnavailable(u64),
    /// No such block.
    #[error("header not found")]
    UnknownBlock,
    /// No such transaction.
    #[error("transaction not found")]
    UnknownTransaction,
    /// It was told to stop.
    #[error("the call was ended before it was done")]
    Interrupted,
    /// Not yet.
    #[error("not finalised yet: {0}; try again in a second")]
    NotFinalised(String),
    /// Our fault.
    #[error("{0}")]
    Internal(String),
}

type Answer<T> = Result<T, ChainFault>;

/// What the JSON-RPC server needs. Methods may block for some milliseconds, those that execute blocks or calls for longer.
pub trait Chain: Send + Sync + 'static {
    /// EIP-155 chain id.
    fn chain_id(&self) -> u64;
    /// Number of the newest final block.
    fn head(&self) -> u64;
    /// Number of peers that are validators.
    fn peers(&self) -> usize;
    /// Final blocks and new transactions, as they come.
    fn events(&self) -> broadcast::Receiver<ChainEvent>;
    /// Hash and header of a final block.
    fn header(&self, number: u64) -> Answer<Option<(B256, Header)>>;
    /// A block.
    fn block(&self, at: BlockRef) -> Answer<Option<Arc<BlockData>>>;
    /// The bytes of a block as on Ethereum's wire.
    fn raw_block(&self, at: BlockRef) -> Answer<Option<Bytes>>;
    /// Receipts of a block, in order.
    fn receipts(&self, number: u64) -> Answer<Option<Arc<Vec<ReceiptEnvelope>>>>;
    /// Block number and index of a final transaction.
    fn transaction(&self, hash: B256) -> Answer<Option<(u64, u32)>>;
    /// A transaction that waits.
    fn pooled(&self, hash: B256) -> Option<Pooled>;
    /// All transactions that wait, by sender and nonce.
    fn pool(&self) -> Answer<Vec<Pooled>>;
    /// Balance in wei.
    fn balance(&self, at: BlockRef, address: Address) -> Answer<U256>;
    /// Nonce; `None` counts waiting transactions too.
    fn nonce(&self, at: Option<BlockRef>, address: Address) -> Answer<u64>;
    /// Code.
    fn code(&self, at: BlockRef, address: Address) -> Answer<Bytes>;
    /// A storage slot.
    fn storage(&self, at: BlockRef, address: Address, slot: U256) -> Answer<U256>;
    /// EIP-1186 proof.
    fn proof(&self, at: BlockRef, address: Address, slots: &[U256]) -> Answer<AccountProofData>;
    /// Runs a call. This and the methods with a [`Stop`] end soon after it is set, with [`ChainFault::Interrupted`], and bound gas and
    /// memory whatever they are asked for.
    fn call(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        overrides: CallOverrides,
        stop: &Stop,
    ) -> Answer<Bytes>;
    /// Smallest sufficient gas limit.
    fn estimate_gas(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        overrides: CallOverrides,
        stop: &Stop,
    ) -> Answer<u64>;
    /// The access list with which a call runs cheapest.
    fn create_access_list(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        overrides: CallOverrides,
        stop: &Stop,
    ) -> Answer<AccessListData>;
    /// Runs blocks of calls on top of each other.
    fn simulate(&self, at: BlockRef, payload: SimulatePayload, stop: &Stop) -> Answer<Vec<SimulatedData>>;
    /// Traces a call.
    fn trace_call(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        options: GethDebugTracingCallOptions,
        stop: &Stop,
    ) -> Answer<Value>;
    /// Traces all transactions of a block, or one of them: hashes and traces.
    fn trace_block(
        &self,
        at: BlockRef,
        only: Option<usize>,
        options: GethDebugTracingOptions,
        stop: &Stop,
    ) -> Answer<Vec<(B256, Value)>>;
    /// Takes a raw transaction.
    fn submit(&self, raw: Bytes) -> Answer<B256>;
    /// Base fee of the next block, in wei.
    fn next_base_fee(&self) -> u64;
    /// `og_network`: configuration and genesis header.
    fn network(&self) -> Value;
    /// `og_finalized`: the newest block with a certificate.
    fn finalized(&self) -> Answer<Value>;
    /// `og_handovers`: changes of the validator set up to an epoch (the newest when absent).
    fn handovers(&self, epoch: Option<u64>) -> Answer<Value>;
    /// `og_validators`: who votes in an epoch (the newest when absent).
    fn validators(&self, epoch: Option<u64>) -> Answer<Value>;
    /// `og_finalHeader`: header and certificate of a block, when it has one of its own.
    fn final_header(&self, number: u64) -> Answer<Value>;
    /// `og_chainProof`: what a final block says about an account with some slots, or about a transaction, for light clients whose trust
    /// begins at the block `checkpoint`, or at genesis.
    fn chain_proof(
        &self,
        account: Option<(Address, Vec<B256>)>,
        transaction: Option<B256>,
        checkpoint: Option<u64>,
    ) -> Answer<Value>;
    /// `og_receiptLogProof`: proof that the root of `size` of `node`'s log is in the newest certified state.
    /// For `answer`, a receipt's id and index, also what became of it. For readers whose trust begins at the block `checkpoint`, or at genesis.
    fn receipt_log_proof(
        &self,
        node: Address,
        size: u64,
        answer: Option<(B256, u64)>,
        checkpoint: Option<u64>,
    ) -> Answer<Value>;
    /// `og_syncPoint`: the newest snapshot that a new validator can start from.
    fn sync_point(&self) -> Answer<Value>;
    /// `og_syncRange`: the part of the snapshot of block `number` that begins at `cursor`.
    fn sync_range(&self, number: u64, cursor: &str) -> Answer<Value>;
}
