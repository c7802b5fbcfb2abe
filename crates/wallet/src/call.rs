use crate::SendError;
use alloy_primitives::{Address, B256, Bytes, U256};
use std::time::Duration;
use tokio::sync::oneshot;

/// Something that an account wants from the ledger.
///
/// Two calls with the same receiver, coins, data and `salt` are one call: who asks for one that is under way waits for that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The account or contract that is called.
    pub to: Address,
    /// Coins in wei.
    pub value: U256,
    /// Call data.
    pub data: Bytes,
    /// Unix time, by the ledger's clock, from which on it is worth nothing.
    pub deadline: Option<u64>,
    /// How long a call without a deadline is tried; without one the wallet's patience holds. Nobody is alarmed when it ends.
    pub patience: Option<Duration>,
    /// What it is, for messages: "a move in dispute 7".
    pub label: String,
    /// Tells calls apart that are equal otherwise, such as two payments of one amount.
    pub salt: u64,
}

impl Call {
    /// A call of `to` with `data`.
    pub fn new(to: Address, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self { to, value: U256::ZERO, data, deadline: None, patience: None, label: "a call".into(), salt: 0 }
    }

    /// With coins, in wei.
    #[must_use]
    pub fn with_value(self, value: U256) -> Self {
        Self { value, ..self }
    }

    /// Worth nothing from this Unix time on.
    #[must_use]
    pub fn by(self, deadline: u64) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Given up after so long.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// With words for messages.
    #[must_use]
    pub fn called(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }
}

/// Where a call is on the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Included {
    /// Hash of the transaction.
    pub hash: B256,
    /// Its block.
    pub block: u64,
}

/// A call under way. Dropping it does not stop the call.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) outcome: oneshot::Receiver<Result<Included, SendError>>,
}

impl Ticket {
    /// Waits until the call is in a final block, or given up.
    ///
    /// # Errors
    /// [`SendError`] says who is to blame.
    pub async fn wait(self) -> Result<Included, SendError> {
        self.outcome.await.unwrap_or(Err(SendError::Closed))
    }
}
