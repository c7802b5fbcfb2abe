//! Every kind of tokenizer against the library that it comes from, on a corpus of many languages; and hostile tokenizer data.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::{
    EngineError, Tokenizer,
    formats::gguf::{Gguf, Value},
};
use proptest::prelude::*;
use serde_json::Value as Json;
use std::collections::BTreeMap;

fn cases() -> Json {
    serde_json::from_str(include_str!("tokenizers/cases.json")).unwrap()
}

fn strings(v: &Json) -> Value {
    Value::Array(v.as_array().unwrap().iter().map(|s| Value::String(s.as_str().unwrap().into())).collect())
}

fn gguf(entries: Vec<(&str, Value)>) -> Gguf<'static> {
    let metadata: BTreeMap<String, Value> =
        entries.into_iter().map(|(k, v)| (format!("tokenizer.ggml.{k}"), v)).collect();
    Gguf { metadata, tensors: BTreeMap::new() }
}

fn types(v: &Json) -> Value {
    Value::Array(v.as_array().unwrap().iter().map(|t| Value::Signed(t.as_i64().unwrap())).collect())
}

/// GGUF metadata of a case, as the converter writes it.
fn metadata(name: &str, case: &Json) -> Gguf<'static> {
    let string = |s: &str| Value::String(s.into());
    let count = case["tokens"].as_array().unwrap().len();
    let special = |n: usize, ids: &[usize]| {
        Value::Array((0..n).map(|i| Value::Signed(if ids.contains(&i) { 3 } else { 1 })).collect())
    };
    match name {
        "wordpiece" => {
            // Words get a mark, continuations lose theirs.
            let tokens = case["tokens"].as_array().unwrap().iter().map(|t| {
                let t = t.as_str().unwrap();
                Value::String(match t.strip_prefix("##") {
                    Some(rest) => rest.into(),
                    None if t.starts_with('[') && t.ends_with(']') && t.len() > 2 => t.into(),
                    None => format!("\u{2581}{t}"),
                })
            });
            gguf(vec![
                ("model", string("bert")),
                ("tokens", Value::Array(tokens.collect())),
                ("token_type", special(count, &[0, 1, 2, 3])),
                ("unknown_token_id", Value::Unsigned(1)),
                ("cls_token_id", Value::Unsigned(2)),
                ("seperator_token_id", Value::Unsigned(3)),
            ])
        }
        "pieces" | "pieces-bare" => {
            let scores = case["scores"].as_array().unwrap().iter().map(|s| Value::Float(s.as_f64().unwrap()));
            gguf(vec![
                ("model", string("llama")),
                ("tokens", strings(&case["tokens"])),
                ("scores", Value::Array(scores.collect())),
                ("token_type", types(&case["types"])),
                ("bos_token_id", Value::Unsigned(case["bos"].as_u64().unwrap())),
                ("eos_token_id", Value::Unsigned(case["eos"].as_u64().unwrap())),
                ("unknown_token_id", Value::Unsigned(case["unknown"].as_u64().unwrap())),
                ("add_space_prefix", Value::Bool(name == "pieces")),
            ])
        }
        pre => gguf(vec![
            ("model", string("gpt2")),
            ("pre", string(pre)),
            ("tokens", strings(&case["tokens"])),
            ("merges", strings(&case["merges"])),
            ("token_type", special(count, &[0])),
            ("eos_token_id", Value::Unsigned(0)),
        ]),
    }
}

#[test]
fn texts_of_many_languages_get_the_ids_of_the_original_library() {
    let json = cases();
    for (name, case) in json["cases"].as_object().unwrap() {
        let tokenizer = Tokenizer::from_gguf(&metadata(name, case)).unwrap();
        for (text, ids) in json["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode_text(text).unwrap(), ids, "{name}: {text:?}");
            let lossless = !matches!(name.as_str(), "wordpiece" | "qwen2");
            if lossless {
                assert_eq!(tokenizer.decode(&ids), text, "{name}");
            }
        }
    }
}

#[test]
fn word_pieces_join_and_texts_lose_only_what_normalising_takes() {
    let json = cases();
    let tokenizer = Tokenizer::from_gguf(&metadata("wordpiece", &json["cases"]["wordpiece"])).unwrap();
    let tokens = tokenizer.encode_text("Mixed CASE hello").unwrap();
    assert_eq!(tokenizer.decode(&tokens), "mixed case hello");
    let framed = tokenizer.encode_for_embedding("hello").unwrap();
    assert_eq!((framed[0], *framed.last().unwrap()), (2, 3));
    let qwen = Tokenizer::from_gguf(&metadata("qwen2", &json["cases"]["qwen2"])).unwrap();
    assert_eq!(qwen.decode(&qwen.encode_text("a\u{301}").unwrap()), "\u{e1}");
}

#[test]
fn hostile_tokenizers_are_errors() {
    let json = cases();
    let case = |name: &str| metadata(name, &json["cases"][name]);
    let broken = |name: &str, key: &str, value: Option<Value>| {
        let mut gguf = case(name);
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(value) => _ = gguf.metadata.insert(key, value),
            None => _ = gguf.metadata.remove(&key),
        }
        Tokenizer::from_gguf(&gguf).map(|t| t.vocabulary())
    };
    let text = |s: &str| Value::String(s.into());
    let list = |v: Vec<Value>| Some(Value::Array(v));
    for (name, key, value) in [
        ("llama3", "model", None),
        ("llama3", "model", Some(text("rwkv"))),
        ("llama3", "pre", Some(text("unheard-of"))),
        ("llama3", "tokens", None),
        ("llama3", "tokens", list(vec![])),
        ("llama3", "tokens", list(vec![text("a"), text("a")])),
        ("llama3", "tokens", list(vec![Value::Unsigned(1)])),
        ("llama3", "token_type", list(vec![Value::Signed(1)])),
        ("llama3", "token_type", Some(text("normal"))),
        ("llama3", "merges", list(vec![text("nospace")])),
        // Longer than any token: the library below would read beyond its buffer.
        ("llama3", "merges", list(vec![text(&format!("{0} {0}", "a".repeat(300)))])),
        ("llama3", "merges", list(vec![text("q zz")])),
        ("llama3", "eos_token_id", None),
        ("llama3", "eos_token_id", Some(Value::Unsigned(1 << 31))),
        ("llama3", "eot_token_id", Some(Value::Unsigned(100_000))),
        ("llama3", "add_bos_token", Some(Value::Unsigned(1))),
        ("pieces", "scores", None),
        ("pieces", "scores", list(vec![Value::Float(1.0)])),
        ("pieces", "scores", Some(Value::Array(vec![Value::Float(f64::NAN); 480]))),
        ("pieces", "unknown_token_id", Some(text("0"))),
    ] {
        let found = broken(name, key, value);
        let refused = matches!(found, Err(EngineError::Tokenizer(_) | EngineError::Unsupported(_)));
        assert!(refused, "{name} {key}: {found:?}");
    }
}

#[test]
fn long_texts_are_not_quadratic() {
    let json = cases();
    for name in ["pieces", "llama3", "wordpiece"] {
        let tokenizer = Tokenizer::from_gguf(&metadata(name, &json["cases"][name])).unwrap();
        // One word of 200,000 characters would take minutes if merging were quadratic; the test's own time limit would end it.
        let tokens = tokenizer.encode_text(&"abcdefgh".repeat(25_000)).unwrap();
        assert!(!tokens.is_empty());
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(text in "\\PC{0,60}") {
        let json = cases();
        for name in ["gpt-2", "llama3", "smollm", "pieces", "pieces-bare"] {
            let tokenizer = Tokenizer::from_gguf(&metadata(name, &json["cases"][name])).unwrap();
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text).unwrap()), &text[..], "{}", name);
        }
    }
}
