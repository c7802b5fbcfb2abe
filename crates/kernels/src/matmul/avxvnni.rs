use crate::{Activations, PANEL, Q8Matrix};
use std::{arch::x86_64::*, ops::Range};

/// # Safety
/// The CPU has AVX2, F16C and AVX-VNNI; `out` has `x.rows * w.padded_rows()` elements, and nobody else touches those of `panels`.
#[target_feature(enable = "avx2,f16c,avxvnni")]
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
#[target_feature(enable = "avx2,f16c,avxvnni")]
#[inline]
unsafe fn tokens<const T: usize>(
    w: &Q8Matrix,
    x: &Activations,
    out: *mut f32,
    panels: Range<usize>,
    t0: usize,
) {
    let blocks = w.blocks();
    for panel in panels {
        let mut acc = [[_mm256_setzero_ps(); T]; 2];
        for b in 0..blocks {
            let at = panel * blocks + b;
            // Weights are stored as w + 128, so each sum starts at -128 times the activations' sum.
            let mut sums = [[_mm256_setzero_si256(); T]; 2];
            for i in 0..T {
                let bias = _mm256_set1_epi32(x.bias[(t0 + i) * blocks + b]);
                sums[0][i] = bias;
                sums[1][i] = bias;
            }
            for group in 0..8 {
                // SAFETY: block `at` has 512 bytes, 64 a group; both aligned halves are inside.
                let (low, high) = unsafe {
                    let line = w.values_ptr().add(at * 512 + group * 64);
                    (_mm256_load_si256(line.cast()), _mm256_load_si256(line.add(32).cast()))
                };
                for i in 0..T {
                    // SAFETY: four activations of token t0+i at b*32 + group*4 lie inside its row of k.
                    let four = unsafe {
                        x.q.as_ptr().add((t0 + i) * w.k() + b * 32 + group * 4).cast::<i32>().read_unaligned()
                    };
                    let four = _mm256_set1_epi32(four);
                    sums[0][i] = _mm256_dpbusd_avx_epi32(sums[0][i], low, four);
                    sums[1][i] = _mm256_dpbusd_avx_epi32(sums[1][i], high, four);
                }
            }
            for half in 0..2 {
                // SAFETY: block `at` has 16 scales; `half` picks 8 of them.
                let scales = unsafe { _mm_loadu_si128(w.scales_ptr().add(at * PANEL + half * 8).cast()) };
                let scales = _mm256_cvtph_ps(scales);
                for i in 0..T {
                    let a = _mm256_set1_ps(x.scale[(t0 + i) * blocks + b]);
                    let product = _mm256_mul_ps(_mm256_mul_ps(scales, a), _mm256_cvtepi32_ps(sums[half][i]));
                    acc[half][i] = _mm256_add_ps(acc[half][i], product);
                }
            }
        }
        for half in 0..2 {
            for i in 0..T {
                // SAFETY: eight elements of `panel`, which is this caller's own, inside `out`.
                unsafe {
                    _mm256_storeu_ps(
                        out.add((t0 + i) * w.padded_rows() + panel * PANEL + half * 8),
                        acc[half][i],
                    )
                };
            }
        }
    }
}
