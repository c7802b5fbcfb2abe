use crate::{
    EngineError,
    formats::gguf::{Gguf, Value},
};
use std::collections::{BTreeMap, HashMap};
use tokenizers::{models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel};
use types::{B256, keccak256};

/// `tokenizer.ggml.token_type` of ordinary tokens.
const NORMAL: u64 = 1;

/// Byte-level BPE (GPT-2) from a GGUF file.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of every token; empty for special ones.
    bytes: Vec<Vec<u8>>,
    /// Text and id of special tokens, longest first.
    special: Vec<(String, u32)>,
    end_of_turn: u32,
    hash: B256,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.bytes.len())
    }
}

fn bad(detail: impl Into<String>) -> EngineError {
    EngineError::Tokenizer(detail.into())
}

fn strings<'a>(list: &'a [Value], what: &str) -> Result<Vec<&'a str>, EngineError> {
    list.iter()
        .map(|v| match v {
            Value::String(s) => Ok(s.as_str()),
            _ => Err(bad(format!("{what} must be strings"))),
        })
        .collect()
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// [`EngineError`] when the data is missing, inconsistent or of a kind that is not supported.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, EngineError> {
        let (model, pre) = (gguf.string("tokenizer.ggml.model")?, gguf.string("tokenizer.ggml.pre")?);
        if (model, pre) != ("gpt2", "gpt-2") {
            return Err(EngineError::Unsupported(format!("tokenizer {model}/{pre}; supported: gpt2/gpt-2")));
        }
        let tokens = strings(gguf.list("tokenizer.ggml.tokens")?, "tokens")?;
        let merges = strings(gguf.list("tokenizer.ggml.merges")?, "merges")?;
        let kinds = gguf.list("tokenizer.ggml.token_type")?;
        if kinds.len() != tokens.len() || tokens.is_empty() {
            return Err(bad("tokens and token types differ in number"));
        }
        let end_of_turn = gguf.integer("tokenizer.ggml.eos_token_id")?;
        if end_of_turn as usize >= tokens.len() {
            return Err(bad("the end-of-turn token is not in the vocabulary"));
        }
        let to_byte = byte_of_char();
        let mut bytes = Vec::with_capacity(tokens.len());
        let mut special = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
            let normal = matches!(kind, Value::Unsigned(NORMAL)) || *kind == Value::Signed(NORMAL as i64);
            if normal {
                let spelled = token.chars().map(|c| to_byte.get(&c).copied()).collect::<Option<Vec<u8>>>();
                bytes.push(spelled.ok_or_else(|| bad(format!("token {id} is not byte-level text")))?);
            } else {
                bytes.push(Vec::new());
                if !token.is_empty() {
                    special.push(((*token).to_owned(), id as u32));
                }
            }
        }
        special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.cmp(b)));
        let mut vocabulary: HashMap<String, u32> = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if vocabulary.insert((*token).to_owned(), id as u32).is_some() {
                return Err(bad(format!("the token {token:?} is there twice")));
            }
        }
        let pairs = merges
            .iter()
            .map(|m| m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad("a merge is not two tokens"))?;
        let hash = content_hash(&[model, pre], &tokens, kinds, &merges, end_of_turn);
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), pairs);
        let bpe = bpe.build().map_err(|e| bad(e.to_string()))?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        Ok(Self { inner, bytes, special, end_of_turn, hash })
    }

    /// Number of token ids.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// The token that ends a turn.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Hash of everything that decides how text becomes tokens.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Text of the special token `id`.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        self.special.iter().find(|(_, i)| *i == id).map(|(s, _)| s.as_str())
    }

    /// Encodes ordinary text. What looks like a special token stays text, so a user cannot forge the end of a turn.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] when the text cannot be encoded.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| bad(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes text in which special tokens count, except where `guard` was put into them (see `guarded`).
    pub(crate) fn encode_with_specials(&self, text: &str, guard: char) -> Result<Vec<u32>, EngineError> {
        let mut out = Vec::new();
        let mut plain_from = 0;
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            if let Some((token, id)) = self.special.iter().find(|(t, _)| rest.starts_with(t.as_str())) {
                self.encode_plain(&text[plain_from..at], guard, &mut out)?;
                out.push(*id);
                at += token.len();
                plain_from = at;
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        self.encode_plain(&text[plain_from..], guard, &mut out)?;
        Ok(out)
    }

    fn encode_plain(&self, text: &str, guard: char, out: &mut Vec<u32>) -> Result<(), EngineError> {
        if !text.is_empty() {
            out.extend(self.encode_text(&text.replace(guard, ""))?);
        }
        Ok(())
    }

    /// Breaks every special token in a user's text by a `guard` character behind its first character.
    pub(crate) fn guarded(&self, text: &str, guard: char) -> String {
        let mut out = text.to_owned();
        for (token, _) in &self.special {
            if out.contains(token.as_str()) {
                let first = token.chars().next().map_or(0, char::len_utf8);
                let broken = format!("{}{guard}{}", &token[..first], &token[first..]);
                out = out.replace(token.as_str(), &broken);
            }
        }
        out
    }

    /// A decoder for one answer.
    pub fn decoder(&self) -> TextDecoder<'_> {
        TextDecoder { tokenizer: self, pending: Vec::new() }
    }

    /// Text of `tokens`; special tokens have none, invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = tokens.iter().map(|t| decoder.push(*t)).collect();
        text.push_str(&decoder.finish());
        text
    }
}

/// Turns tokens into text as they come; a character split over tokens is held back until it is whole.
#[derive(Debug)]
pub struct TextDecoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
}

impl TextDecoder<'_> {
    /// Text that `token` completes.
    pub fn push(&mut self, token: u32) -> String {
        if let Some(bytes) = self.tokenizer.bytes.get(token as usize) {
            self.pending.extend_from_slice(bytes);
        }
        drain_utf8(&mut self.pending)
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Takes the valid prefix; invalid bytes become U+FFFD, an incomplete character stays.
fn drain_utf8(pending: &mut Vec<u8>) -> String {
    let mut out = String::new();
    loop {
        match std::str::from_utf8(pending) {
            Ok(text) => {
                out.push_str(text);
                pending.clear();
                return out;
            }
            Err(e) => {
                let valid = e.valid_up_to();
                out.push_str(&String::from_utf8_lossy(&pending[..valid]));
                match e.error_len() {
                    Some(n) => {
                        out.push(char::REPLACEMENT_CHARACTER);
                        pending.drain(..valid + n);
                    }
                    None => {
                        pending.drain(..valid);
                        return out;
                    }
                }
            }
        }
    }
}

/// GPT-2's map from printable stand-ins back to bytes.
fn byte_of_char() -> BTreeMap<char, u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut map: BTreeMap<char, u8> = (0..=255u8).filter(printable).map(|b| (char::from(b), b)).collect();
    let others = (0..=255u8).filter(|b| !printable(b));
    map.extend(others.enumerate().filter_map(|(i, b)| Some((char::from_u32(256 + i as u32)?, b))));
    map
}

/// keccak-256 over length-prefixed fields: kind, pre-tokeniser, tokens with types, merges, end of turn.
fn content_hash(kind: &[&str], tokens: &[&str], kinds: &[Value], merges: &[&str], end_of_turn: u32) -> B256 {
    let mut out = b"og/tokenizer/1".to_vec();
    let mut text = |s: &str| {
        out.extend_from_slice(&(s.len() as u64).to_be_bytes());
        out.extend_from_slice(s.as_bytes());
    };
    for s in kind.iter().chain(tokens) {
        text(s);
    }
    text("merges");
    for s in merges {
        text(s);
    }
    for kind in kinds {
        text(&format!("{kind:?}"));
    }
    text(&end_of_turn.to_string());
    keccak256(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_split_over_pushes_wait() {
        let mut pending = "é".as_bytes()[..1].to_vec();
        assert_eq!(drain_utf8(&mut pending), "");
        pending.push("é".as_bytes()[1]);
        assert_eq!(drain_utf8(&mut pending), "é");
        pending.extend([0xff, b'a']);
        assert_eq!(drain_utf8(&mut pending), "\u{fffd}a");
    }
}
