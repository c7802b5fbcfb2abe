use crate::RefereeError;
use kernels::{Activation, RopeStyle};
use std::collections::BTreeMap;
use types::{B256, ModelManifest};

/// Bounds that keep every product of sizes below 2^63.
const SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 512;
const ROPES_MAX: usize = 8;

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeShape {
    /// Which elements form a pair.
    pub style: RopeStyle,
    /// Rotated dimensions of a head.
    pub dims: usize,
    /// Base.
    pub theta: f64,
    /// Factor of every rotated element.
    pub magnitude: f64,
    /// keccak-256 of the divisors' bits, big-endian.
    pub divisors: B256,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Index of its rotary positions.
    pub rope: usize,
    /// Positions that a token sees, itself included; all when absent.
    pub window: Option<usize>,
}

/// A decoder as its manifest describes it (`kernels/SPEC.md`, sections 5 and 7).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names are those of the specification.
pub struct Shape {
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub hidden: usize,
    pub vocabulary: usize,
    pub eps: f32,
    pub attention_scale: f32,
    pub attention_cap: Option<f32>,
    pub final_cap: Option<f32>,
    pub embedding_scale: Option<f32>,
    pub activation: Activation,
    pub ropes: Vec<RopeShape>,
    pub layers: Vec<LayerShape>,
    pub fused_qkv: bool,
    pub fused_gate_up: bool,
    pub head_norms: bool,
    pub own_head: bool,
    pub post_norms: bool,
    pub qkv_biases: bool,
    pub weights_root: B256,
}

impl Shape {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`RefereeError::Shape`] names what is missing or out of range.
    pub fn new(manifest: &ModelManifest) -> Result<Self, RefereeError> {
        let fault = |what: &str| RefereeError::Shape(what.into());
        let values: BTreeMap<&str, &str> =
            manifest.hyperparameters.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        let text = |name: &str| values.get(name).copied().ok_or_else(|| fault(name));
        let size = |name: &str, max: usize| -> Result<usize, RefereeError> {
            let n = text(name)?.parse().ok().filter(|n| (1..=max).contains(n));
            n.ok_or_else(|| fault(name))
        };
        let bits = |value: &str| -> Option<f64> {
            let hex = value.strip_prefix("0x").filter(|h| h.len() == 16)?;
            Some(f64::from_bits(u64::from_str_radix(hex, 16).ok()?))
        };
        let float = |name: &str| bits(text(name)?).ok_or_else(|| fault(name));
        let optional = |name: &str| -> Result<Option<f32>, RefereeError> {
            values.get(name).map(|v| bits(v).map(|v| v as f32).ok_or_else(|| fault(name))).transpose()
        };
        let count = size("block_count", LAYERS_MAX)?;
        let mut ropes = Vec::new();
        while ropes.len() < ROPES_MAX && values.contains_key(format!("rope_{}_dims", ropes.len()).as_str()) {
            let name = |part: &str| format!("rope_{}_{part}", ropes.len());
            ropes.push(RopeShape {
                style: match text(&name("style"))? {
                    "neighbours" => RopeStyle::Neighbours,
                    "halves" => RopeStyle::Halves,
                    _ => return Err(fault("rope style")),
                },
                dims: size(&name("dims"), SIZE_MAX)?,
                theta: float(&name("theta"))?,
                magnitude: float(&name("magnitude"))?,
                divisors: text(&name("divisors"))?.parse().map_err(|_| fault("rope divisors"))?,
            });
        }
        let layer = |text: &str| -> Option<LayerShape> {
            let (rope, window) = text.split_once('/')?;
            let rope = rope.parse().ok().filter(|r| *r < ropes.len())?;
            let window = match window {
                "-" => None,
                n => Some(n.parse().ok().filter(|n| *n > 0)?),
            };
            Some(LayerShape { rope, window })
        };
        let layers: Option<Vec<_>> = text("layers")?.split(',').take(LAYERS_MAX + 1).map(layer).collect();
        let mut layers = layers.ok_or_else(|| fault("layers"))?;
        if layers.len() == 1 {
            layers = vec![layers[0]; count];
        }
        let mut parts: Vec<&str> = text("parts")?.split(',').filter(|p| !p.is_empty()).collect();
        let mut part = |name: &str| {
            let before = parts.len();
            parts.retain(|p| *p != name);
            parts.len() < before
        };
        let shape = Self {
            width: size("embedding_length", SIZE_MAX)?,
            heads: size("head_count", SIZE_MAX)?,
            kv_heads: size("head_count_kv", SIZE_MAX)?,
            head_width: size("head_width", SIZE_MAX)?,
            hidden: size("feed_forward_length", SIZE_MAX)?,
            vocabulary: manifest.vocab_size as usize,
            eps: float("norm_epsilon")? as f32,
            attention_scale: float("attention_scale")? as f32,
            attention_cap: optional("attention_softcap")?,
            final_cap: optional("final_softcap")?,
            embedding_scale: optional("embedding_scale")?,
            activation: match text("activation")? {
                "silu" => Activation::Silu,
                "gelu_tanh" => Activation::GeluTanh,
                "gelu_erf" => Activation::GeluErf,
                _ => return Err(fault("activation")),
            },
            fused_qkv: part("fused_qkv"),
            fused_gate_up: part("fused_gate_up"),
            head_norms: part("head_norms"),
            own_head: part("own_head"),
            post_norms: part("post_norms"),
            qkv_biases: part("qkv_biases"),
            weights_root: manifest.weights_root,
            ropes,
            layers,
        };
        if !parts.is_empty() {
            return Err(fault("an unknown part"));
        }
        shape.check(count).map(|()| shape)
    }

    fn check(&self, count: usize) -> Result<(), RefereeError> {
        let sound = self.layers.len() == count
            && self.heads.is_multiple_of(self.kv_heads)
            && self.head_width.is_multiple_of(16)
            && [self.query_width(), self.width, self.hidden]
                .iter()
                .all(|n| n.is_multiple_of(32) && *n <= SIZE_MAX)
            && (1..=1 << 24).contains(&self.vocabulary)
            && self.ropes.iter().all(|r| r.dims.is_multiple_of(2) && r.dims <= self.head_width);
        if sound { Ok(()) } else { Err(RefereeError::Shape("sizes that do not fit together".into())) }
    }

    /// Elements of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Elements of all key heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Name of the tensor that gives logits.
    pub(crate) fn head_tensor(&self) -> &'static str {
        if self.own_head { "output.weight" } else { "token_embd.weight" }
    }
}
