//! Function calls in a model's text, found while it streams. Three spellings are known:
//!
//! - Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, anywhere and any number of times;
//! - Llama 3: the answer is `{"name": ..., "parameters": {...}}`, optionally behind `<|python_tag|>`, several with `;` between;
//! - Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`.
//!
//! The parser takes one character after the other, so the result does not depend on how the text was cut. What turns out to be
//! no call of a known function is passed on as text, unchanged.

mod scan;
#[cfg(test)]
mod tests;

use scan::{Depth, Scan, scan};
use serde_json::Value;

const MARKERS: [(&str, Syntax); 3] =
    [("<tool_call>", Syntax::Hermes), ("<|python_tag|>", Syntax::Llama), ("[TOOL_CALLS]", Syntax::Mistral)];
const HERMES_END: &str = "</tool_call>";
/// Longest part of a call before its arguments, in bytes.
const HEADER_BYTES_MAX: usize = 1024;
/// Longest call whose arguments come before its name, in bytes.
const WHOLE_BYTES_MAX: usize = 64 << 10;

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

/// Appends a piece to a list, in which neighbours of one kind are joined.
fn append(pieces: &mut Vec<Piece>, piece: Piece) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Content(text)), Piece::Content(more)) => text.push_str(&more),
        (Some(Piece::Arguments { index: i, text }), Piece::Arguments { index, text: more })
            if *i == index =>
        {
            text.push_str(&more);
        }
        (_, piece) => pieces.push(piece),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Hermes,
    Llama,
    Mistral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Text; what is held may become a marker.
    Text,
    /// In a call, before its arguments. The call's object begins in what is held at `start` or behind it.
    Header { syntax: Syntax, start: usize, list: bool },
    /// In a call whose arguments came before its name: all of it is held.
    Whole { syntax: Syntax, start: usize, depth: Depth },
    /// In the arguments.
    Arguments { syntax: Syntax, depth: Depth },
    /// Behind the arguments, in the call's object.
    Rest { syntax: Syntax, depth: Depth },
    /// Behind the call's object.
    After { syntax: Syntax },
}

/// Finds the calls in one answer.
#[derive(Clone, Debug)]
pub struct ToolParser {
    names: Vec<String>,
    calls_max: usize,
    calls: usize,
    state: State,
    held: String,
    /// White space behind a call: dropped when another call follows.
    gap: String,
    /// Nothing but white space came yet.
    fresh: bool,
    after_call: bool,
    out: Vec<Piece>,
}

impl ToolParser {
    /// Looks for at most `calls_max` calls of functions with these names.
    pub fn new(names: Vec<String>, calls_max: usize) -> Self {
        let (held, gap) = (String::new(), String::new());
        Self {
            names,
            calls_max,
            calls: 0,
            state: State::Text,
            held,
            gap,
            fresh: true,
            after_call: false,
            out: vec![],
        }
    }

    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more text; returns what is now certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        for c in text.chars() {
            self.step(c);
        }
        std::mem::take(&mut self.out)
    }

    /// What is left at the answer's end.
    pub fn finish(&mut self) -> Vec<Piece> {
        if matches!(self.state, State::Text | State::Header { .. } | State::Whole { .. }) {
            self.release(self.held.len());
        }
        self.held.clear();
        std::mem::take(&mut self.out)
    }

    /// Passes the first `n` held bytes on as text.
    fn release(&mut self, n: usize) {
        let text: String = self.held.drain(..n).collect();
        if !text.is_empty() {
            let gap = std::mem::take(&mut self.gap);
            self.after_call = false;
            self.fresh &= text.trim().is_empty();
            append(&mut self.out, Piece::Content(gap + &text));
        }
    }

    fn arguments(&mut self, text: String) {
        append(&mut self.out, Piece::Arguments { index: self.calls - 1, text });
    }

    fn step(&mut self, c: char) {
        match self.state {
            State::Text => self.text(c),
            State::Header { syntax, start, list } => self.header(c, syntax, start, list),
            State::Whole { syntax, start, depth } => self.whole(c, syntax, start, depth),
            State::Arguments { syntax, mut depth } => {
                self.arguments(c.into());
                self.state = match depth.closes(c) {
                    true => State::Rest { syntax, depth: Depth::INSIDE },
                    false => State::Arguments { syntax, depth },
                };
            }
            State::Rest { syntax, mut depth } => {
                let first = self.held.trim().is_empty();
                self.held.push(c);
                if depth.closes(c) {
                    self.held.clear();
                    self.state = State::After { syntax };
                } else if (first && !c.is_whitespace() && c != ',') || self.held.len() > HEADER_BYTES_MAX {
                    self.again();
                } else {
                    self.state = State::Rest { syntax, depth };
                }
            }
            State::After { syntax } => self.after(c, syntax),
        }
    }

    fn text(&mut self, c: char) {
        if self.calls == self.calls_max {
            self.held.push(c);
            return self.release(self.held.len());
        }
        if c.is_whitespace() && self.held.is_empty() && self.after_call {
            self.gap.push(c);
            return;
        }
        self.held.push(c);
        if self.fresh && self.held.trim_start() == "{" {
            let start = self.held.len() - 1;
            self.state = State::Header { syntax: Syntax::Llama, start, list: false };
            return;
        }
        if let Some((marker, syntax)) = MARKERS.iter().find(|(m, _)| self.held.ends_with(m)) {
            self.release(self.held.len() - marker.len());
            self.state =
                State::Header { syntax: *syntax, start: marker.len(), list: *syntax == Syntax::Mistral };
            return;
        }
        if self.fresh && self.held.trim().is_empty() {
            return;
        }
        let begins = |i: &usize| MARKERS.iter().any(|(m, _)| m.starts_with(&self.held[*i..]));
        let keep = self.held.char_indices().map(|(i, _)| i).find(begins).unwrap_or(self.held.len());
        self.release(keep);
    }

    fn header(&mut self, c: char, syntax: Syntax, start: usize, list: bool) {
        self.held.push(c);
        let mut object = self.held[start..].trim_start();
        if list && let Some(inner) = object.strip_prefix('[') {
            object = inner;
        } else if list && !object.is_empty() {
            return self.give_up();
        }
        // The bound comes first, so that it does not matter how the text was cut.
        if self.held.len() - start > HEADER_BYTES_MAX {
            return self.give_up();
        }
        match scan(object) {
            Scan::More => {}
            Scan::Arguments(name) if self.names.contains(&name) => {
                self.begin(name);
                self.state = State::Arguments { syntax, depth: Depth::INSIDE };
                self.arguments(c.into());
            }
            Scan::Nothing(name) if self.names.contains(&name) => {
                self.begin(name);
                self.arguments("{}".into());
                self.state = State::After { syntax };
            }
            Scan::No | Scan::Arguments(_) | Scan::Nothing(_) => self.give_up(),
            Scan::Late => {
                let start = self.held.len() - object.trim_start().len();
                let mut depth = Depth::default();
                for c in self.held[start..].chars() {
                    depth.closes(c);
                }
                self.state = State::Whole { syntax, start, depth };
            }
        }
    }

    fn begin(&mut self, name: String) {
        self.held.clear();
        self.gap.clear();
        self.fresh = false;
        self.after_call = true;
        self.out.push(Piece::Call { index: self.calls, name });
        self.calls += 1;
    }

    /// What is held is no call. Its last character may begin another one.
    fn give_up(&mut self) {
        let last = self.held.pop();
        self.state = State::Text;
        self.release(self.held.len());
        if let Some(c) = last {
            self.fresh = false;
            self.text(c);
        }
    }

    fn whole(&mut self, c: char, syntax: Syntax, start: usize, mut depth: Depth) {
        self.held.push(c);
        if !depth.closes(c) {
            self.state = State::Whole { syntax, start, depth };
            if self.held.len() > WHOLE_BYTES_MAX {
                self.give_up();
            }
            return;
        }
        let object: Value = serde_json::from_str(&self.held[start..]).unwrap_or_default();
        let name = object["name"].as_str().filter(|n| self.names.iter().any(|known| known == n));
        let arguments = match object.get("arguments").or(object.get("parameters")) {
            Some(value @ Value::Object(_)) => Some(value.to_string()),
            Some(Value::String(s)) => Some(s.clone()),
            Some(Value::Null) => Some("{}".to_owned()),
            _ => None,
        };
        if let (Some(name), Some(arguments)) = (name.map(str::to_owned), arguments) {
            self.begin(name);
            self.arguments(arguments);
            self.state = State::After { syntax };
        } else {
            self.give_up();
        }
    }

    fn after(&mut self, c: char, syntax: Syntax) {
        self.held.push(c);
        let held = self.held.trim_start();
        match syntax {
            _ if held.is_empty() => {}
            Syntax::Hermes if held == HERMES_END => self.text_again(),
            Syntax::Hermes if HERMES_END.starts_with(held) => {}
            Syntax::Mistral if held == "]" => self.text_again(),
            Syntax::Mistral if held == "," => self.next(syntax),
            Syntax::Llama if held == ";" => self.next(syntax),
            _ => self.again(),
        }
    }

    fn text_again(&mut self) {
        self.held.clear();
        self.state = State::Text;
    }

    /// Another call of a list begins. While it may turn out to be none, the separator is held with it.
    fn next(&mut self, syntax: Syntax) {
        if self.calls == self.calls_max {
            return self.again();
        }
        self.state = State::Header { syntax, start: self.held.len(), list: false };
    }

    /// What is held is text, and may have the beginning of a marker in it.
    fn again(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.state = State::Text;
        for c in held.chars() {
            self.step(c);
        }
    }
}
