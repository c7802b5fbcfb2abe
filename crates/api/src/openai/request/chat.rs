//! `/v1/chat/completions`.

use super::{Endpoint, Fault, Fields, GenerateRequest, fields::TOP_LOGPROBS_MAX};
use crate::ports::{ChatMessage, ChatRole, Format, GenerateJob, Input, ToolCall};
use serde_json::{Value, json};

const MESSAGES_MAX: usize = 1024;
const TOOLS_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 64;

const UNSUPPORTED: [(&str, &[&str]); 6] = [
    ("functions", &["[]"]),
    ("function_call", &["\"none\""]),
    ("audio", &[]),
    ("modalities", &["[\"text\"]"]),
    ("web_search_options", &[]),
    ("prediction", &[]),
];

pub(super) fn parse(fields: &Fields<'_>) -> Result<GenerateRequest, Fault> {
    fields.refuse(&UNSUPPORTED)?;
    // The request's fields tell whoever checks the answer later which endpoint it was for.
    fields.refuse(&[("prompt", &[]), ("input", &[])])?;
    let model = fields.model()?;
    let messages = messages(fields.get("messages").ok_or_else(|| Fault::missing("messages"))?)?;
    let tools = tools(fields.get("tools"))?;
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let (tools, called) = choose_tools(tools, fields.get("tool_choice"), parallel)?;
    let format = match (called, response_format(fields.get("response_format"))?) {
        (None, format) => format,
        (Some(calls), Format::Text) => calls,
        (Some(_), _) => {
            let message = "a required tool call and a `response_format` exclude each other";
            return Err(Fault::invalid("tool_choice", message));
        }
    };
    let logprobs = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    if top.is_some_and(|n| n > 0) && !logprobs {
        return Err(Fault::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    let tool_names = names_of(&tools);
    let job = GenerateJob {
        model,
        input: Input::Chat { messages, tools },
        sampling: fields.sampling()?,
        seed_given: fields.get("seed").is_some(),
        max_tokens: fields
            .integer("max_completion_tokens", 1, u64::from(u32::MAX))?
            .or(fields.integer("max_tokens", 1, u64::from(u32::MAX))?)
            .map(|n| n as u32),
        stop: fields.stop()?,
        n: fields.n()?,
        logit_bias: fields.logit_bias()?,
        top_logprobs: logprobs.then_some(top.unwrap_or(0) as u8),
        format,
    };
    Ok(GenerateRequest {
        job,
        endpoint: Endpoint::Chat,
        stream: fields.boolean("stream")?.unwrap_or(false),
        include_usage: fields.include_usage(),
        tool_names,
        calls_max: calls_max(parallel),
        echo: None,
        repeated: Value::Null,
    })
}

/// Names of the tools' functions.
pub(super) fn names_of(tools: &[Value]) -> Vec<String> {
    tools.iter().filter_map(|t| t["function"]["name"].as_str().map(str::to_owned)).collect()
}

/// Most calls that are taken out of one answer.
pub(super) fn calls_max(parallel: bool) -> usize {
    if parallel { TOOLS_MAX } else { 1 }
}

/// `tools`: functions with sound names.
pub(super) fn tools(value: Option<&Value>) -> Result<Vec<Value>, Fault> {
    let Some(value) = value else { return Ok(vec![]) };
    let wrong = |m: &str| Fault::invalid("tools", format!("`tools` {m}"));
    let list = value.as_array().ok_or_else(|| wrong("must be an array"))?;
    if list.len() > TOOLS_MAX {
        return Err(wrong(&format!("must have at most {TOOLS_MAX} elements")));
    }
    for tool in list {
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
        if tool["type"] != "function"
            || name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || !name.bytes().all(sound)
        {
            return Err(wrong(
                "must be functions with names of up to 64 letters, digits, dots, dashes or underscores",
            ));
        }
        let parameters = &tool["function"]["parameters"];
        if !parameters.is_null() && !parameters.is_object() {
            return Err(wrong("must have JSON schemas as parameters"));
        }
    }
    Ok(list.clone())
}

/// The tools that the model sees, and the calls that it must make.
pub(super) fn choose_tools(
    tools: Vec<Value>,
    choice: Option<&Value>,
    parallel: bool,
) -> Result<(Vec<Value>, Option<Format>), Fault> {
    let wrong = |m: &str| Fault::invalid("tool_choice", m);
    let name_of = |tool: &Value| tool["function"]["name"].as_str().unwrap_or_default().to_owned();
    let all = |tools: &[Value]| -> Vec<(String, Value)> {
        let parameters = |t: &Value| match &t["function"]["parameters"] {
            Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            schema => schema.clone(),
        };
        tools.iter().map(|t| (name_of(t), parameters(t))).collect()
    };
    match choice {
        None => Ok((tools, None)),
        Some(Value::String(s)) if s == "auto" => Ok((tools, None)),
        Some(Value::String(s)) if s == "none" => Ok((vec![], None)),
        Some(_) if tools.is_empty() => Err(wrong("`tool_choice` needs `tools`")),
        Some(Value::String(s)) if s == "required" => {
            let calls = Format::ToolCalls { tools: all(&tools), parallel };
            Ok((tools, Some(calls)))
        }
        Some(named @ Value::Object(_)) => {
            let name = named["function"]["name"].as_str().or(named["name"].as_str()).unwrap_or_default();
            let chosen: Vec<Value> = tools.iter().filter(|t| name_of(t) == name).cloned().collect();
            if chosen.is_empty() {
                return Err(wrong("`tool_choice` names a function that is not in `tools`"));
            }
            let calls = Format::ToolCalls { tools: all(&chosen), parallel: false };
            Ok((tools, Some(calls)))
        }
        Some(_) => Err(wrong("`tool_choice` must be none, auto, required or a function of `tools`")),
    }
}

/// `response_format`.
pub(super) fn response_format(value: Option<&Value>) -> Result<Format, Fault> {
    let wrong = |m: &str| Fault::invalid("response_format", m);
    let Some(value) = value else { return Ok(Format::Text) };
    match value["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        Some("json_schema") => {
            // Chat completions wrap the schema in `json_schema`, responses do not.
            let schema = value["json_schema"].get("schema").or(value.get("schema"));
            match schema {
                Some(schema @ Value::Object(_)) => Ok(Format::JsonSchema(schema.clone())),
                _ => Err(wrong("`response_format` of type json_schema needs a `schema` object")),
            }
        }
        _ => Err(wrong("`response_format` must be of type text, json_object or json_schema")),
    }
}

fn messages(value: &Value) -> Result<Vec<ChatMessage>, Fault> {
    let list = value.as_array().ok_or_else(|| Fault::invalid("messages", "`messages` must be an array"))?;
    if list.is_empty() || list.len() > MESSAGES_MAX {
        return Err(Fault::invalid("messages", format!("`messages` must have 1 to {MESSAGES_MAX} elements")));
    }
    list.iter().enumerate().map(|(i, m)| message(i, m)).collect()
}

fn message(i: usize, value: &Value) -> Result<ChatMessage, Fault> {
    let role = match value["role"].as_str() {
        Some("system" | "developer") => ChatRole::System,
        Some("user") => ChatRole::User,
        Some("assistant") => ChatRole::Assistant,
        Some("tool") => ChatRole::Tool,
        _ => {
            let param = format!("messages[{i}].role");
            return Err(Fault::invalid(
                &param,
                format!("`{param}` must be system, developer, user, assistant or tool"),
            ));
        }
    };
    let tool_calls = tool_calls(i, &value["tool_calls"])?;
    let param = format!("messages[{i}].content");
    let content = match &value["content"] {
        Value::Null if role == ChatRole::Assistant && !tool_calls.is_empty() => String::new(),
        content => text_of(content, &param)?,
    };
    let tool_call_id = value["tool_call_id"].as_str().map(str::to_owned);
    if role == ChatRole::Tool && tool_call_id.is_none() {
        let param = format!("messages[{i}].tool_call_id");
        return Err(Fault::invalid(
            &param,
            format!("`{param}` must name the call that this message answers"),
        ));
    }
    Ok(ChatMessage { role, content, tool_calls, tool_call_id })
}

/// A string, or text parts joined.
pub(super) fn text_of(content: &Value, param: &str) -> Result<String, Fault> {
    match content {
        Value::String(s) => Ok(s.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|p| match p["type"].as_str() {
                Some("text" | "input_text" | "output_text") => p["text"].as_str(),
                _ => None,
            })
            .collect::<Option<String>>()
            .ok_or_else(|| Fault::invalid(param, format!("`{param}` may only have parts of type text"))),
        _ => Err(Fault::invalid(param, format!("`{param}` must be a string or an array of text parts"))),
    }
}

fn tool_calls(i: usize, value: &Value) -> Result<Vec<ToolCall>, Fault> {
    let param = format!("messages[{i}].tool_calls");
    let wrong = || {
        Fault::invalid(&param, format!("`{param}` must be calls with id, function name and JSON arguments"))
    };
    let list = match value {
        Value::Null => return Ok(vec![]),
        Value::Array(list) if list.len() <= TOOLS_MAX => list,
        _ => return Err(wrong()),
    };
    let call = |c: &Value| {
        let arguments = c["function"]["arguments"].as_str()?;
        Some(ToolCall {
            id: c["id"].as_str()?.to_owned(),
            name: c["function"]["name"].as_str()?.to_owned(),
            arguments: serde_json::from_str(arguments).ok()?,
        })
    };
    list.iter().map(|c| call(c).ok_or_else(wrong)).collect()
}
