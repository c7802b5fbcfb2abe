use super::Out;
use crate::{Activations, BLOCK, Format, Matrix, PANEL, f16_to_f32};
use std::ops::Range;

/// The reference.
///
/// # Safety
/// `out` has room for `x.rows` rows of `w`, and nobody else touches those of `panels`.
pub(super) unsafe fn matmul(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    let format = w.format();
    for panel in panels {
        for lane in 0..PANEL {
            let mut acc = vec![0f32; x.rows];
            for b in 0..w.blocks() {
                let block = w.block(panel, lane, b);
                let offset = match format {
                    Format::Q8_0 => 128,
                    Format::Q4_0 => 8,
                    Format::Q4K => 0,
                    Format::Q6K => 32,
                };
                let weights: [i32; BLOCK] = block.values.map(|v| i32::from(v) - offset);
                let scale = f16_to_f32(block.scales[0]);
                for (t, acc) in acc.iter_mut().enumerate() {
                    let (q, scales) = x.row(t);
                    let (q, a_scale) = (&q[b * BLOCK..][..BLOCK], scales[b]);
                    let product =
                        |range: Range<usize>| -> i32 { range.map(|j| weights[j] * i32::from(q[j])).sum() };
                    match format {
                        Format::Q8_0 | Format::Q4_0 => *acc += (scale * a_scale) * (product(0..32) as f32),
                        Format::Q6K => {
                            let [s0, s1] = block.subs.map(|s| i32::from(s as i8));
                            let sum = s0 * product(0..16) + s1 * product(16..32);
                            *acc += (scale * a_scale) * (sum as f32);
                        }
                        Format::Q4K => {
                            let [sub, minimum] = block.subs.map(f32::from);
                            let total: i32 = q.iter().map(|v| i32::from(*v)).sum();
                            *acc += ((scale * sub) * a_scale) * (product(0..32) as f32);
                            let minimum = f16_to_f32(block.scales[1]) * minimum;
                            *acc -= (minimum * a_scale) * (total as f32);
                        }
                    }
                }
            }
            for (t, value) in acc.into_iter().enumerate() {
                // SAFETY: the element belongs to `panel`, which is this caller's own, and is inside `out`.
                let place = unsafe { &mut *out.ptr.add(t * out.stride + panel * PANEL + lane) };
                *place = if out.add { *place + value } else { value };
            }
        }
    }
}
