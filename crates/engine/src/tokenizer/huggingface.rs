//! Tokenizers out of `tokenizer.json`, through the library that defines that format.

use super::{
    ContentHash, Tokenizer,
    parts::{self, Kind, Spelling, bad},
};
use crate::EngineError;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Largest vocabulary.
const TOKENS_MAX: usize = 1 << 21;

/// What other files of a directory say about the tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Hints<'a> {
    /// `tokenizer_config.json`.
    pub(crate) config: Option<&'a Json>,
    /// `config.json`, and `generation_config.json` before it.
    pub(crate) models: Vec<&'a Json>,
    /// Rows of the embedding: ids beyond the tokenizer's have no text.
    pub(crate) vocabulary: usize,
}

/// The text of a token in `tokenizer_config.json`: a string, or an object with `content`.
fn text_of(value: &Json) -> Option<&str> {
    value.as_str().or(value["content"].as_str())
}

pub(super) fn read(bytes: &[u8], hints: &Hints<'_>) -> Result<Tokenizer, EngineError> {
    let mut json: Json = serde_json::from_slice(bytes).map_err(|e| bad(format!("tokenizer.json: {e}")))?;
    let spelling = spelling(&json);
    let mut by_id: HashMap<u32, (String, Kind)> = HashMap::new();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let id = added["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(text)) = (id, added["content"].as_str()) else {
            return Err(bad("an added token without id or content"));
        };
        let kind = if added["special"] == true { Kind::Control } else { Kind::UserDefined };
        by_id.insert(id, (text.to_owned(), kind));
    }
    check_merges(&json["model"])?;
    // Special tokens are looked for elsewhere, so that text cannot forge them, and nothing is put around a text.
    if let Some(added) = json["added_tokens"].as_array_mut() {
        added.retain(|t| t["special"] != true);
    }
    json["post_processor"] = Json::Null;
    json["truncation"] = Json::Null;
    json["padding"] = Json::Null;
    let stripped = serde_json::to_vec(&json).map_err(|e| bad(e.to_string()))?;
    let inner =
        tokenizers::Tokenizer::from_bytes(&stripped).map_err(|e| bad(format!("tokenizer.json: {e}")))?;
    for (text, id) in inner.get_vocab(true) {
        by_id.entry(id).or_insert((text, Kind::Normal));
    }
    let count = by_id.keys().max().map_or(0, |id| *id as usize + 1).max(hints.vocabulary);
    if count > TOKENS_MAX || (hints.vocabulary > 0 && count > hints.vocabulary) {
        return Err(bad(format!("{count} tokens, but the model has {}", hints.vocabulary)));
    }
    let mut tokens = vec![""; count];
    let mut kinds = vec![Kind::Unused; count];
    for (id, (text, kind)) in &by_id {
        (tokens[*id as usize], kinds[*id as usize]) = (text, *kind);
    }
    let find = |text: &str| tokens.iter().position(|t| *t == text).map(|id| id as u32);
    let config = hints.config.unwrap_or(&Json::Null);
    let given = |key: &str, instead: &str| text_of(&config[key]).or(text_of(&config[instead])).and_then(find);
    let ids = |key: &str| -> Vec<u32> {
        let values = hints.models.iter().flat_map(|m| match &m[key] {
            Json::Array(list) => list.clone(),
            other => vec![other.clone()],
        });
        values.filter_map(|v| v.as_u64()).filter(|id| (*id as usize) < count).map(|id| id as u32).collect()
    };
    let bos = given("bos_token", "cls_token").or(ids("bos_token_id").first().copied());
    let mut ends = ids("eos_token_id");
    let eos = given("eos_token", "sep_token").or(ends.first().copied());
    let eos = eos.ok_or_else(|| bad("no file of the directory names the end-of-text token"))?;
    ends.push(eos);
    let add_bos = config["add_bos_token"].as_bool().unwrap_or(matches!(spelling, Spelling::Pieces { .. }));

    let mut hash = ContentHash::new(b"og/tokenizer/json/1");
    hash.field(bytes);
    hash.number(bos.map_or(u64::MAX, u64::from));
    hash.number(u64::from(eos));
    ends.sort_unstable();
    ends.dedup();
    for end in &ends {
        hash.number(u64::from(*end));
    }
    hash.field(&[u8::from(add_bos)]);
    hash.number(count as u64);
    Tokenizer::assemble(
        inner,
        spelling,
        &tokens,
        &kinds,
        bos,
        eos,
        ends.into_iter().collect(),
        add_bos,
        hash.finish(),
    )
}

/// How tokens spell bytes: told by the decoder, whose names say what it undoes.
fn spelling(json: &Json) -> Spelling {
    let text = json["decoder"].to_string();
    let normalizer = json["normalizer"].to_string() + &json["pre_tokenizer"].to_string();
    if text.contains("\"WordPiece\"") {
        Spelling::WordPiece
    } else if text.contains("\"ByteLevel\"") {
        Spelling::ByteLevel
    } else {
        let leading_space = normalizer.contains("\"Prepend\"")
            || normalizer.contains("\"prepend_scheme\":\"always\"")
            || normalizer.contains("\"prepend_scheme\":\"first\"")
            || normalizer.contains("\"add_prefix_space\":true");
        Spelling::Pieces { leading_space }
    }
}

/// The library relies on merges of known tokens.
fn check_merges(model: &Json) -> Result<(), EngineError> {
    let Some(merges) = model["merges"].as_array() else { return Ok(()) };
    let vocabulary: HashMap<String, u32> =
        model["vocab"].as_object().into_iter().flatten().map(|(token, _)| (token.clone(), 0)).collect();
    let pairs = merges
        .iter()
        .map(|m| match m {
            Json::String(s) => s.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            Json::Array(pair) if pair.len() == 2 => {
                Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()))
            }
            _ => None,
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| bad("a merge is not two tokens"))?;
    parts::check_merges(&vocabulary, &pairs)
}
