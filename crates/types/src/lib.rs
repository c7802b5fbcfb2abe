//! The words of the network: what a node claims, what backs the claim, and how both are encoded.
//!
//! **Problem.** A wallet, a browser, a validator and a contract must agree, byte for byte, on what a
//! receipt says, although they are written in different languages and by different people.
//!
//! **Design.** Everything that is hashed or signed has one canonical form: RLP (Ethereum Yellow Paper,
//! appendix B; strict decoding) for storage and hashing, EIP-712 for signatures, RFC 6962 Merkle trees
//! over SHA-256 for logs, keccak-256 with a domain tag elsewhere. The proof file is JSON for people, with exactly
//! one accepted spelling.
//!
//! **Guarantees.** Decoding never panics and never accepts two encodings of one value; every list and
//! string has a bound (see [`limits`]).
//!
//! **What you may not do here.** No I/O, no clock, no randomness, no dependency on another crate of the
//! workspace: this crate must build for wasm32.

mod certificate;
mod chain_proof;
mod claim;
mod error;
mod evidence;
mod genesis;
mod ids;
mod manifest;
pub mod merkle;
pub mod opening;
mod options;
mod policy;
mod proof;
mod receipt;
pub mod replica;
mod sampling;
mod seal;
pub mod signing;
pub mod tlog;
mod validators;
mod voucher;

pub mod limits;

pub use certificate::FinalityCertificate;
pub use chain_proof::{AccountFact, CHAIN_PROOF_FORMAT, ChainProof, ItemFact, ItemKind, SlotFact};
pub use claim::{
    ARITHMETIC_EXACT, ARITHMETIC_SIGNED_ONLY, Claim, TokenOpening, Tokens, commit_bytes, commit_tokens,
};
pub use error::TypesError;
pub use evidence::{Evidence, ModeId, Rung};
pub use genesis::{NETWORK_VERSION, NetworkConfig, SystemContracts, ValidatorKey};
pub use ids::{ModelId, ReceiptId};
pub use manifest::{HyperParameter, ModelManifest};
pub use options::{Bias, Options};
pub use policy::Disclose;
pub use proof::{
    AuditProof, CheckpointProof, Disclosure, LedgerProof, LogProof, PROOF_FORMAT, PROOF_FORMAT_V3, ProofFile,
};
pub use receipt::{Receipt, log_leaf};
pub use sampling::Sampling;
pub use seal::Seal;
pub use validators::{
    Equivocation, FINALIZE, Handover, NOTARIZE, NULLIFY, VALIDATOR_SET_REQUEST, Validator, ValidatorSet, Vote,
};
pub use voucher::{Authorisation, EscrowDomain, Voucher};

pub use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, hex, keccak256};
