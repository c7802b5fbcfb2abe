//! Reads metadata and tensors of a model file, strictly: nothing that is there and would change the answers is ignored.

use super::spec::Rope;
use crate::{
    EngineError, Progress,
    formats::gguf::{Gguf, Tensor, TensorType, Value},
};
use kernels::{Format, Linear, Matrix, Pool, RopeStyle, f16_to_f32, quantise_q8_0};
use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeMap,
};
use types::{B256, merkle};

/// Bounds on hyper-parameters; the file's own size bounds the weights.
const LAYERS_MAX: u32 = 512;
const HEADS_MAX: u32 = 1024;
const WIDTH_MAX: u32 = 1 << 17;
const HEAD_WIDTH_MAX: u32 = 1 << 10;
const CONTEXT_MAX: u32 = 1 << 17;

/// Bytes of one leaf of a tensor's Merkle tree: small, so that a dispute opens little more than the row that it is about.
pub(crate) const CHUNK_BYTES: usize = 1 << 10;

/// The five sizes that every architecture has.
pub(crate) struct Sizes {
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) hidden: usize,
    pub(crate) context: usize,
    pub(crate) eps: f32,
}

/// A model file under load.
pub(crate) struct Loader<'f, 'd> {
    gguf: &'f Gguf<'d>,
    architecture: String,
    pool: &'f Pool,
    /// Merkle leaves of the tensors that were read, by name.
    leaves: RefCell<BTreeMap<String, B256>>,
    done: Cell<u64>,
    total: u64,
    progress: &'f Progress<'f>,
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Unsupported(what.into()))
}

impl<'f, 'd> Loader<'f, 'd> {
    pub(crate) fn new(
        gguf: &'f Gguf<'d>,
        pool: &'f Pool,
        progress: &'f Progress<'f>,
    ) -> Result<Self, EngineError> {
        let architecture = gguf.string("general.architecture")?.to_owned();
        let total = gguf.tensors.values().map(|t| t.data.len() as u64).sum();
        let leaves = RefCell::default();
        Ok(Self { gguf, architecture, pool, leaves, done: Cell::new(0), total, progress })
    }

    /// Name of the architecture: the prefix of its metadata keys.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The integer `key` of this architecture, 1 to `max`.
    pub(crate) fn integer(&self, key: &str, max: u32) -> Result<usize, EngineError> {
        let key = format!("{}.{key}", self.architecture);
        match self.gguf.integer(&key)? {
            n if (1..=max).contains(&n) => Ok(n as usize),
            n => unsupported(format!("{key} is {n}; it must be 1 to {max}")),
        }
    }

    /// As [`integer`](Self::integer), but absent or 0 is none.
    pub(crate) fn optional_integer(&self, key: &str, max: u32) -> Result<Option<usize>, EngineError> {
        match self.gguf.metadata.get(&format!("{}.{key}", self.architecture)) {
            None | Some(Value::Unsigned(0) | Value::Signed(0)) => Ok(None),
            Some(_) => self.integer(key, max).map(Some),
        }
    }

    /// The float `key` of this architecture.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, EngineError> {
        self.gguf.float(&format!("{}.{key}", self.architecture))
    }

    /// The string `key` of this architecture.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, EngineError> {
        let key = format!("{}.{key}", self.architecture);
        match self.gguf.metadata.get(&key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => unsupported(format!("the metadata {key} must be a string")),
        }
    }

    /// Whether any metadata key of this architecture begins with `prefix`.
    pub(crate) fn has_key(&self, prefix: &str) -> bool {
        let prefix = format!("{}.{prefix}", self.architecture);
        self.gguf.metadata.keys().any(|k| k.starts_with(&prefix))
    }

    /// Sizes, with the defaults of GGUF.
    pub(crate) fn sizes(&self) -> Result<Sizes, EngineError> {
        let width = self.integer("embedding_length", WIDTH_MAX)?;
        let heads = self.integer("attention.head_count", HEADS_MAX)?;
        let head_width = self.optional_integer("attention.key_length", WIDTH_MAX)?.unwrap_or(width / heads);
        if self.optional_integer("attention.value_length", WIDTH_MAX)?.is_some_and(|n| n != head_width) {
            return unsupported("keys and values of different widths");
        }
        if head_width == 0 || head_width > HEAD_WIDTH_MAX as usize {
            return unsupported(format!("heads must be 1 to {HEAD_WIDTH_MAX} wide"));
        }
        if self.has_key("expert_count") && self.optional_integer("expert_count", u32::MAX)?.is_some() {
            return unsupported("mixtures of experts");
        }
        let eps = ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"];
        let eps = self.float(eps[0])?.or(self.float(eps[1])?).unwrap_or(1e-5) as f32;
        Ok(Sizes {
            width,
            layers: self.integer("block_count", LAYERS_MAX)?,
            heads,
            kv_heads: self.optional_integer("attention.head_count_kv", HEADS_MAX)?.unwrap_or(heads),
            head_width,
            hidden: self.integer("feed_forward_length", WIDTH_MAX)?,
            context: self.integer("context_length", CONTEXT_MAX)?,
            eps,
        })
    }

    /// Rotary positions as the metadata and `rope_freqs.weight` describe them.
    pub(crate) fn rope(&self, style: RopeStyle, head_width: usize) -> Result<Rope, EngineError> {
        let dims = self.optional_integer("rope.dimension_count", WIDTH_MAX)?.unwrap_or(head_width);
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        let mut rope = Rope::plain(style, dims, theta);
        let factor = self.float("rope.scaling.factor")?.or(self.float("rope.scale_linear")?);
        match (self.string("rope.scaling.type")?, factor) {
            (None | Some("linear"), Some(factor)) => rope.divisors.fill(factor),
            // Long positions by factors are the business of the architectures that have them.
            (None | Some("none" | "longrope" | "llama3"), _) => {}
            (Some(other), _) => return unsupported(format!("rotary positions scaled by {other:?}")),
        }
        if self.has("rope_freqs.weight") {
            let factors = self.vector("rope_freqs.weight", dims / 2)?;
            for (divisor, factor) in rope.divisors.iter_mut().zip(factors) {
                *divisor *= f64::from(factor);
            }
        }
        Ok(rope)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensors.contains_key(name)
    }

    /// A vector of `len` floats.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let tensor = self.gguf.tensor(name)?;
        if tensor.dims != [len as u64] {
            return unsupported(format!("the tensor {name} must have {len} elements, not {:?}", tensor.dims));
        }
        let Some(values) = floats(tensor) else {
            return unsupported(format!("the tensor {name} must be F32, F16 or BF16"));
        };
        if values.iter().any(|v| !v.is_finite()) {
            return Err(EngineError::Format(format!("the tensor {name} holds NaN or infinity")));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.seen(name, tensor, TensorType::F32, &bytes);
        Ok(values)
    }

    /// A vector that may be missing.
    pub(crate) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, EngineError> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    /// A table of floats, `rows` of `k`.
    pub(crate) fn table(&self, name: &str, rows: usize, k: usize) -> Result<Vec<f32>, EngineError> {
        let tensor = self.gguf.tensor(name)?;
        let table = Linear::new(vec![self.stack(&[(name, rows)], k)?]);
        if let Some(values) = floats(tensor) {
            return Ok(values);
        }
        let mut out = vec![0f32; rows * k];
        for (i, row) in out.chunks_exact_mut(k).enumerate() {
            table.dequantise_row(i, row);
        }
        Ok(out)
    }

    /// Matrices of `k` inputs side by side, each given with its number of rows. Neighbours of one format are stacked.
    pub(crate) fn linear(&self, parts: &[(&str, usize)], k: usize) -> Result<Linear, EngineError> {
        let mut matrices = Vec::new();
        let mut from = 0;
        while from < parts.len() {
            let format = self.format(parts[from].0)?;
            let mut to = from + 1;
            while to < parts.len() && self.format(parts[to].0)? == format {
                to += 1;
            }
            matrices.push(self.stack(&parts[from..to], k)?);
            from = to;
        }
        let last = matrices.len() - 1;
        if matrices[..last].iter().any(|m| !m.rows().is_multiple_of(kernels::PANEL)) {
            return unsupported(format!("the rows of {} must be a multiple of 16", parts[0].0));
        }
        Ok(Linear::new(matrices))
    }

    /// The format in which a tensor runs: floats go through the canonical quantiser.
    fn format(&self, name: &str) -> Result<Format, EngineError> {
        match self.gguf.tensor(name)?.kind {
            TensorType::Blocks(format) => Ok(format),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => Ok(Format::Q8_0),
        }
    }

    fn stack(&self, parts: &[(&str, usize)], k: usize) -> Result<Matrix, EngineError> {
        let format = self.format(parts[0].0)?;
        let mut data: Vec<(usize, Cow<'_, [u8]>)> = Vec::new();
        for (name, rows) in parts {
            let tensor = self.gguf.tensor(name)?;
            if tensor.dims != [k as u64, *rows as u64] {
                return unsupported(format!(
                    "the tensor {name} must have the size [{k}, {rows}], not {:?}",
                    tensor.dims
                ));
            }
            let bytes = match tensor.kind {
                TensorType::Blocks(_) => Cow::Borrowed(&tensor.data[..]),
                _ => Cow::Owned(self.quantise(name, tensor, k)?),
            };
            self.seen(name, tensor, TensorType::Blocks(format), &bytes);
            data.push((*rows, bytes));
        }
        let data: Vec<(usize, &[u8])> = data.iter().map(|(rows, bytes)| (*rows, &bytes[..])).collect();
        Matrix::repack(self.pool, format, &data, k)
            .map_err(|e| EngineError::Format(format!("the tensor {}: {e}", parts[0].0)))
    }

    /// The canonical quantiser over the rows of a float matrix, on all workers.
    fn quantise(&self, name: &str, tensor: &Tensor<'_>, k: usize) -> Result<Vec<u8>, EngineError> {
        if !k.is_multiple_of(kernels::BLOCK) {
            return unsupported(format!("rows of the tensor {name} are no multiple of 32"));
        }
        let row_bytes = k / kernels::BLOCK * 34;
        let source_bytes = tensor.data.len() / (tensor.elements() as usize / k);
        let mut out = vec![0u8; tensor.elements() as usize / k * row_bytes];
        let sound = std::sync::atomic::AtomicBool::new(true);
        self.pool.for_each_chunk(&mut out, row_bytes, &|i, out| {
            let row = &tensor.data[i * source_bytes..][..source_bytes];
            match decode_floats(tensor.kind, row).and_then(|row| quantise_q8_0(&row)) {
                Some(bytes) => out.copy_from_slice(&bytes),
                None => sound.store(false, std::sync::atomic::Ordering::Relaxed),
            }
        });
        if sound.into_inner() {
            Ok(out)
        } else {
            Err(EngineError::Format(format!("the tensor {name} holds NaN, infinity or too large values")))
        }
    }

    /// Notes that a tensor was used. Its leaf is over the bytes that the arithmetic sees.
    fn seen(&self, name: &str, tensor: &Tensor<'_>, kind: TensorType, bytes: &[u8]) {
        let mut chunks = vec![B256::ZERO; bytes.len().div_ceil(CHUNK_BYTES)];
        self.pool.for_each_chunk(&mut chunks, 64, &|part, out| {
            let bytes = bytes[part * 64 * CHUNK_BYTES..].chunks(CHUNK_BYTES);
            for (out, chunk) in out.iter_mut().zip(bytes) {
                *out = merkle::leaf_hash(chunk);
            }
        });
        let mut leaf = Vec::new();
        leaf.extend_from_slice(&(name.len() as u32).to_be_bytes());
        leaf.extend_from_slice(name.as_bytes());
        leaf.extend_from_slice(&kind.number().to_be_bytes());
        leaf.extend_from_slice(&(tensor.dims.len() as u32).to_be_bytes());
        for d in &tensor.dims {
            leaf.extend_from_slice(&d.to_be_bytes());
        }
        leaf.extend_from_slice(merkle::root(&chunks).as_slice());
        let first = self.leaves.borrow_mut().insert(name.to_owned(), merkle::leaf_hash(&leaf)).is_none();
        if first {
            self.done.set(self.done.get() + tensor.data.len() as u64);
            (self.progress)(self.done.get(), self.total);
        }
    }

    /// RFC 6962 Merkle root over the tensors in order of name. A leaf is `name length (u32 BE) ‖ name ‖ type (u32 BE) ‖ number of
    /// dimensions (u32 BE) ‖ dimensions (u64 BE) ‖ root over the tensor's bytes in chunks of 1 KiB`, where float matrices count
    /// as the canonical quantiser makes them (Q8_0) and vectors as F32.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] names a tensor of the file that nothing has read: it would change the answers elsewhere.
    pub(crate) fn weights_root(&self) -> Result<B256, EngineError> {
        let leaves = self.leaves.borrow();
        if let Some(name) = self.gguf.tensors.keys().find(|name| !leaves.contains_key(*name)) {
            return unsupported(format!(
                "the tensor {name} has no place in the architecture {}",
                self.architecture
            ));
        }
        let leaves: Vec<B256> = leaves.values().copied().collect();
        Ok(merkle::root(&leaves))
    }
}

/// Elements of a float tensor; `None` for block formats.
fn floats(tensor: &Tensor<'_>) -> Option<Vec<f32>> {
    decode_floats(tensor.kind, &tensor.data)
}

pub(crate) fn decode_floats(kind: TensorType, data: &[u8]) -> Option<Vec<f32>> {
    let halves = data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    Some(match kind {
        TensorType::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        TensorType::F16 => halves.map(f16_to_f32).collect(),
        TensorType::BF16 => halves.map(|h| f32::from_bits(u32::from(h) << 16)).collect(),
        TensorType::Blocks(_) => return None,
    })
}
