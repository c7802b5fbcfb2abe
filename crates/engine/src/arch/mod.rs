//! Model architectures, one file each: how a file's metadata and tensors become the parts that `decoder` and `encoder` run.

pub(crate) mod bert;
pub(crate) mod decoder;
pub(crate) mod device;
mod gemma;
mod llama;
pub(crate) mod loader;
mod phi;
mod qwen;
pub(crate) mod spec;

use crate::{EngineError, kv::KvCache};
use bert::Encoder;
use decoder::Decoder;
use device::Device;
use kernels::{Isa, KvShape, Pool};
use loader::Loader;

/// Architectures that can be loaded, by their names in GGUF.
pub(crate) const SUPPORTED: &str =
    "llama (also Mistral and SmolLM), qwen2, qwen3, gemma2, gemma3, phi3, bert";

/// The weights of a model, by what they are good for.
#[derive(Debug)]
pub(crate) enum Weights {
    /// Generates tokens.
    Decoder(Decoder),
    /// Gives embeddings of texts.
    Encoder(Encoder),
}

/// Loads the weights that the file describes.
pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Weights, EngineError> {
    match loader.architecture() {
        "llama" => llama::load(loader, vocabulary).map(Weights::Decoder),
        "qwen2" | "qwen3" => qwen::load(loader, vocabulary).map(Weights::Decoder),
        "gemma2" | "gemma3" => gemma::load(loader, vocabulary).map(Weights::Decoder),
        "phi3" => phi::load(loader, vocabulary).map(Weights::Decoder),
        "bert" => bert::load(loader, vocabulary).map(Weights::Encoder),
        other => Err(EngineError::Unsupported(format!("architecture {other:?}; supported: {SUPPORTED}"))),
    }
}

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Which cache of the batch it belongs to.
    pub(crate) sequence: usize,
    pub(crate) token: u32,
    /// Its position in the sequence; rows of one sequence come in ascending order without gaps.
    pub(crate) position: usize,
    /// Whether logits are needed after it.
    pub(crate) wants_logits: bool,
}

/// What is wanted of the logits of a pass.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a device chooses by itself"))]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    /// All of them.
    Logits,
    /// The token of the largest one, after these biases, for each row that wants logits. A backend may give the logits all the same.
    Largest(&'a [&'a [(u32, f32)]]),
}

/// What a pass gives for the rows that want logits, in order.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a device chooses by itself"))]
#[derive(Clone, Debug)]
pub(crate) enum Given {
    Logits(Vec<f32>),
    /// The token that was asked for; `None` when a logit is not finite.
    Largest(Option<u32>),
}

/// Where and how kernels run.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
    /// Runs the passes of a decoder instead of the pool, if there is one.
    pub(crate) device: Option<Device>,
}

impl Backend {
    /// This machine's processor.
    pub(crate) fn cpu(isa: Isa, threads: usize) -> Self {
        Self { isa, pool: Pool::new(threads), device: None }
    }

    /// An empty cache where this backend keeps keys and values.
    pub(crate) fn cache(&self, shape: KvShape) -> KvCache {
        match &self.device {
            None => KvCache::new(shape),
            Some(device) => KvCache::on_device(shape, device.pages.clone()),
        }
    }
}
