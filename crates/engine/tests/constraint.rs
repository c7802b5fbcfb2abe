//! Answers under a grammar: always of the right form, replayable, and hostile grammars are refused in bounded time.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::*;
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock, mpsc},
};
use types::Sampling;

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| Model::embedded().unwrap()).clone()
}

fn prompt() -> Vec<u32> {
    let user = ChatMessage::text(Role::User, "I want a large latte, please. Answer in JSON.");
    model().chat_prompt(&[user], &[], 0).unwrap()
}

fn run(
    engine: &Engine,
    constraint: Option<Constraint>,
    seed: u64,
    temperature: f32,
) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    let on_event = Box::new(move |e| {
        let _ = sender.send(e);
        ControlFlow::Continue(())
    });
    let sampling = Sampling { temperature, seed, ..Sampling::GREEDY };
    engine.submit(Job { constraint, ..Job::new(prompt(), sampling, 150, on_event) }).unwrap();
    receiver
}

fn finish(events: mpsc::Receiver<Event>) -> Completion {
    for event in events {
        match event {
            Event::Done(done) => return done,
            Event::Failed(e) => panic!("{e}"),
            _ => {}
        }
    }
    panic!("no end")
}

type Check = fn(&Value) -> bool;

fn schemas() -> Vec<(Value, Check)> {
    vec![
        (
            json!({"type": "object", "properties": {"drink": {"enum": ["latte", "mocha"]}, "size": {"type": "integer", "minimum": 1,
                "maximum": 3}}, "required": ["drink", "size"], "additionalProperties": false}),
            |v| {
                (v["drink"] == "latte" || v["drink"] == "mocha")
                    && (1..=3).contains(&v["size"].as_i64().unwrap_or(0))
                    && v.as_object().is_some_and(|o| o.len() == 2)
            },
        ),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}), |v| {
            v.as_array().is_some_and(|a| (2..=4).contains(&a.len()) && a.iter().all(Value::is_boolean))
        }),
        (json!({"type": "string", "maxLength": 12}), |v| v.as_str().is_some_and(|s| s.chars().count() <= 12)),
        (json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}), |v| {
            v.as_str().is_some_and(|s| s.len() == 6 && s.as_bytes()[2] == b'-')
        }),
        (json!({"anyOf": [{"const": 7}, {"type": "null"}]}), |v| *v == 7 || v.is_null()),
        (
            json!({"$defs": {"node": {"type": "object", "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"},
                {"type": "null"}]}}, "required": ["left"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
            |v| v.as_object().is_some_and(|o| o.contains_key("left")),
        ),
        (json!({"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}), |v| {
            v["n"].is_number()
        }),
    ]
}

#[test]
fn finished_answers_follow_their_schema() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    let mut finished = 0;
    for (schema, check) in schemas() {
        let constraint = Constraint::json_schema(&model(), &schema).unwrap();
        for (seed, temperature) in [(0, 0.0), (1, 1.0), (2, 1.0), (3, 2.0)] {
            let done = finish(run(&engine, Some(constraint.clone()), seed, temperature));
            if done.finish == FinishReason::Stop {
                let value: Value =
                    serde_json::from_str(&done.text).unwrap_or_else(|e| panic!("{e}: {}", done.text));
                assert!(check(&value), "{schema}: {}", done.text);
                finished += 1;
            }
            let sampling = Sampling { temperature, seed, ..Sampling::GREEDY };
            let by = Choosing { constraint: Some(constraint.clone()), ..Choosing::new(sampling) };
            let found = replay(&model(), &prompt(), &done.tokens, by).unwrap();
            assert_eq!((found.first_difference, found.trace_root), (None, done.trace_root));
            let without = replay(&model(), &prompt(), &done.tokens, Choosing::new(sampling)).unwrap();
            assert!(without.first_difference.is_some(), "without its grammar the answer is another one");
        }
    }
    assert!(finished >= 20, "only {finished} of 28 answers finished");
}

#[test]
fn regular_expressions_grammars_objects_and_tool_calls() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    let text = |c: Constraint| finish(run(&engine, Some(c), 5, 1.0)).text;
    assert!(["yes", "no"].contains(&text(Constraint::regex(&model(), "yes|no").unwrap()).as_str()));
    let lark = "start: \"a\"+ \"b\"";
    let found = text(Constraint::lark(&model(), lark).unwrap());
    assert!(found.trim_start_matches('a') == "b" || found.chars().all(|c| c == 'a'), "{found}");
    assert!(text(Constraint::json_object(&model()).unwrap()).starts_with('{'));
    let schema = json!({"type": "object", "properties": {"size": {"enum": ["small", "large"]}}, "required": ["size"],
        "additionalProperties": false});
    let tools = [
        ("order".to_owned(), schema.clone()),
        (
            "cancel".to_owned(),
            json!({"type": "object", "properties": {},
        "additionalProperties": false}),
        ),
    ];
    let call = text(Constraint::tool_calls(&model(), &tools, false).unwrap());
    let body = call.strip_prefix("<tool_call>\n").unwrap().strip_suffix("\n</tool_call>").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["name"] == "order" || body["name"] == "cancel", "{call}");
}

#[test]
fn a_grammar_in_a_batch_changes_nobodys_answer() {
    let (schema, _) = schemas().remove(0);
    let mut seen = Vec::new();
    for threads in [1, 2] {
        let engine = Engine::new(model(), EngineConfig { threads, ..EngineConfig::default() }).unwrap();
        let constraint = Constraint::json_schema(&model(), &schema).unwrap();
        let mixed: Vec<_> = (0..6u64)
            .map(|i| run(&engine, i.is_multiple_of(2).then(|| constraint.clone()), i, 1.0))
            .collect();
        let mixed: Vec<_> = mixed.into_iter().map(|e| finish(e).tokens).collect();
        for (i, tokens) in mixed.iter().enumerate() {
            let alone = run(&engine, i.is_multiple_of(2).then(|| constraint.clone()), i as u64, 1.0);
            assert_eq!(&finish(alone).tokens, tokens);
        }
        seen.push(mixed);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn hostile_grammars_are_refused() {
    let model = model();
    let refused = |c: Result<Constraint, EngineError>, line: u32| {
        let e = c.err().map(|e| e.to_string());
        assert!(
            e.as_ref().is_some_and(|e| e.contains("cannot be followed") && e.len() < 600),
            "line {line}: {e:?}"
        );
    };
    let mut deep = json!({"type": "integer"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep, "minItems": 1});
    }
    let _ = Constraint::json_schema(&model, &deep);
    let pattern = json!({"type": "string", "pattern": "(((((a{1,999}){1,999}){1,999})"});
    refused(Constraint::json_schema(&model, &pattern), line!());
    refused(Constraint::json_schema(&model, &json!({"type": "nonsense"})), line!());
    refused(Constraint::json_schema(&model, &json!({"$ref": "#/$defs/missing"})), line!());
    refused(Constraint::json_schema(&model, &json!({"$ref": "http://example.org/schema.json"})), line!());
    refused(Constraint::json_schema(&model, &json!({"enum": []})), line!());
    refused(Constraint::json_schema(&model, &json!(["a"])), line!());
    refused(Constraint::json_schema(&model, &json!({"description": "x".repeat(70_000)})), line!());
    refused(Constraint::regex(&model, "(("), line!());
    refused(Constraint::lark(&model, "start: start start"), line!());
    refused(Constraint::lark(&model, "nothing"), line!());
    // A huge count is no error by itself; its steps stay bounded.
    if let Ok(mut many) = Constraint::regex(&model, "(a{1000}){1000}{1000}") {
        let _ = many.mask();
    }
    if let Ok(mut many) = Constraint::json_schema(&model, &json!({"type": "array", "minItems": 1_000_000})) {
        let _ = many.mask();
    }
}

#[test]
fn the_version_is_the_one_that_is_built() {
    let lock = include_str!("../../../Cargo.lock");
    let version = GRAMMAR_VERSION.strip_prefix("llguidance-").unwrap();
    assert!(lock.contains(&format!("name = \"llguidance\"\nversion = \"{version}\"")));
}
