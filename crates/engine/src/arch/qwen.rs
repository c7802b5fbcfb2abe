//! Qwen2, Qwen2.5 (arXiv:2412.15115: biases on query, key and value) and Qwen3 (arXiv:2505.09388: norms on query and key heads
//! instead).

use super::{
    decoder::{Decoder, Names},
    loader::Loader,
    spec::{LayerSpec, Spec},
};
use crate::EngineError;
use kernels::{Activation, RopeStyle};

pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Decoder, EngineError> {
    let sizes = loader.sizes()?;
    let spec = Spec {
        width: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_width: sizes.head_width,
        hidden: sizes.hidden,
        context: sizes.context,
        eps: sizes.eps,
        ropes: vec![loader.rope(RopeStyle::Halves, sizes.head_width)?],
        layers: vec![LayerSpec { rope: 0, window: None }; sizes.layers],
        attention_scale: 1.0 / (sizes.head_width as f32).sqrt(),
        attention_cap: None,
        final_cap: None,
        embedding_scale: None,
        activation: Activation::Silu,
    };
    let third = loader.architecture() == "qwen3";
    let names = Names { qkv_biases: !third, head_norms: third, ..Names::default() };
    Decoder::load(loader, spec, vocabulary, names)
}
