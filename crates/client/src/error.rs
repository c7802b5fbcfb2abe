use alloy_primitives::{Address, B256, U256};
use thiserror::Error;
use types::{ReceiptId, TypesError};

/// Which words of a server about the ledger are contradicted by their proofs.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Lie {
    /// The configuration is not the one that the genesis header commits to.
    #[error("its genesis does not check: {0}")]
    Genesis(String),
    /// A block that no quorum of the validators finalised, or a change of validators that they did not name.
    #[error("its newest block is not final: {0}")]
    Finality(String),
    /// An account that is not in the state.
    #[error("what it says of a contract is not in the final state: {0}")]
    Account(String),
    /// A storage slot that has another value in the state.
    #[error("what it says of a contract's storage is not in the final state: {0}")]
    Slot(String),
    /// A model's manifest that does not hash to its id.
    #[error("its manifest of model {0} has another hash")]
    Manifest(B256),
}

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
    /// A server said something about the ledger that its proofs contradict.
    #[error("{url} is not believed: {lie}; give --rpc another server, too")]
    Disbelieved {
        /// Where.
        url: String,
        /// What it was.
        lie: Lie,
    },
    /// This is not the network that is meant.
    #[error(
        "{origin} is of network {served}, but {meant} is meant; name the right server with --rpc, or use another data folder for another network"
    )]
    OtherNetwork {
        /// The server, or the file that remembers the network.
        origin: String,
        /// Genesis hash of what it serves.
        served: B256,
        /// Genesis hash of what is meant.
        meant: B256,
    },
    /// What is known of the ledger is too old to act on.
    #[error(
        "the newest block that could be proved is {age_s} s old, and {max_s} s is the bound ({why}); are the JSON-RPC servers and this machine's clock right?"
    )]
    Stale {
        /// Its age in seconds.
        age_s: u64,
        /// The bound in seconds.
        max_s: u64,
        /// What the last server did wrong.
        why: String,
    },
    /// Every node that serves the model asks for more than a ceiling allows.
    #[error("{0}")]
    TooExpensive(Box<TooExpensive>),
    /// Today's money is spent.
    #[error(
        "{spent} wei were spent or promised today, this answer may cost {price} wei, and the day's limit is {max} wei; raise it with --max-day"
    )]
    DayLimit {
        /// Spent since midnight (UTC), with what answers under way may cost, in wei.
        spent: U256,
        /// What the answer may cost, in wei.
        price: u128,
        /// The limit in wei.
        max: U256,
    },
    /// A model's name means more than one model, or another one than before.
    #[error("{0}")]
    Ambiguous(Ambiguity),
    /// All nodes that were asked refused the request or failed.
    #[error("{0}")]
    AllRefused(Box<Refused>),
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

/// What the cheapest offer for a model is, when even that is above a ceiling.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "no node serves `{model}` within the price ceilings: the cheapest, {node}, may ask up to {price} wei for this answer ({input} wei a prompt token, {output} wei a generated token), and {ceiling}"
)]
pub struct TooExpensive {
    /// The model.
    pub model: String,
    /// The cheapest node.
    pub node: Address,
    /// The most that its answer can cost, in wei.
    pub price: u128,
    /// Its price of a prompt token, in wei.
    pub input: u128,
    /// Its price of a generated token, in wei.
    pub output: u128,
    /// The ceiling that is in the way, and how to change it.
    pub ceiling: String,
}

/// Why a model's name does not say which model is meant. Ids are hashes: one id is one model for ever.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Ambiguity {
    /// Several models with this name are offered.
    #[error(
        "`{name}` is the name of several models: {}; say which one with the header og-model-id, or write its id instead of the name",
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Several {
        /// The name.
        name: String,
        /// The ids.
        ids: Vec<B256>,
    },
    /// The name meant another model before, which nobody offers any more.
    #[error(
        "`{name}` was model {before} here, which nobody offers now; the name is now used for {now}. If you want that one, say so with the header og-model-id, or write its id instead of the name"
    )]
    Changed {
        /// The name.
        name: String,
        /// What it meant when it was first used.
        before: B256,
        /// What is offered under it.
        now: B256,
    },
    /// The id in the header is the id of a model with another name.
    #[error("og-model-id {id} is the model `{is}`, but the request asks for `{name}`")]
    OtherName {
        /// The name in the request.
        name: String,
        /// The id in the header.
        id: B256,
        /// Its name.
        is: String,
    },
}

/// Longest quotation of a node's words, in characters.
const WORDS_MAX: usize = 300;

/// A node's words, which nobody signed, as they may be shown: bounded and without control characters.
pub(crate) fn quoted(words: &str) -> String {
    let clean: String = words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
    format!("\"{clean}\"")
}

/// What a node said instead of answering. Nobody signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node.
    pub node: Address,
    /// Its HTTP status.
    pub status: u16,
    /// The code in its error, when it has OpenAI's shape.
    pub code: Option<String>,
    /// The parameter in its error, when it has OpenAI's shape.
    pub param: Option<String>,
    /// Its words.
    pub words: String,
}

/// What all nodes did that were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Those that answered with an error; at least one.
    pub refusals: Vec<Refusal>,
    /// What was wrong with the others, in our words.
    pub failures: Vec<String>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no node answered ({} asked)", self.refusals.len() + self.failures.len())?;
        for r in &self.refusals {
            write!(
                f,
                "; node {} refused with status {} (its words: {})",
                r.node,
                r.status,
                quoted(&r.words)
            )?;
        }
        self.failures.iter().try_for_each(|failure| write!(f, "; {failure}"))
    }
}
