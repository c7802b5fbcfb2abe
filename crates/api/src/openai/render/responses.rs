//! `/v1/responses`: a response is a list of items; a stream tells how they come about, in numbered events.

use super::{Meta, Render, logprob_json};
use crate::{
    openai::{
        request::GenerateRequest,
        tools::{Piece, ToolParser},
    },
    ports::{Finish, TokenLogprob},
};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

/// An item of the output.
enum Item {
    Message { text: String, logprobs: Vec<Value> },
    Call { name: String, arguments: String },
}

pub(super) struct Responses {
    meta: Meta,
    repeated: Value,
    parser: Option<ToolParser>,
    logprobs: bool,
    unsent: Vec<Value>,
    items: Vec<Item>,
    sequence: u64,
    completion_tokens: u32,
    finish: Option<Finish>,
}

impl Responses {
    pub(super) fn new(request: &GenerateRequest, meta: Meta) -> Self {
        Self {
            meta,
            repeated: request.repeated.clone(),
            parser: request.tool_parser(),
            logprobs: request.job.top_logprobs.is_some(),
            unsent: Vec::new(),
            items: Vec::new(),
            sequence: 0,
            completion_tokens: 0,
            finish: None,
        }
    }

    fn response(&self) -> Value {
        let usage = match self.finish {
            None => Value::Null,
            Some(_) => json!({
                "input_tokens": self.meta.prompt_tokens, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.completion_tokens, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": u64::from(self.meta.prompt_tokens) + u64::from(self.completion_tokens),
            }),
        };
        let (status, incomplete) = match self.finish {
            None => ("in_progress", Value::Null),
            Some(Finish::Stop) => ("completed", Value::Null),
            Some(Finish::Length) => ("incomplete", json!({"reason": "max_output_tokens"})),
        };
        let output: Vec<Value> = match self.finish {
            None => vec![],
            Some(_) => (0..self.items.len()).map(|i| self.item(i, true)).collect(),
        };
        let mut value = json!({
            "id": format!("resp_{}", self.meta.short_id()), "object": "response", "created_at": self.meta.created,
            "status": status, "error": null, "incomplete_details": incomplete, "model": self.meta.model,
            "output": output, "previous_response_id": null, "store": false, "truncation": "disabled", "usage": usage,
            "system_fingerprint": self.meta.fingerprint,
        });
        if let (Some(value), Some(repeated)) = (value.as_object_mut(), self.repeated.as_object()) {
            value.extend(repeated.clone());
        }
        value
    }

    fn item_id(&self, index: usize) -> String {
        let kind = if matches!(self.items[index], Item::Call { .. }) { "fc" } else { "msg" };
        format!("{kind}_{}{index:02x}", &self.meta.short_id()[..24])
    }

    fn item(&self, index: usize, done: bool) -> Value {
        let id = self.item_id(index);
        let cut = index + 1 == self.items.len() && self.finish == Some(Finish::Length);
        let status = if cut {
            "incomplete"
        } else if done {
            "completed"
        } else {
            "in_progress"
        };
        match &self.items[index] {
            Item::Message { text, logprobs } => {
                let content = if done { vec![part(text, logprobs)] } else { vec![] };
                json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
            }
            Item::Call { name, arguments } => json!({
                "id": id, "type": "function_call", "status": status, "name": name,
                "arguments": if done { arguments.as_str() } else { "" },
                "call_id": format!("call_{}{index:02x}", &self.meta.short_id()[..24]),
            }),
        }
    }

    fn event(&mut self, out: &mut BytesMut, kind: &str, mut value: Value) {
        value["type"] = json!(kind);
        value["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.extend_from_slice(format!("event: {kind}\ndata: {value}\n\n").as_bytes());
    }

    fn open(&mut self, out: &mut BytesMut, item: Item) {
        self.close(out);
        let message = matches!(item, Item::Message { .. });
        self.items.push(item);
        let index = self.items.len() - 1;
        let item = self.item(index, false);
        self.event(out, "response.output_item.added", json!({"output_index": index, "item": item}));
        if message {
            let value = json!({"item_id": self.item_id(index), "output_index": index, "content_index": 0,
                "part": part("", &[])});
            self.event(out, "response.content_part.added", value);
        }
    }

    /// Ends the newest item, if there is one that is open.
    fn close(&mut self, out: &mut BytesMut) {
        let Some(index) = self.items.len().checked_sub(1) else { return };
        let id = self.item_id(index);
        match &self.items[index] {
            Item::Message { text, logprobs } => {
                let (text, part, logprobs) = (text.clone(), part(text, logprobs), logprobs.clone());
                let place = json!({"item_id": id, "output_index": index, "content_index": 0});
                let mut value = place.clone();
                (value["text"], value["logprobs"]) = (json!(text), json!(logprobs));
                self.event(out, "response.output_text.done", value);
                let mut value = place;
                value["part"] = part;
                self.event(out, "response.content_part.done", value);
            }
            Item::Call { name, arguments } => {
                let value =
                    json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments});
                self.event(out, "response.function_call_arguments.done", value);
            }
        }
        let item = self.item(index, true);
        self.event(out, "response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn pieces(&mut self, pieces: Vec<Piece>) -> Bytes {
        let mut out = BytesMut::new();
        for piece in pieces {
            match piece {
                Piece::Content(delta) => {
                    if !matches!(self.items.last(), Some(Item::Message { .. })) {
                        self.open(&mut out, Item::Message { text: String::new(), logprobs: vec![] });
                    }
                    let (index, unsent) = (self.items.len() - 1, std::mem::take(&mut self.unsent));
                    if let Some(Item::Message { text, logprobs }) = self.items.last_mut() {
                        text.push_str(&delta);
                        logprobs.extend(unsent.iter().cloned());
                    }
                    let value = json!({"item_id": self.item_id(index), "output_index": index, "content_index": 0,
                        "delta": delta, "logprobs": unsent});
                    self.event(&mut out, "response.output_text.delta", value);
                }
                Piece::Call { name, .. } => {
                    self.open(&mut out, Item::Call { name, arguments: String::new() });
                }
                Piece::Arguments { text, .. } => {
                    let index = self.items.len() - 1;
                    if let Some(Item::Call { arguments, .. }) = self.items.last_mut() {
                        arguments.push_str(&text);
                    }
                    let value = json!({"item_id": self.item_id(index), "output_index": index, "delta": text});
                    self.event(&mut out, "response.function_call_arguments.delta", value);
                }
            }
        }
        out.freeze()
    }
}

/// The text part of a message.
fn part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

impl Render for Responses {
    fn begin(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response();
            self.event(&mut out, kind, json!({"response": response}));
        }
        out.freeze()
    }

    fn token(&mut self, _choice: u32, text: &str, logprob: Option<&TokenLogprob>) -> Bytes {
        if self.logprobs {
            self.unsent.extend(logprob.map(logprob_json));
        }
        let pieces = match &mut self.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => vec![],
            None => vec![Piece::Content(text.to_owned())],
        };
        self.pieces(pieces)
    }

    fn done(&mut self, _choice: u32, finish: Finish, completion_tokens: u32) -> Bytes {
        self.completion_tokens += completion_tokens;
        let rest = self.parser.as_mut().map(ToolParser::finish).unwrap_or_default();
        let mut out = BytesMut::from(&self.pieces(rest)[..]);
        if self.items.is_empty() {
            // An empty answer is a message without text.
            self.open(&mut out, Item::Message { text: String::new(), logprobs: vec![] });
        }
        self.finish = Some(finish);
        self.close(&mut out);
        out.freeze()
    }

    fn end(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        let kind = match self.finish {
            Some(Finish::Length) => "response.incomplete",
            _ => "response.completed",
        };
        let response = self.response();
        self.event(&mut out, kind, json!({"response": response}));
        out.freeze()
    }

    fn body(&mut self) -> String {
        self.response().to_string()
    }
}
