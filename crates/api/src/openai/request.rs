//! From JSON to a checked job. Fields that OpenAI defines and this server does not know are ignored, unless
//! ignoring them would change the answer: those are refused by name.

use super::error::Fault;
use crate::ports::ChatRole;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use types::Sampling;

const MESSAGES_MAX: usize = 1024;
const STOP_MAX: usize = 4;

/// A parsed chat request.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// Model name or id.
    pub model: String,
    /// The conversation.
    pub messages: Vec<(ChatRole, String)>,
    /// Sampling parameters; the seed is 0 when none was given.
    pub sampling: Sampling,
    /// Whether the client chose the seed.
    pub seed_given: bool,
    /// Bound on generated tokens.
    pub max_tokens: Option<u32>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with a usage chunk.
    pub include_usage: bool,
}

/// Fields that would change the answer, with the values that mean "not used".
const UNSUPPORTED: [(&str, &[&str]); 9] = [
    ("tools", &["[]"]),
    ("functions", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("logit_bias", &["{}"]),
    ("audio", &[]),
    ("modalities", &["[\"text\"]"]),
    ("web_search_options", &[]),
];

impl ChatRequest {
    /// Reads a request body as the server does, for whoever checks an answer later.
    ///
    /// # Errors
    /// The server's words for what is wrong.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        Self::parse(body).map_err(|fault| fault.message)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let value: Value = serde_json::from_slice(body).map_err(|e| {
            Fault::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {e}"))
        })?;
        let Value::Object(object) = value else {
            return Err(Fault::new(
                StatusCode::BAD_REQUEST,
                "invalid_json",
                "the body must be a JSON object",
            ));
        };
        let fields = Fields(&object);
        for (name, unused) in UNSUPPORTED {
            if let Some(v) = fields.get(name)
                && !unused.contains(&v.to_string().as_str())
            {
                return Err(Fault::invalid(name, format!("`{name}` is not supported by this server")));
            }
        }
        if fields.get("n").is_some_and(|n| n.as_u64() != Some(1)) {
            return Err(Fault::invalid("n", "`n` must be 1"));
        }
        if let Some(format) = fields.get("response_format")
            && format["type"] != "text"
        {
            return Err(Fault::invalid("response_format", "`response_format` must be {\"type\": \"text\"}"));
        }
        let options = fields.get("stream_options").and_then(Value::as_object);
        Ok(Self {
            model: fields.string("model")?.ok_or_else(|| Fault::missing("model"))?,
            messages: messages(fields.get("messages").ok_or_else(|| Fault::missing("messages"))?)?,
            sampling: sampling(&fields)?,
            seed_given: fields.get("seed").is_some(),
            max_tokens: fields
                .integer("max_completion_tokens", 1, u64::from(u32::MAX))?
                .or(fields.integer("max_tokens", 1, u64::from(u32::MAX))?)
                .map(|n| n as u32),
            stop: stop(fields.get("stop"))?,
            stream: fields.boolean("stream")?.unwrap_or(false),
            include_usage: options
                .and_then(|o| o.get("include_usage"))
                .and_then(Value::as_bool)
                .unwrap_or(false),
        })
    }
}

/// Typed access to an object; JSON null counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    fn string(&self, name: &str) -> Result<Option<String>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be a string"));
        self.get(name).map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).transpose()
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be true or false"));
        self.get(name).map(|v| v.as_bool().ok_or_else(wrong)).transpose()
    }

    fn integer(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be an integer from {min} to {max}"));
        self.get(name).map(|v| v.as_u64().filter(|n| (min..=max).contains(n)).ok_or_else(wrong)).transpose()
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be a number"));
        self.get(name).map_or(Ok(default), |v| v.as_f64().map(|x| x as f32).ok_or_else(wrong))
    }
}

fn sampling(fields: &Fields<'_>) -> Result<Sampling, Fault> {
    let seed = match fields.get("seed") {
        None => 0,
        // OpenAI's seed is a signed 64-bit integer.
        Some(v) => v
            .as_u64()
            .or(v.as_i64().map(|n| n as u64))
            .ok_or_else(|| Fault::invalid("seed", "`seed` must be a 64-bit integer"))?,
    };
    let sampling = Sampling {
        temperature: fields.float("temperature", 1.0)?,
        top_p: fields.float("top_p", 1.0)?,
        min_p: fields.float("min_p", 0.0)?,
        top_k: fields.integer("top_k", 0, u64::from(u32::MAX))?.unwrap_or(0) as u32,
        presence_penalty: fields.float("presence_penalty", 0.0)?,
        frequency_penalty: fields.float("frequency_penalty", 0.0)?,
        seed,
    };
    match sampling.validate() {
        Ok(()) => Ok(sampling),
        Err(types::TypesError::BadSampling { name, expected }) => {
            Err(Fault::invalid(name, format!("`{name}` must be {expected}")))
        }
        Err(e) => Err(Fault::invalid("temperature", e.to_string())),
    }
}

fn stop(value: Option<&Value>) -> Result<Vec<String>, Fault> {
    let wrong =
        || Fault::invalid("stop", format!("`stop` must be a string or up to {STOP_MAX} strings, none empty"));
    let list = match value {
        None => return Ok(vec![]),
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(a)) => a
            .iter()
            .map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<Vec<_>, _>>()?,
        Some(_) => return Err(wrong()),
    };
    if list.len() > STOP_MAX || list.iter().any(String::is_empty) { Err(wrong()) } else { Ok(list) }
}

fn messages(value: &Value) -> Result<Vec<(ChatRole, String)>, Fault> {
    let list = value.as_array().ok_or_else(|| Fault::invalid("messages", "`messages` must be an array"))?;
    if list.is_empty() || list.len() > MESSAGES_MAX {
        return Err(Fault::invalid("messages", format!("`messages` must have 1 to {MESSAGES_MAX} elements")));
    }
    list.iter().enumerate().map(|(i, m)| message(i, m)).collect()
}

fn message(i: usize, value: &Value) -> Result<(ChatRole, String), Fault> {
    let role = match value["role"].as_str() {
        Some("system" | "developer") => ChatRole::System,
        Some("user") => ChatRole::User,
        Some("assistant") => ChatRole::Assistant,
        _ => {
            let param = format!("messages[{i}].role");
            return Err(Fault::invalid(
                &param,
                format!("`{param}` must be system, developer, user or assistant"),
            ));
        }
    };
    let param = format!("messages[{i}].content");
    let content = match &value["content"] {
        Value::String(s) => s.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|p| (p["type"] == "text").then(|| p["text"].as_str()).flatten())
            .collect::<Option<String>>()
            .ok_or_else(|| Fault::invalid(&param, format!("`{param}` may only have parts of type text")))?,
        _ => {
            return Err(Fault::invalid(
                &param,
                format!("`{param}` must be a string or an array of text parts"),
            ));
        }
    };
    Ok((role, content))
}
