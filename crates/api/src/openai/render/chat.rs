//! `/v1/chat/completions`.

use super::{Meta, Render, data, finish_word, logprob_json, usage};
use crate::{
    openai::{
        request::GenerateRequest,
        tools::{Piece, ToolParser},
    },
    ports::{Finish, TokenLogprob},
};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

/// One answer so far.
struct Choice {
    parser: Option<ToolParser>,
    content: String,
    calls: Vec<(String, String)>,
    logprobs: Vec<Value>,
    /// Log-probabilities of tokens whose text is still held back.
    unsent: Vec<Value>,
    finish: Value,
}

pub(super) struct Chat {
    meta: Meta,
    include_usage: bool,
    logprobs: bool,
    choices: Vec<Choice>,
    completion_tokens: u32,
}

impl Chat {
    pub(super) fn new(request: &GenerateRequest, meta: Meta) -> Self {
        let choice = |_| Choice {
            parser: request.tool_parser(),
            content: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            unsent: Vec::new(),
            finish: Value::Null,
        };
        Self {
            meta,
            include_usage: request.include_usage,
            logprobs: request.job.top_logprobs.is_some(),
            choices: (0..request.job.n).map(choice).collect(),
            completion_tokens: 0,
        }
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Bytes {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.meta.short_id()), "object": "chat.completion.chunk",
            "created": self.meta.created, "model": self.meta.model,
            "system_fingerprint": self.meta.fingerprint, "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        data(&chunk)
    }

    fn delta(&self, choice: u32, delta: Value, logprobs: Value, finish: Value) -> Bytes {
        let choice = json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        self.chunk(json!([choice]), None)
    }

    fn call_id(&self, choice: u32, index: usize) -> String {
        format!("call_{}{choice:02x}{index:02x}", &self.meta.short_id()[..20])
    }

    /// The chunks of some pieces; the log-probabilities go with the first.
    fn pieces(&mut self, choice: u32, pieces: Vec<Piece>) -> Bytes {
        let mut out = BytesMut::new();
        for piece in pieces {
            let call_id = |index| self.call_id(choice, index);
            let delta = match &piece {
                Piece::Content(text) => json!({"content": text}),
                Piece::Call { index, name } => json!({"tool_calls": [{
                    "index": index, "id": call_id(*index), "type": "function", "function": {"name": name, "arguments": ""},
                }]}),
                Piece::Arguments { index, text } => {
                    json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
                }
            };
            let this = &mut self.choices[choice as usize];
            match piece {
                Piece::Content(text) => this.content.push_str(&text),
                Piece::Call { name, .. } => this.calls.push((name, String::new())),
                Piece::Arguments { text, .. } => {
                    if let Some(call) = this.calls.last_mut() {
                        call.1.push_str(&text);
                    }
                }
            }
            let unsent = std::mem::take(&mut this.unsent);
            let logprobs =
                if unsent.is_empty() { Value::Null } else { json!({"content": unsent, "refusal": null}) };
            out.extend_from_slice(&self.delta(choice, delta, logprobs, Value::Null));
        }
        out.freeze()
    }
}

impl Render for Chat {
    fn begin(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        for i in 0..self.choices.len() as u32 {
            let delta = json!({"role": "assistant", "content": ""});
            out.extend_from_slice(&self.delta(i, delta, Value::Null, Value::Null));
        }
        out.freeze()
    }

    fn token(&mut self, choice: u32, text: &str, logprob: Option<&TokenLogprob>) -> Bytes {
        let this = &mut self.choices[choice as usize];
        if let Some(l) = logprob.map(logprob_json) {
            this.unsent.push(l.clone());
            this.logprobs.push(l);
        }
        let pieces = match &mut this.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => vec![],
            None => vec![Piece::Content(text.to_owned())],
        };
        self.pieces(choice, pieces)
    }

    fn done(&mut self, choice: u32, finish: Finish, completion_tokens: u32) -> Bytes {
        self.completion_tokens += completion_tokens;
        let rest = self.choices[choice as usize].parser.as_mut().map(ToolParser::finish).unwrap_or_default();
        let mut out = BytesMut::from(&self.pieces(choice, rest)[..]);
        let this = &mut self.choices[choice as usize];
        let calls = this.parser.as_ref().map_or(0, ToolParser::calls);
        this.finish = json!(finish_word(finish, calls));
        let (finish, unsent) = (this.finish.clone(), std::mem::take(&mut this.unsent));
        let logprobs =
            if unsent.is_empty() { Value::Null } else { json!({"content": unsent, "refusal": null}) };
        out.extend_from_slice(&self.delta(choice, json!({}), logprobs, finish));
        out.freeze()
    }

    fn end(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        if self.include_usage {
            let usage = usage(self.meta.prompt_tokens, self.completion_tokens);
            out.extend_from_slice(&self.chunk(json!([]), Some(usage)));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        out.freeze()
    }

    fn body(&mut self) -> String {
        let choices: Vec<Value> = self
            .choices
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut message = json!({"role": "assistant", "content": c.content, "refusal": null});
                if !c.calls.is_empty() {
                    if c.content.trim().is_empty() {
                        message["content"] = Value::Null;
                    }
                    let call = |(index, (name, arguments)): (usize, &(String, String))| {
                        json!({"id": self.call_id(i as u32, index), "type": "function",
                            "function": {"name": name, "arguments": arguments}})
                    };
                    message["tool_calls"] = c.calls.iter().enumerate().map(call).collect();
                }
                let logprobs = match self.logprobs {
                    true => json!({"content": c.logprobs, "refusal": null}),
                    false => Value::Null,
                };
                json!({"index": i, "message": message, "logprobs": logprobs, "finish_reason": c.finish})
            })
            .collect();
        json!({
            "id": format!("chatcmpl-{}", self.meta.short_id()), "object": "chat.completion",
            "created": self.meta.created, "model": self.meta.model,
            "system_fingerprint": self.meta.fingerprint, "choices": choices,
            "usage": usage(self.meta.prompt_tokens, self.completion_tokens),
        })
        .to_string()
    }
}
