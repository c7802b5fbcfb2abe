//! From JSON to a checked job. Fields that OpenAI defines and this server does not know are ignored, unless
//! ignoring them would change the answer: those are refused by name.

mod chat;
mod embeddings;
mod fields;
mod responses;
mod text;

use super::error::Fault;
use crate::openai::tools::ToolParser;
use crate::ports::GenerateJob;
pub use embeddings::EmbeddingsRequest;
use fields::Fields;
use serde_json::{Map, Value};

/// Which endpoint a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
}

impl Endpoint {
    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
        }
    }

    /// The endpoint that takes a body with these fields, for whoever checks an answer later: each has another name for what is
    /// asked.
    pub fn of(body: &[u8]) -> Option<Self> {
        let object: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let has = |name: &str| object.get(name).is_some_and(|v| !v.is_null());
        match (has("messages"), has("prompt"), has("input")) {
            (true, _, _) => Some(Self::Chat),
            (false, true, _) => Some(Self::Completions),
            (false, false, true) => Some(Self::Responses),
            _ => None,
        }
    }
}

/// A parsed request for generated text: the job, and how the answer is to be sent.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What to compute.
    pub job: GenerateJob,
    /// Which endpoint it came to.
    pub endpoint: Endpoint,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with a usage chunk.
    pub include_usage: bool,
    /// Tools whose calls are looked for in the text.
    pub tool_names: Vec<String>,
    /// Most calls of one answer.
    pub calls_max: usize,
    /// Text that is repeated in front of each answer (`echo` of completions).
    pub echo: Option<String>,
    /// Fields that a `/v1/responses` answer repeats.
    pub repeated: Value,
}

impl GenerateRequest {
    /// Reads a request body as the server does, for whoever checks an answer later.
    ///
    /// # Errors
    /// The server's words for what is wrong.
    pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, String> {
        Self::parse(endpoint, body).map_err(|fault| fault.message)
    }

    /// A parser for one answer, when there are tools to call.
    pub(crate) fn tool_parser(&self) -> Option<ToolParser> {
        (!self.tool_names.is_empty()).then(|| ToolParser::new(self.tool_names.clone(), self.calls_max))
    }

    pub(crate) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, Fault> {
        let object = fields::object(body)?;
        let fields = Fields(&object);
        match endpoint {
            Endpoint::Chat => chat::parse(&fields),
            Endpoint::Completions => text::parse(&fields),
            Endpoint::Responses => responses::parse(&fields),
        }
    }
}
