//! HTTP and JSON-RPC servers.
//!
//! **Problem.** Outside clients (OpenAI SDKs, wallets) expect exact shapes and errors; what answers them must not care.
//!
//! **Design.** This crate owns the traits that it needs ([`ports`]); whoever composes the program implements them. The JSON
//! stays here: the port streams text, this crate formats the bytes, and hands the exact bytes back to be sealed.
//!
//! **Guarantees.** Every body, batch and range has a bound; every error has the shape that the client's SDK expects.
//!
//! **What you may not do here.** Name the engine, the ledger or consensus.

mod error;
pub mod http;
mod listen;
pub mod openai;
pub mod ports;
pub mod rpc;
mod serve;
pub mod tlog;

pub use error::ApiError;
pub use listen::bind;
pub use serve::{Deadlines, ServeOptions, Server, serve, serve_with};
