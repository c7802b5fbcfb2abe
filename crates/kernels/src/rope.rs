/// Which elements of a head form a pair that is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(x[2i], x[2i+1])`, as GGUF's `llama` models have it.
    Neighbours,
    /// Halves `(x[i], x[i + dims/2])`, as GPT-NeoX and the models after it have it.
    Halves,
}

/// By how much pair `i` of `dims` rotated dimensions turns at each position.
pub fn rope_frequency(i: usize, dims: usize, theta: f64, divisor: f64) -> f64 {
    libm::exp(-(2.0 * i as f64 / dims as f64) * libm::log(theta)) / divisor
}

/// Cosine and sine of a frequency at `position`, times `magnitude`.
pub fn rope_turn(position: usize, frequency: f64, magnitude: f64) -> (f32, f32) {
    let angle = position as f64 * frequency;
    ((libm::cos(angle) * magnitude) as f32, (libm::sin(angle) * magnitude) as f32)
}

/// Cosines and sines of rotary position embeddings (RoFormer, arXiv:2104.09864), computed in f64 with `libm` and rounded once.
#[derive(Clone, Debug)]
pub struct RopeTable {
    style: RopeStyle,
    half: usize,
    /// `[position][half]` of (cos, sin).
    table: Vec<(f32, f32)>,
}

impl RopeTable {
    /// A table for `positions` positions and `dims` rotated dimensions (even) with base `theta`. Pair `i` turns by
    /// `position * theta^(-2i/dims) / divisors[i]`; `magnitude` scales every rotated element.
    ///
    /// # Panics
    /// When `dims` is odd or zero, or there is not one divisor a pair.
    pub fn new(
        positions: usize,
        dims: usize,
        theta: f64,
        style: RopeStyle,
        divisors: &[f64],
        magnitude: f64,
    ) -> Self {
        assert!(dims > 0 && dims.is_multiple_of(2), "the number of rotated dimensions must be even");
        let half = dims / 2;
        assert_eq!(divisors.len(), half, "one divisor a pair");
        let frequency: Vec<f64> = (0..half).map(|i| rope_frequency(i, dims, theta, divisors[i])).collect();
        let table =
            (0..positions).flat_map(|p| frequency.iter().map(move |f| rope_turn(p, *f, magnitude))).collect();
        Self { style, half, table }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.table.len() / self.half
    }

    /// Which elements form a pair.
    pub fn style(&self) -> RopeStyle {
        self.style
    }

    /// Number of pairs that are rotated.
    pub fn pairs(&self) -> usize {
        self.half
    }

    /// Cosine and sine of every pair, position after position.
    pub fn turns(&self) -> &[(f32, f32)] {
        &self.table
    }

    /// Rotates one head for `position`, in place; elements beyond the rotated dimensions stay.
    ///
    /// # Panics
    /// When `position` is beyond the table or the head narrower than the rotated dimensions.
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        let angles = &self.table[position * self.half..][..self.half];
        match self.style {
            RopeStyle::Neighbours => {
                for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0[..self.half].iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
            RopeStyle::Halves => {
                let (first, second) = head[..2 * self.half].split_at_mut(self.half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_turn_the_same_pairs() {
        let table = |style| RopeTable::new(9, 8, 10_000.0, style, &[1.0; 4], 1.0);
        let (a, b) = (table(RopeStyle::Neighbours), table(RopeStyle::Halves));
        let mut x: Vec<f32> = (0..10).map(|i| i as f32 - 3.5).collect();
        let mut y: Vec<f32> = vec![0.0; 10];
        for i in 0..4 {
            (y[i], y[i + 4]) = (x[2 * i], x[2 * i + 1]);
        }
        y[8..].copy_from_slice(&x[8..]);
        a.rotate(&mut x, 7);
        b.rotate(&mut y, 7);
        for i in 0..4 {
            assert_eq!((x[2 * i], x[2 * i + 1]), (y[i], y[i + 4]));
        }
        assert_eq!(x[8..], [4.5, 5.5]);
        assert_eq!(a.positions(), 9);
        // Pair 0 turns by one radian a position.
        let expected = -3.5 * libm::cos(7.0) + 2.5 * libm::sin(7.0);
        assert!((f64::from(x[0]) - expected).abs() < 1e-5);
    }
}
