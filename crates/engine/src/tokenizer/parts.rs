//! What a tokenizer is made of, before it is built: the common form of GGUF metadata and `tokenizer.json`.

use crate::EngineError;
use std::collections::{BTreeMap, HashMap};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    models::{bpe::BPE, wordpiece::WordPiece},
    normalizers::{BertNormalizer, NFC, Prepend, Replace, Sequence as Normalizers},
    pre_tokenizers::{
        bert::BertPreTokenizer,
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// How tokens spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's printable stand-ins for bytes.
    ByteLevel,
    /// SentencePiece: U+2581 for a space, `<0x41>` for a byte. A text's first space is dropped when the encoder puts one there.
    Pieces {
        /// Whether the encoder puts a space in front.
        leading_space: bool,
    },
    /// WordPiece: `##` for "goes on", words joined by spaces.
    WordPiece,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Ordinary text.
    Normal,
    /// Never in text: begins and ends turns.
    Control,
    /// Found in text before anything else, and shown.
    UserDefined,
    /// Stands for nothing.
    Unused,
}

/// A word-splitting rule, by its name in GGUF.
pub(super) const PRE_TOKENIZERS: &str =
    "gpt-2, olmo, phi-2, llama-bpe, llama3, qwen2, deepseek-r1-qwen, smollm";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn bad(detail: impl Into<String>) -> EngineError {
    EngineError::Tokenizer(detail.into())
}

/// Token texts to ids; every text once.
pub(super) fn vocabulary(tokens: &[&str]) -> Result<HashMap<String, u32>, EngineError> {
    let mut vocabulary = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert((*token).to_owned(), id as u32).is_some() {
            return Err(bad(format!("the token {token:?} is there twice")));
        }
    }
    Ok(vocabulary)
}

/// Checks that each merge joins tokens of the vocabulary to one of it; the library that runs them relies on it.
pub(super) fn check_merges(
    vocabulary: &HashMap<String, u32>,
    merges: &[(String, String)],
) -> Result<(), EngineError> {
    let known = |(a, b): &&(String, String)| {
        vocabulary.contains_key(a)
            && vocabulary.contains_key(b)
            && vocabulary.contains_key(&format!("{a}{b}"))
    };
    match merges.iter().find(|m| !known(m)) {
        Some((a, b)) => Err(bad(format!("the merge of {a:?} and {b:?} is not of known tokens"))),
        None => Ok(()),
    }
}

/// Byte-level BPE with the word-splitting rule called `pre`.
pub(super) fn byte_level(
    vocabulary: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    pre: &str,
) -> Result<tokenizers::Tokenizer, EngineError> {
    let split = |regex: &str| -> Result<PreTokenizerWrapper, EngineError> {
        let pattern = SplitPattern::Regex(regex.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        Ok(split.map_err(|e| bad(e.to_string()))?.into())
    };
    let bytes = |regex: bool| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    let (steps, whole_words, nfc) = match pre {
        "gpt-2" | "olmo" | "phi-2" => (vec![bytes(true)], false, false),
        "llama-bpe" | "llama3" | "llama-v3" => (vec![split(LLAMA3)?, bytes(false)], true, false),
        "qwen2" | "deepseek-r1-qwen" => (vec![split(QWEN2)?, bytes(false)], false, true),
        "smollm" => (vec![Digits::new(true).into(), bytes(true)], false, false),
        other => {
            return Err(EngineError::Unsupported(format!(
                "the pre-tokeniser {other:?}; supported: {PRE_TOKENIZERS}"
            )));
        }
    };
    check_merges(&vocabulary, &merges)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(whole_words);
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(|e| bad(e.to_string()))?);
    inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    if nfc {
        inner.with_normalizer(Some(NFC)).map_err(|e| bad(e.to_string()))?;
    }
    Ok(inner)
}

/// SentencePiece BPE: pairs merge in the order of the merged piece's score.
pub(super) fn pieces(
    tokens: &[&str],
    scores: &[f32],
    vocabulary: HashMap<String, u32>,
    unknown: Option<u32>,
    leading_space: bool,
) -> Result<tokenizers::Tokenizer, EngineError> {
    let mut merges: Vec<(f32, u32, u32, String, String)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let mut splits: Vec<(u32, u32, &str, &str)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (a, b) = token.split_at(at);
                Some((*vocabulary.get(a)?, *vocabulary.get(b)?, a, b))
            })
            .collect();
        splits.sort_unstable();
        merges.extend(splits.into_iter().map(|(ia, ib, a, b)| (*score, ia, ib, a.to_owned(), b.to_owned())));
    }
    // Stable: equal scores stay in order of id.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges.into_iter().map(|(_, _, _, a, b)| (a, b)).collect();
    let unknown = unknown.and_then(|id| tokens.get(id as usize)).map(|t| (*t).to_owned());
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        bpe = bpe.unk_token(unknown);
    }
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(|e| bad(e.to_string()))?);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if leading_space {
        steps.push(Prepend::new("\u{2581}".into()).into());
    }
    steps.push(Replace::new(" ", "\u{2581}").map_err(|e| bad(e.to_string()))?.into());
    inner.with_normalizer(Some(Normalizers::new(steps))).map_err(|e| bad(e.to_string()))?;
    Ok(inner)
}

/// BERT's WordPiece over lower-cased text without accents. `tokens` have `##` where a word goes on.
pub(super) fn word_piece(
    vocabulary: HashMap<String, u32>,
    unknown: &str,
) -> Result<tokenizers::Tokenizer, EngineError> {
    let vocabulary = vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>();
    let model = WordPiece::builder().vocab(vocabulary).unk_token(unknown.to_owned()).build();
    let mut inner = tokenizers::Tokenizer::new(model.map_err(|e| bad(e.to_string()))?);
    let normalizer = BertNormalizer::new(true, true, Some(true), true);
    inner.with_normalizer(Some(normalizer)).map_err(|e| bad(e.to_string()))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(inner)
}

/// Tokens that are found in text before anything else.
pub(super) fn add_user_defined(
    inner: &mut tokenizers::Tokenizer,
    texts: impl Iterator<Item = String>,
) -> Result<(), EngineError> {
    let tokens: Vec<_> = texts.map(|t| AddedToken::from(t, false).normalized(false)).collect();
    inner.add_tokens(tokens).map(|_| ()).map_err(|e| bad(e.to_string()))
}

/// Bytes that a token adds to a text.
pub(super) fn spell(spelling: Spelling, token: &str, bytes_of_chars: &BTreeMap<char, u8>) -> Option<Vec<u8>> {
    match spelling {
        Spelling::ByteLevel => token.chars().map(|c| bytes_of_chars.get(&c).copied()).collect(),
        Spelling::Pieces { .. } => {
            let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
            Some(match byte.and_then(|b| u8::from_str_radix(b, 16).ok()) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            })
        }
        Spelling::WordPiece => Some(match token.strip_prefix("##") {
            Some(rest) => rest.as_bytes().to_vec(),
            None => format!(" {token}").into_bytes(),
        }),
    }
}

/// GPT-2's map from printable stand-ins back to bytes.
pub(super) fn byte_of_char() -> BTreeMap<char, u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut map: BTreeMap<char, u8> = (0..=255u8).filter(printable).map(|b| (char::from(b), b)).collect();
    let others = (0..=255u8).filter(|b| !printable(b));
    map.extend(others.enumerate().filter_map(|(i, b)| Some((char::from_u32(256 + i as u32)?, b))));
    map
}
