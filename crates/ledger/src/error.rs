use alloy_primitives::{Address, B256, U256};
use thiserror::Error;

/// Why the ledger refuses a transaction, a block, a query or a store. Wording follows geth where it has a word for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// Not a transaction that this chain knows.
    #[error("rlp: malformed transaction: {0}")]
    Malformed(String),
    /// A kind of transaction that this chain does not take.
    #[error("transaction type not supported")]
    UnsupportedType,
    /// Too many bytes.
    #[error("oversized data: transaction size {size}, limit {max}")]
    Oversized {
        /// Size in bytes.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {have:?} want {want}")]
    WrongChain {
        /// Chain id in the transaction, if any.
        have: Option<u64>,
        /// This chain.
        want: u64,
    },
    /// No key fits the signature.
    #[error("invalid sender")]
    InvalidSender,
    /// The nonce was used already.
    #[error("nonce too low: address {address}, tx: {tx} state: {state}")]
    NonceTooLow {
        /// Sender.
        address: Address,
        /// Nonce of the transaction.
        tx: u64,
        /// Next nonce of the account.
        state: u64,
    },
    /// The nonce is too far ahead.
    #[error("nonce too high: address {address}, tx: {tx} state: {state}")]
    NonceTooHigh {
        /// Sender.
        address: Address,
        /// Nonce of the transaction.
        tx: u64,
        /// Next nonce of the account.
        state: u64,
    },
    /// The sender cannot pay.
    #[error("insufficient funds for gas * price + value: address {address} have {have} want {want}")]
    InsufficientFunds {
        /// Sender.
        address: Address,
        /// Balance in wei.
        have: U256,
        /// Needed wei.
        want: U256,
    },
    /// The gas limit does not even cover the fixed costs.
    #[error("intrinsic gas too low: have {have}, want {want}")]
    IntrinsicGas {
        /// Gas limit of the transaction.
        have: u64,
        /// Fixed costs.
        want: u64,
    },
    /// The gas limit is above a block's.
    #[error("exceeds block gas limit")]
    GasLimit,
    /// The gas limit is above that of any transaction (EIP-7825).
    #[error("transaction gas limit too high (cap: {cap}, tx: {tx})")]
    GasLimitCap {
        /// The bound.
        cap: u64,
        /// Gas limit of the transaction.
        tx: u64,
    },
    /// A simulated block or call is not possible, with the code that `eth_simulateV1` has for it.
    #[error("{message}")]
    Simulation {
        /// JSON-RPC error code.
        code: i32,
        /// What is wrong.
        message: String,
    },
    /// The fee is below what the mempool takes.
    #[error("transaction underpriced: fee cap {have} wei, minimum {want}")]
    Underpriced {
        /// Fee cap of the transaction, in wei.
        have: u128,
        /// Smallest fee cap, in wei.
        want: u128,
    },
    /// The tip is above the fee cap.
    #[error("max priority fee per gas higher than max fee per gas")]
    TipAboveFeeCap,
    /// Known already.
    #[error("already known")]
    AlreadyKnown,
    /// Another transaction has this nonce and pays nearly as much.
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    /// No room.
    #[error("txpool is full; raise the fee or try again later")]
    PoolFull,
    /// A block is not acceptable.
    #[error("invalid block {number}: {reason}")]
    InvalidBlock {
        /// Number in the header.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// The EVM could not run a call.
    #[error("{0}")]
    Call(String),
    /// Whoever asked has gone, or the time is over.
    #[error("the call was ended before it was done")]
    Interrupted,
    /// A trace of so many steps and bytes is not kept in memory.
    #[error("the trace takes more than {max} bytes; turn off memory and stack, or trace calls only")]
    TraceTooLarge {
        /// The bound.
        max: usize,
    },
    /// The genesis description is unusable.
    #[error("unusable genesis: {0}")]
    Genesis(String),
    /// The store could not be read or written.
    #[error("ledger store: {0}")]
    Store(String),
    /// What another node sent for a state sync is wrong.
    #[error("state sync: {0}; try another node")]
    Sync(String),
    /// A part of the state is not on disk: it was pruned.
    #[error("state node {id} is not on disk any more; ask for a newer block or an archive node")]
    MissingNode {
        /// The node.
        id: u64,
    },
    /// The stored state does not hash to the stored header.
    #[error(
        "the ledger store is damaged: state root {found} instead of {expected} at block {number}; restore the data folder or start from an empty one"
    )]
    Damaged {
        /// Head block.
        number: u64,
        /// Root of the stored accounts.
        found: B256,
        /// Root in the stored header.
        expected: B256,
    },
}

impl LedgerError {
    /// Whether the disk is to blame, and not what was asked of the ledger: a block that meets such an error may still be valid.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Store(_) | Self::MissingNode { .. })
    }
}
