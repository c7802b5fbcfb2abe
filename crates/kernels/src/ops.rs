use crate::{
    Isa,
    float::{exp, gelu_erf, gelu_tanh, silu, tanh},
    isa::for_each_isa,
};

/// Sum of 16 partial sums by a fixed tree (`SPEC.md`, section 4).
#[inline(always)]
pub(crate) fn tree(lanes: [f32; 16]) -> f32 {
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
    /// LayerNorm (arXiv:1607.06450) of one row: `((x - mean) / sqrt(mean((x - mean)²) + eps)) * gain + bias`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn layer_norm(isa: Isa, x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let n = x.len();
        assert!(gain.len() == n && bias.len() == n && out.len() == n, "vectors of one length");
        let mean = sum(x) / (n as f32);
        for i in 0..n {
            out[i] = x[i] - mean;
        }
        let inverse = 1.0 / (dot(out, out) / (n as f32) + eps).sqrt();
        for i in 0..n {
            out[i] = (out[i] * inverse) * gain[i] + bias[i];
        }
    }
}

/// The function between the two products of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x).
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
}

for_each_isa! {
    /// `out = f(gate) * up`, element by element (gated linear units, arXiv:2002.05202).
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn gated(isa: Isa, f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && up.len() == out.len(), "vectors of one length");
        let n = out.len();
        match f {
            Activation::Silu => for i in 0..n { out[i] = silu(gate[i]) * up[i]; },
            Activation::GeluTanh => for i in 0..n { out[i] = gelu_tanh(gate[i]) * up[i]; },
            Activation::GeluErf => for i in 0..n { out[i] = gelu_erf(gate[i]) * up[i]; },
        }
    }
}

for_each_isa! {
    /// `x = x + y`, element by element.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add(isa: Isa, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "vectors of one length");
        for i in 0..x.len() {
            x[i] += y[i];
        }
    }
}

for_each_isa! {
    /// `x = cap * tanh(x / cap)`, element by element (soft capping, arXiv:2408.00118).
    pub fn softcap(isa: Isa, cap: f32, x: &mut [f32]) {
        for x in x {
            *x = cap * tanh(*x / cap);
        }
    }
}

for_each_isa! {
    /// Softmax without the division: scores `from..to` of `scores` become `exp(score - largest)`, all others 0, and `*total`
    /// their sum, in 16 lanes by place and a fixed tree. The length of `scores` is a multiple of 16.
    pub(crate) fn softmax(isa: Isa, scores: &mut [f32], from: usize, to: usize, total: &mut f32) {
        let largest = largest(&scores[from..to]);
        scores[..from].fill(0.0);
        scores[to..].fill(0.0);
        for score in &mut scores[from..to] {
            *score = exp(*score - largest);
        }
        *total = sum(scores);
    }
}

/// The largest element; NaN does not count.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for chunk in whole {
        for i in 0..16 {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = if *value > *lane { *value } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Sum with 16 strided partial sums and a fixed tree, as [`dot`].
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for chunk in whole {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    for i in 0..rest.len() {
        lanes[i] += rest[i];
    }
    tree(lanes)
}

for_each_isa! {
    /// Writes the index of the largest element to `*best`; of equal ones the lowest. NaN is never chosen unless all are NaN (then 0).
    fn find_largest(isa: Isa, x: &[f32], best: &mut usize) {
        let most = largest(x);
        let lowest = x.iter().position(|v| *v == most);
        *best = lowest.or(x.iter().position(|v| !v.is_nan())).unwrap_or(0);
    }
}

/// Index of the largest element; of equal ones the lowest. NaN is never chosen unless all are NaN.
pub fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    find_largest(Isa::best(), x, &mut best);
    best
}
