//! Finds calls of tools in a model's text, as it comes. Three forms are known: Hermes and Qwen
//! (`<tool_call>{"name": …, "arguments": …}</tool_call>`), Llama 3 (the whole answer is `{"name": …, "parameters": …}`, at times behind
//! `<|python_tag|>`) and Mistral (`[TOOL_CALLS][…]`). Text that is no call is passed on unchanged.

use serde_json::Value;

const HERMES: (&str, &str) = ("<tool_call>", "</tool_call>");
const PYTHON: &str = "<|python_tag|>";
const MISTRAL: &str = "[TOOL_CALLS]";
/// Longest head of a call (up to its arguments) that is waited for.
const HEAD_BYTES_MAX: usize = 1024;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Ordinary text.
    Content(String),
    /// A call begins.
    Call {
        /// Its place among the calls of the answer.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// Which call.
        index: usize,
        /// The text.
        text: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space came yet.
    Start,
    Content,
    /// Inside a call, before its arguments.
    Head {
        hermes: bool,
    },
    /// Inside the arguments, an object or another value.
    Arguments {
        hermes: bool,
        depth: usize,
        quoted: bool,
        escaped: bool,
    },
    /// Behind the arguments.
    Tail {
        hermes: bool,
    },
    /// Behind a whole call: white space before the next one is nobody's text.
    Between,
    /// A list of calls, read at the end.
    List,
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct ToolParser {
    state: State,
    held: String,
    calls: usize,
}

impl Default for ToolParser {
    fn default() -> Self {
        Self { state: State::Start, held: String::new(), calls: 0 }
    }
}

impl ToolParser {
    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The end of the answer: what was held back comes out.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut out = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Between if held.trim().is_empty() => {}
            State::Start | State::Content | State::Between => content(&mut out, &held),
            State::Head { hermes: true } => content(&mut out, &format!("{}{held}", HERMES.0)),
            State::Head { hermes: false } => content(&mut out, &held),
            State::List => match list_of_calls(&held) {
                Some(calls) => {
                    for (name, text) in calls {
                        let index = self.calls;
                        out.extend([Piece::Call { index, name }, Piece::Arguments { index, text }]);
                        self.calls += 1;
                    }
                }
                None => content(&mut out, &format!("{MISTRAL}{held}")),
            },
            // Cut off inside a call, or white space behind one.
            State::Arguments { .. } | State::Tail { .. } => {}
        }
        out
    }

    /// Goes on as far as the held text allows; false when more is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Content => self.content(out),
            State::Between => {
                let text = self.held.trim_start();
                if HERMES.0.starts_with(text) {
                    return text == HERMES.0 && self.enter_content(true);
                }
                let next = text.starts_with(HERMES.0);
                self.enter_content(next)
            }
            State::Head { hermes } => self.head(hermes, out),
            State::Arguments { .. } => self.arguments(out),
            State::Tail { hermes: true } => match self.held.find(HERMES.1) {
                Some(at) => {
                    self.held.drain(..at + HERMES.1.len());
                    self.state = State::Between;
                    true
                }
                None => false,
            },
            State::Tail { hermes: false } | State::List => false,
        }
    }

    fn start(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.is_empty() {
            return false;
        }
        if let Some(rest) = text.strip_prefix(PYTHON) {
            self.held = rest.to_owned();
            return true;
        }
        if PYTHON.starts_with(text) {
            return false;
        }
        self.state = if text.starts_with('{') { State::Head { hermes: false } } else { State::Content };
        true
    }

    /// Goes on with what is held, without the white space in front of it when a call follows.
    fn enter_content(&mut self, call_follows: bool) -> bool {
        if call_follows {
            self.held = self.held.trim_start().to_owned();
        }
        self.state = State::Content;
        true
    }

    /// Passes text on up to the next marker.
    fn content(&mut self, out: &mut Vec<Piece>) -> bool {
        for (marker, state) in [(HERMES.0, State::Head { hermes: true }), (MISTRAL, State::List)] {
            let other = if marker == MISTRAL { HERMES.0 } else { MISTRAL };
            if let Some(at) = self.held.find(marker)
                && self.held.find(other).is_none_or(|o| o > at)
            {
                let before: String = self.held.drain(..at).collect();
                content(out, &before);
                self.held.drain(..marker.len());
                self.state = state;
                return true;
            }
        }
        // The longest end that begins a marker must wait.
        let begins = |rest: &str| HERMES.0.starts_with(rest) || MISTRAL.starts_with(rest);
        let keep = self.held.char_indices().map(|(i, _)| i).find(|i| begins(&self.held[*i..]));
        let ready: String = self.held.drain(..keep.unwrap_or(self.held.len())).collect();
        content(out, &ready);
        false
    }

    fn head(&mut self, hermes: bool, out: &mut Vec<Piece>) -> bool {
        match head_of(&self.held) {
            Head::Found { name, end } => {
                self.held.drain(..end);
                out.push(Piece::Call { index: self.calls, name });
                self.state = State::Arguments { hermes, depth: 0, quoted: false, escaped: false };
                true
            }
            Head::More if self.held.len() <= HEAD_BYTES_MAX => false,
            _ => {
                // No call after all.
                let text = std::mem::take(&mut self.held);
                if hermes {
                    content(out, HERMES.0);
                }
                self.held = text;
                self.state = State::Content;
                true
            }
        }
    }

    /// Passes the arguments on until their JSON value ends.
    fn arguments(&mut self, out: &mut Vec<Piece>) -> bool {
        let State::Arguments { hermes, mut depth, mut quoted, mut escaped } = self.state else {
            return false;
        };
        let mut end = None;
        for (i, c) in self.held.char_indices() {
            if quoted {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => quoted = false,
                    _ => {}
                }
                continue;
            }
            match c {
                '"' => quoted = true,
                '{' | '[' => depth += 1,
                '}' | ']' if depth > 0 => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(i + 1);
                        break;
                    }
                }
                // A value that is no object ends with the call's own brace.
                '}' => {
                    end = Some(i);
                    break;
                }
                _ => {}
            }
        }
        let text: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
        if !text.is_empty() {
            out.push(Piece::Arguments { index: self.calls, text });
        }
        if end.is_some() {
            self.calls += 1;
            self.state = State::Tail { hermes };
            return true;
        }
        self.state = State::Arguments { hermes, depth, quoted, escaped };
        false
    }
}

fn content(out: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        out.push(Piece::Content(text.to_owned()));
    }
}

enum Head {
    Found { name: String, end: usize },
    More,
    Never,
}

/// Reads `{"name": NAME, "arguments": ` (or `parameters`), with any white space.
fn head_of(text: &str) -> Head {
    let mut at = 0;
    let mut name = None;
    for token in ["{", "\"name\"", ":", "\u{0}", ",", "key", ":"] {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if rest.is_empty() {
            return Head::More;
        }
        let options: &[&str] = match token {
            "key" => &["\"arguments\"", "\"parameters\""],
            "\u{0}" => {
                let Some(inner) = rest.strip_prefix('"') else { return Head::Never };
                let Some(end) = inner.find('"') else { return Head::More };
                if inner[..end].contains('\\') {
                    return Head::Never;
                }
                name = Some(inner[..end].to_owned());
                at += end + 2;
                continue;
            }
            other => &[other],
        };
        match options.iter().find(|o| rest.starts_with(**o)) {
            Some(found) => at += found.len(),
            None if options.iter().any(|o| o.starts_with(rest)) => return Head::More,
            None => return Head::Never,
        }
    }
    at += text[at..].len() - text[at..].trim_start().len();
    match name {
        Some(name) if at < text.len() => Head::Found { name, end: at },
        Some(_) => Head::More,
        None => Head::Never,
    }
}

/// A JSON list of calls: name and arguments of each.
fn list_of_calls(text: &str) -> Option<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(text.trim()).ok()?;
    let call = |c: &Value| Some((c["name"].as_str()?.to_owned(), c.get("arguments")?.to_string()));
    list.as_array()?.iter().map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces of the whole text, neighbours joined.
    fn parse(pieces: &[&str]) -> Vec<Piece> {
        let mut parser = ToolParser::default();
        let mut all: Vec<Piece> = Vec::new();
        let found: Vec<_> = pieces.iter().flat_map(|p| parser.push(p)).collect();
        for piece in found.into_iter().chain(parser.finish()) {
            match (all.last_mut(), piece) {
                (Some(Piece::Content(a)), Piece::Content(b)) => a.push_str(&b),
                (Some(Piece::Arguments { index: i, text: a }), Piece::Arguments { index, text })
                    if *i == index =>
                {
                    a.push_str(&text);
                }
                (_, piece) => all.push(piece),
            }
        }
        all
    }

    fn call(index: usize, name: &str, text: &str) -> [Piece; 2] {
        [Piece::Call { index, name: name.into() }, Piece::Arguments { index, text: text.into() }]
    }

    const SAMPLES: [&str; 9] = [
        "Sure. <tool_call>\n{\"name\": \"order\", \"arguments\": {\"size\": \"la}rge\", \"n\": [1, {\"a\": 2}]}}\n</tool_call>",
        "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":{\"x\":\"\\\"}\"}}</tool_call> done",
        "{\"name\": \"f\", \"parameters\": {\"q\": 1}}",
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"q\": 1}}",
        "[TOOL_CALLS][{\"name\": \"m\", \"arguments\": {\"k\": true}}, {\"name\": \"n\", \"arguments\": {}}]",
        "{\"an\": \"object\"} that is no call",
        "<tool_call> is a tag, and [TOOL_ is not",
        "  plain text with < and [ and é 🙂",
        "[TOOL_CALLS] nonsense",
    ];

    #[test]
    fn each_form_is_found() {
        let found = parse(&[SAMPLES[0]]);
        assert_eq!(found[0], Piece::Content("Sure. ".into()));
        assert_eq!(found[1..], call(0, "order", "{\"size\": \"la}rge\", \"n\": [1, {\"a\": 2}]}"));
        let found = parse(&[SAMPLES[1]]);
        assert_eq!(found[..4], [call(0, "a", "{}"), call(1, "b", "{\"x\":\"\\\"}\"}")].concat());
        assert_eq!(found[4], Piece::Content(" done".into()));
        for llama in &SAMPLES[2..4] {
            assert_eq!(parse(&[llama]), call(0, "f", "{\"q\": 1}"));
        }
        assert_eq!(parse(&[SAMPLES[4]]), [call(0, "m", "{\"k\":true}"), call(1, "n", "{}")].concat());
        for text in &SAMPLES[5..] {
            assert_eq!(parse(&[text]), [Piece::Content((*text).into())], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same(sample in 0usize..9, cuts in prop::collection::vec(0usize..200, 0..12)) {
            let text = SAMPLES[sample];
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|c| c % (text.len() + 1)).filter(|c| text.is_char_boundary(*c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&pieces), parse(&[text]));
        }

        #[test]
        fn any_text_ends(text in "[<tool_call>\\[TOOL_CALLS\\]{}\"name:,arguments ]{0,60}") {
            let whole = parse(&[&text]);
            let single: Vec<String> = text.chars().map(String::from).collect();
            prop_assert_eq!(parse(&single.iter().map(String::as_str).collect::<Vec<_>>()), whole);
        }
    }
}
