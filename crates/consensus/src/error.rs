use alloy_primitives::B256;
use thiserror::Error;

/// Why a validator cannot start, run or accept something.
#[derive(Debug, Error)]
pub enum ConsensusError {
    /// A key or a validator set is unusable.
    #[error("unusable key: {0}")]
    Key(String),
    /// This validator's key is not in the network's validator set.
    #[error("this key is not one of the network's validators; use the key file that belongs to this genesis")]
    NotAValidator,
    /// The ledger refused something.
    #[error(transparent)]
    Ledger(#[from] ledger::LedgerError),
    /// The data folder belongs to another network.
    #[error(
        "the data folder holds network {found}, but this genesis is {expected}; choose another --data folder"
    )]
    OtherNetwork {
        /// Genesis hash in the data folder.
        found: B256,
        /// Genesis hash that was asked for.
        expected: B256,
    },
    /// The validator's thread could not be started or ended early.
    #[error("the validator stopped: {0}")]
    Stopped(String),
    /// The transaction was not accepted.
    #[error("{0}")]
    Transaction(String),
    /// A block names a proposer that is not in the validator set.
    #[error("the block's proposer is not a validator of its epoch")]
    UnknownLeader,
}
