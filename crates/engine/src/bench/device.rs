//! Whether a device gives the processor's answers: the same tokens, log-probabilities and trace, in whatever batch, and each side's
//! answers replay on the other.

use crate::{
    Choosing, Completion, Engine, EngineConfig, EngineError, Event, Job, Model, TokenLogprobs, replay_on,
};
use std::{
    ops::ControlFlow,
    sync::{Arc, mpsc},
};
use types::Sampling;

/// Tokens that prompts have in common at their beginning, so that the prefix cache has something to share.
const SHARED: usize = 70;

/// One answer to compute on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Prompt tokens.
    pub prompt: usize,
    /// Tokens to generate.
    pub generate: u32,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Answers.
    pub answers: usize,
    /// Generated tokens.
    pub tokens: usize,
    /// Positions whose trace leaves agree.
    pub positions: usize,
}

/// Why the device is not to be trusted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Difference {
    /// One side could not compute.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// They gave different results.
    #[error("answer {answer} (a prompt of {prompt} tokens): {what}")]
    Found {
        /// Which answer.
        answer: usize,
        /// Its prompt.
        prompt: usize,
        /// What differs.
        what: &'static str,
    },
}

type Answer = (Completion, Vec<Option<TokenLogprobs>>);

fn submit(engine: &Engine, job: Job) -> Result<mpsc::Receiver<Event>, EngineError> {
    let (sender, receiver) = mpsc::channel();
    let on_event = Box::new(move |e| match sender.send(e) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    engine.submit(Job { on_event, ..job })?;
    Ok(receiver)
}

fn finish(events: &mpsc::Receiver<Event>) -> Result<Answer, EngineError> {
    let mut all = Vec::new();
    for event in events {
        match event {
            Event::Prefill { .. } => {}
            Event::Token { logprobs, .. } => all.push(logprobs),
            Event::Failed(e) => return Err(e),
            Event::Done(done) => return Ok((Completion { cached_tokens: 0, ..done }, all)),
        }
    }
    Err(EngineError::Stopped)
}

fn prompt(model: &Model, i: usize, len: usize) -> Vec<u32> {
    let vocabulary = model.tokenizer().vocabulary();
    let own =
        |j: usize| if j < SHARED && i.is_multiple_of(2) { j * 7919 } else { j * 104_729 + (i + 1) * 7717 };
    (0..len).map(|j| (1 + own(j) % (vocabulary - 1)) as u32).collect()
}

fn sampling(i: usize, greedy: bool) -> Sampling {
    match i % 3 {
        _ if greedy => Sampling::GREEDY,
        0 => Sampling::GREEDY,
        1 => Sampling { temperature: 1.0, seed: i as u64, ..Sampling::GREEDY },
        _ => Sampling { temperature: 0.7, top_p: 0.9, top_k: 40, seed: i as u64, ..Sampling::GREEDY },
    }
}

/// Computes all cases in one batch on the engine that `config` describes, and each alone on the processor. When all are `greedy`, a
/// device chooses their tokens itself; otherwise some are sampled, and some want log-probabilities.
///
/// # Errors
/// [`Difference`].
pub fn compare(
    model: &Arc<Model>,
    config: &EngineConfig,
    cases: &[Case],
    greedy: bool,
) -> Result<Compared, Difference> {
    let device = Engine::new(model.clone(), config.clone())?;
    let alone = EngineConfig { prefix_cache: false, ..EngineConfig::default() };
    let processor = Engine::new(model.clone(), alone.clone())?;
    let end = model.tokenizer().end_of_turn();
    let job = |i: usize, case: &Case| Job {
        top_logprobs: (!greedy && i.is_multiple_of(2)).then_some(3),
        // Otherwise some answers would end after a token or two.
        logit_bias: vec![(end, -100.0)],
        ..Job::new(
            prompt(model, i, case.prompt),
            sampling(i, greedy),
            case.generate,
            Box::new(|_| ControlFlow::Continue(())),
        )
    };
    let started: Vec<_> =
        cases.iter().enumerate().map(|(i, c)| submit(&device, job(i, c))).collect::<Result<_, _>>()?;
    let mut found = Compared::default();
    for (answer, (case, events)) in cases.iter().zip(&started).enumerate() {
        let fail = |what| Err(Difference::Found { answer, prompt: case.prompt, what });
        let theirs = finish(events)?;
        let mine = finish(&submit(&processor, job(answer, case))?)?;
        if mine.0.tokens != theirs.0.tokens {
            return fail("the tokens differ");
        }
        if mine.0.trace_root != theirs.0.trace_root {
            return fail("the traces differ");
        }
        if mine != theirs {
            return fail("the texts or log-probabilities differ");
        }
        let prompt = prompt(model, answer, case.prompt);
        for config in [&alone, config] {
            let by = Choosing { logit_bias: vec![(end, -100.0)], ..Choosing::new(sampling(answer, greedy)) };
            let replayed = replay_on(model, &prompt, &mine.0.tokens, by, None, config)?;
            if replayed.first_difference.is_some() || replayed.trace_root != mine.0.trace_root {
                return fail("the answer does not replay");
            }
        }
        found.answers += 1;
        found.tokens += mine.0.tokens.len();
        found.positions += prompt.len() + mine.0.tokens.len() - 1;
    }
    Ok(found)
}

/// What a pass over a model costs at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights that every pass reads.
    pub weight_bytes: u64,
    /// f32 additions and multiplications of one token's products (`SPEC.md`, section 3).
    pub product_operations: u64,
    /// f32 additions and multiplications for every position that a token attends to (section 4).
    pub attention_operations: u64,
    /// Bytes of keys and values of one position.
    pub position_bytes: u64,
}

/// Counts the cost of a decoder.
///
/// # Errors
/// [`EngineError::OnlyEmbeddings`].
pub fn cost(model: &Model) -> Result<Cost, EngineError> {
    let decoder = model.decoder()?;
    let c = &decoder.spec;
    let (width, layers) = (c.width as u64, c.layers.len() as u64);
    let (query, kv, hidden) = (c.query_width() as u64, c.kv_width() as u64, c.hidden as u64);
    let layer = (query + 2 * kv) * width + query * width + 3 * width * hidden;
    let weights = layers * layer + width * decoder.vocabulary as u64;
    Ok(Cost {
        weight_bytes: decoder.pass_bytes() as u64,
        // A block of 32: take away the offset, two scales, one sum.
        product_operations: weights / 32 * 4,
        attention_operations: layers * query * 4,
        position_bytes: layers * kv * 4,
    })
}

/// What a pass on the device alone takes.
#[derive(Clone, Debug)]
pub struct PassTimes {
    /// Seconds of it.
    pub seconds: f64,
    /// Seconds of the part that hashes the trace's rows.
    pub hashing: f64,
    /// Kernels with their seconds and launches, timed one by one, the longest first.
    pub kernels: Vec<(String, f64, u32)>,
}

/// Times a pass of the last `rows` positions before `context` of each of `sequences` sequences; `repeat` runs.
///
/// # Errors
/// [`EngineError::Device`].
#[cfg(feature = "cuda")]
pub fn pass_times(
    model: &Model,
    ordinal: usize,
    (sequences, rows, context): (usize, usize, usize),
    repeat: u32,
) -> Result<PassTimes, EngineError> {
    let fault = |e: cuda::CudaError| EngineError::Device(e.to_string());
    let gpu = cuda::Gpu::open(ordinal).map_err(fault)?;
    let each = context.div_ceil(kernels::PAGE);
    let decoder = model.decoder()?;
    let mut decoder = cuda::Decoder::new(&gpu, &decoder.for_device(), sequences * each).map_err(fault)?;
    let tables: Vec<Vec<u32>> =
        (0..sequences).map(|s| (0..each).map(|i| (s * each + i) as u32).collect()).collect();
    let row = |i: usize| {
        let position = context - rows + i % rows;
        let wants_logits = position + 1 == context;
        cuda::StepRow { token: 300 + position as u32 % 100, position, sequence: i / rows, wants_logits }
    };
    let rows: Vec<_> = (0..sequences * rows).map(row).collect();
    let step = cuda::Step { rows: &rows, tables: &tables, largest: None };
    let (seconds, hashing) = decoder.seconds(&step, repeat).map_err(fault)?;
    Ok(PassTimes { seconds, hashing, kernels: decoder.profile(&step).map_err(fault)? })
}
