//! The kernels of a step, in order (`SPEC.md`, section 5).

use crate::{
    CudaError, Decoder, Step,
    arguments::{Activations, Pages, Quantised, Rotation, Rows, Target},
    decoder::{BIASES_MAX, DeviceLayer, Shape, Work},
    driver::Buffer,
    product::product_launch,
    weights::{DeviceLinear, number, pointer},
};
use kernels::Activation;

/// Threads of the kernels, as they declare them.
const NORM_THREADS: usize = 512;
const CHOOSE_THREADS: usize = 1024;
/// Words of the meta data in front of the tables: so many a row, and these.
const META_ROW: usize = 7;
const META_WORDS: usize = 4;

/// What the memory of a step is large enough for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) logits: usize,
    /// Entries of all tables.
    pub(crate) tables: usize,
    /// Positions of the longest sequence.
    pub(crate) span: usize,
}

impl Sizes {
    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.rows <= other.rows
            && self.logits <= other.logits
            && self.tables <= other.tables
            && self.span <= other.span
    }

    /// Words for where the biases of each row begin, and where the last ones end.
    pub(crate) fn bias_starts(&self) -> usize {
        self.logits + 1
    }

    /// Large enough for both, with some room.
    pub(crate) fn grown(&self, old: &Self) -> Self {
        Self {
            rows: self.rows.max(old.rows).next_multiple_of(64),
            logits: self.logits.max(old.logits).next_power_of_two(),
            tables: self.tables.max(old.tables).next_power_of_two().max(1024),
            span: self.span.max(old.span).next_power_of_two().max(256),
        }
    }
}

fn optional(buffer: Option<&Buffer>) -> u64 {
    buffer.map_or(0, Buffer::address)
}

impl Decoder {
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.kv.width
    }

    /// Elements of the keys and the values of a row.
    fn kept_width(&self) -> usize {
        2 * self.kv.heads * self.kv.width
    }

    pub(crate) fn work_of(&self, sizes: Sizes) -> Result<Work, CudaError> {
        let new = |bytes: usize| Buffer::new(&self.gpu, bytes);
        let (rows, layers) = (sizes.rows, self.layers.len());
        let widest = |f: fn(&DeviceLayer) -> usize| self.layers.iter().map(f).max().unwrap_or(0);
        let k = self.width.max(self.hidden).max(self.query_width());
        let tokens = rows.max(sizes.logits).next_multiple_of(64);
        let post = self.layers.iter().any(|l| l.post_attention_norm.is_some() || l.post_ffn_norm.is_some());
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(Work {
            sizes,
            meta: new(
                (META_ROW * rows + META_WORDS + sizes.tables + sizes.bias_starts() + 2 * BIASES_MAX) * 4
            )?,
            x: new((layers + 1) * rows * self.width * 4)?,
            middle: new(rows * self.width * 4)?,
            qkv: new(rows * widest(|l| l.qkv.width) * 4)?,
            attended: new(rows * self.query_width() * 4)?,
            gate_up: new(rows * widest(|l| l.gate_up.width) * 4)?,
            product: new(if post { rows * self.width * 4 } else { 0 })?,
            q: new(tokens * k)?,
            scale: new(tokens * k / 8)?,
            sum: new(tokens * k / 8)?,
            kept: new(layers * rows * self.kept_width() * 2)?,
            digests: new(layers * rows * 64)?,
            logits: new(sizes.logits * head.width * 4)?,
            chosen: new(sizes.logits * 4)?,
            scores: new(rows * self.score_bytes(sizes.span))?,
        })
    }

    /// Says what the rows are.
    pub(crate) fn write_meta(
        &mut self,
        step: &Step<'_>,
        wanted: &[u32],
        stride: usize,
        sizes: Sizes,
    ) -> Result<(), CudaError> {
        let Some(work) = &self.work else { return Ok(()) };
        let words = self.meta_host.words();
        let rows = sizes.rows;
        for (i, row) in step.rows.iter().enumerate() {
            words[i] = row.token;
            words[rows + i] = row.position as u32;
            words[2 * rows + i] = row.sequence as u32;
        }
        words[3 * rows..][..wanted.len()].copy_from_slice(wanted);
        if let Some(tiling) = &self.tiling {
            words[4 * rows..][..tiling.listed.len()].copy_from_slice(&tiling.listed);
            words[5 * rows..][..2 * tiling.items.len()].copy_from_slice(tiling.items.as_flattened());
        }
        words[META_ROW * rows] = stride as u32;
        let tables = &mut words[META_ROW * rows + META_WORDS..];
        for (i, table) in step.tables.iter().enumerate() {
            tables[i * stride..][..table.len()].copy_from_slice(table);
        }
        let mut used = META_ROW * rows + META_WORDS + stride * step.tables.len();
        if let Some(biases) = step.largest {
            let first = META_ROW * rows + META_WORDS + sizes.tables;
            let (starts, list) = words[first..].split_at_mut(sizes.bias_starts());
            let (tokens, values) = list.split_at_mut(BIASES_MAX);
            let mut at = 0;
            for (i, row) in biases.iter().enumerate() {
                starts[i] = at as u32;
                for (token, bias) in *row {
                    (tokens[at], values[at]) = (*token, bias.to_bits());
                    at += 1;
                }
            }
            starts[biases.len()] = at as u32;
            used = first + sizes.bias_starts() + 2 * BIASES_MAX;
        }
        work.meta.write(&words[..used])
    }

    /// Starts all kernels of a step.
    pub(crate) fn launch_all(&self, shape: Shape) -> Result<(), CudaError> {
        let Some(work) = &self.work else { return Ok(()) };
        let pass = Pass { d: self, work, rows: shape.rows, span: shape.span };
        pass.embed()?;
        for (index, layer) in self.layers.iter().enumerate() {
            pass.layer(index, layer)?;
        }
        pass.digest()?;
        pass.logits(shape.logits)?;
        if shape.chooses { pass.choose(shape.logits) } else { Ok(()) }
    }
}

impl Decoder {
    /// Starts the hashes alone.
    pub(crate) fn launch_digest(&self, rows: usize) -> Result<(), CudaError> {
        let Some(work) = &self.work else { return Ok(()) };
        Pass { d: self, work, rows, span: 0 }.digest()
    }
}

/// One pass over the layers.
///
/// Every address that it gives to a kernel leads to a buffer of `d` or of `work`. These were sized for `work.sizes`, which covers the rows
/// and the span of this pass (`Decoder::reserve`), and both live until the stream was synchronised: that is the safety argument of the launches.
pub(crate) struct Pass<'a> {
    pub(crate) d: &'a Decoder,
    pub(crate) work: &'a Work,
    pub(crate) rows: usize,
    pub(crate) span: usize,
}

impl Pass<'_> {
    pub(crate) fn meta(&self, part: usize) -> u64 {
        self.work.meta.address() + (part * self.work.sizes.rows * 4) as u64
    }

    fn x(&self, layer: usize) -> u64 {
        self.work.x.address() + (layer * self.work.sizes.rows * self.d.width * 4) as u64
    }

    fn kept(&self, layer: usize) -> u64 {
        self.work.kept.address() + (layer * self.work.sizes.rows * self.d.kept_width() * 2) as u64
    }

    pub(crate) fn rows_argument(&self) -> Rows {
        let stride = self.meta(META_ROW);
        Rows {
            positions: self.meta(1),
            sequences: self.meta(2),
            tables: stride + META_WORDS as u64 * 4,
            table_stride: stride,
        }
    }

    pub(crate) fn pages(&self) -> Pages {
        let kv = self.d.kv;
        Pages {
            halves: self.d.pages.address(),
            layers: kv.layers as i32,
            heads: kv.heads as i32,
            width: kv.width as i32,
        }
    }

    fn activations(&self) -> Activations {
        let Work { q, scale, sum, .. } = self.work;
        Activations { q: q.address(), scale: scale.address(), sum: sum.address() }
    }

    pub(crate) fn quantised(&self, k: usize) -> Quantised {
        Quantised { to: self.activations(), blocks: (k / kernels::BLOCK) as i32 }
    }

    fn embed(&self) -> Result<(), CudaError> {
        let d = self.d;
        // The embedding is one matrix: it is one tensor.
        let (_, matrix) = &d.embedding.parts[0];
        let (format, argument) = (number(matrix.format), matrix.argument());
        let (tokens, x, width) = (self.meta(0), self.x(0), d.width as i32);
        let (scaled, scale) = (i32::from(d.embedding_scale.is_some()), d.embedding_scale.unwrap_or(1.0));
        let grid = (self.rows, d.width.div_ceil(256).min(16), 1);
        // SAFETY: as `Pass` says; tokens were checked against the vocabulary.
        unsafe {
            d.gpu.launch(
                "og_embed",
                grid,
                256,
                0,
                &mut [
                    pointer(&format),
                    pointer(&argument),
                    pointer(&tokens),
                    pointer(&x),
                    pointer(&width),
                    pointer(&scaled),
                    pointer(&scale),
                ],
            )
        }
    }

    fn layer(&self, index: usize, layer: &DeviceLayer) -> Result<(), CudaError> {
        let (d, w) = (self.d, self.work);
        let (x, middle, next) = (self.x(index), w.middle.address(), self.x(index + 1));
        self.norm(x, 0, &layer.attention_norm, self.rows)?;
        self.product(&layer.qkv, w.qkv.address(), 0, self.rows)?;
        self.rotate(index, layer)?;
        if !self.attend(index, layer)? {
            self.quantise(w.attended.address(), d.query_width())?;
        }
        self.add_product(&layer.output, layer.post_attention_norm.as_ref(), x, middle)?;
        self.norm(middle, 0, &layer.ffn_norm, self.rows)?;
        self.product(&layer.gate_up, w.gate_up.address(), 0, self.rows)?;
        self.gate(layer)?;
        self.add_product(&layer.down, layer.post_ffn_norm.as_ref(), middle, next)
    }

    /// Quantises the norm of rows of `x`; `wanted` lists them, or is 0 for all.
    fn norm(&self, x: u64, wanted: u64, gain: &Buffer, count: usize) -> Result<(), CudaError> {
        let (gain, n, eps, to) =
            (gain.address(), self.d.width as i32, self.d.eps, self.quantised(self.d.width));
        // SAFETY: as `Pass` says.
        unsafe {
            self.d.gpu.launch(
                "og_norm_quantise",
                (count, 1, 1),
                NORM_THREADS,
                0,
                &mut [
                    pointer(&x),
                    pointer(&wanted),
                    pointer(&gain),
                    pointer(&n),
                    pointer(&eps),
                    pointer(&to),
                ],
            )
        }
    }

    fn quantise(&self, x: u64, k: usize) -> Result<(), CudaError> {
        let (stride, to) = (k as i32, self.quantised(k));
        let grid = (self.rows, (k / kernels::BLOCK).div_ceil(8).min(64), 1);
        // SAFETY: as `Pass` says.
        unsafe {
            self.d.gpu.launch("og_quantise", grid, 256, 0, &mut [pointer(&x), pointer(&stride), pointer(&to)])
        }
    }

    fn gate(&self, layer: &DeviceLayer) -> Result<(), CudaError> {
        let d = self.d;
        let (x, stride, hidden) = (self.work.gate_up.address(), layer.gate_up.width as i32, d.hidden as i32);
        let function: i32 = match d.activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::GeluErf => 2,
        };
        let to = self.quantised(d.hidden);
        let grid = (self.rows, (d.hidden / kernels::BLOCK).div_ceil(8).min(64), 1);
        // SAFETY: as `Pass` says.
        unsafe {
            d.gpu.launch(
                "og_gate_quantise",
                grid,
                256,
                0,
                &mut [pointer(&x), pointer(&stride), pointer(&hidden), pointer(&function), pointer(&to)],
            )
        }
    }

    /// `out = base + w · acts`, or without a base `out = w · acts`.
    fn product(&self, w: &DeviceLinear, out: u64, base: u64, tokens: usize) -> Result<(), CudaError> {
        let x = self.activations();
        for (offset, m) in &w.parts {
            let at = |address: u64| if address == 0 { 0 } else { address + *offset as u64 * 4 };
            let to = Target { out: at(out), base: at(base), stride: w.width as i32, tokens: tokens as i32 };
            // SAFETY: as `Pass` says; `out` and `base` have `tokens` rows of the linear's width.
            unsafe { product_launch(&self.d.gpu, m, &x, &to)? };
        }
        Ok(())
    }

    /// `out = base + norm(w · acts)`.
    fn add_product(
        &self,
        w: &DeviceLinear,
        norm: Option<&Buffer>,
        base: u64,
        out: u64,
    ) -> Result<(), CudaError> {
        let Some(gain) = norm else { return self.product(w, out, base, self.rows) };
        let (product, n, eps) = (self.work.product.address(), self.d.width as i32, self.d.eps);
        self.product(w, product, 0, self.rows)?;
        let gain = gain.address();
        // SAFETY: as `Pass` says.
        unsafe {
            self.d.gpu.launch(
                "og_norm_add",
                (self.rows, 1, 1),
                NORM_THREADS,
                0,
                &mut [
                    pointer(&product),
                    pointer(&gain),
                    pointer(&n),
                    pointer(&eps),
                    pointer(&base),
                    pointer(&out),
                ],
            )
        }
    }

    fn rotate(&self, index: usize, layer: &DeviceLayer) -> Result<(), CudaError> {
        let d = self.d;
        let rope = &d.ropes[layer.rope];
        let rotation = Rotation {
            bias: optional(layer.qkv_bias.as_ref()),
            query_gain: optional(layer.query_norm.as_ref()),
            key_gain: optional(layer.key_norm.as_ref()),
            eps: d.eps,
            turns: rope.turns.address(),
            pairs: rope.pairs as i32,
            halves: i32::from(rope.halves),
            heads: d.heads as i32,
        };
        let (qkv, stride, layer_number) = (self.work.qkv.address(), layer.qkv.width as i32, index as i32);
        let (rows, pages, kept) = (self.rows_argument(), self.pages(), self.kept(index));
        let grid = (self.rows, (d.heads + 2 * d.kv.heads).div_ceil(4), 1);
        // SAFETY: as `Pass` says; positions and pages were checked (`Decoder::check`).
        unsafe {
            d.gpu.launch(
                "og_rotate_store",
                grid,
                128,
                0,
                &mut [
                    pointer(&qkv),
                    pointer(&stride),
                    pointer(&rows),
                    pointer(&rotation),
                    pointer(&pages),
                    pointer(&layer_number),
                    pointer(&kept),
                ],
            )
        }
    }

    /// Hashes the rows of all layers.
    fn digest(&self) -> Result<(), CudaError> {
        let (d, rows) = (self.d, self.work.sizes.rows);
        let (kept, kept_bytes) = (self.kept(0), (d.kept_width() * 2) as i32);
        let (x, x_bytes) = (self.x(1), (d.width * 4) as i32);
        let (kept_layer, x_layer) = ((rows * d.kept_width() / 2) as u64, (rows * d.width) as u64);
        let digests = self.work.digests.address();
        // SAFETY: as `Pass` says.
        unsafe {
            d.gpu.launch(
                "og_digest",
                (self.rows, 2, d.layers.len()),
                32,
                0,
                &mut [
                    pointer(&kept),
                    pointer(&kept_bytes),
                    pointer(&kept_layer),
                    pointer(&x),
                    pointer(&x_bytes),
                    pointer(&x_layer),
                    pointer(&digests),
                ],
            )
        }
    }

    fn logits(&self, count: usize) -> Result<(), CudaError> {
        let d = self.d;
        if count == 0 {
            return Ok(());
        }
        self.norm(self.x(d.layers.len()), self.meta(3), &d.output_norm, count)?;
        let head = d.head.as_ref().unwrap_or(&d.embedding);
        let logits = self.work.logits.address();
        self.product(head, logits, 0, count)?;
        let Some(cap) = d.final_cap else { return Ok(()) };
        let elements = (count * head.width) as u64;
        // SAFETY: as `Pass` says.
        unsafe {
            let grid = (elements.div_ceil(256) as usize, 1, 1);
            d.gpu.launch(
                "og_softcap",
                grid,
                256,
                0,
                &mut [pointer(&logits), pointer(&cap), pointer(&elements)],
            )
        }
    }

    /// Chooses the tokens of the largest logits.
    fn choose(&self, count: usize) -> Result<(), CudaError> {
        let d = self.d;
        if count == 0 {
            return Ok(());
        }
        let head = d.head.as_ref().unwrap_or(&d.embedding);
        let (logits, stride, vocabulary) =
            (self.work.logits.address(), head.width as i32, d.vocabulary as i32);
        let sizes = self.work.sizes;
        let starts = self.meta(META_ROW) + (META_WORDS + sizes.tables) as u64 * 4;
        let tokens = starts + sizes.bias_starts() as u64 * 4;
        let (biases, chosen) = (tokens + BIASES_MAX as u64 * 4, self.work.chosen.address());
        let arguments = &mut [
            pointer(&logits),
            pointer(&stride),
            pointer(&vocabulary),
            pointer(&starts),
            pointer(&tokens),
            pointer(&biases),
            pointer(&chosen),
        ];
        // SAFETY: as `Pass` says; biases were checked against the vocabulary.
        unsafe { d.gpu.launch("og_choose", (count, 1, 1), CHOOSE_THREADS, 0, arguments) }
    }
}
