//! The traits behind the servers.

mod chain;
mod payment;
mod replica;
mod stop;
mod tlog;

pub use chain::{
    AccessListData, AccountProofData, BlockData, BlockRef, CallOverrides, Chain, ChainEvent, ChainFault,
    Pooled, SimulatedData,
};
pub use payment::{Payment, Promise};
pub use stop::Stop;
pub use tlog::{TransparencyLog, Witness};

pub use replica::{GroupTicket, Withheld};

use async_trait::async_trait;
use bytes::Bytes;
use payment::{number, signed};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc;
use types::{
    Address, B256, Disclose, Disclosure, LogProof, ModelId, Receipt, ReceiptId, Rung, Sampling, Seal,
    replica::{Commitment, RevealRequest, Revealed},
};

/// A model that a node serves.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name in requests.
    pub name: String,
    /// Content id.
    pub id: ModelId,
    /// Canonical manifest bytes.
    pub manifest: Vec<u8>,
    /// Longest context in tokens.
    pub context_length: u32,
    /// Seconds since the Unix epoch when this node began to serve it.
    pub created: u64,
}

/// Who answers.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node's address.
    pub node: Address,
    /// Chain id of its network.
    pub chain_id: u64,
    /// Genesis hash of its network.
    pub genesis: B256,
    /// What it serves.
    pub models: Vec<ModelInfo>,
}

/// Who speaks in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatRole {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, an object.
    pub arguments: Value,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// What is said.
    pub content: String,
    /// Tools that were called in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
}

/// What the model is asked with.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation, and definitions of tools in OpenAI's form.
    Chat {
        /// The messages.
        messages: Vec<ChatMessage>,
        /// `{"type": "function", "function": …}` each.
        tools: Vec<Value>,
    },
    /// Raw text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON after this schema.
    JsonSchema(Value),
    /// Calls of these tools (name and schema of the parameters).
    ToolCalls {
        /// The tools that may be called.
        tools: Vec<(String, Value)>,
        /// Whether several calls may follow each other.
        parallel: bool,
    },
}

/// A checked request for generated text. Everything in it follows from the raw request.
#[derive(Clone, Debug)]
pub struct GenerateJob {
    /// Model name or id as asked.
    pub model: String,
    /// What the model is asked with.
    pub input: Input,
    /// Sampling parameters; the seed is drawn by the port when `seed_given` is false.
    pub sampling: Sampling,
    /// Whether the client chose the seed.
    pub seed_given: bool,
    /// Bound on generated tokens of each answer.
    pub max_tokens: Option<u32>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Number of answers.
    pub n: u32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Log-probabilities, with this many of the likeliest tokens.
    pub top_logprobs: Option<u8>,
    /// The form that answers must have.
    pub format: Format,
}

/// How a request came.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The body as received: what the receipt commits to.
    pub raw_request: Bytes,
    /// The client's salt.
    pub nonce: Option<B256>,
    /// The rung asked for.
    pub rung: Rung,
    /// The group of nodes that answer it, each for itself, when there is one.
    pub group: Option<GroupTicket>,
    /// To whom the node may show it.
    pub disclose: Disclose,
    /// What the client pays with.
    pub payment: Option<Payment>,
    /// Whose request this is; waiting requests are taken from each client in turn.
    pub client: u64,
}

/// An auditor's request to be shown an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditorPass {
    /// Who asks.
    pub auditor: Address,
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// Signature over [`types::signing::audit_request`].
    pub signature: [u8; 65],
}

impl std::str::FromStr for AuditorPass {
    type Err = String;

    /// `auditor time signature`, separated by spaces.
    fn from_str(s: &str) -> Result<Self, String> {
        let ([auditor, time], signature) = signed(s)?;
        let auditor = auditor.parse().map_err(|_| "no address")?;
        Ok(Self { auditor, time: number(time)?.try_into().map_err(|_| "no time")?, signature })
    }
}

/// What a node shows of a logged receipt.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The receipt.
    pub receipt: Receipt,
    /// To whom the answer may be shown.
    pub disclose: Disclose,
    /// Request and answer, when the asker may see them and the node still has them.
    pub disclosure: Option<Disclosure>,
}

/// A token's log-probability, and those of the likeliest tokens at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: ScoredToken,
    /// The likeliest tokens, best first.
    pub top: Vec<ScoredToken>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its text.
    pub text: String,
    /// Its bytes; empty for special tokens.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// Embeddings of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// One vector a text.
    pub vectors: Vec<Vec<f32>>,
    /// Number of tokens of all texts.
    pub prompt_tokens: u32,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Whether it finishes its last answers and takes no more.
    pub draining: bool,
    /// Requests that wait.
    pub queued: usize,
    /// Requests in the batch.
    pub running: usize,
    /// Pages of keys and values in use, and how many there may be.
    pub pages: (usize, usize),
    /// Prompt tokens that came out of the prefix cache.
    pub cached_tokens: u64,
    /// Times an answer under way had to be computed anew.
    pub preemptions: u64,
}

/// An answer under way.
pub struct Started {
    /// Known before the first token.
    pub receipt_id: ReceiptId,
    /// The salt in use.
    pub nonce: B256,
    /// The rung that the receipt will have.
    pub rung: Rung,
    /// Who answers.
    pub node: Address,
    /// Name of the model.
    pub model: String,
    /// Content id of the model.
    pub model_id: ModelId,
    /// Wei per prompt token.
    pub price_input: u128,
    /// Wei per generated token.
    pub price_output: u128,
    /// Number of prompt tokens.
    pub prompt_tokens: u32,
    /// The claim's time, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Arithmetic version, for `system_fingerprint`.
    pub arithmetic_version: u16,
    /// What happens. Dropping it cancels the answer.
    pub events: mpsc::Receiver<GenerateEvent>,
    /// Makes the receipt.
    pub sealer: Box<dyn Sealer>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, or a stop string came up.
    Stop,
    /// A bound on tokens was reached.
    Length,
}

/// What happens while answers are made.
#[derive(Clone, Debug)]
pub enum GenerateEvent {
    /// A token came; its text may be empty.
    Token {
        /// Which of the answers.
        choice: u32,
        /// Text that is now certain.
        text: String,
        /// Its log-probability, when asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The end of one answer.
    Done {
        /// Which of the answers.
        choice: u32,
        /// Why.
        finish: Finish,
        /// Number of its generated tokens.
        completion_tokens: u32,
    },
    /// It failed.
    Failed(InferenceFault),
}

/// Signs and logs the receipt of one answer.
#[async_trait]
pub trait Sealer: Send {
    /// Called once, after the last [`GenerateEvent::Done`], with exactly the bytes that the client gets.
    async fn seal(self: Box<Self>, response: Bytes) -> Result<Seal, InferenceFault>;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InferenceFault {
    /// No such model.
    #[error("the model `{model}` does not exist here; available: {available}")]
    ModelNotFound {
        /// What was asked for.
        model: String,
        /// What there is.
        available: String,
    },
    /// The prompt does not fit.
    #[error("{0}")]
    ContextLengthExceeded(String),
    /// The request has a value that this model cannot use.
    #[error("{message}")]
    InvalidValue {
        /// What is wrong.
        message: String,
        /// Which field.
        param: &'static str,
    },
    /// Too many requests.
    #[error("{0}")]
    Busy(String),
    /// The node is shutting down.
    #[error("this node is shutting down; ask another one")]
    Draining,
    /// This node cannot give the rung.
    #[error(
        "this node cannot give the assurance `{0}`; it gives `signed`, `audited`, and `replicated` with others"
    )]
    AssuranceUnavailable(Rung),
    /// The request is not paid: nobody signed for it, the client owes too much, or its pocket for this node is too small.
    #[error("{0}")]
    PaymentRequired(String),
    /// The asker may not see this.
    #[error("{0}")]
    Forbidden(String),
    /// The same request with the same nonce was answered before.
    #[error("this nonce was already used with this request (receipt {0}); send a fresh og-nonce")]
    Duplicate(ReceiptId),
    /// The receipt must not be shown yet.
    #[error("this receipt is kept back until its group has committed, at most for a minute; ask again later")]
    KeptBack,
    /// No answer of this receipt is kept back here.
    #[error("no answer of receipt {0} waits to be revealed here; answers wait for a minute")]
    NotWithheld(ReceiptId),
    /// Our fault.
    #[error("{0}")]
    Internal(String),
}

/// Size and root of a node's receipt log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCheckpoint {
    /// Number of receipts.
    pub size: u64,
    /// Merkle root over them.
    pub root: B256,
    /// Largest size whose root is final on the ledger.
    pub posted_size: u64,
}

/// What the OpenAI server needs.
#[async_trait]
pub trait Inference: Send + Sync + 'static {
    /// Who answers.
    fn info(&self) -> NodeInfo;
    /// Starts answers.
    async fn generate(&self, job: GenerateJob, ticket: Ticket) -> Result<Started, InferenceFault>;
    /// Computes embeddings. The receipt is sealed as for generated text; its events are already over.
    async fn embed(
        &self,
        model: String,
        inputs: Vec<Input>,
        ticket: Ticket,
    ) -> Result<(Embedded, Started), InferenceFault>;
    /// Tokens of a text.
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, InferenceFault>;
    /// Text of tokens.
    fn detokenize(&self, tokens: &[u32]) -> Result<String, InferenceFault>;
    /// Keeps a sealed answer back and commits to it.
    async fn withhold(&self, _answer: Withheld) -> Result<Commitment, InferenceFault> {
        Err(InferenceFault::AssuranceUnavailable(Rung::Replicated))
    }
    /// Gives out an answer that was kept back.
    fn reveal(&self, id: ReceiptId, _request: &RevealRequest) -> Result<Revealed, InferenceFault> {
        Err(InferenceFault::NotWithheld(id))
    }
    /// How busy it is.
    fn load(&self) -> Load;
    /// More numbers for `/metrics`, in Prometheus' text format without its closing line.
    fn metrics(&self) -> String {
        String::new()
    }
    /// A receipt of the log, and its index.
    fn receipt(&self, id: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault>;
    /// The receipt at `index` of the log, and the answer behind it for whoever may see it. `size` is that of the batch that has it.
    /// [`InferenceFault::KeptBack`] until an answer for a group is revealed.
    async fn show(
        &self,
        index: u64,
        size: u64,
        pass: Option<AuditorPass>,
    ) -> Result<Option<Shown>, InferenceFault>;
    /// Takes a promise for answers that were given. Strangers' promises cost nothing: they are not kept.
    async fn pay(&self, promise: Promise) -> Result<(), InferenceFault>;
    /// The log's newest state.
    fn checkpoint(&self) -> LogCheckpoint;
    /// Inclusion of leaf `index` in the log's first `size` leaves.
    fn inclusion(&self, index: u64, size: u64) -> Option<LogProof>;
}
