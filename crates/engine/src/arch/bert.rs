//! BERT (arXiv:1810.04805) and the sentence encoders made of it, such as MiniLM (arXiv:2002.10957): every token sees every other, norms
//! stand behind the parts, and the mean of the last layer's rows, scaled to length 1, is the embedding of the text.

use super::{Backend, loader::Loader, spec::Spec};
use crate::EngineError;
use kernels::{
    Activation, Activations, Attention, AttentionRow, KvPage, KvShape, Linear, Mode, PAGE, add, dot, gated,
    layer_norm, matmul, to_halves,
};
use std::sync::Arc;
use types::HyperParameter;

/// Gain and bias of a norm.
#[derive(Debug)]
struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    qkv_bias: Vec<f32>,
    output: Linear,
    output_bias: Vec<f32>,
    attention_norm: Norm,
    up: Linear,
    up_bias: Vec<f32>,
    down: Linear,
    down_bias: Vec<f32>,
    ffn_norm: Norm,
}

/// The weights of an encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    spec: Spec,
    embedding: Linear,
    /// `[position][width]`.
    positions: Vec<f32>,
    /// The first token type; all tokens have it.
    token_type: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
}

fn norm(loader: &Loader<'_, '_>, name: &str, width: usize) -> Result<Norm, EngineError> {
    let part = |part: &str| loader.vector(&format!("{name}.{part}"), width);
    Ok(Norm { gain: part("weight")?, bias: part("bias")? })
}

pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Encoder, EngineError> {
    let sizes = loader.sizes()?;
    let pooling = loader.optional_integer("pooling_type", 8)?;
    if pooling.is_some_and(|p| p != 1) {
        return Err(EngineError::Unsupported("embeddings that are not the mean over the tokens".into()));
    }
    let spec = Spec {
        width: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_width: sizes.head_width,
        hidden: sizes.hidden,
        context: sizes.context,
        eps: sizes.eps,
        ropes: Vec::new(),
        layers: vec![super::spec::LayerSpec { rope: 0, window: None }; sizes.layers],
        attention_scale: 1.0 / (sizes.head_width as f32).sqrt(),
        attention_cap: None,
        final_cap: None,
        embedding_scale: None,
        activation: Activation::GeluErf,
    };
    spec.check()?;
    if sizes.kv_heads != sizes.heads || sizes.heads * sizes.head_width != sizes.width {
        return Err(EngineError::Unsupported("heads that do not make up the width".into()));
    }
    let (width, hidden) = (spec.width, spec.hidden);
    let layers = (0..spec.layers.len()).map(|i| {
        let name = |part: &str| format!("blk.{i}.{part}");
        let vector = |part: &str, len| loader.vector(&name(part), len);
        let linear = |parts: &[&str], rows: usize, k: usize| {
            let names: Vec<String> = parts.iter().map(|p| name(p)).collect();
            let parts: Vec<(&str, usize)> = names.iter().map(|n| (n.as_str(), rows)).collect();
            loader.linear(&parts, k)
        };
        Ok(Layer {
            qkv: linear(&["attn_q.weight", "attn_k.weight", "attn_v.weight"], width, width)?,
            qkv_bias: [
                vector("attn_q.bias", width)?,
                vector("attn_k.bias", width)?,
                vector("attn_v.bias", width)?,
            ]
            .concat(),
            output: linear(&["attn_output.weight"], width, width)?,
            output_bias: vector("attn_output.bias", width)?,
            attention_norm: norm(loader, &name("attn_output_norm"), width)?,
            up: linear(&["ffn_up.weight"], hidden, width)?,
            up_bias: vector("ffn_up.bias", hidden)?,
            down: linear(&["ffn_down.weight"], width, hidden)?,
            down_bias: vector("ffn_down.bias", width)?,
            ffn_norm: norm(loader, &name("layer_output_norm"), width)?,
        })
    });
    Ok(Encoder {
        embedding: loader.linear(&[("token_embd.weight", vocabulary)], width)?,
        positions: loader.table("position_embd.weight", spec.context, width)?,
        token_type: loader.table("token_types.weight", 2, width)?[..width].to_vec(),
        embedding_norm: norm(loader, "token_embd_norm", width)?,
        layers: layers.collect::<Result<_, EngineError>>()?,
        spec,
    })
}

impl Encoder {
    /// Elements of an embedding.
    pub(crate) fn width(&self) -> usize {
        self.spec.width
    }

    /// Longest text in tokens.
    pub(crate) fn context(&self) -> usize {
        self.spec.context
    }

    pub(crate) fn bytes(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.output.bytes() + l.up.bytes() + l.down.bytes();
        self.embedding.bytes() + self.positions.len() * 4 + self.layers.iter().map(layer).sum::<usize>()
    }

    /// For the manifest.
    pub(crate) fn hyperparameters(&self) -> Vec<HyperParameter> {
        self.spec.hyperparameters()
    }

    /// The embedding of a text, special tokens included: the mean of the last layer's rows, scaled to length 1.
    pub(crate) fn embed(&self, backend: &Backend, tokens: &[u32]) -> Vec<f32> {
        let (c, width, n) = (&self.spec, self.spec.width, tokens.len());
        let Backend { isa, pool, .. } = backend;
        let isa = *isa;
        let apply = |norm: &Norm, row: &mut [f32]| {
            let input = row.to_vec();
            layer_norm(isa, &input, &norm.gain, &norm.bias, c.eps, row);
        };
        let mut x = vec![0f32; n * width];
        pool.for_each_chunk(&mut x, width, &|i, row| {
            self.embedding.dequantise_row(tokens[i] as usize, row);
            add(isa, row, &self.token_type);
            add(isa, row, &self.positions[i * width..][..width]);
            apply(&self.embedding_norm, row);
        });
        let shape = KvShape { layers: 1, heads: c.heads, width: c.head_width };
        let mut acts = Activations::default();
        for layer in &self.layers {
            let rows_of = |from: &[f32], acts: &mut Activations, k: usize| {
                acts.fill(pool, n, k, k, &|i, out| out.copy_from_slice(&from[i * k..][..k]), isa);
            };
            rows_of(&x, &mut acts, width);
            let mut qkv = vec![0f32; n * 3 * width];
            matmul(isa, pool, &layer.qkv, &acts, &mut qkv, Mode::Store);
            pool.for_each_chunk(&mut qkv, 3 * width, &|_, row| add(isa, row, &layer.qkv_bias));
            let mut pages: Vec<KvPage> = (0..n.div_ceil(PAGE)).map(|_| KvPage::new(shape)).collect();
            for (i, row) in qkv.chunks_exact(3 * width).enumerate() {
                let mut halves = vec![0u16; 2 * width];
                to_halves(isa, &row[width..], &mut halves);
                pages[i / PAGE].store(0, i % PAGE, &halves);
            }
            let pages: Vec<Arc<KvPage>> = pages.into_iter().map(Arc::new).collect();
            let rows = vec![AttentionRow { pages: &pages, from: 0, to: n }; n];
            let mut attended = vec![0f32; n * width];
            let attention = Attention {
                layer: 0,
                shape,
                heads: c.heads,
                scale: c.attention_scale,
                softcap: None,
                queries: &qkv,
                stride: 3 * width,
                rows: &rows,
            };
            attention.run(isa, pool, &mut attended);
            rows_of(&attended, &mut acts, width);
            matmul(isa, pool, &layer.output, &acts, &mut x, Mode::Add);
            pool.for_each_chunk(&mut x, width, &|_, row| {
                add(isa, row, &layer.output_bias);
                apply(&layer.attention_norm, row);
            });
            rows_of(&x, &mut acts, width);
            let mut hidden = vec![0f32; n * c.hidden];
            matmul(isa, pool, &layer.up, &acts, &mut hidden, Mode::Store);
            let ones = vec![1f32; c.hidden];
            pool.for_each_chunk(&mut hidden, c.hidden, &|_, row| {
                add(isa, row, &layer.up_bias);
                let input = row.to_vec();
                gated(isa, c.activation, &input, &ones, row);
            });
            rows_of(&hidden, &mut acts, c.hidden);
            matmul(isa, pool, &layer.down, &acts, &mut x, Mode::Add);
            pool.for_each_chunk(&mut x, width, &|_, row| {
                add(isa, row, &layer.down_bias);
                apply(&layer.ffn_norm, row);
            });
        }
        let mut mean = vec![0f32; width];
        for row in x.chunks_exact(width) {
            add(isa, &mut mean, row);
        }
        mean.iter_mut().for_each(|m| *m /= n as f32);
        let length = dot(&mean, &mean).sqrt();
        mean.iter().map(|m| m / length).collect()
    }
}
