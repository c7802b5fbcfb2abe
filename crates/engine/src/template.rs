use crate::{ChatMessage, EngineError, Role};
use minijinja::{
    Environment, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde::Serialize as _;
use serde_json::{Value as Json, json};
use types::{B256, keccak256};

/// Steps that a template may take: bounds loops in a hostile template.
const FUEL: u64 = 1_000_000;
/// Longest template in bytes.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// For models that bring no template of their own.
pub(crate) const PLAIN_TEMPLATE: &str =
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

/// A model's chat template (Jinja).
pub(crate) struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str) -> Result<Self, EngineError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(EngineError::Template(format!("it is longer than {TEMPLATE_BYTES_MAX} bytes")));
        }
        let template = Self { source: source.to_owned() };
        template.environment(0)?;
        Ok(template)
    }

    pub(crate) fn hash(&self) -> B256 {
        keccak256(self.source.as_bytes())
    }

    fn environment(&self, now_unix: u64) -> Result<Environment<'_>, EngineError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // Hugging Face renders with these two; templates are written for them.
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fault)?,
        );
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        // The clock is an input of the job, so that the prompt can be computed again later.
        environment.add_function("strftime_now", move |format: String| strftime(&format, now_unix));
        // As Python prints JSON: templates were tried with that.
        environment.add_filter(
            "tojson",
            |value: Value, options: Kwargs| -> Result<Value, minijinja::Error> {
                let broken =
                    |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
                let json = serde_json::to_value(&value).map_err(broken)?;
                let text = match options.get::<Option<usize>>("indent")? {
                    None => python_json(&json),
                    Some(indent) => indented(&json, indent.min(16)).map_err(broken)?,
                };
                Ok(Value::from_safe_string(text))
            },
        );
        environment.add_template("chat", &self.source).map_err(fault)?;
        Ok(environment)
    }

    /// Renders a chat up to the model's turn. `guarded` breaks special tokens in what users wrote.
    pub(crate) fn render(
        &self,
        messages: &[ChatMessage],
        tools: &[Json],
        guarded: &dyn Fn(&str) -> String,
        bos: &str,
        eos: &str,
        now_unix: u64,
    ) -> Result<String, EngineError> {
        let environment = self.environment(now_unix)?;
        let (knows_tools, knows_calls) = (
            self.source.contains("tools"),
            self.source.contains("tool_calls") || self.source.contains("'tool'"),
        );
        let mut list: Vec<Value> = Vec::new();
        if !tools.is_empty() && !knows_tools {
            // A template that knows no tools gets them as plain instructions, so that every model can be asked.
            let mut text = String::from(TOOLS_INTRODUCTION);
            tools.iter().for_each(|t| text.push_str(&format!("{t}\n")));
            text.push_str(TOOLS_FORM);
            list.push(context! { role => "system", content => guarded(&text) });
        }
        for m in messages {
            let plain = !knows_calls && (m.role == Role::Tool || !m.tool_calls.is_empty());
            list.push(if plain { as_text(m, guarded) } else { as_value(m, guarded) });
        }
        let tools = (!tools.is_empty()).then(|| Value::from(Serde(guard_json(&Json::from(tools), guarded))));
        let template = environment.get_template("chat").map_err(fault)?;
        template
            .render(context! {
                messages => list, tools => tools, add_generation_prompt => true, bos_token => bos, eos_token => eos
            })
            .map_err(fault)
    }
}

const TOOLS_INTRODUCTION: &str = "You may call functions. Available functions, one JSON object a line:\n";
const TOOLS_FORM: &str =
    "To call one, answer with <tool_call>\n{\"name\": NAME, \"arguments\": OBJECT}\n</tool_call>";

/// A message for templates that know tools.
fn as_value(m: &ChatMessage, guarded: &dyn Fn(&str) -> String) -> Value {
    let calls: Vec<Json> = m
        .tool_calls
        .iter()
        .map(|c| {
            let call = json!({"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}});
            guard_json(&call, guarded)
        })
        .collect();
    let mut value = json!({"role": m.role.name(), "content": guarded(&m.content)});
    if !calls.is_empty() {
        value["tool_calls"] = Json::from(calls);
    }
    if let Some(id) = &m.tool_call_id {
        value["tool_call_id"] = Json::from(guarded(id));
    }
    Value::from(Serde(value))
}

/// A message about tools for templates that know none, in Hermes' form.
fn as_text(m: &ChatMessage, guarded: &dyn Fn(&str) -> String) -> Value {
    if m.role == Role::Tool {
        let text = format!("<tool_response>\n{}\n</tool_response>", m.content);
        return context! { role => "user", content => guarded(&text) };
    }
    let mut text = m.content.clone();
    for call in &m.tool_calls {
        let body = json!({"name": call.name, "arguments": call.arguments});
        text.push_str(&format!("<tool_call>\n{body}\n</tool_call>"));
    }
    context! { role => m.role.name(), content => guarded(&text) }
}

/// The value with every string guarded, keys too.
fn guard_json(value: &Json, guarded: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(s) => Json::String(guarded(s)),
        Json::Array(list) => list.iter().map(|v| guard_json(v, guarded)).collect(),
        Json::Object(map) => map.iter().map(|(k, v)| (guarded(k), guard_json(v, guarded))).collect(),
        other => other.clone(),
    }
}

/// JSON as `json.dumps(value, ensure_ascii=False)` prints it: a space behind `:` and `,`, nothing escaped that need not be.
fn python_json(value: &Json) -> String {
    match value {
        Json::Array(list) => format!("[{}]", list.iter().map(python_json).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            let entries = map.iter().map(|(k, v)| format!("{}: {}", Json::from(k.as_str()), python_json(v)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// JSON over several lines.
fn indented(value: &Json, indent: usize) -> Result<String, serde_json::Error> {
    let spaces = " ".repeat(indent);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn fault(e: minijinja::Error) -> EngineError {
    EngineError::Template(e.to_string())
}

/// `strftime` for UTC with the fields that chat templates use.
fn strftime(format: &str, unix: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day) = civil(unix / 86_400);
    let seconds = unix % 86_400;
    let name = MONTHS[(month - 1) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('H') => out.push_str(&format!("{:02}", seconds / 3600)),
            Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Days since 1970-01-01 to year, month, day (proleptic Gregorian; H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_clock_is_an_input() {
        assert_eq!(strftime("%d %b %Y %H:%M:%S %%", 0), "01 Jan 1970 00:00:00 %");
        assert_eq!(strftime("%B %d, %Y", 1_795_219_200), "November 21, 2026");
        assert_eq!(strftime("%Y-%m-%d", 951_782_400), "2000-02-29");
        let t = ChatTemplate::new("{{ strftime_now('%Y') }}").unwrap();
        assert_eq!(t.render(&[], &[], &str::to_owned, "", "", 0).unwrap(), "1970");
    }

    #[test]
    fn json_is_printed_as_python_prints_it() {
        let t = ChatTemplate::new("{{ tools | tojson }}").unwrap();
        let tools = [json!({"b": "it's <é> & \"q\"", "a": [1, 2.5, null, true]})];
        let expected = r#"[{"b": "it's <é> & \"q\"", "a": [1, 2.5, null, true]}]"#;
        assert_eq!(t.render(&[], &tools, &str::to_owned, "", "", 0).unwrap(), expected);
        let t = ChatTemplate::new("{{ tools[0].a | tojson(indent=2) }}").unwrap();
        let expected = "[\n  1,\n  2.5,\n  null,\n  true\n]";
        assert_eq!(t.render(&[], &tools, &str::to_owned, "", "", 0).unwrap(), expected);
    }

    #[test]
    fn hostile_templates_end_in_an_error() {
        let messages = [ChatMessage::text(Role::User, "x")];
        for source in [
            "{% for i in range(100000) %}{% for j in range(100000) %}a{% endfor %}{% endfor %}",
            "{{ raise_exception('no system role') }}",
            "{{ messages[7].content.nothing }}",
        ] {
            let rendered =
                ChatTemplate::new(source).and_then(|t| t.render(&messages, &[], &str::to_owned, "", "", 0));
            assert!(matches!(rendered, Err(EngineError::Template(_))), "{source}");
        }
        assert!(ChatTemplate::new("{% if %}").is_err());
        assert!(ChatTemplate::new(&"a".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
    }
}
