//! Llama (arXiv:2302.13971): RMSNorm, rotary positions, grouped-query attention (arXiv:2305.13245), SwiGLU, no biases.

use super::{Backend, Heads, KvCache, Row};
use crate::{
    EngineError,
    formats::gguf::{Gguf, Tensor, TensorType},
};
use kernels::{Activations, Q8Matrix, RopeTable, attention, matmul, rms_norm, rotate_pairs, swiglu};
use std::sync::Mutex;
use types::HyperParameter;

/// Bounds on hyper-parameters; the file's own size bounds the weights.
const LAYERS_MAX: u32 = 512;
const HEADS_MAX: u32 = 1024;
const WIDTH_MAX: u32 = 1 << 17;
const CONTEXT_MAX: u32 = 1 << 17;

/// Hyper-parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) hidden: usize,
    pub(crate) context: usize,
    pub(crate) eps: f32,
    pub(crate) theta: f64,
}

impl Config {
    pub(crate) fn read(gguf: &Gguf<'_>) -> Result<Self, EngineError> {
        let get = |key: &str, max: u32| {
            let value = gguf.integer(&format!("llama.{key}"))?;
            if value == 0 || value > max {
                return Err(EngineError::Unsupported(format!(
                    "llama.{key} is {value}; it must be 1 to {max}"
                )));
            }
            Ok(value as usize)
        };
        let width = get("embedding_length", WIDTH_MAX)?;
        let heads = get("attention.head_count", HEADS_MAX)?;
        let kv_heads = get("attention.head_count_kv", HEADS_MAX).unwrap_or(heads);
        let head_width = get("attention.key_length", WIDTH_MAX).unwrap_or(width / heads);
        let config = Self {
            width,
            layers: get("block_count", LAYERS_MAX)?,
            heads,
            kv_heads,
            head_width,
            hidden: get("feed_forward_length", WIDTH_MAX)?,
            context: get("context_length", CONTEXT_MAX)?,
            eps: gguf.float("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32,
            theta: gguf.float("llama.rope.freq_base").unwrap_or(10_000.0),
        };
        config.check(gguf)?;
        Ok(config)
    }

    fn check(&self, gguf: &Gguf<'_>) -> Result<(), EngineError> {
        let unsupported = |what: &str| Err(EngineError::Unsupported(what.into()));
        if !self.heads.is_multiple_of(self.kv_heads) || !self.head_width.is_multiple_of(2) {
            return unsupported(
                "query heads must be a multiple of key heads, and heads must have an even width",
            );
        }
        if !(self.heads * self.head_width).is_multiple_of(32) {
            return unsupported("the width of all heads together must be a multiple of 32");
        }
        if gguf.integer("llama.rope.dimension_count").is_ok_and(|n| n as usize != self.head_width) {
            return unsupported("rotary positions over a part of the head");
        }
        if gguf
            .metadata
            .keys()
            .any(|k| k.starts_with("llama.rope.scaling") || k.starts_with("llama.expert_count"))
        {
            return unsupported("scaled rotary positions and mixtures of experts");
        }
        if !(self.eps.is_finite() && self.eps > 0.0 && self.theta.is_finite() && self.theta > 1.0) {
            return unsupported("epsilon or rotary base out of range");
        }
        Ok(())
    }

    /// For the manifest, sorted by name.
    pub(crate) fn hyperparameters(&self) -> Vec<HyperParameter> {
        let int = |name: &str, v: usize| HyperParameter { name: name.into(), value: v.to_string() };
        let bits = |name: &str, v: f64| HyperParameter {
            name: name.into(),
            value: format!("{:#018x}", v.to_bits()),
        };
        let mut all = vec![
            int("embedding_length", self.width),
            int("block_count", self.layers),
            int("head_count", self.heads),
            int("head_count_kv", self.kv_heads),
            int("head_width", self.head_width),
            int("feed_forward_length", self.hidden),
            int("context_length", self.context),
            bits("rms_epsilon", f64::from(self.eps)),
            bits("rope_theta", self.theta),
        ];
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Query, key and value rows stacked.
    qkv: Q8Matrix,
    output: Q8Matrix,
    ffn_norm: Vec<f32>,
    gate: Q8Matrix,
    up: Q8Matrix,
    down: Q8Matrix,
}

/// The weights.
#[derive(Debug)]
pub(crate) struct Llama {
    pub(crate) config: Config,
    pub(crate) vocabulary: usize,
    embedding: Q8Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None` when the embedding is the head (tied).
    head: Option<Q8Matrix>,
    rope: RopeTable,
}

fn vector(gguf: &Gguf<'_>, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
    let tensor = gguf.tensor(name)?;
    if tensor.kind != TensorType::F32 || tensor.dims != [len as u64] {
        return Err(EngineError::Unsupported(format!("the tensor {name} must be {len} F32 values")));
    }
    let values: Vec<f32> = tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(EngineError::Format(format!("the tensor {name} holds NaN or infinity")));
    }
    Ok(values)
}

/// Stacks tensors of `k` inputs; each is given with its number of rows.
fn matrix(gguf: &Gguf<'_>, parts: &[(&str, usize)], k: usize) -> Result<Q8Matrix, EngineError> {
    let tensors = parts.iter().map(|(n, _)| gguf.tensor(n)).collect::<Result<Vec<&Tensor<'_>>, _>>()?;
    for ((name, rows), tensor) in parts.iter().zip(&tensors) {
        if tensor.kind != TensorType::Q8_0 || tensor.dims != [k as u64, *rows as u64] {
            return Err(EngineError::Unsupported(format!(
                "the tensor {name} must be Q8_0 of size [{k}, {rows}]"
            )));
        }
    }
    let data: Vec<_> = parts.iter().zip(&tensors).map(|((_, rows), t)| (*rows, t.data)).collect();
    Q8Matrix::from_q8_0(&data, k).map_err(|e| EngineError::Format(format!("the tensor {}: {e}", parts[0].0)))
}

impl Llama {
    pub(crate) fn load(gguf: &Gguf<'_>, vocabulary: usize) -> Result<Self, EngineError> {
        let config = Config::read(gguf)?;
        let Config { width, hidden, .. } = config;
        let (query, kv) = (config.query_width(), config.kv_width());
        let embedding = matrix(gguf, &[("token_embd.weight", vocabulary)], width)?;
        let head = match gguf.tensors.contains_key("output.weight") {
            true => Some(matrix(gguf, &[("output.weight", vocabulary)], width)?),
            false => None,
        };
        let layers = (0..config.layers)
            .map(|i| {
                let name = |part: &str| format!("blk.{i}.{part}.weight");
                let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
                Ok(Layer {
                    attention_norm: vector(gguf, &name("attn_norm"), width)?,
                    qkv: matrix(gguf, &[(&q, query), (&k, kv), (&v, kv)], width)?,
                    output: matrix(gguf, &[(&name("attn_output"), width)], query)?,
                    ffn_norm: vector(gguf, &name("ffn_norm"), width)?,
                    gate: matrix(gguf, &[(&name("ffn_gate"), hidden)], width)?,
                    up: matrix(gguf, &[(&name("ffn_up"), hidden)], width)?,
                    down: matrix(gguf, &[(&name("ffn_down"), width)], hidden)?,
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let output_norm = vector(gguf, "output_norm.weight", width)?;
        let rope = RopeTable::new(config.context, config.head_width, config.theta);
        Ok(Self { vocabulary, embedding, layers, output_norm, head, rope, config })
    }

    pub(crate) fn cache(&self) -> KvCache {
        KvCache {
            keys: vec![vec![]; self.config.layers],
            values: vec![vec![]; self.config.layers],
            positions: 0,
        }
    }

    /// Runs `rows` through the model. Every row is computed by itself: its bits depend on its own sequence only.
    pub(crate) fn forward(&self, backend: &Backend, rows: &[Row], caches: &mut [&mut KvCache]) -> Heads {
        let c = &self.config;
        let Backend { isa, pool } = backend;
        let (isa, n) = (*isa, rows.len());
        let mut x = vec![0f32; n * c.width];
        for (row, x) in rows.iter().zip(x.chunks_exact_mut(c.width)) {
            self.embedding.dequantise_row(row.token as usize, x);
        }
        let mut normed = vec![0f32; n * c.width];
        let mut acts = Activations::default();
        for (index, layer) in self.layers.iter().enumerate() {
            rms_norm(isa, &x, &layer.attention_norm, c.eps, &mut normed);
            acts.quantise_from(isa, &normed, n, c.width);
            let mut qkv = vec![0f32; n * layer.qkv.padded_rows()];
            matmul(isa, pool, &layer.qkv, &acts, &mut qkv);
            let stride = layer.qkv.padded_rows();
            self.rotate_and_store(index, rows, &mut qkv, stride, caches);
            let attended = self.attend(backend, index, rows, &qkv, stride, caches);
            acts.quantise_from(isa, &attended, n, c.query_width());
            add_product(backend, &layer.output, &acts, &mut x, c.width);

            rms_norm(isa, &x, &layer.ffn_norm, c.eps, &mut normed);
            acts.quantise_from(isa, &normed, n, c.width);
            let padded = layer.gate.padded_rows();
            let (mut gate, mut up) = (vec![0f32; n * padded], vec![0f32; n * padded]);
            matmul(isa, pool, &layer.gate, &acts, &mut gate);
            matmul(isa, pool, &layer.up, &acts, &mut up);
            let mut hidden = vec![0f32; n * c.hidden];
            for (i, hidden) in hidden.chunks_exact_mut(c.hidden).enumerate() {
                let part = i * padded..i * padded + c.hidden;
                swiglu(isa, &gate[part.clone()], &up[part], hidden);
            }
            acts.quantise_from(isa, &hidden, n, c.hidden);
            add_product(backend, &layer.down, &acts, &mut x, c.width);
        }
        for row in rows {
            let cache = &mut caches[row.sequence];
            cache.positions = cache.positions.max(row.position + 1);
        }
        self.heads(backend, rows, &x)
    }

    fn heads(&self, backend: &Backend, rows: &[Row], x: &[f32]) -> Heads {
        let width = self.config.width;
        let wanted: Vec<f32> = rows
            .iter()
            .zip(x.chunks_exact(width))
            .filter(|(row, _)| row.wants_logits)
            .flat_map(|(_, x)| x.iter().copied())
            .collect();
        let n = wanted.len() / width;
        if n == 0 {
            return Heads { logits: vec![], inputs: Activations::default() };
        }
        let mut normed = vec![0f32; wanted.len()];
        rms_norm(backend.isa, &wanted, &self.output_norm, self.config.eps, &mut normed);
        let inputs = Activations::quantise(backend.isa, &normed, n, width);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut logits = vec![0f32; n * head.padded_rows()];
        matmul(backend.isa, &backend.pool, head, &inputs, &mut logits);
        let logits = logits.chunks_exact(head.padded_rows()).map(|l| l[..self.vocabulary].to_vec()).collect();
        Heads { logits, inputs }
    }

    fn rotate_and_store(
        &self,
        layer: usize,
        rows: &[Row],
        qkv: &mut [f32],
        stride: usize,
        caches: &mut [&mut KvCache],
    ) {
        let c = &self.config;
        let (query, kv) = (c.query_width(), c.kv_width());
        for (row, qkv) in rows.iter().zip(qkv.chunks_exact_mut(stride)) {
            let angles = self.rope.at(row.position);
            for head in qkv[..query + kv].chunks_exact_mut(c.head_width) {
                rotate_pairs(head, angles);
            }
            let cache = &mut caches[row.sequence];
            for (store, part) in [
                (&mut cache.keys[layer], &qkv[query..query + kv]),
                (&mut cache.values[layer], &qkv[query + kv..query + 2 * kv]),
            ] {
                assert_eq!(store.len(), row.position * kv, "rows of a sequence come in order");
                store.extend_from_slice(part);
            }
        }
    }

    fn attend(
        &self,
        backend: &Backend,
        layer: usize,
        rows: &[Row],
        qkv: &[f32],
        stride: usize,
        caches: &[&mut KvCache],
    ) -> Vec<f32> {
        let c = &self.config;
        let (width, kv) = (c.head_width, c.kv_width());
        let group = c.heads / c.kv_heads;
        // sqrt and division are exact in IEEE-754.
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = vec![0f32; rows.len() * c.query_width()];
        // One lock an output row keeps this crate free of `unsafe`; a lock is taken once a (row, head) and never waited for.
        let heads: Vec<Mutex<&mut [f32]>> = out.chunks_exact_mut(width).map(Mutex::new).collect();
        let threads = backend.pool.threads();
        backend.pool.run(&|worker| {
            let mut scores = Vec::new();
            for item in (worker..rows.len() * c.heads).step_by(threads) {
                let (i, head) = (item / c.heads, item % c.heads);
                let (row, cache) = (&rows[i], &caches[rows[i].sequence]);
                let positions = row.position + 1;
                scores.resize(positions.next_multiple_of(16), 0.0);
                let from = (head / group) * width;
                let query = &qkv[i * stride + head * width..][..width];
                let (keys, values) = (&cache.keys[layer][from..], &cache.values[layer][from..]);
                let mut out = heads[item].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                attention(backend.isa, query, keys, values, positions, kv, scale, &mut scores, &mut out);
            }
        });
        drop(heads);
        out
    }
}

/// `x += w · acts`, row by row.
fn add_product(backend: &Backend, w: &Q8Matrix, acts: &Activations, x: &mut [f32], width: usize) {
    let padded = w.padded_rows();
    let mut product = vec![0f32; acts.rows() * padded];
    matmul(backend.isa, &backend.pool, w, acts, &mut product);
    for (x, y) in x.chunks_exact_mut(width).zip(product.chunks_exact(padded)) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}
