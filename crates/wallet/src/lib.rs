//! How every program of this project sends transactions.
//!
//! **Problem.** Most calls of a node, an auditor or a validator have a deadline: a move that is not on the ledger within its hour loses the
//! game. A submission can be refused, go unanswered, be evicted, be outbid or be forgotten in a crash, and none of that may decide a game.
//!
//! **Design.** A [`Wallet`] owns one account: its key, its nonces and its fees. A [`Call`] is written to disk before [`Wallet::submit`]
//! returns, and a task of the wallet then works on it until it is on the ledger, the ledger has refused it for good, or its time is over:
//! it submits again what was refused or lost, replaces what waits with a rising fee ([`FeeRules`]), and sends under a new nonce what
//! another program's transaction has displaced. The ledger is a [`Ledger`]: JSON-RPC servers, or the validator in this process.
//!
//! **Guarantees.** A call is executed at most once: every attempt of it has the same nonce, and it gets another nonce only when that one was
//! used by somebody else. A call survives a restart and `kill -9`. The queue is bounded. No decision depends on the words of an error message.
//! What becomes of a call is a type ([`SendError`]): "the ledger could not be reached", "the ledger refused it", "it was too late".
//! A deadline at risk or missed is an `ERROR` of the tracing target [`ALARM`] and a counter ([`Metrics`]).
//!
//! **What you may not do here.** Open sockets, know a contract, or send an account's transactions past its wallet.

mod account;
mod call;
mod error;
mod fees;
mod job;
mod ledger;
mod metrics;
mod store;
mod wallet;
mod worker;

pub use account::Account;
pub use call::{Call, Included, Ticket};
pub use error::{SendError, WalletError};
pub use fees::FeeRules;
pub use ledger::{Draft, Fault, Head, Ledger, Receipt};
pub use metrics::Metrics;
pub use wallet::{Config, Wallet};

/// Tracing target of the events that somebody must look at: deadlines at risk or missed.
pub const ALARM: &str = "og::alarm";
