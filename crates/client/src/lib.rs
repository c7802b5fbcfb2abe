//! What somebody who asks needs: a light client, a checker of proof files, and a proxy that checks every answer.
//!
//! **Problem.** An app developer wants the API that they know; they should not have to trust the node that answers, nor the
//! validator that tells them about the ledger.
//!
//! **Design.** [`proxy`] speaks OpenAI on this machine, picks a registered node, and releases the end of an answer only after
//! its receipt was checked ([`check`]). [`proof`] checks a proof file with no network; [`light`] checks finality certificates
//! and Merkle-Patricia proofs with a BLS library and nothing of the consensus engine.
//!
//! [`proven`] reads the registries through them, so that no JSON-RPC server decides whom you pay.
//!
//! **Guarantees.** An answer that fails a check never reaches the client whole: a stream may have shown its text by then, but never its end.
//! Everything from outside has a bound.
//!
//! **What you may not do here.** Depend on the ledger, the engine or consensus: a checker must not share the code of what it
//! checks.

pub mod chain;
pub mod check;
pub mod contracts;
pub mod light;
pub mod proof;

// What talks to servers is not for browsers.
#[cfg(not(target_family = "wasm"))]
pub mod chat;
#[cfg(not(target_family = "wasm"))]
pub mod directory;
#[cfg(not(target_family = "wasm"))]
pub mod endpoint;
#[cfg(not(target_family = "wasm"))]
mod error;
#[cfg(not(target_family = "wasm"))]
mod files;
#[cfg(not(target_family = "wasm"))]
mod ledger;
#[cfg(not(target_family = "wasm"))]
pub mod proven;
#[cfg(not(target_family = "wasm"))]
pub mod proxy;
#[cfg(not(target_family = "wasm"))]
mod rpc;

#[cfg(not(target_family = "wasm"))]
pub use {
    directory::{Ceilings, Directory},
    error::{Ambiguity, ClientError, Lie, Refusal, Refused, TooExpensive},
    proven::{LedgerConfig, Offer, ProvenLedger},
    rpc::{EventLog, Finalized, NetworkInfo, RpcClient},
};

pub mod trust;

use std::sync::Arc;

/// The verifiers that this client knows.
pub fn registry() -> verify::Registry {
    let verifiers: [Arc<dyn verify::Verifier>; 3] = [
        Arc::new(signed::SignedVerifier),
        Arc::new(audited::AuditedVerifier),
        Arc::new(replicated::ReplicatedVerifier),
    ];
    verify::Registry::new(verifiers)
}
