//! Attention: rows for themselves, or tiles of rows.

use crate::{
    CudaError, Decoder,
    arguments::{Attention, Tiles},
    decoder::DeviceLayer,
    forward::Pass,
    tiling::Tiling,
    weights::pointer,
};

/// Threads of the kernels, as they declare them.
const ATTENTION_THREADS: usize = 256;
/// Thread blocks that fill a GPU: as long as there are fewer, heads are not put together.
const ATTENTION_BLOCKS: usize = 264;
/// Widest heads that are put together, and widest of all: a thread keeps a few elements of the result.
const TOGETHER_WIDTH_MAX: usize = 256;
pub(crate) const WIDTH_MAX: usize = 1024;
/// Positions whose values are copied to shared memory at once, and such steps that are under way.
const VALUE_STEP: usize = 64;
const VALUE_STAGES: usize = 4;

/// Places for the scores of `positions` positions, which may begin within a step.
fn scores_span(positions: usize) -> usize {
    positions.next_multiple_of(VALUE_STEP) + VALUE_STEP
}

impl Decoder {
    /// Bytes of scores that one row has when they do not fit into shared memory.
    pub(crate) fn score_bytes(&self, positions: usize) -> usize {
        let span = scores_span(positions);
        if self.shared_of(1, span) <= self.gpu.shared_max() { 0 } else { self.heads * span * 4 }
    }

    /// Shared memory for `heads` heads with `span` scores each.
    fn shared_of(&self, heads: usize, span: usize) -> usize {
        VALUE_STAGES * VALUE_STEP * self.kv.width * 2 + heads * (self.kv.width + span) * 4
    }
}

impl Pass<'_> {
    /// Attends. True when the result is quantised already.
    pub(crate) fn attend(&self, index: usize, layer: &DeviceLayer) -> Result<bool, CudaError> {
        let Some(tiling) = &self.d.tiling else {
            // Blocks of 32 must not cross heads, and few rows make it worth it.
            let quantises = self.d.kv.width.is_multiple_of(kernels::BLOCK);
            self.attend_rows(index, layer, (self.rows, 0), quantises)?;
            return Ok(quantises);
        };
        if !tiling.listed.is_empty() {
            self.attend_rows(index, layer, (tiling.listed.len(), self.meta(4)), false)?;
        }
        let d = self.d;
        let attention = self.attention(index, layer);
        let (rows, pages, shared) = (self.rows_argument(), self.pages(), Tiling::shared(d));
        let name = format!("og_attend_tile{}", d.kv.width);
        for part in tiling.parts(d) {
            let tiles = Tiles {
                items: self.meta(5) + (part.start * 8) as u64,
                heads: tiling.heads as i32,
                scores: d.tile_scores.address(),
                span: tiling.span as i32,
            };
            let grid = (part.len(), tiling.groups(d), 1);
            let arguments = &mut [pointer(&attention), pointer(&rows), pointer(&pages), pointer(&tiles)];
            // SAFETY: as `Pass` says; the scores of a part fit (`Decoder::tile`).
            unsafe { d.gpu.launch(&name, grid, ATTENTION_THREADS, shared, arguments)? };
        }
        Ok(false)
    }

    fn attention(&self, index: usize, layer: &DeviceLayer) -> Attention {
        let d = self.d;
        Attention {
            queries: self.work.qkv.address(),
            stride: layer.qkv.width as i32,
            out: self.work.attended.address(),
            heads: d.heads as i32,
            scale: d.attention_scale,
            capped: i32::from(d.attention_cap.is_some()),
            cap: d.attention_cap.unwrap_or(1.0),
            window: layer.window.map_or(0, |w| w.min(i32::MAX as usize) as i32),
            layer: index as i32,
            scores: 0,
            span: 0,
            listed: 0,
            to: self.quantised(d.query_width()),
            quantises: 0,
        }
    }

    /// Attention of `count` rows for themselves: those that `listed` names, or is 0 for the first ones.
    fn attend_rows(
        &self,
        index: usize,
        layer: &DeviceLayer,
        (count, listed): (usize, u64),
        quantises: bool,
    ) -> Result<(), CudaError> {
        let d = self.d;
        let span = scores_span(layer.window.map_or(self.span, |w| w.min(self.span)));
        let group = d.heads / d.kv.heads;
        // Heads of one key head go together if enough thread blocks are left and their scores fit.
        let together = [8, 4, 2].into_iter().find(|t| {
            group.is_multiple_of(*t)
                && d.kv.width <= TOGETHER_WIDTH_MAX
                && count * d.heads / t >= ATTENTION_BLOCKS
                && d.shared_of(*t, span) <= d.gpu.shared_max() / 2
        });
        let heads = together.unwrap_or(1);
        let fits = d.shared_of(heads, span) <= d.gpu.shared_max();
        let argument = Attention {
            scores: if fits { 0 } else { self.work.scores.address() },
            span: span as i32,
            listed,
            quantises: i32::from(quantises),
            ..self.attention(index, layer)
        };
        let shared = d.shared_of(heads, if fits { span } else { 0 });
        let (rows, pages) = (self.rows_argument(), self.pages());
        let name = ["og_attend1", "og_attend2", "og_attend4", "og_attend8"][heads.ilog2() as usize];
        // SAFETY: as `Pass` says; the grid's second dimension is below 65536 because a step has fewer rows.
        unsafe {
            d.gpu.launch(
                name,
                (d.heads / heads, count, 1),
                ATTENTION_THREADS,
                shared,
                &mut [pointer(&argument), pointer(&rows), pointer(&pages)],
            )
        }
    }
}
