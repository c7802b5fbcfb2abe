//! From the server's requests to the engine's jobs. Whoever replays an answer goes the same way.

use api::ports::{ChatRole, Format, GenerateJob, InferenceFault, Input, ScoredToken, TokenLogprob};
use engine::{ChatMessage, Choosing, Constraint, EngineError, Model, Role, TokenLogprobs, ToolCall};
use types::Sampling;

/// Separates the answers of one request, and the texts of a request for embeddings, in lists of tokens. No token has this id.
pub(crate) const SEPARATOR: u32 = u32::MAX;

/// The server's words for what the engine refuses.
pub(crate) fn fault(e: EngineError) -> InferenceFault {
    let message = e.to_string();
    let invalid = |param| InferenceFault::InvalidValue { message: message.clone(), param };
    match e {
        EngineError::PromptTooLong { .. } => InferenceFault::ContextLengthExceeded(message),
        EngineError::QueueFull { .. } => InferenceFault::Busy(message),
        EngineError::Stopped => InferenceFault::Draining,
        EngineError::Stop => invalid("stop"),
        EngineError::Template(_) | EngineError::EmptyPrompt => invalid("messages"),
        EngineError::Sampling(_) => invalid("temperature"),
        EngineError::LogitBias => invalid("logit_bias"),
        EngineError::Grammar(_) => invalid("response_format"),
        EngineError::UnknownToken { .. } => invalid("prompt"),
        EngineError::OnlyEmbeddings | EngineError::NoEmbeddings => invalid("model"),
        _ => InferenceFault::Internal(message),
    }
}

/// Prompt tokens of an input; `now_unix` (seconds) is the clock that templates see.
pub(crate) fn prompt(model: &Model, input: &Input, now_unix: u64) -> Result<Vec<u32>, EngineError> {
    match input {
        Input::Text(text) => model.tokenizer().encode_prompt(text),
        Input::Tokens(tokens) => Ok(tokens.clone()),
        Input::Chat { messages, tools } => {
            let messages: Vec<ChatMessage> = messages
                .iter()
                .map(|m| ChatMessage {
                    role: match m.role {
                        ChatRole::System => Role::System,
                        ChatRole::User => Role::User,
                        ChatRole::Assistant => Role::Assistant,
                        ChatRole::Tool => Role::Tool,
                    },
                    content: m.content.clone(),
                    tool_calls: m
                        .tool_calls
                        .iter()
                        .map(|c| ToolCall {
                            id: c.id.clone(),
                            name: c.name.clone(),
                            arguments: c.arguments.clone(),
                        })
                        .collect(),
                    tool_call_id: m.tool_call_id.clone(),
                })
                .collect();
            model.chat_prompt(&messages, tools, now_unix)
        }
    }
}

/// What decides the tokens of answer `choice`. `sampling` has the seed that is used.
pub(crate) fn choosing(
    model: &Model,
    job: &GenerateJob,
    sampling: Sampling,
    choice: u32,
) -> Result<Choosing, EngineError> {
    let constraint = match &job.format {
        Format::Text => None,
        Format::JsonObject => Some(Constraint::json_object(model)?),
        Format::JsonSchema(schema) => Some(Constraint::json_schema(model, schema)?),
        Format::ToolCalls { tools, parallel } => Some(Constraint::tool_calls(model, tools, *parallel)?),
    };
    Ok(Choosing { sampling, choice, logit_bias: job.logit_bias.clone(), constraint })
}

/// Log-probabilities with the tokens' texts.
pub(crate) fn logprob(model: &Model, token: u32, l: &TokenLogprobs) -> TokenLogprob {
    let scored = |id: u32, logprob: f64| ScoredToken {
        text: model.token_text(id),
        bytes: model.tokenizer().token_bytes(id).to_vec(),
        logprob,
    };
    TokenLogprob { token: scored(token, l.logprob), top: l.top.iter().map(|(t, l)| scored(*t, *l)).collect() }
}

/// Tokens of one input of a request for embeddings.
pub(crate) fn embedding_tokens(model: &Model, input: &Input) -> Result<Vec<u32>, EngineError> {
    match input {
        Input::Text(text) => model.tokenizer().encode_for_embedding(text),
        Input::Tokens(tokens) => Ok(tokens.clone()),
        Input::Chat { .. } => Err(EngineError::EmptyPrompt),
    }
}

/// Several lists as one, with separators between them.
pub(crate) fn join(lists: &[Vec<u32>]) -> Vec<u32> {
    lists.join(&SEPARATOR)
}
