//! The deterministic cluster: whole validators (mempool, execution, store, consensus) on a simulated network under
//! virtual time. The same seed gives the same run, to the last message.
//!
//! Tests only; nothing depends on this crate.

mod cluster;
mod genesis;
mod wallet;

pub use cluster::{Cluster, Link, Outcome, Setup, simulate};
pub use genesis::{CHAIN_ID, RULES};
pub use wallet::Wallet;
