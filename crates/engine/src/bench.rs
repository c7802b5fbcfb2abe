//! Speed of an engine, measured as a client sees it: whole jobs through the scheduler, sampling and trace included.

pub mod device;

use crate::{Choosing, Engine, EngineConfig, EngineError, Event, Job, Model, replay};
use std::{
    ops::ControlFlow,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use types::Sampling;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Tokens generated a second, all sequences together, behind prompts of 16 tokens.
    Decode {
        /// Sequences at once.
        batch: usize,
        /// Tokens of each.
        generate: usize,
    },
    /// Prompt tokens read a second.
    Prefill {
        /// Tokens of the prompt.
        prompt: usize,
    },
    /// Time of a replay over the time of the generation that it checks.
    Replay {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer.
        generate: usize,
    },
}

/// Tokens of a prompt in front of a decode test.
const DECODE_PROMPT: usize = 16;

/// Prompt number `i`, without special tokens.
fn prompt(model: &Model, i: usize, len: usize) -> Vec<u32> {
    let vocabulary = model.tokenizer().vocabulary();
    (0..len).map(|j| (300 + (i * 7919 + j * 104_729) % (vocabulary - 300)) as u32).collect()
}

struct Run {
    tokens: Vec<u32>,
    first: Instant,
    end: Instant,
}

fn run(engine: &Engine, prompts: Vec<Vec<u32>>, generate: usize) -> Result<Vec<Run>, EngineError> {
    let eos = engine.model().tokenizer().end_of_turn();
    let mut receivers = Vec::new();
    for prompt in prompts {
        let (sender, receiver) = mpsc::channel();
        let on_event = Box::new(move |e| {
            let _ = sender.send((Instant::now(), e));
            ControlFlow::Continue(())
        });
        let job = Job::new(prompt, Sampling::GREEDY, generate as u32, on_event);
        // Random weights may end an answer at any place.
        engine.submit(Job { logit_bias: vec![(eos, -100.0)], ..job })?;
        receivers.push(receiver);
    }
    receivers
        .into_iter()
        .map(|events| {
            let mut first = None;
            for (at, event) in events {
                match event {
                    Event::Prefill { .. } => {}
                    Event::Token { .. } => _ = first.get_or_insert(at),
                    Event::Failed(e) => return Err(e),
                    Event::Done(done) => {
                        return Ok(Run { tokens: done.tokens, first: first.unwrap_or(at), end: at });
                    }
                }
            }
            Err(EngineError::Stopped)
        })
        .collect()
}

/// Runs `test` once: tokens a second, or the ratio of a replay.
///
/// # Errors
/// [`EngineError`] when the model cannot run the test.
pub fn measure(model: &Arc<Model>, config: EngineConfig, test: Test) -> Result<f64, EngineError> {
    let config = EngineConfig { prefix_cache: false, ..config };
    measure_on(&Engine::new(model.clone(), config.clone())?, &config, test)
}

/// As [`measure`], on an engine that runs with `config` and should have no prefix cache.
///
/// # Errors
/// As [`measure`].
pub fn measure_on(engine: &Engine, config: &EngineConfig, test: Test) -> Result<f64, EngineError> {
    let model = engine.model();
    // Wakes the threads and fills the caches.
    run(engine, vec![prompt(model, 99, 8)], 2)?;
    match test {
        Test::Decode { batch, generate } => {
            let prompts = (0..batch).map(|i| prompt(model, i, DECODE_PROMPT)).collect();
            let runs = run(engine, prompts, generate)?;
            // All have begun when the last one has.
            let from = runs.iter().map(|r| r.first).max().unwrap_or_else(Instant::now);
            let to = runs.iter().map(|r| r.end).max().unwrap_or(from);
            Ok((batch * (generate - 1)) as f64 / seconds(to - from))
        }
        Test::Prefill { prompt: len } => {
            let began = Instant::now();
            let runs = run(engine, vec![prompt(model, 0, len)], 1)?;
            Ok(len as f64 / seconds(runs[0].first - began))
        }
        Test::Replay { prompt: len, generate } => {
            let prompt = prompt(model, 0, len);
            let began = Instant::now();
            let runs = run(engine, vec![prompt.clone()], generate)?;
            let generation = runs[0].end - began;
            let eos = (model.tokenizer().end_of_turn(), -100.0);
            let by = Choosing { logit_bias: vec![eos], ..Choosing::new(Sampling::GREEDY) };
            let began = Instant::now();
            let found = replay::replay_on(model, &prompt, &runs[0].tokens, by, None, config)?;
            let ratio = seconds(began.elapsed()) / seconds(generation);
            assert_eq!(found.first_difference, None, "an honest answer replays");
            Ok(ratio)
        }
    }
}

fn seconds(d: Duration) -> f64 {
    d.as_secs_f64().max(1e-9)
}
