//! A decoder in device memory, and one step of it.

use crate::{
    CudaError, Gpu,
    attend::WIDTH_MAX,
    driver::{Buffer, Graph, Pinned},
    forward::Sizes,
    tiling::Tiling,
    weights::DeviceLinear,
};
use kernels::{Activation, KvShape, Linear, PAGE, RopeStyle, RopeTable};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Rows of a step up to which its launches are captured into a graph: beyond, the work hides the launches.
const GRAPH_ROWS_MAX: usize = 64;
/// Graphs that are kept; there is one for each number of rows, of logits and of positions (rounded up to a power of two).
const GRAPHS_MAX: usize = 256;
/// Most biases of a step that only asks for the largest logits.
pub const BIASES_MAX: usize = 4096;
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
    /// Biases of tokens for each row that wants logits, when the token of the largest one is all that is wanted; at most [`BIASES_MAX`] in all.
    pub largest: Option<&'a [&'a [(u32, f32)]]>,
}

/// What a step gives.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Logits of the rows that want them, in order; empty when only the largest ones were asked for.
    pub logits: Vec<Vec<f32>>,
    /// The tokens of the largest ones; `None` where a logit is not finite.
    pub chosen: Vec<Option<u32>>,
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
    /// `[tokens][positions][sequences][rows that want logits][rows without a tile][tiles][stride of a table][tables][where the biases of each row begin][their tokens]
    /// [biases]`.
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
    pub(crate) chosen: Buffer,
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
    /// How the rows of the step attend, when there are many.
    pub(crate) tiling: Option<Tiling>,
    /// Scores of the tiles; no graph holds its address.
    pub(crate) tile_scores: Buffer,
    pub(crate) meta_host: Pinned,
    out_host: Pinned,
    /// By rows, logits and span; `None` after the first time, when it is not worth it yet.
    graphs: HashMap<Shape, Option<Graph>>,
}

/// What decides the launches of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) logits: usize,
    /// Positions for which memory is taken.
    pub(crate) span: usize,
    /// Whether the device chooses tokens.
    pub(crate) chooses: bool,
}

impl Shape {
    fn of(step: &Step<'_>) -> Self {
        let last = step.rows.iter().map(|r| r.position + 1).max().unwrap_or(1);
        Self {
            rows: step.rows.len(),
            logits: step.rows.iter().filter(|r| r.wants_logits).count(),
            // A power of two, so that a captured graph serves many steps.
            span: last.next_power_of_two().max(256),
            chooses: step.largest.is_some(),
        }
    }
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
        if model.kv.width > WIDTH_MAX {
            return Err(CudaError::Unsupported("its heads are wider than 1024".into()));
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
            tiling: None,
            tile_scores: Buffer::new(gpu, 0)?,
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
        let needed =
            Sizes { rows: rows.len(), logits: wanted.len(), tables: stride * step.tables.len(), span: last };
        let sizes = self.reserve(needed)?;
        self.tile(step)?;
        self.write_meta(step, &wanted, stride, sizes)?;
        let shape = Shape::of(step);
        self.run(shape)?;
        self.read(shape)
    }

    /// Seconds of `step` on the device, and of the part of it that hashes: the mean of `repeat` runs each, without copies.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn seconds(&mut self, step: &Step<'_>, repeat: u32) -> Result<(f64, f64), CudaError> {
        // Three times: allocates, captures, warms up.
        for _ in 0..3 {
            self.forward(step)?;
        }
        let shape = Shape::of(step);
        let mut time = |digest: bool| -> Result<f64, CudaError> {
            let began = Instant::now();
            for _ in 0..repeat {
                match digest {
                    true => self.launch_digest(shape.rows)?,
                    false => self.run(shape)?,
                }
            }
            self.gpu.synchronise()?;
            Ok(began.elapsed().as_secs_f64() / f64::from(repeat.max(1)))
        };
        Ok((time(false)?, time(true)?))
    }

    /// The kernels trust what they are given.
    fn check(&self, step: &Step<'_>) {
        for table in step.tables {
            assert!(table.iter().all(|p| (*p as usize) < self.pages_max), "pages that exist");
        }
        let biases = step.largest.unwrap_or_default();
        assert!(biases.iter().map(|b| b.len()).sum::<usize>() <= BIASES_MAX, "not too many biases");
        let known = |(token, _): &(u32, f32)| (*token as usize) < self.vocabulary;
        assert!(biases.iter().copied().flatten().all(known), "biases of tokens of the vocabulary");
        for row in step.rows {
            assert!((row.token as usize) < self.vocabulary, "a token of the vocabulary");
            assert!(row.position < self.context, "a position of the context");
            assert!(row.position < step.tables[row.sequence].len() * PAGE, "a page for every row");
        }
    }

    /// Seconds and launches of each kernel of `step`, the longest first.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn profile(&mut self, step: &Step<'_>) -> Result<Vec<(String, f64, u32)>, CudaError> {
        self.forward(step)?;
        let shape = Shape::of(step);
        let this = &*self;
        this.gpu.profile(|| this.launch_all(shape))
    }

    /// Decides how the rows attend.
    fn tile(&mut self, step: &Step<'_>) -> Result<(), CudaError> {
        self.tiling = Tiling::of(self, step, GRAPH_ROWS_MAX);
        if let Some(tiling) = &self.tiling {
            let scores = tiling.score_bytes(self);
            if scores > self.tile_scores.bytes() {
                self.tile_scores = Buffer::new(&self.gpu, scores)?;
            }
        }
        Ok(())
    }

    /// Runs the kernels, as a graph when this shape comes again.
    fn run(&mut self, shape: Shape) -> Result<(), CudaError> {
        if shape.rows > GRAPH_ROWS_MAX {
            return self.launch_all(shape);
        }
        match self.graphs.get(&shape) {
            None => {
                if self.graphs.len() >= GRAPHS_MAX {
                    self.graphs.clear();
                }
                self.graphs.insert(shape, None);
                return self.launch_all(shape);
            }
            Some(None) => {
                let graph = self.gpu.capture(|| self.launch_all(shape))?;
                if graph.is_none() {
                    return self.launch_all(shape);
                }
                self.graphs.insert(shape, graph);
            }
            Some(Some(_)) => {}
        }
        let Some(Some(graph)) = self.graphs.get(&shape) else { return Ok(()) };
        // SAFETY: graphs are dropped whenever a buffer is replaced.
        unsafe { graph.launch() }
    }

    /// Copies the result back and waits for it.
    fn read(&mut self, shape: Shape) -> Result<Output, CudaError> {
        let Some(work) = &self.work else { return Ok(Output::default()) };
        let stride = self.head.as_ref().unwrap_or(&self.embedding).width;
        let digest_bytes = self.layers.len() * shape.rows * 64;
        let row_bytes = if shape.chooses { 4 } else { stride * 4 };
        let bytes = digest_bytes + shape.logits * row_bytes;
        if self.out_host.bytes() < bytes {
            self.out_host = Pinned::new(&self.gpu, bytes.next_power_of_two())?;
        }
        work.digests.read(&mut self.out_host, 0, digest_bytes)?;
        let result = if shape.chooses { &work.chosen } else { &work.logits };
        result.read(&mut self.out_host, digest_bytes, bytes - digest_bytes)?;
        self.gpu.synchronise()?;
        let (digests, rest) = self.out_host.slice()[..bytes].split_at(digest_bytes);
        let digests = digests.as_chunks::<32>().0.as_chunks::<2>().0.to_vec();
        if shape.chooses {
            let token =
                |b: &[u8; 4]| Some(u32::from_le_bytes(*b)).filter(|t| (*t as usize) < self.vocabulary);
            return Ok(Output {
                digests,
                chosen: rest.as_chunks().0.iter().map(token).collect(),
                ..Output::default()
            });
        }
        let floats = |row: &[u8]| row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let logits = rest.chunks_exact(row_bytes).map(|row| floats(&row[..self.vocabulary * 4])).collect();
        Ok(Output { logits, digests, ..Output::default() })
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
