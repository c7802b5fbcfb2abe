//! Agreement on the order of blocks: the only home of commonware.
//!
//! **Problem.** Validators that do not trust one another must finalise one chain of ledger blocks, whatever up to
//! a third of them does, and give everybody else a short proof of what was finalised.
//!
//! **Design.** commonware simplex with `bls12381_multisig` votes (attributable, so that equivocation can be punished)
//! orders blocks; its marshal stores and repairs them. A consensus [`Block`] is a ledger block and the consensus context it was
//! proposed in; its digest *is* the Ethereum block hash, because the header's `extraData` commits to the context.
//! Every validator executes a block before it votes for it. [`Chain`] holds what a validator knows; [`start`] wires
//! the actors on any runtime, so that the deterministic simulator and real validators ([`Validator`]) run the same code.
//!
//! **Guarantees.** Safety with up to f = (n-1)/3 faulty validators; a block is reported once it is final, in order, without
//! gaps; the ledger's store is written before the block is acknowledged, so a crash at any point loses nothing final.
//!
//! **What you may not do here.** Decide what a transaction means (that is `ledger`), serve HTTP (that is `api`), or let a
//! commonware type appear in the public API outside [`engine`].

mod application;
mod block;
mod chain;
pub mod engine;
mod epochs;
mod error;
mod evidence;
mod flusher;
mod gossip;
mod keys;
mod lane;
mod orchestrator;
mod turns;
mod validator;

pub use application::Application;
pub use block::{Block, Context};
pub use chain::{Chain, ChainOptions};
pub use engine::{Timing, start};
pub use error::ConsensusError;
pub use keys::ValidatorSecret;
pub use lane::{LaneRules, Role};
pub use validator::{Validator, ValidatorConfig};
