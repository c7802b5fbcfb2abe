use super::{Completion, Event, FinishReason, Job, OnEvent, prefix::PageKey, text::StoppableText};
use crate::{
    EngineError, Model,
    arch::Given,
    kv::KvCache,
    sampler::{Choosing, Sampler, TokenLogprobs, logprobs},
};
use types::merkle;

/// A job in the batch.
pub(super) struct Active<'m> {
    /// Prompt and answer so far.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt: usize,
    max_tokens: usize,
    on_event: OnEvent,
    pub(super) cache: KvCache,
    /// Keys of the leading pages of `cache` that the prefix cache knows.
    pub(super) keys: Vec<PageKey>,
    pub(super) cached_tokens: usize,
    sampler: Sampler,
    top_logprobs: Option<u8>,
    text: StoppableText<'m>,
    pub(super) done: bool,
}

impl<'m> Active<'m> {
    pub(super) fn new(model: &'m Model, cache: KvCache, job: Job, positions_max: usize) -> Self {
        let room = model.context_length().min(positions_max) - job.prompt.len();
        Self {
            max_tokens: room.min(job.max_tokens.max(1) as usize),
            prompt: job.prompt.len(),
            tokens: job.prompt,
            on_event: job.on_event,
            cache,
            keys: Vec::new(),
            cached_tokens: 0,
            sampler: Sampler::new(Choosing {
                sampling: job.sampling,
                choice: job.choice,
                logit_bias: job.logit_bias,
                constraint: job.constraint,
            }),
            top_logprobs: job.top_logprobs,
            text: StoppableText::new(model.tokenizer().decoder(), job.stop),
            done: false,
        }
    }

    /// Positions that are still to be computed before the next token can be chosen.
    pub(super) fn missing(&self) -> usize {
        self.tokens.len() - self.cache.positions()
    }

    pub(super) fn fail(&mut self, e: EngineError) {
        let _ = (self.on_event)(Event::Failed(e));
        self.done = true;
    }

    /// Says how much of the prompt is read, which gives whoever left a chance to cancel.
    pub(super) fn report_prefill(&mut self) {
        let done = self.cache.positions().min(self.prompt);
        if done < self.prompt {
            self.done = (self.on_event)(Event::Prefill { done, total: self.prompt }).is_break();
        }
    }

    /// The biases, when all that the next token needs is the largest logit after them.
    pub(super) fn greedy_biases(&self) -> Option<&[(u32, f32)]> {
        self.sampler.greedy_biases().filter(|_| self.top_logprobs.is_none())
    }

    /// Chooses the next token out of what the pass gave.
    pub(super) fn choose(&mut self, given: &mut Given) -> Result<(u32, Option<TokenLogprobs>), EngineError> {
        let logits = match given {
            Given::Logits(logits) => logits,
            Given::Largest(Some(token)) => {
                self.sampler.note(*token);
                return Ok((*token, None));
            }
            Given::Largest(None) => {
                return Err(EngineError::NotANumber { position: self.tokens.len() - 1 });
            }
        };
        if logits.iter().any(|l| !l.is_finite()) {
            return Err(EngineError::NotANumber { position: self.tokens.len() - 1 });
        }
        let plain = self.top_logprobs.map(|n| (n, logits.to_vec()));
        let token = self.sampler.next(logits)?;
        Ok((token, plain.map(|(n, logits)| logprobs(&logits, token, n))))
    }

    /// Takes a generated token: streams its text, and ends the answer when it is time.
    pub(super) fn take(&mut self, token: u32, ends_turn: bool, logprobs: Option<TokenLogprobs>) {
        self.tokens.push(token);
        let (text, stopped) = if ends_turn { (String::new(), false) } else { self.text.push(token) };
        let ended = stopped || ends_turn;
        let full = self.tokens.len() - self.prompt >= self.max_tokens;
        if !ended && !full {
            self.done = (self.on_event)(Event::Token { id: token, text, logprobs }).is_break();
            return;
        }
        let rest = if stopped { text } else { text + &self.text.finish() };
        self.done = true;
        if (self.on_event)(Event::Token { id: token, text: rest, logprobs }).is_break() {
            return;
        }
        let completion = Completion {
            tokens: self.tokens.split_off(self.prompt),
            text: self.text.emitted().to_owned(),
            finish: if ended { FinishReason::Stop } else { FinishReason::Length },
            prompt_tokens: self.prompt,
            cached_tokens: self.cached_tokens,
            trace_root: merkle::root(self.cache.leaves()),
        };
        let _ = (self.on_event)(Event::Done(completion));
    }
}
