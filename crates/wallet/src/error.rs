use alloy_primitives::{B256, Bytes};
use thiserror::Error;
use types::TypesError;

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// Its time ended while the ledger could not be reached. It may be on the ledger all the same; it will not be sent again.
    #[error("the ledger could not be reached in time: {reason}; is the server running?")]
    Unreachable {
        /// The last fault.
        reason: String,
    },
    /// The ledger says no: the contract reverts.
    #[error("the ledger refused the call: it reverts with data {data}")]
    Reverted {
        /// The transaction, when it is in a block; otherwise nothing was sent.
        hash: Option<B256>,
        /// The contract's error, ABI-encoded; empty when the transaction is in a block.
        data: Bytes,
    },
    /// The ledger's server refused it until its time was over.
    #[error("the ledger's server refused the transaction: {message} (code {code})")]
    Refused {
        /// JSON-RPC error code of the last refusal.
        code: i64,
        /// The server's words.
        message: String,
    },
    /// It was taken, but was in no block when its time was over.
    #[error(
        "the transaction was in no block by its deadline (Unix time {deadline}), with a fee of up to {fee} wei per gas"
    )]
    TooLate {
        /// When its time was over.
        deadline: u64,
        /// The highest fee that was offered, in wei per gas.
        fee: u128,
    },
    /// The wallet was closed while it was at work; the call is on disk and goes on when the wallet is opened again.
    #[error("the program is stopping; the call goes on when it runs again")]
    Closed,
    /// The call was not taken.
    #[error(transparent)]
    Wallet(#[from] WalletError),
}

impl SendError {
    /// Whether the contract said no, as against all kinds of "not now".
    pub fn is_revert(&self) -> bool {
        matches!(self, Self::Reverted { .. })
    }
}

/// What is wrong with a wallet on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WalletError {
    /// The queue has as many calls as it may have.
    #[error("{0} calls wait already; this account's wallet takes no more until one is done")]
    Full(usize),
    /// The call's data are longer than a transaction may be.
    #[error("{size} bytes of call data; a transaction has at most {max}")]
    Oversized {
        /// Bytes of data.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The file with the pending calls cannot be used.
    #[error("{path}: {reason}; is another process using it?")]
    Store {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The file belongs to another account or network.
    #[error(
        "{path} holds the pending calls of another account or network; use the folder that belongs to this key"
    )]
    OtherAccount {
        /// The file.
        path: String,
    },
    /// The key cannot sign.
    #[error("unusable key: {0}")]
    Key(String),
}

impl From<TypesError> for WalletError {
    fn from(e: TypesError) -> Self {
        Self::Key(e.to_string())
    }
}
