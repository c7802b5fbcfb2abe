//! [`api::ports::Inference`] over an engine: admission, claim, signature, log.

use crate::receipt_log::ReceiptLog;
use anyhow::Context as _;
use api::ports::{
    ChatEvent, ChatJob, ChatRole, ChatStarted, Finish, Inference, InferenceFault, LogCheckpoint, ModelInfo,
    NodeInfo, Sealer,
};
use async_trait::async_trait;
use bytes::Bytes;
use engine::{ChatMessage, Completion, Engine, EngineError, Event, FinishReason, Job, Role};
use signed::SignedProducer;
use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};
use types::{
    ARITHMETIC_EXACT, B256, Claim, LogProof, Receipt, ReceiptId, Rung, Sampling, Seal, commit_bytes,
    commit_tokens,
};
use verify::Producer as _;

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
}

struct Shared {
    identity: Identity,
    log: Arc<ReceiptLog>,
    anchor: watch::Receiver<Anchor>,
    posted: Arc<AtomicU64>,
    /// Receipts under way: a second request with the same id must wait for none of them, but be refused.
    under_way: Mutex<HashSet<ReceiptId>>,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn internal(e: impl std::fmt::Display) -> InferenceFault {
    InferenceFault::Internal(e.to_string())
}

/// The server's messages as the engine's.
pub(crate) fn chat_messages(messages: &[(ChatRole, String)]) -> Vec<ChatMessage> {
    let role = |role: &ChatRole| match role {
        ChatRole::System => Role::System,
        ChatRole::User => Role::User,
        ChatRole::Assistant => Role::Assistant,
    };
    messages.iter().map(|(r, content)| ChatMessage { role: role(r), content: content.clone() }).collect()
}

impl InferenceService {
    pub(crate) fn new(
        engine: Engine,
        identity: Identity,
        log: Arc<ReceiptLog>,
        anchor: watch::Receiver<Anchor>,
        posted: Arc<AtomicU64>,
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
        Self { shared: Arc::new(Shared { identity, log, anchor, posted, under_way }), engine, info }
    }

    fn prompt(&self, job: &ChatJob, time_ms: u64) -> Result<Vec<u32>, InferenceFault> {
        let model = self.engine.model();
        let manifest = model.manifest();
        if job.model != manifest.name && job.model != model.id().to_string() {
            let available = manifest.name.clone();
            return Err(InferenceFault::ModelNotFound { model: job.model.clone(), available });
        }
        let messages = chat_messages(&job.messages);
        model.chat_prompt(&messages, time_ms / 1000).map_err(fault)
    }
}

fn fault(e: EngineError) -> InferenceFault {
    let message = e.to_string();
    match e {
        EngineError::PromptTooLong { .. } => InferenceFault::ContextLengthExceeded(message),
        EngineError::QueueFull { .. } => InferenceFault::Busy(message),
        EngineError::Stop => InferenceFault::InvalidValue { message, param: "stop" },
        EngineError::Template(_) | EngineError::EmptyPrompt => {
            InferenceFault::InvalidValue { message, param: "messages" }
        }
        EngineError::Sampling(_) => InferenceFault::InvalidValue { message, param: "temperature" },
        _ => InferenceFault::Internal(message),
    }
}

/// Forgets an id under way when the answer is over, however it ends.
struct UnderWay {
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
        self.shared.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[async_trait]
impl Inference for InferenceService {
    fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    async fn chat(&self, job: ChatJob) -> Result<ChatStarted, InferenceFault> {
        if job.rung != Rung::Signed {
            return Err(InferenceFault::AssuranceUnavailable(job.rung));
        }
        let time_ms = now_ms();
        let prompt = self.prompt(&job, time_ms)?;
        let nonce = job.nonce.unwrap_or_else(|| B256::from(rand::random::<[u8; 32]>()));
        let identity = &self.shared.identity;
        let request_hash = Claim::request_commitment(&nonce, &job.raw_request);
        let node = identity.producer.address();
        let receipt_id = Claim::receipt_id_of(identity.chain_id, identity.genesis, node, request_hash);
        let under_way = UnderWay::enter(&self.shared, receipt_id)?;
        let mut sampling = job.sampling;
        if !job.seed_given {
            // 53 bits: every JSON parser keeps them.
            sampling.seed = rand::random::<u64>() >> 11;
        }
        let context = self.engine.model().context_length();
        let room = context.saturating_sub(prompt.len()) as u32;
        let max_tokens = job.max_tokens.unwrap_or(room).min(room);
        let anchor = *self.shared.anchor.borrow();
        let (completion_sender, completion) = oneshot::channel();
        // One event a token and the end: the engine never waits for a slow client, and memory is bounded.
        let (sender, events) = mpsc::channel(max_tokens as usize + 4);
        let on_event = forward(sender, completion_sender);
        let prompt_tokens = prompt.len() as u32;
        let queued = Job { stop: job.stop, ..Job::new(prompt.clone(), sampling, max_tokens, on_event) };
        self.engine.submit(queued).map_err(fault)?;
        let manifest = self.engine.model().manifest();
        let model_id = self.engine.model().id();
        Ok(ChatStarted {
            receipt_id,
            nonce,
            rung: job.rung,
            node,
            model: manifest.name.clone(),
            model_id,
            price_input: identity.price_input,
            price_output: identity.price_output,
            prompt_tokens,
            time_ms,
            arithmetic_version: manifest.arithmetic_version,
            events,
            sealer: Box::new(AnswerSealer {
                under_way,
                completion,
                raw_request: job.raw_request,
                nonce,
                prompt,
                max_tokens,
                sampling,
                anchor,
                time_ms,
                model: model_id.0,
                arithmetic_version: manifest.arithmetic_version,
                rung: job.rung,
            }),
        })
    }

    fn receipt(&self, id: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault> {
        self.shared.log.get(id).map_err(internal)
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
    sender: mpsc::Sender<ChatEvent>,
    completion: oneshot::Sender<Completion>,
) -> Box<dyn FnMut(Event) -> ControlFlow<()> + Send> {
    let mut completion = Some(completion);
    Box::new(move |event| {
        let event = match event {
            // Nothing to tell, but a client that left is noticed while its prompt is read.
            Event::Prefill { .. } if sender.is_closed() => return ControlFlow::Break(()),
            Event::Prefill { .. } => return ControlFlow::Continue(()),
            Event::Token { text, .. } => ChatEvent::Text(text),
            Event::Failed(e) => ChatEvent::Failed(fault(e)),
            Event::Done(done) => {
                let finish = match done.finish {
                    FinishReason::Stop => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                };
                let completion_tokens = done.tokens.len() as u32;
                if let Some(completion) = completion.take() {
                    let _ = completion.send(done);
                }
                ChatEvent::Done { finish, completion_tokens }
            }
        };
        // A closed channel is a client that left; a full one cannot be.
        if sender.try_send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

/// All that a claim needs once the answer is complete.
struct AnswerSealer {
    under_way: UnderWay,
    completion: oneshot::Receiver<Completion>,
    raw_request: Bytes,
    nonce: B256,
    prompt: Vec<u32>,
    max_tokens: u32,
    sampling: Sampling,
    anchor: Anchor,
    time_ms: u64,
    model: B256,
    arithmetic_version: u16,
    rung: Rung,
}

#[async_trait]
impl Sealer for AnswerSealer {
    async fn seal(mut self: Box<Self>, response: Bytes) -> Result<Seal, InferenceFault> {
        let completion = (&mut self.completion).await.map_err(internal)?;
        // Signing is quick, but the log waits for the disk.
        let sealed = tokio::task::spawn_blocking(move || self.seal_now(&completion, &response)).await;
        sealed.map_err(internal)?.map_err(|e| InferenceFault::Internal(format!("{e:#}")))
    }
}

impl AnswerSealer {
    fn seal_now(&self, completion: &Completion, response: &[u8]) -> anyhow::Result<Seal> {
        let identity = &self.under_way.shared.identity;
        let (request_hash, response_hash) = commit_bytes(&self.nonce, &self.raw_request, response);
        let mut claim = Claim {
            chain_id: identity.chain_id,
            genesis: identity.genesis,
            node: identity.producer.address(),
            model: self.model,
            request_hash,
            response_hash,
            prompt_hash: commit_tokens(&self.nonce, &self.prompt),
            output_hash: commit_tokens(&self.nonce, &completion.tokens),
            prompt_tokens: self.prompt.len() as u32,
            completion_tokens: completion.tokens.len() as u32,
            max_tokens: self.max_tokens,
            sampling: self.sampling,
            trace_root: completion.trace_root,
            price_input: identity.price_input,
            price_output: identity.price_output,
            price: 0,
            anchor_number: self.anchor.0,
            anchor_hash: self.anchor.1,
            time_ms: self.time_ms,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: self.arithmetic_version,
            rung_requested: self.rung as u8,
            rung_achieved: Rung::Signed as u8,
        };
        claim.price = claim.computed_price().context("the price does not fit in 128 bits")?;
        let evidence = vec![identity.producer.produce(&claim, &())?];
        let receipt = Receipt { claim, evidence };
        self.under_way.shared.log.append(&receipt)?;
        Ok(Seal {
            receipt: receipt.encode().into(),
            prompt_tokens: self.prompt.clone(),
            output_tokens: completion.tokens.clone(),
        })
    }
}
