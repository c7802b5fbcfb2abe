//! Phi-3 (arXiv:2404.14219): query, key and value in one matrix, gate and up in another, and for long contexts rotary positions with
//! a factor for each pair (LongRoPE, arXiv:2402.13753).

use super::{
    decoder::{Decoder, Names},
    loader::Loader,
    spec::{LayerSpec, Spec},
};
use crate::EngineError;
use kernels::{Activation, RopeStyle};

const WINDOW_MAX: u32 = 1 << 20;

pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Decoder, EngineError> {
    let sizes = loader.sizes()?;
    let mut rope = loader.rope(RopeStyle::Halves, sizes.head_width)?;
    let pairs = rope.dims / 2;
    let long = loader.optional_vector("rope_factors_long.weight", pairs)?;
    let short = loader.optional_vector("rope_factors_short.weight", pairs)?;
    if let (Some(long), Some(short)) = (long, short) {
        // One table for a model: long factors for whoever has a longer context than the model was first trained with.
        let original = loader.integer("rope.scaling.original_context_length", 1 << 17)?;
        let factors = if sizes.context > original { long } else { short };
        for (divisor, factor) in rope.divisors.iter_mut().zip(factors) {
            *divisor *= f64::from(factor);
        }
        rope.magnitude = loader.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
    }
    let window = loader.optional_integer("attention.sliding_window", WINDOW_MAX)?;
    let spec = Spec {
        width: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_width: sizes.head_width,
        hidden: sizes.hidden,
        context: sizes.context,
        eps: sizes.eps,
        ropes: vec![rope],
        layers: vec![LayerSpec { rope: 0, window }; sizes.layers],
        attention_scale: 1.0 / (sizes.head_width as f32).sqrt(),
        attention_cap: None,
        final_cap: None,
        embedding_scale: None,
        activation: Activation::Silu,
    };
    let names = Names { fused_qkv: true, fused_gate_up: true, ..Names::default() };
    Decoder::load(loader, spec, vocabulary, names)
}
