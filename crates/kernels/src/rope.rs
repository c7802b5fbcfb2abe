/// Cosines and sines of rotary position embeddings (RoFormer, arXiv:2104.09864), computed in f64 with `libm` and rounded once.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    /// `[position][half]` of (cos, sin).
    table: Vec<(f32, f32)>,
}

impl RopeTable {
    /// A table for `positions` positions and `dims` rotated dimensions (even) with base `theta`.
    ///
    /// # Panics
    /// When `dims` is odd or zero.
    pub fn new(positions: usize, dims: usize, theta: f64) -> Self {
        assert!(dims > 0 && dims.is_multiple_of(2), "the number of rotated dimensions must be even");
        let half = dims / 2;
        let frequency: Vec<f64> =
            (0..half).map(|i| libm::exp(-(2.0 * i as f64 / dims as f64) * libm::log(theta))).collect();
        let table = (0..positions)
            .flat_map(|p| frequency.iter().map(move |f| p as f64 * f))
            .map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32))
            .collect();
        Self { half, table }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.table.len() / self.half
    }

    /// (cos, sin) of every pair at `position`.
    ///
    /// # Panics
    /// When `position` is beyond the table.
    pub fn at(&self, position: usize) -> &[(f32, f32)] {
        &self.table[position * self.half..][..self.half]
    }
}

/// Rotates neighbouring pairs `(x[2i], x[2i+1])` of one head: the convention of GGUF's `llama` architecture, whose query and
/// key rows are permuted accordingly.
pub fn rotate_pairs(head: &mut [f32], angles: &[(f32, f32)]) {
    for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}
