use crate::{
    EngineError, Model,
    arch::{Ask, Backend, Row, decoder::Scratch},
    kv::KvCache,
};
use kernels::Isa;
use referee::RowKind;
use std::{cell::RefCell, sync::Arc};

/// Rows of one forward pass.
const CHUNK: usize = 128;

/// A computation that a claim commits to, seen from one side.
pub trait Trace {
    /// Data of the leaf of every position that was fed.
    fn leaves(&self) -> &[Vec<u8>];

    /// A row that a leaf commits to.
    ///
    /// # Errors
    /// [`EngineError`] when the model cannot compute it.
    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Vec<u8>, EngineError>;

    /// The token that a leaf names.
    fn token(&self, position: usize) -> Option<u32> {
        let data = self.leaves().get(position)?;
        data.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
    }
}

/// The trace that this machine computes from the tokens that were fed.
pub struct Replayed {
    model: Arc<Model>,
    fed: Vec<u32>,
    leaves: Vec<Vec<u8>>,
    cache: KvCache,
    /// The output row that was asked for last: positions come one after the other.
    last: RefCell<Option<(usize, usize, Vec<u8>)>>,
}

impl std::fmt::Debug for Replayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replayed({} positions)", self.fed.len())
    }
}

fn forward(
    model: &Model,
    fed: &[u32],
    row: Option<(usize, usize)>,
) -> Result<(KvCache, Scratch), EngineError> {
    let decoder = model.decoder()?;
    let vocabulary = model.tokenizer().vocabulary();
    if let Some(token) = fed.iter().find(|t| **t as usize >= vocabulary) {
        return Err(EngineError::UnknownToken { token: *token, vocabulary });
    }
    if fed.len() > model.context_length() {
        return Err(EngineError::PromptTooLong { tokens: fed.len(), max: model.context_length() });
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = Backend::cpu(Isa::best(), threads);
    let (mut cache, mut scratch) = (KvCache::new(decoder.spec.kv_shape()), Scratch::default());
    scratch.capture.leaves = true;
    scratch.capture.row = row;
    let one =
        |(position, token): (usize, &u32)| Row { sequence: 0, token: *token, position, wants_logits: false };
    let rows: Vec<Row> = fed.iter().enumerate().map(one).collect();
    for chunk in rows.chunks(CHUNK) {
        decoder.forward(&backend, chunk, &mut [&mut cache], Ask::Logits, &mut scratch)?;
    }
    Ok((cache, scratch))
}

impl Replayed {
    /// Computes the trace of `prompt` and `output`; the last output token is not fed.
    ///
    /// # Errors
    /// [`EngineError`] when the tokens do not fit the model.
    pub fn new(model: Arc<Model>, prompt: &[u32], output: &[u32]) -> Result<Self, EngineError> {
        let fed = [prompt, &output[..output.len().saturating_sub(1)]].concat();
        let (cache, scratch) = forward(&model, &fed, None)?;
        Ok(Self { model, fed, leaves: scratch.capture.leaf_data, cache, last: RefCell::default() })
    }
}

impl Trace for Replayed {
    fn leaves(&self) -> &[Vec<u8>] {
        &self.leaves
    }

    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Vec<u8>, EngineError> {
        if position >= self.fed.len() {
            return Err(EngineError::PromptTooLong { tokens: position, max: self.fed.len() });
        }
        if kind == RowKind::Kept {
            return Ok(self.cache.row(layer, position).iter().flat_map(|h| h.to_le_bytes()).collect());
        }
        let mut last = self.last.borrow_mut();
        if let Some((p, l, row)) = &*last
            && (*p, *l) == (position, layer)
        {
            return Ok(row.clone());
        }
        let (_, scratch) = forward(&self.model, &self.fed[..=position], Some((position, layer)))?;
        let row = scratch.capture.found.unwrap_or_default();
        let row: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        *last = Some((position, layer, row.clone()));
        Ok(row)
    }
}
