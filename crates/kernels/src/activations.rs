use crate::{BLOCK, Isa, Pool, float::ROUND, isa::for_each_isa, pool::Shards};

/// Activations of `rows` tokens, `k` elements each, quantised to int8 in blocks of 32 (`SPEC.md`, section 2).
#[derive(Clone, Debug, Default)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// `[rows][k]`.
    pub(crate) q: Vec<i8>,
    /// `[rows][k / 32]`; NaN when an element of the block was NaN or infinite.
    pub(crate) scale: Vec<f32>,
    /// `[rows][k / 32]`: -128 times the block's sum; corrects for weights being stored with an offset.
    pub(crate) bias: Vec<i32>,
    /// `[rows][k / 32]`: sum of the block's first 16 elements, for formats with a scale for every 16 weights.
    pub(crate) half: Vec<i32>,
}

impl Activations {
    /// Quantises `x`, of shape `[rows][k]`.
    ///
    /// # Panics
    /// When `k` is no multiple of 32 or `x` has another length.
    pub fn quantise(isa: Isa, x: &[f32], rows: usize, k: usize) -> Self {
        let mut out = Self::default();
        out.fill(&Pool::new(1), rows, k, k, &|row, buffer| buffer.copy_from_slice(&x[row * k..][..k]), isa);
        assert_eq!(x.len(), rows * k, "x must have rows * k elements");
        out
    }

    /// Quantises `rows` rows that `row(i, buffer)` writes, each of `k` elements, reusing this value's memory. Rows are shared
    /// out among the pool's workers. `scratch` elements are given to `row`, of which the first `k` count.
    ///
    /// # Panics
    /// When `k` is no multiple of 32 or above `scratch`.
    pub fn fill(
        &mut self,
        pool: &Pool,
        rows: usize,
        k: usize,
        scratch: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
        isa: Isa,
    ) {
        assert!(k.is_multiple_of(BLOCK) && k > 0, "k must be a positive multiple of {BLOCK}, not {k}");
        assert!(k <= scratch, "the scratch must hold a row");
        self.rows = rows;
        self.k = k;
        let blocks = k / BLOCK;
        self.q.resize(rows * k, 0);
        self.scale.resize(rows * blocks, 0.0);
        self.bias.resize(rows * blocks, 0);
        self.half.resize(rows * blocks, 0);
        let (q, scale) = (Shards::new(&mut self.q), Shards::new(&mut self.scale));
        let (bias, half) = (Shards::new(&mut self.bias), Shards::new(&mut self.half));
        let unit = if rows < 2 * pool.threads() { rows.max(1) } else { 4.min(rows / pool.threads()) };
        pool.run_pieces(rows, unit, &|range| {
            let mut buffer = vec![0f32; scratch];
            for i in range {
                row(i, &mut buffer);
                // SAFETY: row `i` of each array, which was resized above and which no other worker touches.
                let parts = unsafe {
                    (
                        std::slice::from_raw_parts_mut(q.ptr().add(i * k), k),
                        std::slice::from_raw_parts_mut(scale.ptr().add(i * blocks), blocks),
                        std::slice::from_raw_parts_mut(bias.ptr().add(i * blocks), blocks),
                        std::slice::from_raw_parts_mut(half.ptr().add(i * blocks), blocks),
                    )
                };
                quantise_blocks(isa, &buffer[..k], parts.0, parts.1, parts.2, parts.3);
            }
        });
    }

    /// Number of tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of elements of a token.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The int8 values and scales of row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, i: usize) -> (&[i8], &[f32]) {
        let blocks = self.k / BLOCK;
        (&self.q[i * self.k..(i + 1) * self.k], &self.scale[i * blocks..(i + 1) * blocks])
    }
}

for_each_isa! {
    /// Quantises consecutive blocks of 32.
    pub(crate) fn quantise_blocks(
        isa: Isa, x: &[f32], q: &mut [i8], scale: &mut [f32], bias: &mut [i32], half: &mut [i32],
    ) {
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
        for ((x, q), ((scale, bias), half)) in blocks.zip(scale.iter_mut().zip(bias.iter_mut()).zip(half.iter_mut())) {
            // Magnitudes compare as their bits do, and NaN above everything.
            let mut lanes = [0u32; 16];
            for i in 0..16 {
                let (a, b) = (x[i].to_bits() & 0x7fff_ffff, x[i + 16].to_bits() & 0x7fff_ffff);
                lanes[i] = if a > b { a } else { b };
            }
            let mut bits = 0u32;
            for lane in lanes {
                bits = if lane > bits { lane } else { bits };
            }
            let largest = f32::from_bits(bits);
            let finite = bits < 0x7f80_0000;
            // Below 2^-100 the inverse could overflow; such a block is as good as zero.
            let inverse = if finite && bits >= 0x0d80_0000 { 127.0 / largest } else { 0.0 };
            let mut rounded = [0i32; BLOCK];
            for i in 0..BLOCK {
                // |x * inverse| is at most 127 and a rounding, so the lowest bits of the sum are the nearest integer.
                rounded[i] = ((x[i] * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
            }
            if !finite {
                rounded = [0; BLOCK];
            }
            let mut lanes = [0i32; 16];
            for i in 0..16 {
                lanes[i] = rounded[i] + (rounded[16 + i] << 16);
            }
            // Two sums at once: sixteen values of at most 127 do not reach the upper half but by their sign.
            let both: i32 = lanes.into_iter().sum();
            let first = i32::from(both as i16);
            let sums = [first, (both - first) >> 16];
            for i in 0..BLOCK {
                q[i] = rounded[i] as i8;
            }
            *scale = if finite { largest / 127.0 } else { f32::NAN };
            *bias = -128 * (sums[0] + sums[1]);
            *half = sums[0];
        }
    }
}
