//! A decoder in device memory, and one step of it.

use crate::{
    CudaError, Gpu,
    driver::{Buffer, Graph, Pinned},
    forward::Sizes,
    weights::DeviceLinear,
};
use kernels::{Activation, KvShape, Linear, PAGE, RopeStyle, RopeTable};
use std::{collections::HashMap, sync::Arc};

/// Rows of a step up to which its launches are captured into a graph: beyond, the work hides the launches.
const GRAPH_ROWS_MAX: usize = 64;
/// Graphs that are kept; there is one for each number of rows, of logits and of positions (rounded up to a power of two).
const GRAPHS_MAX: usize = 256;
/// Widest row whose hash the kernels compute, in bytes.
const ROW_BYTES_MAX: usize = 512 << 10;

/// One layer of a decoder, as the CPU holds it.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Index into [`Model::ropes`].
    pub rope: usize,
    /// Positions that a token sees, itself included; all when absent.
    pub window: Option<usize>,
    /// Gain of the norm in front of attention.
    pub attention_norm: &'a [f32],
    /// Query, key and value rows side by side.
    pub qkv: &'a Linear,
    /// Their biases.
    pub qkv_bias: Option<&'a [f32]>,
    /// Gain of the norm of each query head.
    pub query_norm: Option<&'a [f32]>,
    /// Gain of the norm of each key head.
    pub key_norm: Option<&'a [f32]>,
    /// Output of attention.
    pub output: &'a Linear,
    /// Gain of the norm behind it.
    pub post_attention_norm: Option<&'a [f32]>,
    /// Gain of the norm in front of the feed-forward part.
    pub ffn_norm: &'a [f32],
    /// Gate and up rows side by side.
    pub gate_up: &'a Linear,
    /// Down.
    pub down: &'a Linear,
    /// Gain of the norm behind it.
    pub post_ffn_norm: Option<&'a [f32]>,
}

/// A decoder as the CPU holds it (`SPEC.md`, section 5).
#[derive(Clone, Debug)]
pub struct Model<'a> {
    /// Width of the residual stream.
    pub width: usize,
    /// Width between the feed-forward matrices.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Keys and values.
    pub kv: KvShape,
    /// Number of logits.
    pub vocabulary: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Factor of the scores.
    pub attention_scale: f32,
    /// Soft cap of the scores.
    pub attention_cap: Option<f32>,
    /// Soft cap of the logits.
    pub final_cap: Option<f32>,
    /// Factor of the embedding.
    pub embedding_scale: Option<f32>,
    /// Function between gate and up.
    pub activation: Activation,
    /// Rotary tables.
    pub ropes: &'a [RopeTable],
    /// Embedding.
    pub embedding: &'a Linear,
    /// Output head; the embedding when absent.
    pub head: Option<&'a Linear>,
    /// Gain of the last norm.
    pub output_norm: &'a [f32],
    /// Layers.
    pub layers: Vec<Layer<'a>>,
}

/// One token of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepRow {
    /// The token.
    pub token: u32,
    /// Its position in its sequence.
    pub position: usize,
    /// Index into [`Step::tables`].
    pub sequence: usize,
    /// Whether logits are needed after it.
    pub wants_logits: bool,
}

/// What one forward pass computes.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Rows; those of one sequence in ascending order of position, without gaps.
    pub rows: &'a [StepRow],
    /// Pages of each sequence, in order; they must cover the positions of its rows.
    pub tables: &'a [Vec<u32>],
}

/// What a step gives.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Logits of the rows that want them, in order.
    pub logits: Vec<Vec<f32>>,
    /// BLAKE3 of the keys and values, and of the output, `[layer][row]`.
    pub digests: Vec<[[u8; 32]; 2]>,
}

/// A rotary table on the device.
#[derive(Debug)]
pub(crate) struct DeviceRope {
    pub(crate) turns: Buffer,
    pub(crate) pairs: usize,
    pub(crate) halves: bool,
}

/// A layer on the device.
#[derive(Debug)]
pub(crate) struct DeviceLayer {
    pub(crate) rope: usize,
    pub(crate) window: Option<usize>,
    pub(crate) attention_norm: Buffer,
    pub(crate) qkv: DeviceLinear,
    pub(crate) qkv_bias: Option<Buffer>,
    pub(crate) query_norm: Option<Buffer>,
    pub(crate) key_norm: Option<Buffer>,
    pub(crate) output: DeviceLinear,
    pub(crate) post_attention_norm: Option<Buffer>,
    pub(crate) ffn_norm: Buffer,
    pub(crate) gate_up: DeviceLinear,
    pub(crate) down: DeviceLinear,
    pub(crate) post_ffn_norm: Option<Buffer>,
}

/// Memory of a step, for a number of rows, of logits and of table entries. Addresses stay the same until it is replaced.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) sizes: Sizes,
    /// `[tokens][positions][sequences][rows that want logits][stride of a table][tables]`.
    pub(crate) meta: Buffer,
    /// Residual stream in front of each layer and behind the last one, `[layer][row][width]`.
    pub(crate) x: Buffer,
    /// The same between attention and feed-forward.
    pub(crate) middle: Buffer,
    pub(crate) qkv: Buffer,
    pub(crate) attended: Buffer,
    pub(crate) gate_up: Buffer,
    /// Products in front of a post norm.
    pub(crate) product: Buffer,
    pub(crate) q: Buffer,
    pub(crate) scale: Buffer,
    pub(crate) sum: Buffer,
    /// Halves of keys and values, `[layer][row]`.
    pub(crate) kept: Buffer,
    pub(crate) digests: Buffer,
    pub(crate) logits: Buffer,
    /// Scores that do not fit into shared memory.
    pub(crate) scores: Buffer,
}

/// A decoder in device memory, with pages for keys and values.
pub struct Decoder {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) width: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv: KvShape,
    pub(crate) vocabulary: usize,
    pub(crate) eps: f32,
    pub(crate) attention_scale: f32,
    pub(crate) attention_cap: Option<f32>,
    pub(crate) final_cap: Option<f32>,
    pub(crate) embedding_scale: Option<f32>,
    pub(crate) activation: Activation,
    pub(crate) ropes: Vec<DeviceRope>,
    pub(crate) embedding: DeviceLinear,
    pub(crate) head: Option<DeviceLinear>,
    pub(crate) output_norm: Buffer,
    pub(crate) layers: Vec<DeviceLayer>,
    pub(crate) pages: Buffer,
    pages_max: usize,
    context: usize,
    pub(crate) work: Option<Work>,
    pub(crate) meta_host: Pinned,
    out_host: Pinned,
    /// By rows, logits and span; `None` after the first time, when it is not worth it yet.
    graphs: HashMap<(usize, usize, usize), Option<Graph>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({} layers on {})", self.layers.len(), self.gpu.name())
    }
}

impl Decoder {
    /// Copies `model` to the device and makes room for `pages_max` pages of keys and values.
    ///
    /// # Errors
    /// [`CudaError`] when the memory does not suffice or the model is beyond the kernels.
    pub fn new(gpu: &Arc<Gpu>, model: &Model<'_>, pages_max: usize) -> Result<Self, CudaError> {
        let kv_width = model.kv.heads * model.kv.width;
        if (model.width * 4).max(kv_width * 4) > ROW_BYTES_MAX {
            return Err(CudaError::Unsupported("its rows are wider than 512 KiB".into()));
        }
        let linear = |l: &Linear| DeviceLinear::new(gpu, l);
        let vector = |v: &[f32]| Buffer::of(gpu, v);
        let optional = |v: Option<&[f32]>| v.map(vector).transpose();
        let layer = |l: &Layer<'_>| -> Result<DeviceLayer, CudaError> {
            Ok(DeviceLayer {
                rope: l.rope,
                window: l.window,
                attention_norm: vector(l.attention_norm)?,
                qkv: linear(l.qkv)?,
                qkv_bias: optional(l.qkv_bias)?,
                query_norm: optional(l.query_norm)?,
                key_norm: optional(l.key_norm)?,
                output: linear(l.output)?,
                post_attention_norm: optional(l.post_attention_norm)?,
                ffn_norm: vector(l.ffn_norm)?,
                gate_up: linear(l.gate_up)?,
                down: linear(l.down)?,
                post_ffn_norm: optional(l.post_ffn_norm)?,
            })
        };
        let rope = |r: &RopeTable| -> Result<DeviceRope, CudaError> {
            let turns: Vec<f32> = r.turns().iter().flat_map(|(c, s)| [*c, *s]).collect();
            let halves = r.style() == RopeStyle::Halves;
            Ok(DeviceRope { turns: Buffer::of(gpu, &turns)?, pairs: r.pairs(), halves })
        };
        let ropes = model.ropes.iter().map(rope).collect::<Result<Vec<_>, _>>()?;
        let context = model.ropes.iter().map(RopeTable::positions).min().unwrap_or(0);
        Ok(Self {
            width: model.width,
            hidden: model.hidden,
            heads: model.heads,
            kv: model.kv,
            vocabulary: model.vocabulary,
            eps: model.eps,
            attention_scale: model.attention_scale,
            attention_cap: model.attention_cap,
            final_cap: model.final_cap,
            embedding_scale: model.embedding_scale,
            activation: model.activation,
            ropes,
            embedding: linear(model.embedding)?,
            head: model.head.map(linear).transpose()?,
            output_norm: vector(model.output_norm)?,
            layers: model.layers.iter().map(layer).collect::<Result<_, _>>()?,
            pages: Buffer::new(gpu, pages_max * model.kv.page_bytes())?,
            pages_max,
            context,
            work: None,
            meta_host: Pinned::new(gpu, 16)?,
            out_host: Pinned::new(gpu, 16)?,
            graphs: HashMap::new(),
            gpu: gpu.clone(),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> usize {
        let layer = |l: &DeviceLayer| l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
        let head = self.head.as_ref().map_or(0, DeviceLinear::bytes);
        self.embedding.bytes() + head + self.layers.iter().map(layer).sum::<usize>()
    }

    /// Runs one step. Keys and values of its rows are written to the pages that the tables name.
    ///
    /// # Errors
    /// [`CudaError`] when the device fails; what the pages of these sequences hold is not known then.
    ///
    /// # Panics
    /// When a token, position, sequence or page is out of range.
    pub fn forward(&mut self, step: &Step<'_>) -> Result<Output, CudaError> {
        let rows = step.rows;
        if rows.is_empty() {
            return Ok(Output::default());
        }
        self.check(step);
        self.gpu.bind()?;
        let wanted: Vec<u32> = (0..rows.len() as u32).filter(|i| rows[*i as usize].wants_logits).collect();
        let stride = step.tables.iter().map(Vec::len).max().unwrap_or(0);
        let last = rows.iter().map(|r| r.position + 1).max().unwrap_or(1);
        let needed = Sizes { rows: rows.len(), logits: wanted.len(), tables: stride * step.tables.len(), span: last };
        let sizes = self.reserve(needed)?;
        self.write_meta(step, &wanted, stride, sizes)?;
        let span = last.next_power_of_two().max(256);
        self.run(rows.len(), wanted.len(), span)?;
        self.read(rows.len(), wanted.len())
    }

    /// The kernels trust what they are given.
    fn check(&self, step: &Step<'_>) {
        for table in step.tables {
            assert!(table.iter().all(|p| (*p as usize) < self.pages_max), "pages that exist");
        }
        for row in step.rows {
            assert!((row.token as usize) < self.vocabulary, "a token of the vocabulary");
            assert!(row.position < self.context, "a position of the context");
            assert!(row.position < step.tables[row.sequence].len() * PAGE, "a page for every row");
        }
    }

    /// Runs the kernels, as a graph when this shape comes again.
    fn run(&mut self, rows: usize, logits: usize, span: usize) -> Result<(), CudaError> {
        let key = (rows, logits, span);
        if rows > GRAPH_ROWS_MAX {
            return self.launch_all(rows, logits, span);
        }
        match self.graphs.get(&key) {
            None => {
                if self.graphs.len() >= GRAPHS_MAX {
                    self.graphs.clear();
                }
                self.graphs.insert(key, None);
                return self.launch_all(rows, logits, span);
            }
            Some(None) => {
                let graph = self.gpu.capture(|| self.launch_all(rows, logits, span))?;
                if graph.is_none() {
                    return self.launch_all(rows, logits, span);
                }
                self.graphs.insert(key, graph);
            }
            Some(Some(_)) => {}
        }
        let Some(Some(graph)) = self.graphs.get(&key) else { return Ok(()) };
        // SAFETY: graphs are dropped whenever a buffer is replaced.
        unsafe { graph.launch() }
    }

    /// Copies the result back and waits for it.
    fn read(&mut self, rows: usize, logits: usize) -> Result<Output, CudaError> {
        let Some(work) = &self.work else { return Ok(Output::default()) };
        let stride = self.head.as_ref().unwrap_or(&self.embedding).width;
        let digest_bytes = self.layers.len() * rows * 64;
        let logit_bytes = logits * stride * 4;
        let places = [digest_bytes, logit_bytes];
        if self.out_host.bytes() < places.iter().sum() {
            self.out_host = Pinned::new(&self.gpu, places.iter().sum::<usize>().next_power_of_two())?;
        }
        work.digests.read(&mut self.out_host, 0, digest_bytes)?;
        if logits > 0 {
            work.logits.read(&mut self.out_host, digest_bytes, logit_bytes)?;
        }
        self.gpu.synchronise()?;
        let (digests, rest) = self.out_host.slice().split_at(digest_bytes);
        let digests = digests.as_chunks::<32>().0.as_chunks::<2>().0.to_vec();
        let floats = |row: &[u8]| row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let row_bytes = self.vocabulary * 4;
        let logits = rest[..logit_bytes].chunks_exact(stride * 4).map(|row| floats(&row[..row_bytes])).collect();
        Ok(Output { logits, digests })
    }

    /// Makes the memory of a step large enough. Graphs hold addresses, so they go with it.
    fn reserve(&mut self, needed: Sizes) -> Result<Sizes, CudaError> {
        if let Some(work) = &self.work
            && needed.fits(&work.sizes)
        {
            return Ok(work.sizes);
        }
        let old = self.work.take().map_or(Sizes::default(), |w| w.sizes);
        self.graphs.clear();
        let sizes = needed.grown(&old);
        let work = self.work_of(sizes)?;
        let words = work.meta.bytes();
        if self.meta_host.bytes() < words {
            self.meta_host = Pinned::new(&self.gpu, words)?;
        }
        self.work = Some(work);
        Ok(sizes)
    }
}
