//! Tokenizers out of GGUF metadata (`tokenizer.ggml.*`).

use super::{
    Tokenizer,
    parts::{self, Kind, Spelling, bad},
};
use crate::{
    EngineError,
    formats::gguf::{Gguf, Value},
};
use types::B256;

/// The metadata that matters, checked.
struct Fields<'a> {
    model: &'a str,
    pre: &'a str,
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
    numbers: Vec<u64>,
    merges: Vec<(String, String)>,
    scores: Vec<f32>,
    bos: Option<u32>,
    eos: u32,
    eot: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    leading_space: bool,
}

fn strings<'a>(list: &'a [Value], what: &str) -> Result<Vec<&'a str>, EngineError> {
    list.iter()
        .map(|v| match v {
            Value::String(s) => Ok(s.as_str()),
            _ => Err(bad(format!("{what} must be strings"))),
        })
        .collect()
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(n) => Some(*n),
        Value::Signed(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

impl<'a> Fields<'a> {
    fn read(gguf: &'a Gguf<'_>) -> Result<Self, EngineError> {
        let model = gguf.string("tokenizer.ggml.model")?;
        let pre = match gguf.metadata.get("tokenizer.ggml.pre") {
            Some(Value::String(pre)) => pre.as_str(),
            _ => "",
        };
        let tokens = strings(gguf.list("tokenizer.ggml.tokens")?, "tokens")?;
        if tokens.is_empty() {
            return Err(bad("there are no tokens"));
        }
        let optional = |key: &str| gguf.metadata.contains_key(key).then(|| gguf.list(key)).transpose();
        let numbers: Vec<u64> = match optional("tokenizer.ggml.token_type")? {
            None => vec![1; tokens.len()],
            Some(list) => list
                .iter()
                .map(|v| number(v).ok_or_else(|| bad("token types must be integers")))
                .collect::<Result<_, _>>()?,
        };
        if numbers.len() != tokens.len() {
            return Err(bad("tokens and token types differ in number"));
        }
        let kinds = numbers
            .iter()
            .map(|n| match n {
                1 | 6 => Ok(Kind::Normal),
                2 | 3 => Ok(Kind::Control),
                4 => Ok(Kind::UserDefined),
                5 => Ok(Kind::Unused),
                other => Err(bad(format!("the token type {other}"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let merges = strings(optional("tokenizer.ggml.merges")?.unwrap_or_default(), "merges")?
            .iter()
            .map(|m| m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad("a merge is not two tokens"))?;
        let scores = optional("tokenizer.ggml.scores")?.unwrap_or_default().iter().map(|v| match v {
            Value::Float(x) if x.is_finite() => Ok(*x as f32),
            _ => Err(bad("scores must be finite floats")),
        });
        let scores: Vec<f32> = scores.collect::<Result<_, _>>()?;
        if !scores.is_empty() && scores.len() != tokens.len() {
            return Err(bad("tokens and scores differ in number"));
        }
        let id = |key: &str| -> Result<Option<u32>, EngineError> {
            if !gguf.metadata.contains_key(key) {
                return Ok(None);
            }
            match gguf.integer(key)? {
                id if (id as usize) < tokens.len() => Ok(Some(id)),
                id => Err(bad(format!("{key} is {id}, beyond the vocabulary"))),
            }
        };
        let flag = |key: &str, default: bool| match gguf.metadata.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(bad(format!("{key} must be true or false"))),
        };
        let eos = match model {
            "bert" => id("tokenizer.ggml.seperator_token_id")?.or(id("tokenizer.ggml.eos_token_id")?),
            _ => id("tokenizer.ggml.eos_token_id")?,
        };
        let bos = match model {
            "bert" => id("tokenizer.ggml.cls_token_id")?.or(id("tokenizer.ggml.bos_token_id")?),
            _ => id("tokenizer.ggml.bos_token_id")?,
        };
        Ok(Self {
            model,
            pre,
            kinds,
            numbers,
            merges,
            scores,
            bos,
            eos: eos.ok_or_else(|| bad("tokenizer.ggml.eos_token_id is missing"))?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            add_bos: flag("tokenizer.ggml.add_bos_token", model == "llama")?,
            leading_space: flag("tokenizer.ggml.add_space_prefix", model == "llama")?,
            tokens,
        })
    }

    /// keccak-256 of `og/tokenizer/2` and, each preceded by its length in bytes (u64 BE): kind, pre-tokeniser; number of tokens (u64
    /// BE as 8 bytes) and for each token its text and its type (u64 BE); number of merges and both parts of each; number of
    /// scores and the bits of each (f32 BE); bos, eos, eot and unknown id (u64 BE, or nothing when absent); a byte each for "a
    /// bos in front" and "a space in front".
    fn hash(&self) -> B256 {
        let mut hasher = super::ContentHash::new(b"og/tokenizer/2");
        hasher.field(self.model.as_bytes());
        hasher.field(self.pre.as_bytes());
        hasher.number(self.tokens.len() as u64);
        for (token, number) in self.tokens.iter().zip(&self.numbers) {
            hasher.field(token.as_bytes());
            hasher.number(*number);
        }
        hasher.number(self.merges.len() as u64);
        for (a, b) in &self.merges {
            hasher.field(a.as_bytes());
            hasher.field(b.as_bytes());
        }
        hasher.number(self.scores.len() as u64);
        for score in &self.scores {
            hasher.field(&score.to_bits().to_be_bytes());
        }
        for id in [self.bos, Some(self.eos), self.eot, self.unknown] {
            match id {
                Some(id) => hasher.number(u64::from(id)),
                None => hasher.field(&[]),
            }
        }
        hasher.field(&[u8::from(self.add_bos), u8::from(self.leading_space)]);
        hasher.finish()
    }
}

pub(super) fn read(gguf: &Gguf<'_>) -> Result<Tokenizer, EngineError> {
    let fields = Fields::read(gguf)?;
    let hash = fields.hash();
    let Fields { model, pre, mut kinds, merges, scores, unknown, leading_space, .. } = fields;
    let unprefixed: Vec<String>;
    let mut tokens = fields.tokens;
    let (mut inner, spelling) = match model {
        "gpt2" => (parts::byte_level(parts::vocabulary(&tokens)?, merges, pre)?, Spelling::ByteLevel),
        "llama" => {
            if scores.is_empty() {
                return Err(bad("SentencePiece tokens without scores"));
            }
            let vocabulary = parts::vocabulary(&tokens)?;
            let inner = parts::pieces(&tokens, &scores, vocabulary, unknown, leading_space)?;
            (inner, Spelling::Pieces { leading_space })
        }
        "bert" => {
            // GGUF marks the begin of a word by U+2581 where WordPiece marks its continuation by ##.
            unprefixed = tokens
                .iter()
                .zip(&mut kinds)
                .map(|(token, kind)| match token.strip_prefix('\u{2581}') {
                    Some(word) => word.to_owned(),
                    None if *kind != Kind::Normal => (*token).to_owned(),
                    None if token.starts_with('[') && token.ends_with(']') && token.len() > 2 => {
                        *kind = Kind::Control;
                        (*token).to_owned()
                    }
                    None => format!("##{token}"),
                })
                .collect();
            tokens = unprefixed.iter().map(String::as_str).collect();
            let unknown = unknown.and_then(|id| tokens.get(id as usize)).copied().unwrap_or("[UNK]");
            (parts::word_piece(parts::vocabulary(&tokens)?, unknown)?, Spelling::WordPiece)
        }
        other => {
            return Err(EngineError::Unsupported(format!(
                "the tokenizer {other:?}; supported: gpt2, llama, bert"
            )));
        }
    };
    let defined = tokens.iter().zip(&kinds).filter(|(t, k)| **k == Kind::UserDefined && !t.is_empty());
    parts::add_user_defined(&mut inner, defined.map(|(t, _)| (*t).to_owned()))?;
    let ends = [Some(fields.eos), fields.eot].into_iter().flatten().collect();
    Tokenizer::assemble(inner, spelling, &tokens, &kinds, fields.bos, fields.eos, ends, fields.add_bos, hash)
}
