use crate::{BLOCK, Isa, float::ROUND, isa::for_each_isa};

/// Activations of `rows` tokens, `k` elements each, quantised to int8 in blocks of 32 (`SPEC.md`, section 2).
#[derive(Clone, Debug, Default)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// `[rows][k]`.
    pub(crate) q: Vec<i8>,
    /// `[rows][k / 32]`.
    pub(crate) scale: Vec<f32>,
    /// `[rows][k / 32]`: -128 times the block's sum; corrects for weights being stored with an offset of 128.
    pub(crate) bias: Vec<i32>,
}

impl Activations {
    /// Quantises `x`, of shape `[rows][k]`.
    ///
    /// # Panics
    /// When `k` is no multiple of 32 or `x` has another length.
    pub fn quantise(isa: Isa, x: &[f32], rows: usize, k: usize) -> Self {
        let mut out = Self::default();
        out.quantise_from(isa, x, rows, k);
        out
    }

    /// As [`quantise`](Self::quantise), reusing this value's memory.
    ///
    /// # Panics
    /// As [`quantise`](Self::quantise).
    pub fn quantise_from(&mut self, isa: Isa, x: &[f32], rows: usize, k: usize) {
        assert!(k.is_multiple_of(BLOCK) && k > 0, "k must be a positive multiple of {BLOCK}, not {k}");
        assert_eq!(x.len(), rows * k, "x must have rows * k elements");
        self.rows = rows;
        self.k = k;
        self.q.resize(rows * k, 0);
        self.scale.resize(rows * k / BLOCK, 0.0);
        self.bias.resize(rows * k / BLOCK, 0);
        quantise_blocks(isa, x, &mut self.q, &mut self.scale, &mut self.bias);
    }

    /// Number of tokens.
    pub fn rows(&self) -> usize {
        self.rows
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
    fn quantise_blocks(isa: Isa, x: &[f32], q: &mut [i8], scale: &mut [f32], bias: &mut [i32]) {
        for ((x, q), (scale, bias)) in x
            .chunks_exact(BLOCK)
            .zip(q.chunks_exact_mut(BLOCK))
            .zip(scale.iter_mut().zip(bias.iter_mut()))
        {
            let mut lanes = [0f32; 16];
            for i in 0..16 {
                let (a, b) = (x[i].abs(), x[i + 16].abs());
                lanes[i] = if a > b { a } else { b };
            }
            let mut largest = 0f32;
            for lane in lanes {
                if lane > largest {
                    largest = lane;
                }
            }
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let mut sum = 0i32;
            for i in 0..BLOCK {
                let rounded = (x[i] * inverse + ROUND) - ROUND;
                let value = (rounded as i32).clamp(-127, 127);
                q[i] = value as i8;
                sum += value;
            }
            *scale = largest / 127.0;
            *bias = -128 * sum;
        }
    }
}
