use crate::{
    EngineConfig, EngineError, Model,
    arch::{Ask, Backend, Given, Row, decoder::Scratch, device::Device},
    kv::KvCache,
    sampler::{Choosing, Sampler, TokenLogprobs, logprobs},
    scheduler::check,
};
use kernels::Isa;
use types::{B256, merkle};

/// Rows of one forward pass of a replay.
const CHUNK: usize = 128;

/// What a replay found.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Index of the first generated token that this machine would not have chosen.
    pub first_difference: Option<usize>,
    /// The token that it would have chosen there; `None` when there is no difference or the grammar allows none.
    pub chosen: Option<u32>,
    /// Trace root over the claimed tokens, as computed here.
    pub trace_root: B256,
    /// Log-probabilities of the tokens, when asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Checks a finished answer: feeds prompt and claimed tokens at once (teacher forcing) and chooses every token anew. Exact
/// arithmetic makes this the same computation as the generation, only faster, since no token waits for the one before.
///
/// # Errors
/// [`EngineError`] when prompt or tokens do not fit the model, or the model gives a logit that is not finite.
pub fn replay(model: &Model, prompt: &[u32], tokens: &[u32], by: Choosing) -> Result<Replay, EngineError> {
    replay_with_logprobs(model, prompt, tokens, by, None)
}

/// As [`replay`], also giving log-probabilities with the `top` likeliest tokens.
///
/// # Errors
/// As [`replay`].
pub fn replay_with_logprobs(
    model: &Model,
    prompt: &[u32],
    tokens: &[u32],
    by: Choosing,
    top: Option<u8>,
) -> Result<Replay, EngineError> {
    replay_on(model, prompt, tokens, by, top, &EngineConfig::default())
}

/// As [`replay_with_logprobs`], on the threads and device that `config` names.
///
/// # Errors
/// As [`replay`], and [`EngineError::Device`].
pub fn replay_on(
    model: &Model,
    prompt: &[u32],
    tokens: &[u32],
    by: Choosing,
    top: Option<u8>,
    config: &EngineConfig,
) -> Result<Replay, EngineError> {
    let decoder = model.decoder()?;
    check(model, prompt, &by.sampling)?;
    let vocabulary = model.tokenizer().vocabulary();
    if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
        return Err(EngineError::UnknownToken { token: *token, vocabulary });
    }
    let total = prompt.len() + tokens.len();
    if total > model.context_length() {
        return Err(EngineError::PromptTooLong { tokens: total, max: model.context_length() });
    }
    let device = Device::open(config.device, decoder, KvCache::pages_for(total))?;
    let isa = config.isa.unwrap_or_else(Isa::best);
    let backend = Backend { device, ..Backend::cpu(isa, config.threads.max(1)) };
    let fed: Vec<u32> = prompt.iter().chain(tokens).copied().take(total.saturating_sub(1)).collect();
    let rows: Vec<_> = fed
        .iter()
        .enumerate()
        .map(|(position, token)| Row {
            sequence: 0,
            token: *token,
            position,
            wants_logits: position + 1 >= prompt.len() && !tokens.is_empty(),
        })
        .collect();
    let mut cache = backend.cache(decoder.spec.kv_shape());
    let mut sampler = Sampler::new(by);
    let mut scratch = Scratch::default();
    let mut found =
        Replay { first_difference: None, chosen: None, trace_root: B256::ZERO, logprobs: Vec::new() };
    let mut index = 0;
    for chunk in rows.chunks(CHUNK) {
        for given in decoder.forward(&backend, chunk, &mut [&mut cache], Ask::Logits, &mut scratch)? {
            let Given::Logits(mut logits) = given else { continue };
            if logits.iter().any(|l| !l.is_finite()) {
                return Err(EngineError::NotANumber { position: prompt.len() + index - 1 });
            }
            if let Some(n) = top {
                found.logprobs.push(logprobs(&logits, tokens[index], n));
            }
            // A grammar that refuses the claimed tokens refuses the answer.
            let chosen = sampler.next(&mut logits).ok();
            if chosen != Some(tokens[index]) {
                found.first_difference.get_or_insert(index);
                found.chosen = chosen;
                break;
            }
            index += 1;
        }
        if found.first_difference.is_some() {
            break;
        }
    }
    found.trace_root = merkle::root(cache.leaves());
    Ok(found)
}
