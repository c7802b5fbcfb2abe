//! Random weights: the same bytes for the same seed on every machine, in any order of writing.
//!
//! A tensor's bytes come from Philox4x32 with the seed as key and (draw, number of the tensor, purpose) as counter. Each random
//! byte becomes one weight through a table of quantiles, which is as fast as a copy and approximately normal.

use clap::ValueEnum;
use kernels::philox4x32;

/// Weights of a block in Q8_0 and Q4_0.
const BLOCK: usize = 32;
/// Blocks that are generated at once (64 Ki weights).
pub(crate) const CHUNK_BLOCKS: u64 = 2048;
/// Purposes of draws, in the counter.
const VALUES: u32 = 0;
const SCALES: u32 = 1;
const NORMS: u32 = 2;

/// Type of the weight matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightType {
    /// Blocks of 32 int8 with a half-precision scale.
    #[value(name = "q8_0")]
    Q8x0,
    /// Blocks of 32 four-bit integers with a half-precision scale.
    #[value(name = "q4_0")]
    Q4x0,
    /// Half precision.
    F16,
}

impl WeightType {
    /// GGUF's number of the tensor type.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4x0 => 2,
            Self::Q8x0 => 8,
        }
    }

    /// GGUF's `general.file_type` of files that are mostly of this type.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4x0 => 2,
            Self::Q8x0 => 7,
        }
    }

    /// Bytes of 32 weights.
    pub(crate) fn block_bytes(self) -> u64 {
        match self {
            Self::F16 => 64,
            Self::Q4x0 => 18,
            Self::Q8x0 => 34,
        }
    }
}

/// Source of one file's weights.
pub(crate) struct RandomWeights {
    key: [u32; 2],
    /// Integer of -127 to 127 for each random byte: quantiles of a nearly normal distribution.
    quantiles: [i8; 256],
    /// Standard deviation of `quantiles`.
    deviation: f32,
}

impl RandomWeights {
    pub(crate) fn new(seed: u64) -> Self {
        let quantiles = quantiles();
        let squares: u32 = quantiles.iter().map(|q| u32::from(q.unsigned_abs()).pow(2)).sum();
        let deviation = (squares as f32 / 256.0).sqrt();
        Self { key: [seed as u32, (seed >> 32) as u32], quantiles, deviation }
    }

    fn draw(&self, index: u64, tensor: u32, purpose: u32) -> [u32; 4] {
        philox4x32([index as u32, (index >> 32) as u32, tensor, purpose], self.key)
    }

    /// The 32 random bytes of a block.
    fn bytes(&self, tensor: u32, block: u64) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        for (half, out) in out.chunks_exact_mut(16).enumerate() {
            let words = self.draw(block * 2 + half as u64, tensor, VALUES);
            for (word, out) in words.iter().zip(out.chunks_exact_mut(4)) {
                out.copy_from_slice(&word.to_le_bytes());
            }
        }
        out
    }

    /// Appends blocks `from..to` of matrix `tensor`, whose weights have the standard deviation `sigma` (1e-3 to 1).
    pub(crate) fn blocks(
        &self,
        kind: WeightType,
        tensor: u32,
        sigma: f32,
        blocks: std::ops::Range<u64>,
        out: &mut Vec<u8>,
    ) {
        match kind {
            WeightType::Q8x0 => {
                let scale = kernels::f32_to_f16(sigma / self.deviation);
                for block in blocks {
                    out.extend_from_slice(&self.scale(scale, tensor, block).to_le_bytes());
                    out.extend(self.bytes(tensor, block).map(|b| self.quantiles[usize::from(b)] as u8));
                }
            }
            WeightType::Q4x0 => {
                // Sixteenths of the int8: -7 to 7, stored as 1 to 15; the low half of a byte is weight i, the high half i + 16.
                let nibbles =
                    self.quantiles.map(|q| ((i32::from(q) + i32::from(q.signum()) * 8) / 17 + 8) as u8);
                let scale = kernels::f32_to_f16(sigma * 17.0 / self.deviation);
                for block in blocks {
                    out.extend_from_slice(&self.scale(scale, tensor, block).to_le_bytes());
                    let bytes = self.bytes(tensor, block).map(|b| nibbles[usize::from(b)]);
                    out.extend((0..BLOCK / 2).map(|i| bytes[i] | bytes[i + BLOCK / 2] << 4));
                }
            }
            WeightType::F16 => {
                let halves =
                    self.quantiles.map(|q| kernels::f32_to_f16(f32::from(q) * (sigma / self.deviation)));
                for block in blocks {
                    let bytes = self.bytes(tensor, block);
                    out.extend(bytes.iter().flat_map(|b| halves[usize::from(*b)].to_le_bytes()));
                }
            }
        }
    }

    /// The scale of a block, as f16: `middle`, at most an eighth larger or smaller. Neighbouring bit patterns of a positive half
    /// are neighbouring numbers, 1024 of them from one power of two to the next.
    fn scale(&self, middle: u16, tensor: u32, block: u64) -> u16 {
        let words = self.draw(block / 4, tensor, SCALES);
        middle + (words[(block % 4) as usize] >> 25) as u16 - 64
    }

    /// A vector of norm weights: 0.9 to 1.1.
    pub(crate) fn norm(&self, tensor: u32, len: u32) -> Vec<f32> {
        (0..len)
            .map(|i| {
                let word = self.draw(u64::from(i / 4), tensor, NORMS)[(i % 4) as usize];
                0.9 + 0.2 * ((word >> 8) as f32 / 16_777_216.0)
            })
            .collect()
    }
}

/// The 256 quantiles of the sum of four uniform bytes, shifted to be symmetrical and stretched to ±127. Only integers, so the
/// table is the same everywhere. The largest quantile is 2.6 standard deviations from the middle, as in a real block of 32.
fn quantiles() -> [i8; 256] {
    // ways[s]: in how many ways the bytes so far sum to s.
    let mut ways = vec![1u64];
    for _ in 0..4 {
        let mut next = vec![0u64; ways.len() + 255];
        for (s, n) in ways.iter().enumerate() {
            for next in &mut next[s..s + 256] {
                *next += n;
            }
        }
        ways = next;
    }
    let total: u64 = ways.iter().sum();
    let quantile = |i: u64| {
        let target = total / 512 * (2 * i + 1);
        let mut below = 0;
        let sum = ways.iter().position(|n| {
            below += n;
            below >= target
        });
        sum.unwrap_or(ways.len() - 1) as i64 - 510
    };
    let largest = quantile(255);
    // The upper half from the lower one: the mean is exactly zero.
    let mut out = [0i8; 256];
    for i in 128..256 {
        let value = ((quantile(i as u64) * 127 + largest / 2) / largest).clamp(0, 127) as i8;
        out[i] = value;
        out[255 - i] = -value;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Mean and standard deviation.
    fn moments(values: &[f32]) -> (f32, f32) {
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt())
    }

    fn dequantised(kind: WeightType) -> Vec<f32> {
        let mut bytes = Vec::new();
        RandomWeights::new(5).blocks(kind, 3, 0.03, 0..1000, &mut bytes);
        assert_eq!(bytes.len() as u64, 1000 * kind.block_bytes());
        let half = |b: &[u8]| kernels::f16_to_f32(u16::from_le_bytes(b[..2].try_into().unwrap()));
        let blocks = bytes.chunks_exact(kind.block_bytes() as usize);
        match kind {
            WeightType::Q8x0 => blocks
                .flat_map(|b| b[2..].iter().map(|q| half(b) * f32::from(*q as i8)).collect::<Vec<_>>())
                .collect(),
            WeightType::Q4x0 => {
                let value = |q: u8| f32::from(q) - 8.0;
                blocks
                    .flat_map(|b| {
                        b[2..]
                            .iter()
                            .flat_map(|q| [half(b) * value(q & 15), half(b) * value(q >> 4)])
                            .collect::<Vec<_>>()
                    })
                    .collect()
            }
            WeightType::F16 => bytes.chunks_exact(2).map(half).collect(),
        }
    }

    #[test]
    fn weights_have_the_wanted_deviation() {
        for kind in [WeightType::Q8x0, WeightType::Q4x0, WeightType::F16] {
            let (mean, deviation) = moments(&dequantised(kind));
            // 32000 weights: five standard errors of the mean are 0.0008.
            assert!(mean.abs() < 0.0008, "{kind:?} {mean}");
            assert!((deviation / 0.03 - 1.0).abs() < 0.03, "{kind:?} {deviation}");
        }
    }

    #[test]
    fn they_are_nearly_normal() {
        let quantiles = quantiles();
        assert!(quantiles.is_sorted());
        assert_eq!((quantiles[0], quantiles[255]), (-127, 127));
        let weights = RandomWeights::new(0);
        let within = quantiles.iter().filter(|q| f32::from(**q).abs() < weights.deviation).count();
        // A normal distribution has 68.3 % within one deviation.
        assert!((170..=180).contains(&within), "{within}");
    }

    #[test]
    fn a_block_does_not_depend_on_where_writing_began() {
        let weights = RandomWeights::new(9);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        weights.blocks(WeightType::Q8x0, 1, 0.02, 0..10, &mut whole);
        weights.blocks(WeightType::Q8x0, 1, 0.02, 0..3, &mut parts);
        weights.blocks(WeightType::Q8x0, 1, 0.02, 3..10, &mut parts);
        assert_eq!(whole, parts);
        let mut other = Vec::new();
        RandomWeights::new(10).blocks(WeightType::Q8x0, 1, 0.02, 0..10, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn norms_are_around_one() {
        let norm = RandomWeights::new(1).norm(0, 1000);
        assert!(norm.iter().all(|v| (0.9..=1.1).contains(v)));
        assert!((moments(&norm).0 - 1.0).abs() < 0.01);
    }
}
