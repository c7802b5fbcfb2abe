//! Text to tokens and back: byte-level BPE, SentencePiece BPE and unigram, WordPiece, on top of the `tokenizers` library.

mod gguf;
mod huggingface;
mod parts;

use crate::{EngineError, formats::gguf::Gguf};
pub(crate) use huggingface::Hints;
use parts::{Kind, Spelling, bad};
use std::collections::BTreeSet;
use types::{B256, keccak256};

/// Texts of tokens that end an answer, whatever else the file says, when they are control tokens.
const WELL_KNOWN_ENDS: [&str; 7] =
    ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"];

/// The tokenizer of a model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    /// Bytes of every token; empty for special ones.
    bytes: Vec<Vec<u8>>,
    /// Text and id of special tokens, longest first.
    special: Vec<(String, u32)>,
    /// First bytes of special tokens.
    special_starts: [bool; 256],
    bos: Option<u32>,
    end_of_turn: u32,
    ends: BTreeSet<u32>,
    add_bos: bool,
    hash: B256,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {:?})", self.bytes.len(), self.spelling)
    }
}

/// keccak-256 over fields that are each preceded by their length (u64 BE), so that no two lists of fields give the same bytes.
struct ContentHash(Vec<u8>);

impl ContentHash {
    fn new(domain: &[u8]) -> Self {
        Self(domain.to_vec())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, n: u64) {
        self.field(&n.to_be_bytes());
    }

    fn finish(self) -> B256 {
        keccak256(self.0)
    }
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// [`EngineError`] when the data is missing, inconsistent or of a kind that is not supported.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, EngineError> {
        gguf::read(gguf)
    }

    /// Reads the bytes of a `tokenizer.json`, with what other files of its directory say.
    pub(crate) fn from_hugging_face(bytes: &[u8], hints: &Hints<'_>) -> Result<Self, EngineError> {
        huggingface::read(bytes, hints)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a tokenizer")]
    fn assemble(
        inner: tokenizers::Tokenizer,
        spelling: Spelling,
        tokens: &[&str],
        kinds: &[Kind],
        bos: Option<u32>,
        end_of_turn: u32,
        mut ends: BTreeSet<u32>,
        add_bos: bool,
        hash: B256,
    ) -> Result<Self, EngineError> {
        let chars = parts::byte_of_char();
        let mut bytes = Vec::with_capacity(tokens.len());
        let mut special = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
            bytes.push(match kind {
                Kind::Normal => parts::spell(spelling, token, &chars)
                    .ok_or_else(|| bad(format!("token {id} is not byte-level text")))?,
                Kind::UserDefined => token.as_bytes().to_vec(),
                Kind::Control | Kind::Unused => Vec::new(),
            });
            if *kind == Kind::Control && !token.is_empty() {
                special.push(((*token).to_owned(), id as u32));
                if WELL_KNOWN_ENDS.contains(token) {
                    ends.insert(id as u32);
                }
            }
        }
        special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.cmp(b)));
        let mut special_starts = [false; 256];
        for (text, _) in &special {
            special_starts[text.as_bytes()[0] as usize] = true;
        }
        ends.insert(end_of_turn);
        Ok(Self { inner, spelling, bytes, special, special_starts, bos, end_of_turn, ends, add_bos, hash })
    }

    /// Number of token ids.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// The token that ends a turn.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Whether `token` ends an answer: the end of a turn or of the text.
    pub fn is_end_of_generation(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The token that begins a text, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Hash of everything that decides how text becomes tokens and back.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Text of the special token `id`.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        self.special.iter().find(|(_, i)| *i == id).map(|(s, _)| s.as_str())
    }

    /// Bytes that token `id` adds to a text; none for special tokens and unknown ids.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Encodes a raw prompt: as text, behind the token that begins a text if the model wants one.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut out: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        out.extend(self.encode_text(text)?);
        Ok(out)
    }

    /// Encodes a text for an encoder: between the tokens that begin and end a text.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_for_embedding(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut out: Vec<u32> = self.bos.into_iter().collect();
        out.extend(self.encode_text(text)?);
        out.push(self.end_of_turn);
        Ok(out)
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
            let rest = &text.as_bytes()[at..];
            let here = self.special_starts[rest[0] as usize]
                .then(|| self.special.iter().find(|(t, _)| rest.starts_with(t.as_bytes())))
                .flatten();
            if let Some((token, id)) = here {
                self.encode_plain(&text[plain_from..at], guard, &mut out)?;
                out.push(*id);
                at += token.len();
                plain_from = at;
            } else {
                // Special tokens begin with whole characters, so bytes inside one never match.
                at += 1;
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
        TextDecoder { tokenizer: self, pending: Vec::new(), begun: false }
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
    begun: bool,
}

impl TextDecoder<'_> {
    /// Text that `token` completes.
    pub fn push(&mut self, token: u32) -> String {
        let mut bytes = self.tokenizer.token_bytes(token);
        let drops_space = match self.tokenizer.spelling {
            Spelling::ByteLevel => false,
            Spelling::Pieces { leading_space } => leading_space,
            Spelling::WordPiece => true,
        };
        if drops_space && !self.begun {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.begun |= !self.tokenizer.token_bytes(token).is_empty();
        self.pending.extend_from_slice(bytes);
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
