use crate::{Activations, BLOCK, PANEL, Q8Matrix, f16_to_f32};
use std::ops::Range;

/// The reference.
///
/// # Safety
/// `out` has `x.rows * w.padded_rows()` elements, and nobody else touches those of `panels`.
pub(super) unsafe fn matmul(w: &Q8Matrix, x: &Activations, out: *mut f32, panels: Range<usize>) {
    for panel in panels {
        for t in 0..x.rows {
            let mut acc = [0f32; PANEL];
            let (q, scales) = x.row(t);
            for b in 0..w.blocks() {
                let (lines, w_scales) = w.block(panel, b);
                let a = &q[b * BLOCK..][..BLOCK];
                for lane in 0..PANEL {
                    let mut sum = 0i32;
                    for j in 0..BLOCK {
                        let value = (lines[j / 4][lane * 4 + j % 4] ^ 0x80) as i8;
                        sum += i32::from(value) * i32::from(a[j]);
                    }
                    acc[lane] += (f16_to_f32(w_scales[lane]) * scales[b]) * (sum as f32);
                }
            }
            for (lane, value) in acc.into_iter().enumerate() {
                // SAFETY: the element belongs to `panel`, which is this caller's own, and is inside `out`.
                unsafe { *out.add(t * w.padded_rows() + panel * PANEL + lane) = value };
            }
        }
    }
}
