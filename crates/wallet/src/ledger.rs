use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use thiserror::Error;

/// What a wallet needs of the newest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Block number.
    pub number: u64,
    /// Its time, in seconds since the Unix epoch: the clock of all deadlines.
    pub time: u64,
    /// Base fee of the next block, in wei.
    pub base_fee: u128,
}

/// What is executed, for an estimate of its gas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Sender.
    pub from: Address,
    /// The account or contract that is called.
    pub to: Address,
    /// Coins in wei.
    pub value: U256,
    /// Call data.
    pub data: Bytes,
}

/// What a block says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whether it did what it should; otherwise it reverted, and cost its fee.
    pub success: bool,
    /// Its block.
    pub block: u64,
}

/// Why a ledger did not answer, or did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// No server could be reached, or none gave a usable answer. Nobody knows whether anything happened.
    #[error("the ledger cannot be reached: {0}")]
    Unreachable(String),
    /// The call would revert, with these data.
    #[error("the call reverts with data {0}")]
    Reverted(Bytes),
    /// The ledger's server refused.
    #[error("the ledger's server refused: {message} (code {code})")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// The server's words, for people.
        message: String,
    },
}

/// The ledger, as a wallet needs it: JSON-RPC servers, or the validator in this process.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// The newest final block.
    ///
    /// # Errors
    /// [`Fault`].
    async fn head(&self) -> Result<Head, Fault>;

    /// The next nonce of `address`: in the newest final block, and after what waits in the mempool without a gap.
    ///
    /// # Errors
    /// [`Fault`].
    async fn nonces(&self, address: Address) -> Result<(u64, u64), Fault>;

    /// Gas that the call would use on the newest final block.
    ///
    /// # Errors
    /// [`Fault::Reverted`] when it would revert, else as the others.
    async fn estimate(&self, draft: &Draft) -> Result<u64, Fault>;

    /// Takes a signed transaction: to as many servers as there are.
    ///
    /// # Errors
    /// [`Fault`] when none took it.
    async fn submit(&self, raw: Bytes) -> Result<(), Fault>;

    /// The receipt of a transaction in a final block.
    ///
    /// # Errors
    /// [`Fault`].
    async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, Fault>;
}
