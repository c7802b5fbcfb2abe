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
//! **Not done yet.** Blob transactions are refused: there is no place for blobs.
//!
//! **What you may not do here.** Use tokio, the clock, sockets, consensus or the engine.

mod block;
mod error;
mod evm;
mod execute;
mod executed;
mod genesis;
mod guard;
mod mempool;
mod query;
mod referee;
mod simulate;
mod staking;
mod state;
mod store;
mod sync;
mod system;
mod trace;
mod trie;
mod tx;

pub use block::{Block, MAX_BLOCK_BYTES, MISSED_MAX, Turn};
pub use error::LedgerError;
pub use evm::{EQUIVOCATION_PRECOMPILE, POSSESSION_PRECOMPILE, REFEREE_PRECOMPILE};
pub use execute::{BlockInput, ChainParams, Known, Ledger, TransactionOutcome};
pub use executed::Executed;
pub use genesis::{Deployment, Genesis, GenesisAccount, SYSTEM_DEPLOYER};
pub use guard::{QUERY_GAS_MAX, Queries};
pub use mempool::{Arrival, Candidates, Limits, Mempool, Occupancy, Place, Standing, check_fixed};
pub use query::{CallOutcome, Overrides};
pub use simulate::Simulated;
pub use staking::{StakingRules, staking_deployment, turn_seed};
pub use state::{Account, AccountProof, State, StorageProof};
pub use store::{BlockRange, FLUSH_BLOCKS, Flush, Retention, SNAPSHOT_BLOCKS, Store, private_file};
pub use sync::{Anchor, Cursor, Import, Part};
pub use trace::Replay;
pub use trie::Visit;
pub use tx::{MAX_TX_BYTES, RecoveredTx};
