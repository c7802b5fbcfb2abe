//! From tokens to the bytes of a response. Rendering is pure, so whoever replays an answer can render it again and compare every
//! byte with what was sent.

mod chat;
mod completions;
mod responses;

use super::request::{Endpoint, GenerateRequest};
use crate::ports::{Finish, TokenLogprob};
use bytes::Bytes;
use serde_json::{Value, json};
use types::ReceiptId;

/// What a response says besides the text.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Its receipt.
    pub receipt_id: ReceiptId,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// Names arithmetic and model.
    pub fingerprint: String,
    /// Number of prompt tokens.
    pub prompt_tokens: u32,
}

impl Meta {
    /// The fingerprint of a model under an arithmetic version.
    pub fn fingerprint(arithmetic_version: u16, model_id: &str) -> String {
        format!("exact-v{arithmetic_version}-{}", model_id.get(2..10).unwrap_or_default())
    }

    /// The first 32 hexadecimal digits of the receipt id: what response ids are made of.
    fn short_id(&self) -> String {
        self.receipt_id.to_string()[2..34].to_owned()
    }
}

/// Turns the events of a request's answers into a response. The stream is `begin`, then what `token` and `done` give in the order of
/// events, then `end`; the whole response is `body`, after all are done.
pub trait Render: Send {
    /// The stream's first bytes.
    fn begin(&mut self) -> Bytes;
    /// A token of answer `choice`; empty when there is nothing to show yet.
    fn token(&mut self, choice: u32, text: &str, logprob: Option<&TokenLogprob>) -> Bytes;
    /// The end of answer `choice`.
    fn done(&mut self, choice: u32, finish: Finish, completion_tokens: u32) -> Bytes;
    /// The stream's last bytes.
    fn end(&mut self) -> Bytes;
    /// The body of a response that is not streamed.
    fn body(&mut self) -> String;
}

/// The renderer of a request's response.
pub fn renderer(request: &GenerateRequest, meta: Meta) -> Box<dyn Render> {
    match request.endpoint {
        Endpoint::Chat => Box::new(chat::Chat::new(request, meta)),
        Endpoint::Completions => Box::new(completions::Completions::new(request, meta)),
        Endpoint::Responses => Box::new(responses::Responses::new(request, meta)),
    }
}

fn finish_word(finish: Finish, calls: usize) -> &'static str {
    match finish {
        Finish::Stop if calls > 0 => "tool_calls",
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn usage(prompt_tokens: u32, completion_tokens: u32) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": u64::from(prompt_tokens) + u64::from(completion_tokens),
    })
}

fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// Log-probabilities in the shape of chat completions and responses.
fn logprob_json(l: &TokenLogprob) -> Value {
    let one =
        |t: &crate::ports::ScoredToken| json!({"token": t.text, "logprob": t.logprob, "bytes": t.bytes});
    let mut value = one(&l.token);
    value["top_logprobs"] = l.top.iter().map(one).collect();
    value
}
