use crate::{
    EngineConfig, EngineError, Model,
    arch::{Backend, Row},
    sampler::{Choosing, Sampler},
    scheduler::check,
    trace,
};
use kernels::{Isa, Pool};
use types::{B256, merkle};

/// Rows of one forward pass of a replay.
const CHUNK: usize = 128;

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Index of the first generated token that this machine would not have chosen.
    pub first_difference: Option<usize>,
    /// Trace root over the claimed tokens, as computed here.
    pub trace_root: B256,
}

/// Checks a finished answer: feeds prompt and claimed tokens at once (teacher forcing) and chooses every token anew. Exact
/// arithmetic makes this the same computation as the generation, only faster, since no token waits for the one before.
///
/// # Errors
/// [`EngineError`] when prompt or tokens do not fit the model.
pub fn replay(model: &Model, prompt: &[u32], tokens: &[u32], by: Choosing) -> Result<Replay, EngineError> {
    check(model, prompt, &by.sampling)?;
    let vocabulary = model.tokenizer().vocabulary();
    if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
        return Err(EngineError::UnknownToken { token: *token, vocabulary });
    }
    let total = prompt.len() + tokens.len();
    if total > model.context_length() {
        return Err(EngineError::PromptTooLong { tokens: total, max: model.context_length() });
    }
    let backend = Backend { isa: Isa::best(), pool: Pool::new(EngineConfig::default().threads) };
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
    let mut cache = model.weights.cache();
    let mut sampler = Sampler::new(by);
    let mut first_difference = None;
    let mut leaves = Vec::with_capacity(tokens.len());
    for chunk in rows.chunks(CHUNK) {
        let heads = model.weights.forward(&backend, chunk, &mut [&mut cache]);
        let wanted = chunk.iter().filter(|r| r.wants_logits);
        for (i, (row, mut logits)) in wanted.zip(heads.logits).enumerate() {
            let index = leaves.len();
            if sampler.next(&mut logits)? != tokens[index] {
                first_difference.get_or_insert(index);
            }
            let (input, scales) = heads.inputs.row(i);
            leaves.push(trace::leaf(row.position, tokens[index], input, scales));
        }
        if first_difference.is_some() {
            break;
        }
    }
    Ok(Replay { first_difference, trace_root: merkle::root(&leaves) })
}
