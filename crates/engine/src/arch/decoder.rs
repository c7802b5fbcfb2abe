//! One transformer decoder for all architectures: which norms, biases, caps and windows it has is data (`SPEC.md` of the kernels,
//! section 5).

use super::{
    Ask, Backend, Given, Row,
    loader::Loader,
    spec::{LayerSpec, Spec},
};
use crate::{
    EngineError,
    kv::KvCache,
    trace::{self, LayerDigests},
};
use kernels::{
    Activations, Attention, AttentionRow, Linear, Mode, RopeTable, add, gated, matmul, rms_norm, softcap,
    to_halves,
};
use types::{HyperParameter, merkle};

/// Names of the tensors of one layer that differ between architectures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Query, key and value come in one tensor.
    pub(crate) fused_qkv: bool,
    /// Gate and up come in one tensor, the gate first.
    pub(crate) fused_gate_up: bool,
    /// Norms behind attention and feed-forward.
    pub(crate) post_norms: bool,
    /// Norms of each query and key head.
    pub(crate) head_norms: bool,
    /// Query, key and value have biases.
    pub(crate) qkv_biases: bool,
}

#[derive(Debug)]
struct Layer {
    spec: LayerSpec,
    attention_norm: Vec<f32>,
    /// Query, key and value rows side by side.
    qkv: Linear,
    qkv_bias: Option<Vec<f32>>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Linear,
    post_attention_norm: Option<Vec<f32>>,
    ffn_norm: Vec<f32>,
    /// Gate and up rows side by side.
    gate_up: Linear,
    down: Linear,
    post_ffn_norm: Option<Vec<f32>>,
}

/// The weights of a decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) spec: Spec,
    pub(crate) vocabulary: usize,
    embedding: Linear,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None` when the embedding is the head (tied).
    head: Option<Linear>,
    names: Names,
    ropes: Vec<RopeTable>,
}

/// Buffers that are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    product: Vec<f32>,
    acts: Activations,
    /// Halves of keys and values, `[row][2 * kv_width]`.
    kv: Vec<u16>,
    /// `[layer][row]`.
    layer_digests: Vec<LayerDigests>,
    /// What a dispute wants to see of a computation.
    pub(crate) capture: Capture,
}

/// What is kept of a computation besides its result; nothing unless asked.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    /// Whether to keep the data of the trace's leaves.
    pub(crate) leaves: bool,
    /// Data of the leaves, in order of position.
    pub(crate) leaf_data: Vec<Vec<u8>>,
    /// Position and layer whose output row is wanted.
    pub(crate) row: Option<(usize, usize)>,
    /// That row.
    pub(crate) found: Option<Vec<f32>>,
}

impl Capture {
    fn note(&mut self, layer: usize, rows: &[Row], x: &[f32], width: usize) {
        if let Some((position, wanted)) = self.row
            && wanted == layer
            && let Some(i) = rows.iter().position(|r| r.position == position)
        {
            self.found = Some(x[i * width..][..width].to_vec());
        }
    }
}

impl Decoder {
    pub(crate) fn load(
        loader: &Loader<'_, '_>,
        spec: Spec,
        vocabulary: usize,
        names: Names,
    ) -> Result<Self, EngineError> {
        spec.check()?;
        let names = Names { qkv_biases: names.qkv_biases || loader.has("blk.0.attn_q.bias"), ..names };
        let width = spec.width;
        let embedding = loader.linear(&[("token_embd.weight", vocabulary)], width)?;
        let head = match loader.has("output.weight") {
            true => Some(loader.linear(&[("output.weight", vocabulary)], width)?),
            false => None,
        };
        let layers =
            spec.layers.iter().enumerate().map(|(i, layer)| Layer::load(loader, &spec, *layer, i, names));
        let layers = layers.collect::<Result<Vec<_>, EngineError>>()?;
        let output_norm = loader.vector("output_norm.weight", width)?;
        let ropes = spec
            .ropes
            .iter()
            .map(|r| RopeTable::new(spec.context, r.dims, r.theta, r.style, &r.divisors, r.magnitude))
            .collect();
        Ok(Self { vocabulary, embedding, layers, output_norm, head, names, ropes, spec })
    }

    /// For the manifest: sizes, and which tensors there are.
    pub(crate) fn hyperparameters(&self) -> Vec<HyperParameter> {
        let mut all = self.spec.hyperparameters();
        let Names { fused_qkv, fused_gate_up, post_norms, head_norms, qkv_biases } = self.names;
        let parts = [
            ("fused_gate_up", fused_gate_up),
            ("fused_qkv", fused_qkv),
            ("head_norms", head_norms),
            ("own_head", self.head.is_some()),
            ("post_norms", post_norms),
            ("qkv_biases", qkv_biases),
        ];
        let parts: Vec<&str> = parts.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        all.push(HyperParameter { name: "parts".into(), value: parts.join(",") });
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Bytes of the weights in memory.
    pub(crate) fn bytes(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
        let head = self.head.as_ref().map_or(0, Linear::bytes);
        self.embedding.bytes() + head + self.layers.iter().map(layer).sum::<usize>()
    }

    /// Bytes of the weights that every pass reads: all but an embedding that is not the head too.
    pub(crate) fn pass_bytes(&self) -> usize {
        self.bytes() - self.head.as_ref().map_or(0, |_| self.embedding.bytes())
    }

    /// Runs `rows` through the model; every row is computed by itself, so its bits depend on its own sequence only. Gives the
    /// logits, `[row that wants them][vocabulary]`.
    pub(crate) fn forward(
        &self,
        backend: &Backend,
        rows: &[Row],
        caches: &mut [&mut KvCache],
        ask: Ask<'_>,
        s: &mut Scratch,
    ) -> Result<Vec<Given>, EngineError> {
        if let Some(device) = &backend.device {
            let passed = device.forward(rows, caches, ask)?;
            s.layer_digests = passed.digests;
            self.close(rows, caches, s);
            return Ok(passed.given);
        }
        let c = &self.spec;
        let Backend { isa, pool, .. } = backend;
        let (isa, n, width) = (*isa, rows.len(), c.width);
        s.x.resize(n * width, 0.0);
        pool.for_each_chunk(&mut s.x, width, &|i, x| {
            self.embedding.dequantise_row(rows[i].token as usize, x);
            if let Some(scale) = c.embedding_scale {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        });
        s.layer_digests.clear();
        s.layer_digests.resize(self.layers.len() * n, LayerDigests::default());
        for (index, layer) in self.layers.iter().enumerate() {
            let x = &s.x;
            let normed = |i: usize, out: &mut [f32]| {
                rms_norm(isa, &x[i * width..][..width], &layer.attention_norm, c.eps, out);
            };
            s.acts.fill(pool, n, width, width, &normed, isa);
            let stride = layer.qkv.width();
            s.qkv.resize(n * stride, 0.0);
            matmul(isa, pool, &layer.qkv, &s.acts, &mut s.qkv, Mode::Store);
            pool.for_each_chunk(&mut s.qkv, stride, &|i, qkv| self.rotate(backend, layer, &rows[i], qkv));
            let (query, kv) = (c.query_width(), c.kv_width());
            s.kv.resize(n * 2 * kv, 0);
            let qkv = &s.qkv;
            pool.for_each_chunk(&mut s.kv, 2 * kv, &|i, halves| {
                to_halves(isa, &qkv[i * stride + query..][..2 * kv], halves);
            });
            for (row, halves) in rows.iter().zip(s.kv.chunks_exact(2 * kv)) {
                caches[row.sequence].store(index, row.position, halves);
            }
            self.attend(backend, index, layer, rows, caches, s);
            let attended = &s.attended;
            let copy = |i: usize, out: &mut [f32]| out.copy_from_slice(&attended[i * query..][..query]);
            s.acts.fill(pool, n, query, query, &copy, isa);
            self.add_product(backend, &layer.output, layer.post_attention_norm.as_deref(), n, s);

            let x = &s.x;
            let normed = |i: usize, out: &mut [f32]| {
                rms_norm(isa, &x[i * width..][..width], &layer.ffn_norm, c.eps, out);
            };
            s.acts.fill(pool, n, width, width, &normed, isa);
            let (stride, hidden) = (layer.gate_up.width(), c.hidden);
            s.gate_up.resize(n * stride, 0.0);
            matmul(isa, pool, &layer.gate_up, &s.acts, &mut s.gate_up, Mode::Store);
            let gate_up = &s.gate_up;
            let product = |i: usize, out: &mut [f32]| {
                let row = &gate_up[i * stride..][..stride];
                gated(isa, c.activation, &row[..hidden], &row[hidden..2 * hidden], out);
            };
            s.acts.fill(pool, n, hidden, hidden, &product, isa);
            self.add_product(backend, &layer.down, layer.post_ffn_norm.as_deref(), n, s);
            trace::digest_rows(
                pool,
                (&s.kv, 2 * kv),
                (&s.x, width),
                &mut s.layer_digests[index * n..(index + 1) * n],
            );
            s.capture.note(index, rows, &s.x, width);
        }
        self.close(rows, caches, s);
        Ok(self.logits(backend, rows, s).into_iter().map(Given::Logits).collect())
    }

    /// Writes the trace leaf of every row.
    fn close(&self, rows: &[Row], caches: &mut [&mut KvCache], s: &mut Scratch) {
        for (i, row) in rows.iter().enumerate() {
            let digests = (0..self.layers.len()).map(|l| &s.layer_digests[l * rows.len() + i]);
            let data = trace::leaf_data(row.position, row.token, digests);
            caches[row.sequence].advance(row.position, merkle::leaf_hash(&data));
            if s.capture.leaves {
                s.capture.leaf_data.push(data);
            }
        }
    }

    /// The parts that a device needs.
    #[cfg(feature = "cuda")]
    pub(crate) fn for_device(&self) -> cuda::Model<'_> {
        let c = &self.spec;
        cuda::Model {
            width: c.width,
            hidden: c.hidden,
            heads: c.heads,
            kv: c.kv_shape(),
            vocabulary: self.vocabulary,
            eps: c.eps,
            attention_scale: c.attention_scale,
            attention_cap: c.attention_cap,
            final_cap: c.final_cap,
            embedding_scale: c.embedding_scale,
            activation: c.activation,
            ropes: &self.ropes,
            embedding: &self.embedding,
            head: self.head.as_ref(),
            output_norm: &self.output_norm,
            layers: self.layers.iter().map(Layer::for_device).collect(),
        }
    }

    /// Biases, norms of heads and rotary positions of one row of queries, keys and values.
    fn rotate(&self, backend: &Backend, layer: &Layer, row: &Row, qkv: &mut [f32]) {
        let c = &self.spec;
        let (query, kv) = (c.query_width(), c.kv_width());
        if let Some(bias) = &layer.qkv_bias {
            add(backend.isa, &mut qkv[..query + 2 * kv], bias);
        }
        let (queries, keys) = qkv[..query + kv].split_at_mut(query);
        for (part, norm) in [(queries, &layer.query_norm), (keys, &layer.key_norm)] {
            if let Some(gain) = norm {
                let heads = part.to_vec();
                rms_norm(backend.isa, &heads, gain, c.eps, part);
            }
        }
        let rope = &self.ropes[layer.spec.rope];
        for head in qkv[..query + kv].chunks_exact_mut(c.head_width) {
            rope.rotate(head, row.position);
        }
    }

    fn attend(
        &self,
        backend: &Backend,
        index: usize,
        layer: &Layer,
        rows: &[Row],
        caches: &[&mut KvCache],
        s: &mut Scratch,
    ) {
        let c = &self.spec;
        let seen: Vec<_> = rows
            .iter()
            .map(|row| {
                let to = row.position + 1;
                let from = layer.spec.window.map_or(0, |w| to.saturating_sub(w));
                AttentionRow { pages: caches[row.sequence].pages(), from, to }
            })
            .collect();
        s.attended.resize(rows.len() * c.query_width(), 0.0);
        let attention = Attention {
            layer: index,
            shape: c.kv_shape(),
            heads: c.heads,
            scale: c.attention_scale,
            softcap: c.attention_cap,
            queries: &s.qkv,
            stride: layer.qkv.width(),
            rows: &seen,
        };
        attention.run(backend.isa, &backend.pool, &mut s.attended);
    }

    /// `x += norm(w · acts)`, row by row.
    fn add_product(&self, backend: &Backend, w: &Linear, norm: Option<&[f32]>, n: usize, s: &mut Scratch) {
        let Backend { isa, pool, .. } = backend;
        let (isa, width) = (*isa, self.spec.width);
        let Some(gain) = norm else {
            // The width is a multiple of 32, so rows of the product have no padding.
            return matmul(isa, pool, w, &s.acts, &mut s.x, Mode::Add);
        };
        s.product.resize(n * width, 0.0);
        matmul(isa, pool, w, &s.acts, &mut s.product, Mode::Store);
        let (product, eps) = (&s.product, self.spec.eps);
        pool.for_each_chunk(&mut s.x, width, &|i, x| {
            let mut normed = vec![0f32; width];
            rms_norm(isa, &product[i * width..][..width], gain, eps, &mut normed);
            add(isa, x, &normed);
        });
    }

    fn logits(&self, backend: &Backend, rows: &[Row], s: &mut Scratch) -> Vec<Vec<f32>> {
        let Backend { isa, pool, .. } = backend;
        let (isa, width) = (*isa, self.spec.width);
        let wanted: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].wants_logits).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let x = &s.x;
        let normed = |i: usize, out: &mut [f32]| {
            rms_norm(isa, &x[wanted[i] * width..][..width], &self.output_norm, self.spec.eps, out);
        };
        s.acts.fill(pool, wanted.len(), width, width, &normed, isa);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        s.product.resize(wanted.len() * head.width(), 0.0);
        matmul(isa, pool, head, &s.acts, &mut s.product, Mode::Store);
        let rows = s.product.chunks_exact(head.width()).map(|row| {
            let mut logits = row[..self.vocabulary].to_vec();
            if let Some(cap) = self.spec.final_cap {
                softcap(isa, cap, &mut logits);
            }
            logits
        });
        rows.collect()
    }
}

impl Layer {
    #[cfg(feature = "cuda")]
    fn for_device(&self) -> cuda::Layer<'_> {
        cuda::Layer {
            rope: self.spec.rope,
            window: self.spec.window,
            attention_norm: &self.attention_norm,
            qkv: &self.qkv,
            qkv_bias: self.qkv_bias.as_deref(),
            query_norm: self.query_norm.as_deref(),
            key_norm: self.key_norm.as_deref(),
            output: &self.output,
            post_attention_norm: self.post_attention_norm.as_deref(),
            ffn_norm: &self.ffn_norm,
            gate_up: &self.gate_up,
            down: &self.down,
            post_ffn_norm: self.post_ffn_norm.as_deref(),
        }
    }

    fn load(
        loader: &Loader<'_, '_>,
        c: &Spec,
        spec: LayerSpec,
        index: usize,
        names: Names,
    ) -> Result<Self, EngineError> {
        let Spec { width, hidden, head_width, .. } = *c;
        let (query, kv) = (c.query_width(), c.kv_width());
        let name = |part: &str| format!("blk.{index}.{part}");
        let vector = |part: &str, len: usize| loader.vector(&name(part), len);
        let optional = |there: bool, part: &str, len: usize| match there {
            true => loader.vector(&name(part), len).map(Some),
            false => Ok(None),
        };
        let linear = |parts: &[(&str, usize)], k: usize| {
            let parts: Vec<(String, usize)> = parts.iter().map(|(part, rows)| (name(part), *rows)).collect();
            let parts: Vec<(&str, usize)> = parts.iter().map(|(part, rows)| (part.as_str(), *rows)).collect();
            loader.linear(&parts, k)
        };
        let qkv = match names.fused_qkv {
            true => linear(&[("attn_qkv.weight", query + 2 * kv)], width)?,
            false => {
                linear(&[("attn_q.weight", query), ("attn_k.weight", kv), ("attn_v.weight", kv)], width)?
            }
        };
        let gate_up = match names.fused_gate_up {
            true => linear(&[("ffn_up.weight", 2 * hidden)], width)?,
            false => linear(&[("ffn_gate.weight", hidden), ("ffn_up.weight", hidden)], width)?,
        };
        let qkv_bias = match names.qkv_biases {
            true => Some(
                [vector("attn_q.bias", query)?, vector("attn_k.bias", kv)?, vector("attn_v.bias", kv)?]
                    .concat(),
            ),
            false => None,
        };
        Ok(Self {
            spec,
            attention_norm: vector("attn_norm.weight", width)?,
            qkv,
            qkv_bias,
            query_norm: optional(names.head_norms, "attn_q_norm.weight", head_width)?,
            key_norm: optional(names.head_norms, "attn_k_norm.weight", head_width)?,
            output: linear(&[("attn_output.weight", width)], query)?,
            post_attention_norm: optional(names.post_norms, "post_attention_norm.weight", width)?,
            ffn_norm: vector("ffn_norm.weight", width)?,
            gate_up,
            down: linear(&[("ffn_down.weight", width)], hidden)?,
            post_ffn_norm: optional(names.post_norms, "post_ffw_norm.weight", width)?,
        })
    }
}
