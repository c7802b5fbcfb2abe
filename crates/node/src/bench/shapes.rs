//! Sizes of published models, from the `config.json` beside their weights.

use clap::ValueEnum;

/// A model whose sizes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeName {
    /// A few hundred kilobytes, for tests.
    Tiny,
    /// SmolLM-135M: 135 million parameters, tied head.
    #[value(name = "smollm-135m")]
    SmolLm135m,
    /// TinyLlama-1.1B: 1.1 billion parameters.
    #[value(name = "tinyllama-1.1b")]
    TinyLlama1b,
    /// Llama-3.2-1B: 1.2 billion parameters, tied head, the context cut to 8192.
    #[value(name = "llama-3.2-1b")]
    Llama32x1b,
    /// Llama-3.1-8B: 8 billion parameters, the context cut to 8192.
    #[value(name = "llama-3.1-8b")]
    Llama31x8b,
}

/// Sizes of a Llama.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// For `general.name`, behind `random-`.
    pub(crate) name: &'static str,
    /// Width of the residual stream.
    pub(crate) width: u32,
    /// Width between the feed-forward matrices.
    pub(crate) hidden: u32,
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    /// Width of one head.
    pub(crate) head_width: u32,
    pub(crate) vocabulary: u32,
    /// Whether the embedding is the head too.
    pub(crate) tied: bool,
    /// Base of the rotary angles.
    pub(crate) theta: f32,
    /// Longest sequence in tokens.
    pub(crate) context: u32,
    /// How the rotary angles are stretched, if they are.
    pub(crate) rope_scaling: Option<RopeScaling>,
}

/// Llama 3's stretching of slow rotary angles (`rope_type` "llama3").
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeScaling {
    /// Slow angles are divided by this.
    pub(crate) factor: f64,
    /// Angles that turn less often than this in the original context are slow.
    pub(crate) low: f64,
    /// Angles that turn more often than this stay as they are.
    pub(crate) high: f64,
    /// The context of the first training in tokens.
    pub(crate) original_context: f64,
}

impl ShapeName {
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Tiny => Shape {
                name: "tiny",
                width: 64,
                hidden: 160,
                layers: 2,
                heads: 4,
                kv_heads: 2,
                head_width: 16,
                vocabulary: 512,
                tied: true,
                theta: 1e4,
                context: 256,
                rope_scaling: None,
            },
            Self::SmolLm135m => Shape {
                name: "smollm-135m",
                width: 576,
                hidden: 1536,
                layers: 30,
                heads: 9,
                kv_heads: 3,
                head_width: 64,
                vocabulary: 49_152,
                tied: true,
                theta: 1e4,
                context: 2048,
                rope_scaling: None,
            },
            Self::TinyLlama1b => Shape {
                name: "tinyllama-1.1b",
                width: 2048,
                hidden: 5632,
                layers: 22,
                heads: 32,
                kv_heads: 4,
                head_width: 64,
                vocabulary: 32_000,
                tied: false,
                theta: 1e4,
                context: 2048,
                rope_scaling: None,
            },
            Self::Llama32x1b => Shape {
                name: "llama-3.2-1b",
                width: 2048,
                hidden: 8192,
                layers: 16,
                heads: 32,
                kv_heads: 8,
                head_width: 64,
                vocabulary: 128_256,
                tied: true,
                theta: 5e5,
                context: 8192,
                rope_scaling: Some(RopeScaling {
                    factor: 32.0,
                    low: 1.0,
                    high: 4.0,
                    original_context: 8192.0,
                }),
            },
            Self::Llama31x8b => Shape {
                name: "llama-3.1-8b",
                width: 4096,
                hidden: 14_336,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                head_width: 128,
                vocabulary: 128_256,
                tied: false,
                theta: 5e5,
                context: 8192,
                rope_scaling: Some(RopeScaling {
                    factor: 8.0,
                    low: 1.0,
                    high: 4.0,
                    original_context: 8192.0,
                }),
            },
        }
    }
}

impl Shape {
    /// The tensor `rope_freqs.weight` that llama.cpp's converter writes for stretched angles: what each angle is divided by.
    /// Computed with the portable `libm`, so that the bytes are the same everywhere.
    pub(crate) fn rope_factors(&self) -> Option<Vec<f32>> {
        let scaling = self.rope_scaling?;
        let width = f64::from(self.head_width);
        let factor = |i: u32| {
            let angle = libm::pow(f64::from(self.theta), -2.0 * f64::from(i) / width);
            let turns = scaling.original_context * angle / std::f64::consts::TAU;
            let fast = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - fast) / scaling.factor + fast)) as f32
        };
        Some((0..self.head_width / 2).map(factor).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_angles_stay_and_slow_ones_are_stretched() {
        let factors = ShapeName::Llama32x1b.shape().rope_factors().unwrap_or_default();
        assert_eq!(factors.len(), 32);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.is_sorted());
        // Between one and four turns in 8192 tokens there is a ramp; angle 16 turns 8192 / 2π / 707 = 1.84 times.
        assert!((factors[16] - 3.29).abs() < 0.01, "{}", factors[16]);
        assert_eq!(ShapeName::SmolLm135m.shape().rope_factors(), None);
    }

    #[test]
    fn heads_fit_the_width() {
        for name in ShapeName::value_variants() {
            let s = name.shape();
            assert_eq!(s.heads * s.head_width, s.width, "{}", s.name);
            assert!(
                s.heads.is_multiple_of(s.kv_heads)
                    && s.width.is_multiple_of(32)
                    && s.hidden.is_multiple_of(32)
            );
        }
    }
}
