//! The ledger: which state follows from which block.
//!
//! **Problem.** Validators on different machines must compute the same state, to the last bit, from the same blocks, and
//! wallets must find in it an Ethereum chain like any other.
//!
//! **Design.** Blocks are Ethereum blocks, executed by revm under current mainnet rules (Osaka). State is an immutable map
//! with structural sharing ([`State`]), so every executed block holds its own snapshot and speculative blocks need no undo.
//! The state root is Ethereum's Merkle-Patricia root. [`Store`] writes one final block atomically. [`Mempool`] is plain
//! data. Execution runs in phases: validate, pre, execute, post (`execute`).
//!
//! **Guarantees.** Same parent and same block give the same result everywhere: no clock, socket, randomness, float or
//! hash-map order is used. A block whose header differs in any field from what execution gives is refused.
//!
//! **Not done yet.** The state root costs O(accounts) a block; EIP-4788 and EIP-2935 system calls are not made; blob
//! transactions are refused.
//!
//! **What you may not do here.** Use tokio, the clock, sockets, consensus or the engine.

mod block;
mod error;
mod execute;
mod genesis;
mod mempool;
mod query;
mod state;
mod store;
mod tx;

pub use block::{Block, MAX_BLOCK_BYTES};
pub use error::LedgerError;
pub use execute::{BlockInput, ChainParams, Executed, Ledger, TransactionOutcome};
pub use genesis::{Deployment, Genesis, GenesisAccount, SYSTEM_DEPLOYER};
pub use mempool::Mempool;
pub use query::{CallOutcome, CallRequest};
pub use state::{Account, AccountProof, State, StorageProof};
pub use store::Store;
pub use tx::{MAX_TX_BYTES, RecoveredTx};
