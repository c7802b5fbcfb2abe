//! Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783), Mistral (arXiv:2310.06825) and SmolLM: RMSNorm, rotary positions of
//! neighbouring pairs, grouped-query attention (arXiv:2305.13245), SwiGLU.

use super::{
    decoder::{Decoder, Names},
    loader::Loader,
    spec::{LayerSpec, Spec},
};
use crate::EngineError;
use kernels::{Activation, RopeStyle};

/// Longest sliding window that a file may name.
const WINDOW_MAX: u32 = 1 << 20;

pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Decoder, EngineError> {
    let sizes = loader.sizes()?;
    let window = loader.optional_integer("attention.sliding_window", WINDOW_MAX)?;
    let spec = Spec {
        width: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_width: sizes.head_width,
        hidden: sizes.hidden,
        context: sizes.context,
        eps: sizes.eps,
        ropes: vec![loader.rope(RopeStyle::Neighbours, sizes.head_width)?],
        layers: vec![LayerSpec { rope: 0, window }; sizes.layers],
        // sqrt and division are exact in IEEE-754.
        attention_scale: 1.0 / (sizes.head_width as f32).sqrt(),
        attention_cap: None,
        final_cap: None,
        embedding_scale: None,
        activation: Activation::Silu,
    };
    Decoder::load(loader, spec, vocabulary, Names::default())
}
