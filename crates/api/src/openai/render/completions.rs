//! `/v1/completions`.

use super::{Meta, Render, data, finish_word, usage};
use crate::{
    openai::request::GenerateRequest,
    ports::{Finish, ScoredToken, TokenLogprob},
};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

struct Choice {
    text: String,
    logprobs: Vec<TokenLogprob>,
    unsent: Vec<TokenLogprob>,
    /// Characters in front of the first unsent token.
    offset: usize,
    finish: Value,
}

pub(super) struct Completions {
    meta: Meta,
    include_usage: bool,
    logprobs: bool,
    choices: Vec<Choice>,
    echo: Option<String>,
    completion_tokens: u32,
}

impl Completions {
    pub(super) fn new(request: &GenerateRequest, meta: Meta) -> Self {
        let echo = request.echo.clone().unwrap_or_default();
        let choice = |_| Choice {
            text: echo.clone(),
            logprobs: Vec::new(),
            unsent: Vec::new(),
            offset: echo.chars().count(),
            finish: Value::Null,
        };
        Self {
            meta,
            include_usage: request.include_usage,
            logprobs: request.job.top_logprobs.is_some(),
            choices: (0..request.job.n).map(choice).collect(),
            echo: request.echo.clone(),
            completion_tokens: 0,
        }
    }

    fn frame(&self, choices: Value) -> Value {
        json!({
            "id": format!("cmpl-{}", self.meta.short_id()), "object": "text_completion", "created": self.meta.created,
            "model": self.meta.model, "system_fingerprint": self.meta.fingerprint, "choices": choices,
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Bytes {
        let mut chunk = self.frame(choices);
        if self.include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        data(&chunk)
    }

    fn delta(&mut self, choice: u32, text: &str, finish: Value) -> Bytes {
        let logprobs = self.logprobs;
        let this = &mut self.choices[choice as usize];
        let unsent = std::mem::take(&mut this.unsent);
        let logprobs = if logprobs { logprobs_json(&unsent, &mut this.offset) } else { Value::Null };
        self.chunk(
            json!([{"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}]),
            None,
        )
    }
}

/// The older shape of log-probabilities: lists side by side.
fn logprobs_json(list: &[TokenLogprob], offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for l in list {
        offsets.push(*offset);
        *offset += l.token.text.chars().count();
    }
    let top = |l: &TokenLogprob| -> Map<String, Value> {
        l.top.iter().map(|t: &ScoredToken| (t.text.clone(), json!(t.logprob))).collect()
    };
    json!({
        "tokens": list.iter().map(|l| l.token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": list.iter().map(|l| l.token.logprob).collect::<Vec<_>>(),
        "top_logprobs": list.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

impl Render for Completions {
    fn begin(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        if let Some(echo) = self.echo.clone() {
            for i in 0..self.choices.len() as u32 {
                out.extend_from_slice(&self.delta(i, &echo, Value::Null));
            }
        }
        out.freeze()
    }

    fn token(&mut self, choice: u32, text: &str, logprob: Option<&TokenLogprob>) -> Bytes {
        let this = &mut self.choices[choice as usize];
        if let Some(l) = logprob {
            this.logprobs.push(l.clone());
            this.unsent.push(l.clone());
        }
        this.text.push_str(text);
        if text.is_empty() { Bytes::new() } else { self.delta(choice, text, Value::Null) }
    }

    fn done(&mut self, choice: u32, finish: Finish, completion_tokens: u32) -> Bytes {
        self.completion_tokens += completion_tokens;
        let word = json!(finish_word(finish, 0));
        self.choices[choice as usize].finish = word.clone();
        self.delta(choice, "", word)
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
        let offset = self.echo.as_ref().map_or(0, |e| e.chars().count());
        let choices: Vec<Value> = self
            .choices
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut from = offset;
                let logprobs =
                    if self.logprobs { logprobs_json(&c.logprobs, &mut from) } else { Value::Null };
                json!({"index": i, "text": c.text, "logprobs": logprobs, "finish_reason": c.finish})
            })
            .collect();
        let mut body = self.frame(Value::from(choices));
        body["usage"] = usage(self.meta.prompt_tokens, self.completion_tokens);
        body.to_string()
    }
}
