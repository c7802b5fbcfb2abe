//! Products: which kernel, and how much shared memory it takes.

use crate::{
    CudaError, Gpu,
    arguments::{Activations, Target},
    weights::{DeviceMatrix, pointer},
};
use kernels::Format;

/// Panels from which on thread blocks of eight panels fill a GPU.
const WIDE_PANELS_MIN: usize = 1024;

/// Bytes of a stage of shared memory, which holds `step` blocks of 32 of so many panels of weights and tiles of tokens.
fn stage(format: Format, step: usize, panels: usize, tiles: usize) -> usize {
    let (lane, scales, subs, sums) = match format {
        Format::Q8_0 => (16, step * 32, 0, 0),
        Format::Q4_0 => (8, step * 32, 0, 0),
        Format::Q4K => (8, 64, step * 32, step * 32),
        Format::Q6K => (16, 32, step * 32, 0),
    };
    panels * (step * 32 * lane + scales + subs) + tiles * (step * (256 + 32) + sums)
}

/// Starts the product of one matrix, by the kernel that suits the number of tokens.
///
/// # Safety
/// As [`Gpu::launch`]: `x` has room for whole tiles of 8 tokens, `to` for all tokens.
pub(crate) unsafe fn product_launch(
    gpu: &Gpu,
    m: &DeviceMatrix,
    x: &Activations,
    to: &Target,
) -> Result<(), CudaError> {
    let tokens = to.tokens as usize;
    // Terms of two turns, of 64 blocks or (from 9 tokens) of 32, 16 outputs a token.
    let terms = |turn: usize| 2 * turn * 16 * tokens * 4 * if m.format == Format::Q4K { 2 } else { 1 };
    let (kernel, grid, threads, shared) = match tokens {
        0..=8 => ("og_few8", (m.panels, 1, 1), 512, terms(64)),
        9..=16 => ("og_few16", (m.panels, 1, 1), 512, terms(32)),
        // Two panels by 64 tokens, in long steps; four panels by 128 tokens.
        // Where there are enough panels, eight share the tokens that they read.
        17..=64 if m.panels >= WIDE_PANELS_MIN => {
            ("og_wide", (1, m.panels.div_ceil(8), 1), 256, 3 * stage(m.format, 4, 8, 8))
        }
        17..=64 => {
            let grid = (tokens.div_ceil(64), m.panels.div_ceil(2), 1);
            ("og_batch", grid, 256, 3 * stage(m.format, 8, 2, 8))
        }
        _ => {
            let grid = (tokens.div_ceil(128), m.panels.div_ceil(4), 1);
            ("og_prompt", grid, 256, 3 * stage(m.format, 4, 4, 16))
        }
    };
    let name = format!("{kernel}_{}", m.ending());
    let argument = m.argument();
    // SAFETY: as the caller promised.
    unsafe {
        let arguments = &mut [pointer(&argument), pointer(x), pointer(to)];
        gpu.launch(&name, grid, threads, shared, arguments)
    }
}
