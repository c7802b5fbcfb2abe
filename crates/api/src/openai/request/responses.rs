//! `/v1/responses`: items in, items out; nothing is stored.

use super::{
    Endpoint, Fault, Fields, GenerateRequest,
    chat::{calls_max, choose_tools, names_of, response_format, text_of, tools},
    fields::TOP_LOGPROBS_MAX,
};
use crate::ports::{ChatMessage, ChatRole, Format, GenerateJob, Input, ToolCall};
use serde_json::{Value, json};

const ITEMS_MAX: usize = 1024;

const UNSUPPORTED: [(&str, &[&str]); 7] = [
    ("messages", &[]),
    ("previous_response_id", &[]),
    ("conversation", &[]),
    ("background", &["false"]),
    ("prompt", &[]),
    ("include", &["[]"]),
    ("max_tool_calls", &[]),
];

pub(super) fn parse(fields: &Fields<'_>) -> Result<GenerateRequest, Fault> {
    fields.refuse(&UNSUPPORTED)?;
    let mut messages = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        messages.push(plain(ChatRole::System, instructions));
    }
    match fields.get("input").ok_or_else(|| Fault::missing("input"))? {
        Value::String(text) => messages.push(plain(ChatRole::User, text.clone())),
        Value::Array(items) if !items.is_empty() && items.len() <= ITEMS_MAX => {
            for (i, value) in items.iter().enumerate() {
                item(i, value, &mut messages)?;
            }
        }
        _ => {
            let message = format!("`input` must be a string or 1 to {ITEMS_MAX} items");
            return Err(Fault::invalid("input", message));
        }
    }
    // Here a tool's function stands beside its type; elsewhere it is wrapped.
    let wrapped = fields.get("tools").and_then(Value::as_array).map(|list| -> Value {
        let wrap = |t: &Value| {
            let mut function = t.clone();
            if let Some(object) = function.as_object_mut() {
                object.remove("type");
            }
            json!({"type": t["type"], "function": function})
        };
        list.iter().map(wrap).collect()
    });
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let given = tools(wrapped.as_ref().or(fields.get("tools")))?;
    let (tools, called) = choose_tools(given, fields.get("tool_choice"), parallel)?;
    let text = fields.get("text").and_then(|t| t.get("format"));
    let format = match (called, response_format(text)?) {
        (None, format) => format,
        (Some(calls), Format::Text) => calls,
        (Some(_), _) => {
            let message = "a required tool call and a `text.format` exclude each other";
            return Err(Fault::invalid("tool_choice", message));
        }
    };
    let tool_names = names_of(&tools);
    let sampling = fields.sampling()?;
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?.filter(|n| *n > 0);
    let copy = |name: &str| fields.get(name).cloned().unwrap_or(Value::Null);
    let repeated = json!({
        "instructions": copy("instructions"), "max_output_tokens": copy("max_output_tokens"),
        "metadata": fields.get("metadata").cloned().unwrap_or(json!({})), "parallel_tool_calls": parallel,
        "temperature": sampling.temperature, "top_p": sampling.top_p,
        "tool_choice": fields.get("tool_choice").cloned().unwrap_or(json!("auto")),
        "tools": fields.get("tools").cloned().unwrap_or(json!([])),
        "text": fields.get("text").cloned().unwrap_or(json!({"format": {"type": "text"}})),
    });
    let job = GenerateJob {
        model: fields.model()?,
        input: Input::Chat { messages, tools },
        sampling,
        seed_given: fields.get("seed").is_some(),
        max_tokens: fields.integer("max_output_tokens", 1, u64::from(u32::MAX))?.map(|n| n as u32),
        stop: vec![],
        n: 1,
        logit_bias: vec![],
        top_logprobs: top.map(|n| n as u8),
        format,
    };
    Ok(GenerateRequest {
        job,
        endpoint: Endpoint::Responses,
        stream: fields.boolean("stream")?.unwrap_or(false),
        include_usage: true,
        tool_names,
        calls_max: calls_max(parallel),
        echo: None,
        repeated,
    })
}

fn plain(role: ChatRole, content: String) -> ChatMessage {
    ChatMessage { role, content, tool_calls: vec![], tool_call_id: None }
}

/// A message, a call of a function, or its output.
fn item(i: usize, value: &Value, messages: &mut Vec<ChatMessage>) -> Result<(), Fault> {
    let wrong = |part: &str, m: &str| {
        let param = format!("input[{i}]{part}");
        Err(Fault::invalid(&param, format!("`{param}` {m}")))
    };
    match value["type"].as_str() {
        None | Some("message") => {
            let role = match value["role"].as_str() {
                Some("system" | "developer") => ChatRole::System,
                Some("user") => ChatRole::User,
                Some("assistant") => ChatRole::Assistant,
                _ => return wrong(".role", "must be system, developer, user or assistant"),
            };
            messages.push(plain(role, text_of(&value["content"], &format!("input[{i}].content"))?));
        }
        Some("function_call") => {
            let text = |key: &str| value[key].as_str().map(str::to_owned);
            let arguments = value["arguments"].as_str().and_then(|a| serde_json::from_str(a).ok());
            let (Some(id), Some(name), Some(arguments)) = (text("call_id"), text("name"), arguments) else {
                return wrong("", "must have call_id, name and JSON arguments");
            };
            let call = ToolCall { id, name, arguments };
            match messages.last_mut() {
                Some(last) if last.role == ChatRole::Assistant => last.tool_calls.push(call),
                _ => messages.push(ChatMessage {
                    tool_calls: vec![call],
                    ..plain(ChatRole::Assistant, String::new())
                }),
            }
        }
        Some("function_call_output") => {
            let output = match &value["output"] {
                Value::String(s) => s.clone(),
                other => text_of(other, &format!("input[{i}].output"))?,
            };
            let Some(id) = value["call_id"].as_str() else { return wrong(".call_id", "must be a string") };
            messages.push(ChatMessage { tool_call_id: Some(id.into()), ..plain(ChatRole::Tool, output) });
        }
        // What a model thought is no part of a conversation.
        Some("reasoning") => {}
        Some(other) => return wrong(".type", &format!("may not be {other:?}")),
    }
    Ok(())
}
