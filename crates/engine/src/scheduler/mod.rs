//! Many answers in one batch: admission, continuous batching, paged keys and values with shared prefixes.

mod active;
mod prefix;
mod queue;
mod step;
mod text;

use crate::{
    EngineError, Model,
    arch::{
        Backend,
        device::{Device, DeviceChoice},
    },
    constraint::Constraint,
    kv::KvCache,
    sampler::TokenLogprobs,
};
use kernels::{Isa, denormals_are_kept};
use queue::Queue;
use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use types::{B256, Sampling};

const STOP_COUNT_MAX: usize = 4;
const STOP_BYTES_MAX: usize = 256;

/// How an engine runs. None of this changes a bit of an answer.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads of the kernels.
    pub threads: usize,
    /// Most sequences in one batch.
    pub batch_max: usize,
    /// Most jobs that wait for a place in the batch.
    pub queue_max: usize,
    /// Most prompt tokens in one step while other answers are under way, so that long prompts do not hold them up.
    pub prefill_chunk: usize,
    /// Most prompt tokens in one step when nobody else waits for it.
    pub prefill_chunk_alone: usize,
    /// Memory for keys and values in bytes, shared prefixes included.
    pub kv_bytes: usize,
    /// Whether prompts that begin alike share the keys and values of their beginnings.
    pub prefix_cache: bool,
    /// Instruction set; the best one when absent.
    pub isa: Option<Isa>,
    /// Where a decoder's passes run.
    pub device: DeviceChoice,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            batch_max: 32,
            queue_max: 256,
            prefill_chunk: 64,
            prefill_chunk_alone: 512,
            kv_bytes: 2 << 30,
            prefix_cache: true,
            isa: None,
            device: DeviceChoice::Cpu,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came up.
    Stop,
    /// The bound on tokens, or the context, was reached.
    Length,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// All generated tokens; the end-of-turn token is one of them.
    pub tokens: Vec<u32>,
    /// The whole text as streamed.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// How many of them came out of the prefix cache.
    pub cached_tokens: usize,
    /// Merkle root over one trace leaf a position that was fed: prompt and answer without its last token.
    pub trace_root: B256,
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More of the prompt was read. Breaking cancels the job, as with every event.
    Prefill {
        /// Prompt tokens read so far.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token came; its text may be empty while a character is incomplete or a stop string is possible.
    Token {
        /// The token.
        id: u32,
        /// Text that is now certain.
        text: String,
        /// Its log-probability, when the job asks for it.
        logprobs: Option<TokenLogprobs>,
    },
    /// The answer is complete. `text` that was held back comes with it, in the completion only.
    Done(Completion),
    /// It failed.
    Failed(EngineError),
}

/// Called on the engine's thread for every event; must return quickly. Breaking cancels the job.
pub type OnEvent = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// Called once with an embedding.
pub type OnEmbedding = Box<dyn FnOnce(Vec<f32>) + Send>;

/// One answer to compute.
pub struct Job {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// Sampling parameters and seed.
    pub sampling: Sampling,
    /// Bound on generated tokens; the context bounds them too.
    pub max_tokens: u32,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Which of several answers to one prompt this is; each draws other random numbers from the same seed.
    pub choice: u32,
    /// Added to the logits of single tokens before anything else looks at them.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report each token's log-probability, and this many of the likeliest ones (0 to 20).
    pub top_logprobs: Option<u8>,
    /// Grammar that the answer must follow.
    pub constraint: Option<Constraint>,
    /// Whose job this is: waiting jobs are taken from each client in turn.
    pub client: u64,
    /// Takes the events.
    pub on_event: OnEvent,
}

impl Job {
    /// A job with no bias, grammar or log-probabilities.
    pub fn new(prompt: Vec<u32>, sampling: Sampling, max_tokens: u32, on_event: OnEvent) -> Self {
        Self {
            prompt,
            sampling,
            max_tokens,
            stop: Vec::new(),
            choice: 0,
            logit_bias: Vec::new(),
            top_logprobs: None,
            constraint: None,
            client: 0,
            on_event,
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({} prompt tokens)", self.prompt.len())
    }
}

/// Counters and gauges of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs in the batch.
    pub running: usize,
    /// Pages of keys and values in use, shared prefixes included.
    pub pages_used: usize,
    /// Pages that there may be.
    pub pages_max: usize,
    /// Prompt tokens computed since the start.
    pub prompt_tokens: u64,
    /// Prompt tokens that came out of the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Times an answer under way had to give up its pages and be computed anew.
    pub preemptions: u64,
}

/// Runs jobs of one model in one batch. Clones share the engine; it stops with the last one.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    model: Arc<Model>,
    queue_max: usize,
    pages_max: usize,
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something to do, or time to stop.
    wake: Condvar,
    /// The engine became idle.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Texts that wait for their embeddings.
    texts: VecDeque<(Vec<u32>, OnEmbedding)>,
    /// No new jobs.
    draining: bool,
    /// End when the batch is empty.
    stopped: bool,
    stats: Stats,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({} jobs and {} texts wait)", self.queue.len(), self.texts.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts an engine for `model`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the machine lacks the asked instruction set or gives no thread, or when not even one page of
    /// keys and values fits into the memory given; [`EngineError::Device`] when the device is not there or too small.
    pub fn new(model: Arc<Model>, config: EngineConfig) -> Result<Self, EngineError> {
        let isa = config.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(EngineError::Unsupported(format!("this machine has no {}", isa.name())));
        }
        let page_bytes = model.decoder().map_or(1, |d| d.spec.kv_shape().page_bytes());
        let pages_max = config.kv_bytes / page_bytes;
        if pages_max == 0 {
            return Err(EngineError::Unsupported(format!(
                "{} bytes for keys and values; this model needs at least {page_bytes}",
                config.kv_bytes
            )));
        }
        let device = match model.decoder() {
            Ok(decoder) => Device::open(config.device, decoder, pages_max)?,
            // Encoders run on the processor.
            Err(_) => None,
        };
        let shared = Arc::<Shared>::default();
        shared.lock().stats.pages_max = pages_max;
        let (for_thread, with) = (shared.clone(), model.clone());
        let queue_max = config.queue_max.max(1);
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let backend = Backend { device, ..Backend::cpu(isa, config.threads.max(1)) };
                backend.pool.run(&|_| {
                    assert!(
                        denormals_are_kept(),
                        "this thread flushes denormals; the arithmetic would not be exact"
                    );
                });
                step::Scheduler::new(&with, backend, config, pages_max, &for_thread).run();
            })
            .map_err(|e| EngineError::Unsupported(format!("no thread for the engine: {e}")))?;
        Ok(Self(Arc::new(Handle { model, queue_max, pages_max, shared, thread: Mutex::new(Some(thread)) })))
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.0.model
    }

    /// Most positions that one sequence may fill: the memory for keys and values bounds it below the context.
    pub fn positions_max(&self) -> usize {
        self.0.model.context_length().min(self.0.pages_max.saturating_mul(kernels::PAGE))
    }

    /// Number of jobs that wait.
    pub fn queued(&self) -> usize {
        self.0.shared.lock().queue.len()
    }

    /// What the engine has done and holds.
    pub fn stats(&self) -> Stats {
        let state = self.0.shared.lock();
        Stats { queued: state.queue.len(), ..state.stats }
    }

    /// Queues a job. Its events come on the engine's thread.
    ///
    /// # Errors
    /// [`EngineError`] when the job can never run, or the queue is full.
    pub fn submit(&self, job: Job) -> Result<(), EngineError> {
        self.0.model.decoder()?;
        check(&self.0.model, &job.prompt, &job.sampling)?;
        let bad_stop = |s: &String| s.is_empty() || s.len() > STOP_BYTES_MAX;
        if job.stop.len() > STOP_COUNT_MAX || job.stop.iter().any(bad_stop) {
            return Err(EngineError::Stop);
        }
        let vocabulary = self.0.model.tokenizer().vocabulary();
        if let Some((token, _)) = job.logit_bias.iter().find(|(t, _)| *t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token: *token, vocabulary });
        }
        if job.logit_bias.iter().any(|(_, b)| !(-100.0..=100.0).contains(b)) {
            return Err(EngineError::LogitBias);
        }
        let pages = KvCache::pages_for(job.prompt.len() + 1);
        if pages > self.0.pages_max {
            let max = self.0.pages_max * kernels::PAGE - 1;
            return Err(EngineError::PromptTooLong { tokens: job.prompt.len(), max });
        }
        let mut state = self.0.shared.lock();
        if state.draining || state.stopped {
            return Err(EngineError::Stopped);
        }
        if state.queue.len() >= self.0.queue_max {
            return Err(EngineError::QueueFull { max: self.0.queue_max });
        }
        state.queue.push(job);
        drop(state);
        self.0.shared.wake.notify_one();
        Ok(())
    }

    /// Queues the embedding of a text, given as tokens, special ones included. `reply` is called on the engine's thread.
    ///
    /// # Errors
    /// [`EngineError`] when the model gives no embeddings, the text is empty or too long, or the queue is full.
    pub fn embed(&self, tokens: Vec<u32>, reply: OnEmbedding) -> Result<(), EngineError> {
        let model = &self.0.model;
        if model.embedding_width().is_none() {
            return Err(EngineError::NoEmbeddings);
        }
        if tokens.len() > model.context_length() {
            return Err(EngineError::PromptTooLong { tokens: tokens.len(), max: model.context_length() });
        }
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let vocabulary = model.tokenizer().vocabulary();
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token: *token, vocabulary });
        }
        let mut state = self.0.shared.lock();
        if state.draining || state.stopped {
            return Err(EngineError::Stopped);
        }
        if state.texts.len() >= self.0.queue_max {
            return Err(EngineError::QueueFull { max: self.0.queue_max });
        }
        state.texts.push_back((tokens, reply));
        drop(state);
        self.0.shared.wake.notify_one();
        Ok(())
    }

    /// Takes no more jobs and waits until those there are have ended, at most for `limit`. True when all have.
    pub fn drain(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.0.shared.lock();
        state.draining = true;
        while state.queue.len() + state.texts.len() + state.stats.running > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                return false;
            };
            state = self.0.shared.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// The texts that generating `tokens` streams, one for each; and whether the answer ended by itself.
pub(crate) fn texts(model: &Model, tokens: &[u32], stop: &[String]) -> (Vec<String>, bool) {
    let mut text = text::StoppableText::new(model.tokenizer().decoder(), stop.to_vec());
    let mut all = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let ends_turn = model.ends_turn(*token);
        let (mut piece, stopped) = if ends_turn { (String::new(), false) } else { text.push(*token) };
        if !stopped && (ends_turn || i + 1 == tokens.len()) {
            piece.push_str(&text.finish());
        }
        all.push(piece);
        if stopped || ends_turn {
            return (all, true);
        }
    }
    (all, false)
}

/// Checks what a prompt and sampling parameters must satisfy for this model.
pub(crate) fn check(model: &Model, prompt: &[u32], sampling: &Sampling) -> Result<(), EngineError> {
    sampling.validate()?;
    let vocabulary = model.tokenizer().vocabulary();
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if prompt.len() >= model.context_length() {
        return Err(EngineError::PromptTooLong { tokens: prompt.len(), max: model.context_length() });
    }
    match prompt.iter().find(|t| **t as usize >= vocabulary) {
        Some(token) => Err(EngineError::UnknownToken { token: *token, vocabulary }),
        None => Ok(()),
    }
}
