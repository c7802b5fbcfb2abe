use crate::{
    float::{exp, silu},
    isa::for_each_isa,
};

/// Sum of 16 partial sums by a fixed tree (`SPEC.md`, section 4).
#[inline(always)]
fn tree(lanes: [f32; 16]) -> f32 {
    let mut eight = [0f32; 8];
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    let mut four = [0f32; 4];
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Inner product with 16 strided partial sums and a fixed tree. Elements beyond the last multiple of 16 go to lanes
/// 0, 1, …, as if padded with zeros.
///
/// # Panics
/// When the lengths differ.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let mut lanes = [0f32; 16];
    let (whole_a, rest_a) = a.as_chunks::<16>();
    let (whole_b, rest_b) = b.as_chunks::<16>();
    for (x, y) in whole_a.iter().zip(whole_b) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    for i in 0..rest_a.len() {
        lanes[i] += rest_a[i] * rest_b[i];
    }
    tree(lanes)
}

for_each_isa! {
    /// RMSNorm (arXiv:1910.07467) of each row of `x`, of shape `[rows][gain.len()]`: `(x / sqrt(mean(x²) + eps)) * gain`.
    ///
    /// # Panics
    /// When `x` and `out` are no whole rows of one length.
    pub fn rms_norm(isa: Isa, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == out.len() && x.len().is_multiple_of(gain.len()), "whole rows");
        for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
            let mean = dot(x, x) / (x.len() as f32);
            let inverse = 1.0 / (mean + eps).sqrt();
            for i in 0..gain.len() {
                out[i] = (x[i] * inverse) * gain[i];
            }
        }
    }
}

for_each_isa! {
    /// `out = silu(gate) * up`, element by element (SwiGLU, arXiv:2002.05202).
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn swiglu(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && up.len() == out.len(), "vectors of one length");
        for i in 0..out.len() {
            out[i] = silu(gate[i]) * up[i];
        }
    }
}

for_each_isa! {
    /// Softmax attention of one query head over `positions` keys and values.
    ///
    /// `keys` and `values` hold rows `stride` apart; the head's part is the first `query.len()` elements of a row. `scores` is
    /// scratch of at least `positions` rounded up to 16. Scores are scaled by `scale`; values are summed in ascending position.
    ///
    /// # Panics
    /// When a buffer is too short.
    #[expect(clippy::too_many_arguments, reason = "a kernel takes its whole operand list")]
    pub fn attention(
        isa: Isa, query: &[f32], keys: &[f32], values: &[f32], positions: usize, stride: usize, scale: f32,
        scores: &mut [f32], out: &mut [f32],
    ) {
        let dims = query.len();
        assert!(positions > 0 && out.len() == dims, "at least one position, one output per dimension");
        let mut largest = f32::NEG_INFINITY;
        for p in 0..positions {
            let score = dot(query, &keys[p * stride..][..dims]) * scale;
            scores[p] = score;
            if score > largest {
                largest = score;
            }
        }
        let padded = positions.next_multiple_of(16);
        for score in &mut scores[..positions] {
            *score = exp(*score - largest);
        }
        scores[positions..padded].fill(0.0);
        let mut lanes = [0f32; 16];
        for chunk in scores[..padded].as_chunks::<16>().0 {
            for i in 0..16 {
                lanes[i] += chunk[i];
            }
        }
        let inverse = 1.0 / tree(lanes);
        // A few dimensions at a time stay in registers; the order of positions is the same for each of them.
        for from in (0..dims).step_by(64) {
            let width = 64.min(dims - from);
            let mut sums = [0f32; 64];
            for p in 0..positions {
                let weight = scores[p];
                let row = &values[p * stride + from..][..width];
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            for i in 0..width {
                out[from + i] = sums[i] * inverse;
            }
        }
    }
}

/// Index of the largest element; of equal ones the lowest. NaN is never chosen unless all are NaN.
pub fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in x.iter().enumerate() {
        if *value > x[best] || (x[best].is_nan() && !value.is_nan()) {
            best = i;
        }
    }
    best
}
