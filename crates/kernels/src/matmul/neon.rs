use super::{Out, Q4_0, Q4K, Q6K, Q8_0, lines, shared};
use crate::{Activations, Matrix, PANEL, f16_to_f32};
use std::{arch::aarch64::*, ops::Range};

/// Registers of four rows in a panel.
const QUADS: usize = 4;

/// Every aarch64 CPU has NEON. Products of int8 are summed in pairs to i32, so nothing can overflow.
///
/// # Safety
/// `w` has format `F`; `out` has room for `x.rows` rows of `w`, and nobody else touches those of `panels`.
pub(super) unsafe fn matmul<const F: u8>(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    for panel in panels {
        let mut t = 0;
        while t + 2 <= x.rows {
            // SAFETY: as the caller promised, with tokens t, t+1 inside `x`.
            unsafe { tile::<F, 2>(w, x, out, panel, t) };
            t += 2;
        }
        if t < x.rows {
            // SAFETY: as the caller promised, with token t inside `x`.
            unsafe { tile::<F, 1>(w, x, out, panel, t) };
        }
    }
}

/// Four rows of four inputs: group `group`, quad `quad` of the block at `line`, as signed bytes: less 128 for Q8_0, else as stored.
///
/// # Safety
/// `line` points to a whole block in format `F`.
#[inline(always)]
unsafe fn values<const F: u8>(line: *const u8, group: usize, quad: usize) -> int8x16_t {
    // SAFETY: quads are 16 bytes inside the block, as `super::lines` says.
    unsafe {
        let load = |i: usize| vld1q_u8(line.add(i * 64 + quad * 16));
        if F == Q8_0 {
            return vreinterpretq_s8_u8(veorq_u8(load(group), vdupq_n_u8(0x80)));
        }
        let nibble =
            if group < 4 { vandq_u8(load(group), vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(load(group - 4)) };
        if F != Q6K {
            return vreinterpretq_s8_u8(nibble);
        }
        let high = load(4 + group / 4);
        let high = match group % 4 {
            0 => vshlq_n_u8::<4>(high),
            1 => vshlq_n_u8::<2>(high),
            2 => high,
            _ => vshrq_n_u8::<2>(high),
        };
        vreinterpretq_s8_u8(vorrq_u8(nibble, vandq_u8(high, vdupq_n_u8(0x30))))
    }
}

/// `sum + Σ_4 value · four` for four rows, exactly.
#[inline(always)]
fn dot(sum: int32x4_t, value: int8x16_t, four: int8x16_t) -> int32x4_t {
    // SAFETY: NEON is part of every aarch64 CPU.
    unsafe {
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(value), vget_low_s8(four)));
        let high = vpaddlq_s16(vmull_s8(vget_high_s8(value), vget_high_s8(four)));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }
}

/// # Safety
/// As [`matmul`]; tokens `t0..t0+T` exist.
#[inline(always)]
unsafe fn tile<const F: u8, const T: usize>(w: &Matrix, x: &Activations, out: Out, panel: usize, t0: usize) {
    let blocks = w.blocks();
    let stored = blocks / shared(F);
    // SAFETY: block `at` lies inside the matrix, token t0+i inside `x`; the rows written are the caller's own.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); T]; QUADS];
        for b in 0..blocks {
            let at = panel * blocks + b;
            let line = w.values_ptr().add(at * lines(F) * 64);
            let mut sums = [[vdupq_n_s32(0); T]; QUADS];
            let mut seconds = [[vdupq_n_s32(0); T]; QUADS];
            for i in 0..T {
                let (all, half) = (x.bias[(t0 + i) * blocks + b], x.half[(t0 + i) * blocks + b]);
                let (first, second) = match F {
                    Q4_0 => (all / 16, 0),
                    Q6K => (-32 * half, all / 4 + 32 * half),
                    _ => (0, 0),
                };
                for quad in 0..QUADS {
                    sums[quad][i] = vdupq_n_s32(first);
                    seconds[quad][i] = vdupq_n_s32(second);
                }
            }
            for group in 0..8 {
                let mut fours = [vdupq_n_s8(0); T];
                for (i, four) in fours.iter_mut().enumerate() {
                    let place = x.q.as_ptr().add((t0 + i) * w.k() + b * 32 + group * 4).cast::<i32>();
                    *four = vreinterpretq_s8_s32(vdupq_n_s32(place.read_unaligned()));
                }
                for quad in 0..QUADS {
                    let value = values::<F>(line, group, quad);
                    for i in 0..T {
                        if F == Q6K && group >= 4 {
                            seconds[quad][i] = dot(seconds[quad][i], value, fours[i]);
                        } else {
                            sums[quad][i] = dot(sums[quad][i], value, fours[i]);
                        }
                    }
                }
            }
            let scale_at = (panel * stored + b / shared(F)) * if F == Q4K { 32 } else { 16 };
            for quad in 0..QUADS {
                let lane = |i: usize| quad * 4 + i;
                let halves = |from: usize| {
                    let four: [f32; 4] =
                        std::array::from_fn(|i| f16_to_f32(*w.scales_ptr().add(from + lane(i))));
                    vld1q_f32(four.as_ptr())
                };
                let sub = |from: usize, i: usize| *w.subs_ptr().add(at * 32 + from + lane(i));
                let mut scale = halves(scale_at);
                let mut minimum = vdupq_n_f32(0.0);
                let (mut sub0, mut sub1) = (vdupq_n_s32(0), vdupq_n_s32(0));
                if F == Q4K {
                    let floats = |from: usize| {
                        let four: [f32; 4] = std::array::from_fn(|i| f32::from(sub(from, i)));
                        vld1q_f32(four.as_ptr())
                    };
                    scale = vmulq_f32(scale, floats(0));
                    minimum = vmulq_f32(halves(scale_at + 16), floats(16));
                } else if F == Q6K {
                    let integers = |from: usize| {
                        let four: [i32; 4] = std::array::from_fn(|i| i32::from(sub(from, i) as i8));
                        vld1q_s32(four.as_ptr())
                    };
                    (sub0, sub1) = (integers(0), integers(16));
                }
                for i in 0..T {
                    let a = vdupq_n_f32(x.scale[(t0 + i) * blocks + b]);
                    let sum = if F == Q6K {
                        vaddq_s32(vmulq_s32(sums[quad][i], sub0), vmulq_s32(seconds[quad][i], sub1))
                    } else {
                        sums[quad][i]
                    };
                    let product = vmulq_f32(vmulq_f32(scale, a), vcvtq_f32_s32(sum));
                    acc[quad][i] = vaddq_f32(acc[quad][i], product);
                    if F == Q4K {
                        let total = vdupq_n_f32((x.bias[(t0 + i) * blocks + b] / -128) as f32);
                        acc[quad][i] = vsubq_f32(acc[quad][i], vmulq_f32(vmulq_f32(minimum, a), total));
                    }
                }
            }
        }
        for quad in 0..QUADS {
            for i in 0..T {
                let place = out.ptr.add((t0 + i) * out.stride + panel * PANEL + quad * 4);
                let value = if out.add { vaddq_f32(vld1q_f32(place), acc[quad][i]) } else { acc[quad][i] };
                vst1q_f32(place, value);
            }
        }
    }
}
