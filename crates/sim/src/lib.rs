//! The deterministic cluster: whole validators (mempool, execution, store, consensus) on a simulated network under
//! virtual time. The same seed gives the same run, to the last message.
//!
//! Tests only; nothing depends on this crate.

mod adversary;
mod cluster;
mod disk;
mod genesis;
mod wallet;

pub use adversary::{ATTACKS, Attack};
pub use cluster::{Cluster, Link, Outcome, Setup, simulate};
pub use genesis::{CHAIN_ID, RULES};
pub use wallet::Wallet;
