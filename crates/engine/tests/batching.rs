//! Who else is served, and with how much memory, never shows in an answer.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::*;
use proptest::prelude::*;
use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};
use types::Sampling;

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| Model::embedded().unwrap()).clone()
}

fn start(engine: &Engine, job: Job) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    let on_event =
        Box::new(
            move |e| if sender.send(e).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) },
        );
    engine.submit(Job { on_event, ..job }).unwrap();
    receiver
}

fn job(prompt: Vec<u32>, sampling: Sampling, max_tokens: u32) -> Job {
    Job::new(prompt, sampling, max_tokens, Box::new(|_| ControlFlow::Continue(())))
}

fn finish(events: &mpsc::Receiver<Event>) -> Completion {
    loop {
        match events.recv().unwrap() {
            Event::Done(done) => return Completion { cached_tokens: 0, ..done },
            Event::Failed(e) => panic!("{e}"),
            _ => {}
        }
    }
}

/// Prompts of which many begin alike.
fn prompt(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 3 + (if i < 70 { i * 7 } else { i * 13 + kind * 101 }) % 2000).collect()
}

fn sampling(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }
}

fn bytes_of(pages: usize) -> usize {
    // 6 layers, 4 key heads of 32, f16 keys and values, 32 positions.
    pages * 6 * 4 * 32 * 2 * 2 * 32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn answers_do_not_depend_on_arrivals_memory_or_batches(
        jobs in prop::collection::vec((0u32..4, 1usize..200, 1u32..24, 0u64..1000, 0u64..6), 1..10),
        batch_max in 1usize..9,
        pages in 8usize..40,
        prefix_cache: bool,
        chunk in 1usize..80,
    ) {
        let config = EngineConfig {
            threads: 2, batch_max, prefix_cache, prefill_chunk: chunk, prefill_chunk_alone: chunk * 2,
            kv_bytes: bytes_of(pages), ..EngineConfig::default()
        };
        let engine = Engine::new(model(), config).unwrap();
        prop_assert_eq!(engine.stats().pages_max, pages);
        let mut running = Vec::new();
        for (kind, len, max, seed, pause) in &jobs {
            running.push(start(&engine, job(prompt(*kind, *len), sampling(*seed), *max)));
            std::thread::sleep(Duration::from_millis(*pause));
        }
        let together: Vec<_> = running.iter().map(finish).collect();
        let plain = Engine::new(model(), EngineConfig { prefix_cache: false, ..EngineConfig::default() }).unwrap();
        for ((kind, len, max, seed, _), found) in jobs.iter().zip(&together) {
            let room = pages * kernels::PAGE - len;
            let alone = finish(&start(&plain, job(prompt(*kind, *len), sampling(*seed), (*max).min(room as u32))));
            prop_assert_eq!(&alone, found);
            let replayed = replay(&model(), &prompt(*kind, *len), &found.tokens, Choosing::new(sampling(*seed))).unwrap();
            prop_assert_eq!(replayed.first_difference, None);
            prop_assert_eq!(replayed.trace_root, found.trace_root);
        }
    }
}

#[test]
fn little_memory_preempts_and_changes_nothing() {
    let run = |pages: usize| {
        let config =
            EngineConfig { kv_bytes: bytes_of(pages), prefix_cache: false, ..EngineConfig::default() };
        let engine = Engine::new(model(), config).unwrap();
        // Another end for each, so that answers are long enough to collide.
        let jobs: Vec<_> = (0..4)
            .map(|i| {
                let bias = vec![(model().tokenizer().end_of_turn(), -100.0)];
                start(&engine, Job { logit_bias: bias, ..job(prompt(i, 60), sampling(u64::from(i)), 80) })
            })
            .collect();
        let done: Vec<_> = jobs.iter().map(finish).collect();
        (done, engine.stats())
    };
    let (plenty, calm) = run(100);
    let (tight, busy) = run(8);
    assert_eq!(plenty, tight);
    assert_eq!(calm.preemptions, 0);
    assert!(busy.preemptions > 0 && busy.pages_used <= 8, "{busy:?}");
    assert!(plenty.iter().all(|c| c.tokens.len() == 80));
}

#[test]
fn a_second_prompt_with_the_same_beginning_is_not_computed_again() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    finish(&start(&engine, job(prompt(0, 150), sampling(1), 2)));
    let first = engine.stats();
    finish(&start(&engine, job(prompt(1, 150), sampling(1), 2)));
    // 70 tokens are alike: two whole pages.
    let second = engine.stats();
    assert_eq!(second.cached_tokens - first.cached_tokens, 64);
    assert_eq!(second.prompt_tokens - first.prompt_tokens, 150 - 64);
}

#[test]
fn prompts_that_start_together_are_computed_once() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    // A first job keeps the engine busy, so that the others start in one step.
    let busy = start(&engine, job(prompt(3, 400), sampling(1), 1));
    let jobs: Vec<_> =
        (0..6).map(|i| start(&engine, Job { choice: i, ..job(prompt(1, 100), sampling(4), 5) })).collect();
    finish(&busy);
    let done: Vec<_> = jobs.iter().map(finish).collect();
    let computed = engine.stats().prompt_tokens - 400;
    // The first computes 100 tokens (less what it shares with the busy one), each other one what is behind three whole pages.
    assert!(computed <= 100 + 5 * 36, "{computed} prompt tokens were computed");
    for (i, found) in done.iter().enumerate() {
        let by = Choosing { choice: i as u32, ..Choosing::new(sampling(4)) };
        let replayed = replay(&model(), &prompt(1, 100), &found.tokens, by).unwrap();
        assert_eq!((replayed.first_difference, replayed.trace_root), (None, found.trace_root));
    }
}

#[test]
fn cancelled_while_its_prompt_is_read() {
    let config = EngineConfig { prefill_chunk: 4, prefill_chunk_alone: 4, ..EngineConfig::default() };
    let engine = Engine::new(model(), config).unwrap();
    let events = start(&engine, job(prompt(0, 500), sampling(1), 4));
    assert!(matches!(events.recv().unwrap(), Event::Prefill { done: 4, total: 500 }));
    drop(events);
    assert!(engine.drain(Duration::from_secs(20)));
    assert!(engine.stats().prompt_tokens < 500, "{:?}", engine.stats());
}

#[test]
fn draining_finishes_what_runs_and_refuses_what_comes() {
    let engine = Engine::new(model(), EngineConfig { batch_max: 1, ..EngineConfig::default() }).unwrap();
    let running: Vec<_> = (0..3).map(|i| start(&engine, job(prompt(i, 20), sampling(2), 8))).collect();
    assert!(engine.drain(Duration::from_secs(30)));
    assert_eq!(engine.submit(job(prompt(0, 5), sampling(1), 1)), Err(EngineError::Stopped));
    for events in running {
        finish(&events);
    }
    let stuck = Engine::new(model(), EngineConfig::default()).unwrap();
    let bias = vec![(model().tokenizer().end_of_turn(), -100.0)];
    let _events = start(&stuck, Job { logit_bias: bias, ..job(prompt(0, 20), sampling(2), 400) });
    assert!(!stuck.drain(Duration::from_millis(1)));
}

#[test]
fn choices_and_biases_replay() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    let run = |choice: u32| {
        let logit_bias = vec![(500, 3.0), (700, -100.0)];
        finish(&start(&engine, Job { choice, logit_bias, ..job(prompt(2, 30), sampling(9), 30) }))
    };
    let (zero, one) = (run(0), run(1));
    assert_ne!(zero.tokens, one.tokens);
    for (choice, done) in [(0, &zero), (1, &one)] {
        let by =
            Choosing { choice, logit_bias: vec![(500, 3.0), (700, -100.0)], ..Choosing::new(sampling(9)) };
        let found = replay(&model(), &prompt(2, 30), &done.tokens, by).unwrap();
        assert_eq!((found.first_difference, found.trace_root), (None, done.trace_root));
        assert!(!done.tokens.contains(&700));
    }
}

#[test]
fn log_probabilities_are_the_same_in_a_replay() {
    let engine = Engine::new(model(), EngineConfig::default()).unwrap();
    let events = start(&engine, Job { top_logprobs: Some(4), ..job(prompt(1, 40), sampling(3), 12) });
    let (mut seen, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match events.recv().unwrap() {
            Event::Token { id, logprobs, .. } => {
                tokens.push(id);
                seen.push(logprobs.unwrap());
            }
            Event::Done(_) => break,
            Event::Failed(e) => panic!("{e}"),
            Event::Prefill { .. } => {}
        }
    }
    let found =
        replay_with_logprobs(&model(), &prompt(1, 40), &tokens, Choosing::new(sampling(3)), Some(4)).unwrap();
    assert_eq!(found.logprobs, seen);
    assert!(seen.iter().all(|l| l.top.len() == 4 && l.logprob <= l.top[0].1 && l.top[0].1 < 0.0));
}
