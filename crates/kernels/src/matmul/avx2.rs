use crate::{Activations, PANEL, Q8Matrix};
use std::{arch::x86_64::*, ops::Range};

/// # Safety
/// The CPU has AVX2 and F16C; `out` has `x.rows * w.padded_rows()` elements, and nobody else touches those of `panels`.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn matmul(w: &Q8Matrix, x: &Activations, out: *mut f32, panels: Range<usize>) {
    let mut t = 0;
    while t + 4 <= x.rows {
        // SAFETY: as the caller promised, with tokens t..t+4 inside `x`.
        unsafe { tokens::<4>(w, x, out, panels.clone(), t) };
        t += 4;
    }
    while t < x.rows {
        // SAFETY: as the caller promised, with token t inside `x`.
        unsafe { tokens::<1>(w, x, out, panels.clone(), t) };
        t += 1;
    }
}

/// # Safety
/// As [`matmul`]; tokens `t0..t0+T` exist.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn tokens<const T: usize>(
    w: &Q8Matrix,
    x: &Activations,
    out: *mut f32,
    panels: Range<usize>,
    t0: usize,
) {
    let blocks = w.blocks();
    let ones = _mm256_set1_epi16(1);
    let offset = _mm256_set1_epi8(-128);
    for panel in panels {
        for half in 0..2 {
            let mut acc = [_mm256_setzero_ps(); T];
            for b in 0..blocks {
                let at = panel * blocks + b;
                let mut sums = [_mm256_setzero_si256(); T];
                for group in 0..8 {
                    // SAFETY: block `at` has 512 bytes; `half` picks 32 of the group's 64, so the load is aligned and inside.
                    let raw = unsafe {
                        _mm256_load_si256(w.values_ptr().add(at * 512 + group * 64 + half * 32).cast())
                    };
                    let value = _mm256_xor_si256(raw, offset);
                    let magnitude = _mm256_abs_epi8(value);
                    for i in 0..T {
                        // SAFETY: four activations of token t0+i at b*32 + group*4 lie inside its row of k.
                        let four = unsafe {
                            x.q.as_ptr()
                                .add((t0 + i) * w.k() + b * 32 + group * 4)
                                .cast::<i32>()
                                .read_unaligned()
                        };
                        // |w| <= 128 and |a| <= 127, so a pair's sum is at most 32512 and cannot saturate.
                        let signed = _mm256_sign_epi8(_mm256_set1_epi32(four), value);
                        let pairs = _mm256_maddubs_epi16(magnitude, signed);
                        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
                    }
                }
                // SAFETY: block `at` has 16 scales; `half` picks 8 of them.
                let scales = unsafe { _mm_loadu_si128(w.scales_ptr().add(at * PANEL + half * 8).cast()) };
                let scales = _mm256_cvtph_ps(scales);
                for i in 0..T {
                    let a = _mm256_set1_ps(x.scale[(t0 + i) * blocks + b]);
                    let product = _mm256_mul_ps(_mm256_mul_ps(scales, a), _mm256_cvtepi32_ps(sums[i]));
                    acc[i] = _mm256_add_ps(acc[i], product);
                }
            }
            for i in 0..T {
                // SAFETY: eight elements of `panel`, which is this caller's own, inside `out`.
                unsafe {
                    _mm256_storeu_ps(out.add((t0 + i) * w.padded_rows() + panel * PANEL + half * 8), acc[i])
                };
            }
        }
    }
}
