use crate::{ChatMessage, EngineError};
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
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
        environment.add_template("chat", &self.source).map_err(fault)?;
        Ok(environment)
    }

    pub(crate) fn render(
        &self,
        messages: &[ChatMessage],
        bos: &str,
        eos: &str,
        now_unix: u64,
    ) -> Result<String, EngineError> {
        let environment = self.environment(now_unix)?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.name(), content => m.content.as_str() })
            .collect();
        let template = environment.get_template("chat").map_err(fault)?;
        template
            .render(context! { messages, add_generation_prompt => true, bos_token => bos, eos_token => eos })
            .map_err(fault)
    }
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
    use crate::Role;

    #[test]
    fn the_clock_is_an_input() {
        assert_eq!(strftime("%d %b %Y %H:%M:%S %%", 0), "01 Jan 1970 00:00:00 %");
        assert_eq!(strftime("%B %d, %Y", 1_795_219_200), "November 21, 2026");
        assert_eq!(strftime("%Y-%m-%d", 951_782_400), "2000-02-29");
        let t = ChatTemplate::new("{{ strftime_now('%Y') }}").unwrap();
        assert_eq!(t.render(&[], "", "", 0).unwrap(), "1970");
    }

    #[test]
    fn hostile_templates_end_in_an_error() {
        let messages = [ChatMessage { role: Role::User, content: "x".into() }];
        for source in [
            "{% for i in range(100000) %}{% for j in range(100000) %}a{% endfor %}{% endfor %}",
            "{{ raise_exception('no system role') }}",
            "{{ messages[7].content.nothing }}",
        ] {
            let rendered = ChatTemplate::new(source).and_then(|t| t.render(&messages, "", "", 0));
            assert!(matches!(rendered, Err(EngineError::Template(_))), "{source}");
        }
        assert!(ChatTemplate::new("{% if %}").is_err());
        assert!(ChatTemplate::new(&"a".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
    }
}
