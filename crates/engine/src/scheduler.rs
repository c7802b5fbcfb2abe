use crate::{
    EngineError, Model,
    arch::{Backend, KvCache, Row},
    constraint::Constraint,
    sampler::{Choosing, Sampler, TokenLogprobs, logprobs},
    tokenizer::TextDecoder,
    trace,
};
use kernels::{Isa, Pool, denormals_are_kept};
use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};
use tracing::{debug, error};
use types::{B256, Sampling, merkle};

const STOP_COUNT_MAX: usize = 4;
const STOP_BYTES_MAX: usize = 256;

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads of the kernels.
    pub threads: usize,
    /// Most sequences in one batch.
    pub batch_max: usize,
    /// Most jobs that wait for a place in the batch.
    pub queue_max: usize,
    /// Most prompt tokens in one step, so that long prompts do not hold up others.
    pub prefill_chunk: usize,
    /// Instruction set; the best one when absent.
    pub isa: Option<Isa>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self { threads, batch_max: 16, queue_max: 64, prefill_chunk: 64, isa: None }
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
    /// Merkle root over one trace leaf a generated token.
    pub trace_root: B256,
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
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
            on_event,
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({} prompt tokens)", self.prompt.len())
    }
}

/// Runs jobs of one model in one batch. Clones share the engine; it stops with the last one.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    model: Arc<Model>,
    queue_max: usize,
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts an engine for `model`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the machine lacks the asked instruction set or gives no thread.
    pub fn new(model: Arc<Model>, config: EngineConfig) -> Result<Self, EngineError> {
        let isa = config.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(EngineError::Unsupported(format!("this machine has no {}", isa.name())));
        }
        let shared = Arc::<Shared>::default();
        let (for_thread, with) = (shared.clone(), model.clone());
        let queue_max = config.queue_max.max(1);
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                assert!(
                    denormals_are_kept(),
                    "this thread flushes denormals; the arithmetic would not be exact"
                );
                let backend = Backend { isa, pool: Pool::new(config.threads.max(1)) };
                Scheduler { model: &with, backend, config, shared: &for_thread, active: Vec::new() }.run();
            })
            .map_err(|e| EngineError::Unsupported(format!("no thread for the engine: {e}")))?;
        Ok(Self(Arc::new(Handle { model, queue_max, shared, thread: Mutex::new(Some(thread)) })))
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.0.model
    }

    /// Number of jobs that wait.
    pub fn queued(&self) -> usize {
        self.0.shared.lock().jobs.len()
    }

    /// Queues a job. Its events come on the engine's thread.
    ///
    /// # Errors
    /// [`EngineError`] when the job can never run, or the queue is full.
    pub fn submit(&self, job: Job) -> Result<(), EngineError> {
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
        let mut queue = self.0.shared.lock();
        if queue.stopped {
            return Err(EngineError::Stopped);
        }
        if queue.jobs.len() >= self.0.queue_max {
            return Err(EngineError::QueueFull { max: self.0.queue_max });
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.shared.wake.notify_one();
        Ok(())
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

/// A job in the batch.
struct Active<'m> {
    prompt: Vec<u32>,
    max_tokens: usize,
    on_event: OnEvent,
    cache: KvCache,
    sampler: Sampler,
    top_logprobs: Option<u8>,
    tokens: Vec<u32>,
    leaves: Vec<B256>,
    text: StoppableText<'m>,
    done: bool,
}

struct Scheduler<'m> {
    model: &'m Model,
    backend: Backend,
    config: EngineConfig,
    shared: &'m Shared,
    active: Vec<Active<'m>>,
}

impl Scheduler<'_> {
    fn run(&mut self) {
        while self.admit() {
            self.step();
            self.active.retain(|a| !a.done);
        }
        debug!("the engine has stopped");
    }

    /// Takes waiting jobs into the batch; sleeps while there is nothing to do. False when it is time to stop.
    fn admit(&mut self) -> bool {
        let mut queue = self.shared.lock();
        while self.active.is_empty() && queue.jobs.is_empty() && !queue.stopped {
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.stopped && self.active.is_empty() {
            for mut job in queue.jobs.drain(..) {
                let _ = (job.on_event)(Event::Failed(EngineError::Stopped));
            }
            return false;
        }
        while self.active.len() < self.config.batch_max.max(1) {
            let Some(job) = queue.jobs.pop_front() else { break };
            let room = self.model.context_length() - job.prompt.len();
            self.active.push(Active {
                max_tokens: room.min(job.max_tokens.max(1) as usize),
                prompt: job.prompt,
                on_event: job.on_event,
                cache: self.model.weights.cache(),
                sampler: Sampler::new(Choosing {
                    sampling: job.sampling,
                    choice: job.choice,
                    logit_bias: job.logit_bias,
                    constraint: job.constraint,
                }),
                top_logprobs: job.top_logprobs,
                tokens: Vec::new(),
                leaves: Vec::new(),
                text: StoppableText::new(self.model.tokenizer().decoder(), job.stop),
                done: false,
            });
        }
        true
    }

    /// One forward pass: a token of every answer under way, and a chunk of the prompts.
    fn step(&mut self) {
        let mut rows = Vec::new();
        let mut prefill = self.config.prefill_chunk.max(1);
        for (sequence, a) in self.active.iter().enumerate() {
            let filled = a.cache.positions;
            if let Some(token) = a.tokens.last() {
                rows.push(Row { sequence, token: *token, position: filled, wants_logits: true });
                continue;
            }
            for (position, token) in a.prompt.iter().enumerate().skip(filled).take(prefill) {
                let wants_logits = position + 1 == a.prompt.len();
                rows.push(Row { sequence, token: *token, position, wants_logits });
                prefill -= 1;
            }
        }
        let mut caches: Vec<_> = self.active.iter_mut().map(|a| &mut a.cache).collect();
        let heads = self.model.weights.forward(&self.backend, &rows, &mut caches);
        let wanted = rows.iter().filter(|r| r.wants_logits);
        for (i, (row, mut logits)) in wanted.zip(heads.logits).enumerate() {
            let active = &mut self.active[row.sequence];
            if logits.iter().any(|l| l.is_nan()) {
                error!(position = row.position, "the model produced NaN");
                let _ = (active.on_event)(Event::Failed(EngineError::NotANumber { position: row.position }));
                active.done = true;
                continue;
            }
            let plain = active.top_logprobs.map(|n| (n, logits.clone()));
            let token = match active.sampler.next(&mut logits) {
                Ok(token) => token,
                Err(e) => {
                    let _ = (active.on_event)(Event::Failed(e));
                    active.done = true;
                    continue;
                }
            };
            let logprobs = plain.map(|(n, logits)| logprobs(&logits, token, n));
            let (input, scales) = heads.inputs.row(i);
            active.leaves.push(trace::leaf(row.position, token, input, scales));
            active.take(token, self.model.tokenizer().end_of_turn(), logprobs);
        }
    }
}

impl Active<'_> {
    /// Takes a generated token: streams its text, and ends the answer when it is time.
    fn take(&mut self, token: u32, end_of_turn: u32, logprobs: Option<TokenLogprobs>) {
        self.tokens.push(token);
        let (text, stopped) =
            if token == end_of_turn { (String::new(), false) } else { self.text.push(token) };
        let ended = stopped || token == end_of_turn;
        let full = self.tokens.len() >= self.max_tokens;
        if !ended && !full {
            self.done = (self.on_event)(Event::Token { id: token, text, logprobs }).is_break();
            return;
        }
        let rest = if stopped { text } else { text + &self.text.finish() };
        self.done = true;
        if (self.on_event)(Event::Token { id: token, text: rest, logprobs }).is_break() {
            return;
        }
        let finish = if ended { FinishReason::Stop } else { FinishReason::Length };
        let completion = Completion {
            tokens: std::mem::take(&mut self.tokens),
            text: self.text.emitted.clone(),
            finish,
            prompt_tokens: self.prompt.len(),
            trace_root: merkle::root(&self.leaves),
        };
        let _ = (self.on_event)(Event::Done(completion));
    }
}

/// Text with stop strings: what could still become a stop string is held back.
struct StoppableText<'m> {
    decoder: TextDecoder<'m>,
    stop: Vec<String>,
    held: String,
    emitted: String,
}

impl<'m> StoppableText<'m> {
    fn new(decoder: TextDecoder<'m>, stop: Vec<String>) -> Self {
        Self { decoder, stop, held: String::new(), emitted: String::new() }
    }

    /// Text that is now certain, and whether a stop string came up.
    fn push(&mut self, token: u32) -> (String, bool) {
        let text = self.decoder.push(token);
        self.held.push_str(&text);
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (self.release(self.held.len()), true);
        }
        // The longest end of the text that begins some stop string must wait.
        let keep = self
            .held
            .char_indices()
            .map(|(i, _)| i)
            .find(|i| self.stop.iter().any(|s| s.starts_with(&self.held[*i..])))
            .unwrap_or(self.held.len());
        (self.release(keep), false)
    }

    fn finish(&mut self) -> String {
        let rest = self.decoder.finish();
        self.held.push_str(&rest);
        self.release(self.held.len())
    }

    fn release(&mut self, to: usize) -> String {
        let text: String = self.held.drain(..to).collect();
        self.emitted.push_str(&text);
        text
    }
}
