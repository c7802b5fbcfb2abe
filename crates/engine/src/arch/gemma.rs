//! Gemma 2 (arXiv:2408.00118) and Gemma 3 (arXiv:2503.19786): norms before and behind each part, scaled embeddings, GeGLU, layers
//! with a sliding window between layers that see all. Gemma 2 caps attention scores and logits softly; Gemma 3 norms heads
//! and turns positions of local layers by a smaller base.

use super::{
    decoder::{Decoder, Names},
    loader::Loader,
    spec::{LayerSpec, Rope, Spec},
};
use crate::EngineError;
use kernels::{Activation, RopeStyle};

const WINDOW_MAX: u32 = 1 << 20;
/// Of this many layers the last sees all positions.
const PATTERN_2: usize = 2;
const PATTERN_3: usize = 6;
/// The 27 B models scale queries by the width over the heads; files do not say so, but have this many layers.
const LAYERS_27B: [usize; 2] = [46, 62];

pub(crate) fn load(loader: &Loader<'_, '_>, vocabulary: usize) -> Result<Decoder, EngineError> {
    let sizes = loader.sizes()?;
    let third = loader.architecture() == "gemma3";
    let global = loader.rope(RopeStyle::Halves, sizes.head_width)?;
    let ropes = if third {
        let theta = loader.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
        let local = Rope::plain(RopeStyle::Halves, global.dims, theta);
        vec![global, local]
    } else {
        vec![global]
    };
    let window = loader.optional_integer("attention.sliding_window", WINDOW_MAX)?;
    let pattern = loader.optional_integer("attention.sliding_window_pattern", 1 << 10)?;
    let pattern = pattern.unwrap_or(if third { PATTERN_3 } else { PATTERN_2 });
    let layers = (0..sizes.layers)
        .map(|i| match (i + 1).is_multiple_of(pattern) {
            true => LayerSpec { rope: 0, window: None },
            false => LayerSpec { rope: ropes.len() - 1, window },
        })
        .collect();
    let per_query = match LAYERS_27B.contains(&sizes.layers) {
        true => sizes.width / sizes.heads,
        false => sizes.head_width,
    };
    let scale = loader.float("attention.scale")?.map(|s| s as f32);
    let cap = |key: &str, default: f64| -> Result<Option<f32>, EngineError> {
        let value = loader.float(key)?;
        Ok(if third { value } else { Some(value.unwrap_or(default)) }.map(|c| c as f32))
    };
    let spec = Spec {
        width: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_width: sizes.head_width,
        hidden: sizes.hidden,
        context: sizes.context,
        eps: sizes.eps,
        layers,
        ropes,
        attention_scale: scale.unwrap_or(1.0 / (per_query as f32).sqrt()),
        attention_cap: cap("attn_logit_softcapping", 50.0)?,
        final_cap: cap("final_logit_softcapping", 30.0)?,
        embedding_scale: Some((sizes.width as f32).sqrt()),
        activation: Activation::GeluTanh,
    };
    let names = Names { post_norms: true, head_norms: third, ..Names::default() };
    Decoder::load(loader, spec, vocabulary, names)
}
