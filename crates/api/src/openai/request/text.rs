//! `/v1/completions`: raw prompts.

use super::{Endpoint, Fault, Fields, GenerateRequest};
use crate::ports::{Format, GenerateJob, Input};
use serde_json::Value;

/// Tokens of an answer when the request does not say: OpenAI's default.
const MAX_TOKENS_DEFAULT: u32 = 16;
const LOGPROBS_MAX: u64 = 5;

pub(super) fn parse(fields: &Fields<'_>) -> Result<GenerateRequest, Fault> {
    fields.refuse(&[("suffix", &["\"\""]), ("best_of", &["1"]), ("messages", &[]), ("input", &[])])?;
    let wrong = || {
        Fault::invalid(
            "prompt",
            "`prompt` must be one string or one array of token ids; several prompts need several requests",
        )
    };
    let ids = |list: &[Value]| list.iter().map(|v| v.as_u64()?.try_into().ok()).collect::<Option<Vec<u32>>>();
    let input = match fields.get("prompt").ok_or_else(|| Fault::missing("prompt"))? {
        Value::String(s) => Input::Text(s.clone()),
        Value::Array(list) => match list.as_slice() {
            [Value::String(s)] => Input::Text(s.clone()),
            [Value::Array(inner)] => Input::Tokens(ids(inner).ok_or_else(wrong)?),
            list => Input::Tokens(ids(list).ok_or_else(wrong)?),
        },
        _ => return Err(wrong()),
    };
    let echo = match (&input, fields.boolean("echo")?.unwrap_or(false)) {
        (_, false) => None,
        (Input::Text(text), true) => Some(text.clone()),
        _ => return Err(Fault::invalid("echo", "`echo` needs a prompt of text")),
    };
    let job = GenerateJob {
        model: fields.model()?,
        input,
        sampling: fields.sampling()?,
        seed_given: fields.get("seed").is_some(),
        max_tokens: Some(
            fields.integer("max_tokens", 1, u64::from(u32::MAX))?.map_or(MAX_TOKENS_DEFAULT, |n| n as u32),
        ),
        stop: fields.stop()?,
        n: fields.n()?,
        logit_bias: fields.logit_bias()?,
        top_logprobs: fields.integer("logprobs", 0, LOGPROBS_MAX)?.map(|n| n as u8),
        format: Format::Text,
    };
    Ok(GenerateRequest {
        job,
        endpoint: Endpoint::Completions,
        stream: fields.boolean("stream")?.unwrap_or(false),
        include_usage: fields.include_usage(),
        tool_names: vec![],
        calls_max: 0,
        echo,
        repeated: Value::Null,
    })
}
