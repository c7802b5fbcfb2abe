use thiserror::Error;
use types::{ReceiptId, TypesError};

/// What can go wrong between a client and the network.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A server could not be reached or broke off.
    #[error("cannot reach {url}: {reason}; is it running?")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// A JSON-RPC call was answered with an error.
    #[error("{method} failed: {message} (code {code}{})", data.as_ref().map(|d| format!(", data {d}")).unwrap_or_default())]
    Rpc {
        /// The method.
        method: String,
        /// JSON-RPC error code.
        code: i64,
        /// The server's words.
        message: String,
        /// Error data, such as revert data.
        data: Option<String>,
    },
    /// A server's answer makes no sense.
    #[error("{url} gave an unusable answer: {reason}")]
    Malformed {
        /// Where.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A server's answer is larger than any honest one.
    #[error("{url} answered with more than {max} bytes")]
    TooLarge {
        /// Where.
        url: String,
        /// The bound.
        max: usize,
    },
    /// Bytes do not decode or are out of bounds.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// No registered node serves the model.
    #[error("no registered node serves the model `{model}`; available: {available}")]
    NoNode {
        /// What was asked for.
        model: String,
        /// What there is.
        available: String,
    },
    /// Every node that was asked has a full queue.
    #[error("all nodes are busy; try again in a second")]
    Busy,
    /// Fewer nodes offer the model than are to answer.
    #[error(
        "{have} registered nodes serve the model `{model}`, and {need} are to answer; ask for fewer with the header og-replicas, or for `og-assurance: signed`"
    )]
    TooFewNodes {
        /// The model.
        model: String,
        /// Nodes that serve it.
        have: usize,
        /// Nodes that were to answer.
        need: usize,
    },
    /// Most of the nodes that were asked did not give one and the same answer.
    #[error(
        "no majority: at most {agreed} of {asked} nodes gave the same answer ({silent} gave none); what they signed is kept in the proxy's folder `disputes`"
    )]
    NoMajority {
        /// Nodes with the most frequent answer.
        agreed: usize,
        /// Nodes that were asked.
        asked: usize,
        /// Nodes without a sound answer.
        silent: usize,
    },
    /// A check of an answer failed.
    #[error("the answer of node {node} was refused: {check}")]
    Verification {
        /// The node.
        node: String,
        /// The failed check, in plain words.
        check: String,
    },
    /// There is no such receipt in this proxy's folder.
    #[error("no receipt {0} in this proxy's folder; list them with `og receipt list`")]
    UnknownReceipt(ReceiptId),
    /// The receipt is not anchored on the ledger yet.
    #[error("the receipt is not finalised on the ledger yet; try again in a second")]
    NotFinalised,
    /// An audited answer can still be refuted.
    #[error("the answer is not settled: {0}")]
    NotSettled(String),
    /// The node wants to be paid, and nobody pays here.
    #[error("the node wants to be paid; start the proxy with --pay and a key")]
    Unpaid,
    /// A transaction did not do what it should.
    #[cfg(not(target_family = "wasm"))]
    #[error(transparent)]
    Send(#[from] wallet::SendError),
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}
