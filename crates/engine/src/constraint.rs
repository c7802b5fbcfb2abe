//! Grammars that an answer must follow, through `llguidance`: which tokens may come next is computed from the tokens' bytes.

use crate::{EngineError, Model};
use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// The library and its version: it decides which tokens a grammar allows, so answers under a grammar replay only with the same one.
pub const GRAMMAR_VERSION: &str = "llguidance-1.9.1";

/// Longest schema or grammar in bytes.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Limits of one grammar. They count work, never time, so they are reached at the same token on every machine.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// The vocabulary as a trie of bytes; made once a model.
pub(crate) struct GrammarEnvironment {
    factory: ParserFactory,
    vocabulary: usize,
    ends: Vec<u32>,
}

impl std::fmt::Debug for GrammarEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrammarEnvironment({} tokens)", self.vocabulary)
    }
}

struct Environment {
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        // Any tokens with the right bytes will do.
        false
    }
}

fn fault(e: impl std::fmt::Display) -> EngineError {
    let text = e.to_string();
    EngineError::Grammar(text.lines().next().unwrap_or_default().chars().take(400).collect())
}

impl GrammarEnvironment {
    pub(crate) fn new(tokenizer: &crate::Tokenizer) -> Result<Self, EngineError> {
        let vocabulary = tokenizer.vocabulary();
        let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(|t| tokenizer.token_bytes(t).to_vec()).collect();
        let info = TokRxInfo::new(vocabulary as u32, tokenizer.end_of_turn());
        let environment: TokEnv = Arc::new(Environment { trie: TokTrie::from(&info, &words) });
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &[]).map_err(fault)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let ends = (0..vocabulary as u32).filter(|t| tokenizer.is_end_of_generation(*t)).collect();
        Ok(Self { factory, vocabulary, ends })
    }
}

/// A grammar that an answer must follow, at one point of the answer. A clone goes on by itself.
pub struct Constraint {
    matcher: Mutex<Matcher>,
    vocabulary: usize,
    ends: Vec<u32>,
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Self { matcher: Mutex::new(matcher), vocabulary: self.vocabulary, ends: self.ends.clone() }
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Constraint")
    }
}

impl Constraint {
    fn new(model: &Model, grammar: TopLevelGrammar) -> Result<Self, EngineError> {
        let environment = model.grammar_environment()?;
        let mut matcher = Matcher::new(environment.factory.create_parser(grammar));
        if let Some(e) = matcher.get_error() {
            return Err(fault(e));
        }
        // A grammar that allows nothing is found here and not in the middle of a batch.
        matcher.compute_mask_or_eos().map_err(fault)?;
        Ok(Self {
            matcher: Mutex::new(matcher),
            vocabulary: environment.vocabulary,
            ends: environment.ends.clone(),
        })
    }

    /// JSON that follows `schema` (JSON Schema 2020-12 as far as `llguidance` knows it; other keywords are refused). The text is
    /// compact, with one space behind `:` and `,`: small models lose themselves in free white space.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the schema is too large or cannot be followed.
    pub fn json_schema(model: &Model, schema: &Value) -> Result<Self, EngineError> {
        check_size(schema.to_string().len())?;
        Self::new(model, TopLevelGrammar::from_json_schema(compact(schema)?))
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] never, for a sound tokenizer.
    pub fn json_object(model: &Model) -> Result<Self, EngineError> {
        Self::json_schema(model, &json!({"type": "object"}))
    }

    /// One call of one of `tools` (name and schema of its parameters), or several when `parallel`, as Hermes models write them:
    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`.
    ///
    /// # Errors
    /// As [`json_schema`](Self::json_schema).
    pub fn tool_calls(model: &Model, tools: &[(String, Value)], parallel: bool) -> Result<Self, EngineError> {
        let calls: Vec<Value> = tools
            .iter()
            .map(|(name, parameters)| {
                json!({
                    "type": "object",
                    "properties": {"name": {"const": name}, "arguments": parameters},
                    "required": ["name", "arguments"],
                    "additionalProperties": false,
                })
            })
            .collect();
        let schema = compact(&json!({"anyOf": calls}))?.to_string();
        check_size(schema.len())?;
        let more = if parallel { " (\"\\n\" call)*" } else { "" };
        let lark = format!(
            "start: call{more}\ncall: \"<tool_call>\\n\" body \"\\n</tool_call>\"\nbody: %json {schema}\n"
        );
        Self::new(model, TopLevelGrammar::from_lark(lark))
    }

    /// Text that matches `regex` as a whole (the syntax of the `regex` crate).
    ///
    /// # Errors
    /// As [`json_schema`](Self::json_schema).
    pub fn regex(model: &Model, regex: &str) -> Result<Self, EngineError> {
        check_size(regex.len())?;
        Self::new(model, TopLevelGrammar::from_regex(regex))
    }

    /// Text that follows a grammar in Lark's syntax.
    ///
    /// # Errors
    /// As [`json_schema`](Self::json_schema).
    pub fn lark(model: &Model, grammar: &str) -> Result<Self, EngineError> {
        check_size(grammar.len())?;
        Self::new(model, TopLevelGrammar::from_lark(grammar.to_owned()))
    }

    /// Whether each token of the vocabulary may come next, as bits: token `t` is bit `t % 32` of word `t / 32`. Tokens that end an
    /// answer are allowed where the grammar may end.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar needs more work than is allowed.
    pub fn mask(&mut self) -> Result<Vec<u32>, EngineError> {
        let matcher = self.matcher.get_mut().unwrap_or_else(PoisonError::into_inner);
        let may_end = matcher.is_stopped() || matcher.is_accepting().map_err(fault)?;
        let found = matcher.compute_mask_or_eos().map_err(fault)?;
        let mut words = vec![0u32; self.vocabulary.div_ceil(32)];
        for (word, found) in words.iter_mut().zip(found.as_slice()) {
            *word = *found;
        }
        for end in &self.ends {
            let (word, bit) = ((end / 32) as usize, end % 32);
            words[word] = words[word] & !(1 << bit) | u32::from(may_end) << bit;
        }
        Ok(words)
    }

    /// Moves on over `token`.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar does not allow the token.
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        let matcher = self.matcher.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.ends.contains(&token) {
            return match matcher.is_stopped() || matcher.is_accepting().map_err(fault)? {
                true => Ok(()),
                false => Err(EngineError::Grammar("the answer may not end here".into())),
            };
        }
        matcher.consume_token(token).map_err(fault)
    }
}

fn check_size(bytes: usize) -> Result<(), EngineError> {
    if bytes > SOURCE_BYTES_MAX {
        return Err(EngineError::Grammar(format!("it has {bytes} bytes; at most {SOURCE_BYTES_MAX}")));
    }
    Ok(())
}

/// The schema with a fixed layout of white space.
fn compact(schema: &Value) -> Result<Value, EngineError> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Object(_) => schema.clone(),
        _ => return Err(EngineError::Grammar("a JSON schema must be an object".into())),
    };
    schema["x-guidance"] = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ", "lenient": false});
    Ok(schema)
}
