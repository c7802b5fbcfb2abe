//! What an architecture's files say about the computation.

use crate::EngineError;
use kernels::{Activation, KvShape, RopeStyle};
use types::{HyperParameter, keccak256};

/// Rotary positions of some layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) style: RopeStyle,
    /// Rotated dimensions of a head.
    pub(crate) dims: usize,
    pub(crate) theta: f64,
    /// Divides the frequency of each pair.
    pub(crate) divisors: Vec<f64>,
    /// Scales every rotated element.
    pub(crate) magnitude: f64,
}

impl Rope {
    /// Unscaled rotary positions.
    pub(crate) fn plain(style: RopeStyle, dims: usize, theta: f64) -> Self {
        Self { style, dims, theta, divisors: vec![1.0; dims / 2], magnitude: 1.0 }
    }
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerSpec {
    /// Index into [`Spec::ropes`].
    pub(crate) rope: usize,
    /// Positions that a token sees, itself included; all when absent.
    pub(crate) window: Option<usize>,
}

/// Hyper-parameters of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) hidden: usize,
    pub(crate) context: usize,
    pub(crate) eps: f32,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) attention_scale: f32,
    pub(crate) attention_cap: Option<f32>,
    pub(crate) final_cap: Option<f32>,
    pub(crate) embedding_scale: Option<f32>,
    pub(crate) activation: Activation,
}

impl Spec {
    /// Elements of all query heads.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Elements of all key heads.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// What a page of keys and values holds.
    pub(crate) fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers.len(), heads: self.kv_heads, width: self.head_width }
    }

    /// Refuses what the kernels cannot compute.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let unsupported = |what: &str| Err(EngineError::Unsupported(what.into()));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return unsupported("the number of query heads must be a multiple of the number of key heads");
        }
        if !self.head_width.is_multiple_of(16) {
            return unsupported("the width of a head must be a multiple of 16");
        }
        if [self.query_width(), self.width, self.hidden].iter().any(|n| !n.is_multiple_of(32)) {
            return unsupported("the model's widths must be multiples of 32");
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return unsupported("epsilon must be positive");
        }
        for rope in &self.ropes {
            let positive = |x: f64| x.is_finite() && x > 0.0;
            let sound = rope.theta > 1.0
                && rope.theta.is_finite()
                && rope.dims.is_multiple_of(2)
                && (2..=self.head_width).contains(&rope.dims)
                && rope.divisors.len() == rope.dims / 2
                && rope.divisors.iter().all(|d| positive(*d))
                && positive(rope.magnitude);
            if !sound {
                return unsupported("the rotary positions have a base, width or factor out of range");
            }
        }
        let positive = |x: Option<f32>| x.is_none_or(|x| x.is_finite() && x > 0.0);
        if !(positive(Some(self.attention_scale))
            && positive(self.attention_cap)
            && positive(self.final_cap)
            && positive(self.embedding_scale))
        {
            return unsupported("a scale or soft cap must be a positive number");
        }
        if self.layers.iter().any(|l| l.window == Some(0)) {
            return unsupported("a sliding window must have at least one position");
        }
        Ok(())
    }

    /// For the manifest, sorted by name. Floats are given by their bits.
    pub(crate) fn hyperparameters(&self) -> Vec<HyperParameter> {
        let mut all: Vec<(String, String)> = Vec::new();
        let mut put = |name: &str, value: String| all.push((name.to_owned(), value));
        let bits = |v: f64| format!("{:#018x}", v.to_bits());
        put("embedding_length", self.width.to_string());
        put("block_count", self.layers.len().to_string());
        put("head_count", self.heads.to_string());
        put("head_count_kv", self.kv_heads.to_string());
        put("head_width", self.head_width.to_string());
        put("feed_forward_length", self.hidden.to_string());
        put("context_length", self.context.to_string());
        put("norm_epsilon", bits(f64::from(self.eps)));
        put("attention_scale", bits(f64::from(self.attention_scale)));
        let activation = match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::GeluErf => "gelu_erf",
        };
        put("activation", activation.into());
        for (name, value) in [
            ("attention_softcap", self.attention_cap),
            ("final_softcap", self.final_cap),
            ("embedding_scale", self.embedding_scale),
        ] {
            if let Some(value) = value {
                put(name, bits(f64::from(value)));
            }
        }
        for (i, rope) in self.ropes.iter().enumerate() {
            let style = match rope.style {
                RopeStyle::Neighbours => "neighbours",
                RopeStyle::Halves => "halves",
            };
            put(&format!("rope_{i}_style"), style.into());
            put(&format!("rope_{i}_dims"), rope.dims.to_string());
            put(&format!("rope_{i}_theta"), bits(rope.theta));
            put(&format!("rope_{i}_magnitude"), bits(rope.magnitude));
            // One hash for the list: keccak-256 of the bits, big-endian.
            let divisors: Vec<u8> = rope.divisors.iter().flat_map(|d| d.to_bits().to_be_bytes()).collect();
            put(&format!("rope_{i}_divisors"), keccak256(divisors).to_string());
        }
        // `rope/window` of each layer, a dash for none.
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|l| format!("{}/{}", l.rope, l.window.map_or("-".into(), |w| w.to_string())))
            .collect();
        let uniform = layers.iter().all(|l| *l == layers[0]);
        put("layers", if uniform { layers[0].clone() } else { layers.join(",") });
        all.sort();
        all.into_iter().map(|(name, value)| HyperParameter { name, value }).collect()
    }
}
