//! [`api::ports::Inference`] over an engine: admission, claim, signature, log.

pub(crate) mod convert;
mod disclose;
mod reveal;
pub(crate) mod seal;

use crate::{
    court::Court,
    payments::{Tab, Till},
    receipt_log::ReceiptLog,
};
use api::ports::{
    AuditorPass, Embedded, Finish, GenerateEvent, GenerateJob, Inference, InferenceFault, Input, Load,
    LogCheckpoint, ModelInfo, NodeInfo, Promise, Shown, Started, Ticket, Withheld,
};
use async_trait::async_trait;
use convert::{choosing, embedding_tokens, fault, join, logprob, prompt};
use engine::{Completion, Engine, EngineError, Event, FinishReason, Job, Model};
use reveal::{Reveals, claim_time};
use seal::{AnswerSealer, Work, embedding_leaf};
use signed::SignedProducer;
use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};
use types::{
    B256, Claim, LogProof, Options, Receipt, ReceiptId, Rung, Sampling,
    replica::{Commitment, RevealRequest, Revealed},
};

/// Number and hash of a recent final block.
pub(crate) type Anchor = (u64, B256);

/// What a node is, besides its model.
pub(crate) struct Identity {
    pub(crate) producer: SignedProducer,
    pub(crate) chain_id: u64,
    pub(crate) genesis: B256,
    pub(crate) price_input: u128,
    pub(crate) price_output: u128,
}

/// The service of one node.
pub(crate) struct InferenceService {
    shared: Arc<Shared>,
    engine: Engine,
    info: NodeInfo,
    draining: AtomicBool,
}

pub(crate) struct Shared {
    identity: Identity,
    log: Arc<ReceiptLog>,
    anchor: watch::Receiver<Anchor>,
    posted: Arc<AtomicU64>,
    /// Answers that wait for the commitments of others.
    reveals: Reveals,
    till: Arc<Till>,
    court: Court,
    /// Receipts under way: a second request with the same id must wait for none of them, but be refused.
    under_way: Mutex<HashSet<ReceiptId>>,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn internal(e: impl std::fmt::Display) -> InferenceFault {
    InferenceFault::Internal(e.to_string())
}

impl InferenceService {
    pub(crate) fn new(
        engine: Engine,
        identity: Identity,
        log: Arc<ReceiptLog>,
        anchor: watch::Receiver<Anchor>,
        posted: Arc<AtomicU64>,
        till: Arc<Till>,
        court: Court,
    ) -> Self {
        let model = engine.model().manifest();
        let info = NodeInfo {
            node: identity.producer.address(),
            chain_id: identity.chain_id,
            genesis: identity.genesis,
            models: vec![ModelInfo {
                name: model.name.clone(),
                id: engine.model().id(),
                manifest: model.encode(),
                context_length: model.context_length,
                created: now_ms() / 1000,
            }],
        };
        let under_way = Mutex::default();
        let reveals = Reveals::default();
        let shared = Arc::new(Shared { identity, log, anchor, posted, reveals, till, court, under_way });
        Self { shared, engine, info, draining: AtomicBool::new(false) }
    }

    /// Takes no more requests and waits for those under way, at most for `limit`. True when all have ended.
    pub(crate) fn drain(&self, limit: Duration) -> bool {
        self.draining.store(true, Ordering::Release);
        self.engine.drain(limit)
    }

    /// Whether receipts wait for the ledger.
    pub(crate) fn has_unposted(&self) -> bool {
        self.shared.log.size() > self.shared.posted.load(Ordering::Acquire)
    }

    fn check_model(&self, asked: &str) -> Result<&Arc<Model>, InferenceFault> {
        let model = self.engine.model();
        let manifest = model.manifest();
        if asked != manifest.name && asked != model.id().to_string() {
            let available = manifest.name.clone();
            return Err(InferenceFault::ModelNotFound { model: asked.to_owned(), available });
        }
        Ok(model)
    }

    /// Admits a request: nobody may use its id twice.
    async fn enter(
        &self,
        ticket: &Ticket,
        time_ms: u64,
        tokens: (usize, u32),
    ) -> Result<Entry, InferenceFault> {
        // A node alone replicates nothing.
        let is_given = match ticket.rung {
            Rung::Signed | Rung::Audited => true,
            Rung::Replicated => ticket.group.is_some(),
            _ => false,
        };
        if !is_given {
            return Err(InferenceFault::AssuranceUnavailable(ticket.rung));
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(InferenceFault::Draining);
        }
        let nonce = ticket.nonce.unwrap_or_else(|| B256::from(rand::random::<[u8; 32]>()));
        let identity = &self.shared.identity;
        let request_hash = Claim::request_commitment(&nonce, &ticket.raw_request);
        let node = identity.producer.address();
        let receipt_id = Claim::receipt_id_of(identity.chain_id, identity.genesis, node, request_hash);
        let most = identity.price_input.saturating_mul(tokens.0 as u128);
        let most = most.saturating_add(identity.price_output.saturating_mul(u128::from(tokens.1)));
        let tab = self.shared.till.admit(ticket.payment.as_ref(), receipt_id, most).await?;
        let under_way = UnderWay::enter(&self.shared, receipt_id)?;
        if ticket.group.is_some() {
            self.shared.reveals.begin(receipt_id)?;
        }
        Ok(Entry { nonce, receipt_id, under_way, time_ms, anchor: *self.shared.anchor.borrow(), tab })
    }

    /// The answer under way that the server sees.
    fn started(
        &self,
        entry: Entry,
        ticket: Ticket,
        work: Work,
        events: mpsc::Receiver<GenerateEvent>,
        told: Told,
    ) -> Started {
        let model = self.engine.model();
        let (manifest, model_id) = (model.manifest(), model.id());
        let identity = &self.shared.identity;
        Started {
            receipt_id: entry.receipt_id,
            nonce: entry.nonce,
            rung: ticket.rung,
            node: identity.producer.address(),
            model: manifest.name.clone(),
            model_id,
            price_input: identity.price_input,
            price_output: identity.price_output,
            prompt_tokens: told.prompt_tokens,
            time_ms: entry.time_ms,
            arithmetic_version: manifest.arithmetic_version,
            events,
            sealer: Box::new(AnswerSealer {
                under_way: entry.under_way,
                work,
                raw_request: ticket.raw_request,
                nonce: entry.nonce,
                prompt: told.prompt,
                prompt_tokens: told.prompt_tokens,
                max_tokens: told.max_tokens,
                choices: told.choices,
                options: told.options,
                sampling: told.sampling,
                anchor: entry.anchor,
                time_ms: entry.time_ms,
                model: model_id.0,
                arithmetic_version: manifest.arithmetic_version,
                rung: ticket.rung,
                disclose: ticket.disclose,
                tab: entry.tab,
            }),
        }
    }
}

/// Refuses a prompt that leaves no room for an answer in the model's context.
fn fits(model: &Model, tokens: usize) -> Result<(), InferenceFault> {
    let max = model.context_length();
    match tokens >= max {
        true => Err(fault(EngineError::PromptTooLong { tokens, max })),
        false => Ok(()),
    }
}

/// A request that was admitted.
struct Entry {
    nonce: B256,
    receipt_id: ReceiptId,
    under_way: UnderWay,
    time_ms: u64,
    anchor: Anchor,
    tab: Option<Tab>,
}

/// What a receipt says of the request.
struct Told {
    prompt: Vec<u32>,
    prompt_tokens: u32,
    max_tokens: u32,
    choices: u32,
    options: Option<Options>,
    sampling: Sampling,
}

/// Forgets an id under way when the answer is over, however it ends.
pub(crate) struct UnderWay {
    shared: Arc<Shared>,
    id: ReceiptId,
}

impl UnderWay {
    fn enter(shared: &Arc<Shared>, id: ReceiptId) -> Result<Self, InferenceFault> {
        let entered = shared.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if !entered {
            return Err(InferenceFault::Duplicate(id));
        }
        let guard = Self { shared: shared.clone(), id };
        match shared.log.get(id).map_err(internal)? {
            Some(_) => Err(InferenceFault::Duplicate(id)),
            None => Ok(guard),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.reveals.left(self.id);
        self.shared.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[async_trait]
impl Inference for InferenceService {
    fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    async fn generate(&self, job: GenerateJob, ticket: Ticket) -> Result<Started, InferenceFault> {
        let group = ticket.group;
        let time_ms = claim_time(group.map(|g| g.time_ms), now_ms())?;
        let model = self.check_model(&job.model)?;
        let prompt = prompt(model, &job.input, time_ms / 1000).map_err(fault)?;
        // Before the money: no payment makes room in the context.
        fits(model, prompt.len())?;
        let mut sampling = job.sampling;
        if !job.seed_given {
            // 53 bits: every JSON parser keeps them.
            sampling.seed = group.map_or_else(|| rand::random::<u64>() >> 11, |g| g.seed);
        }
        let room = self.engine.positions_max().saturating_sub(prompt.len()) as u32;
        let context = model.context_length().saturating_sub(prompt.len()) as u32;
        // Nodes of a group must have one bound, so it cannot be the memory of one of them.
        let bound = job.max_tokens.or(group.map(|_| context)).map(|asked| asked.min(context));
        if bound.is_some_and(|bound| bound > room) {
            let message = format!("this node has memory for {room} more tokens; ask for at most that many");
            return Err(InferenceFault::ContextLengthExceeded(message));
        }
        if ticket.rung == Rung::Audited && job.n != 1 {
            let message = "only single answers can be audited; ask for them one by one".to_owned();
            return Err(InferenceFault::InvalidValue { message, param: "n" });
        }
        let vocabulary = model.tokenizer().vocabulary() as u32;
        if job.logit_bias.iter().any(|(t, _)| *t >= vocabulary) {
            let message = format!("`logit_bias` names a token beyond the vocabulary of {vocabulary}");
            return Err(InferenceFault::InvalidValue { message, param: "logit_bias" });
        }
        let max_tokens = bound.unwrap_or(room);
        let first = choosing(model, &job, sampling, 0).map_err(fault)?;
        let entry = self.enter(&ticket, time_ms, (prompt.len(), max_tokens.saturating_mul(job.n))).await?;
        // One event a token and the end: the engine never waits for a slow client, and memory is bounded.
        let (sender, events) = mpsc::channel((max_tokens as usize + 4) * job.n as usize);
        let mut completions = Vec::new();
        for choice in 0..job.n {
            let by = engine::Choosing { choice, ..first.clone() };
            let (completion_sender, completion) = oneshot::channel();
            completions.push(completion);
            let on_event = forward(model.clone(), choice, sender.clone(), completion_sender);
            let queued = Job {
                stop: job.stop.clone(),
                choice,
                logit_bias: by.logit_bias,
                constraint: by.constraint,
                top_logprobs: job.top_logprobs,
                client: ticket.client,
                ..Job::new(prompt.clone(), sampling, max_tokens, on_event)
            };
            self.engine.submit(queued).map_err(fault)?;
        }
        let prompt_tokens = prompt.len() as u32;
        let options = Options::new(&entry.nonce, &job.logit_bias, first.constraint.is_some());
        let max_tokens = max_tokens.saturating_mul(job.n);
        let told = Told { prompt, prompt_tokens, max_tokens, choices: job.n, options, sampling };
        Ok(self.started(entry, ticket, Work::Generated(completions), events, told))
    }

    async fn embed(
        &self,
        asked: String,
        inputs: Vec<Input>,
        ticket: Ticket,
    ) -> Result<(Embedded, Started), InferenceFault> {
        if matches!(ticket.rung, Rung::Audited | Rung::Replicated) {
            return Err(InferenceFault::AssuranceUnavailable(ticket.rung));
        }
        let time_ms = now_ms();
        let model = self.check_model(&asked)?;
        let texts = inputs.iter().map(|i| embedding_tokens(model, i)).collect::<Result<Vec<_>, _>>();
        let texts = texts.map_err(fault)?;
        texts.iter().try_for_each(|text| fits(model, text.len().saturating_sub(1)))?;
        let count = texts.iter().map(Vec::len).sum();
        let entry = self.enter(&ticket, time_ms, (count, 0)).await?;
        let mut waiting = Vec::new();
        for tokens in &texts {
            let (sender, receiver) = oneshot::channel();
            let reply = Box::new(move |vector| _ = sender.send(vector));
            self.engine.embed(tokens.clone(), reply).map_err(fault)?;
            waiting.push(receiver);
        }
        let mut vectors: Vec<Vec<f32>> = Vec::new();
        for receiver in waiting {
            vectors.push(receiver.await.map_err(internal)?);
        }
        let prompt_tokens = texts.iter().map(Vec::len).sum::<usize>() as u32;
        let leaves = vectors.iter().map(|v| embedding_leaf(v)).collect();
        let prompt = join(&texts);
        let sampling = Sampling::GREEDY;
        let told = Told { prompt, prompt_tokens, max_tokens: 0, choices: 0, options: None, sampling };
        let (_, events) = mpsc::channel(1);
        let started = self.started(entry, ticket, Work::Embedded(leaves), events, told);
        Ok((Embedded { vectors, prompt_tokens }, started))
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, InferenceFault> {
        self.engine.model().tokenizer().encode_text(text).map_err(fault)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, InferenceFault> {
        Ok(self.engine.model().tokenizer().decode(tokens))
    }

    fn metrics(&self) -> String {
        self.shared.court.wallet.metrics().text("og_node")
    }

    fn load(&self) -> Load {
        let stats = self.engine.stats();
        Load {
            draining: self.draining.load(Ordering::Acquire),
            queued: stats.queued,
            running: stats.running,
            pages: (stats.pages_used, stats.pages_max),
            cached_tokens: stats.cached_tokens,
            preemptions: stats.preemptions,
        }
    }

    fn receipt(&self, id: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault> {
        if self.shared.shows(id) { self.shared.log.get(id).map_err(internal) } else { Ok(None) }
    }

    async fn withhold(&self, answer: Withheld) -> Result<Commitment, InferenceFault> {
        self.keep_back(answer).await
    }

    fn reveal(&self, id: ReceiptId, request: &RevealRequest) -> Result<Revealed, InferenceFault> {
        self.reveal_kept(id, request)
    }

    async fn show(
        &self,
        index: u64,
        size: u64,
        pass: Option<AuditorPass>,
    ) -> Result<Option<Shown>, InferenceFault> {
        disclose::show(&self.shared, index, size, pass).await
    }

    async fn pay(&self, promise: Promise) -> Result<(), InferenceFault> {
        self.shared.till.take(&promise).await
    }

    fn checkpoint(&self) -> LogCheckpoint {
        let size = self.shared.log.size();
        let root = self.shared.log.root_at(size).unwrap_or_default();
        LogCheckpoint { size, root, posted_size: self.shared.posted.load(Ordering::Acquire) }
    }

    fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        self.shared.log.inclusion(index, size)
    }
}

/// The engine's events as the server's; the completion goes to the sealer.
fn forward(
    model: Arc<Model>,
    choice: u32,
    sender: mpsc::Sender<GenerateEvent>,
    completion: oneshot::Sender<Completion>,
) -> engine::OnEvent {
    let mut completion = Some(completion);
    Box::new(move |event| {
        let event = match event {
            // Nothing to tell, but a client that left is noticed while its prompt is read.
            Event::Prefill { .. } if sender.is_closed() => return ControlFlow::Break(()),
            Event::Prefill { .. } => return ControlFlow::Continue(()),
            Event::Token { id, text, logprobs } => {
                let logprob = logprobs.map(|l| logprob(&model, id, &l));
                GenerateEvent::Token { choice, text, logprob }
            }
            Event::Failed(e) => GenerateEvent::Failed(fault(e)),
            Event::Done(done) => {
                let finish = match done.finish {
                    FinishReason::Stop => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                };
                let completion_tokens = done.tokens.len() as u32;
                if let Some(completion) = completion.take() {
                    let _ = completion.send(done);
                }
                GenerateEvent::Done { choice, finish, completion_tokens }
            }
        };
        // A closed channel is a client that left; a full one cannot be.
        if sender.try_send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}
