use crate::{Activations, PANEL, Q8Matrix};
use std::{arch::x86_64::*, ops::Range};

/// Tokens in one register tile.
const TILE: usize = 6;

/// # Safety
/// The CPU has AVX-512 F, BW, VL, VNNI and F16C; `out` has `x.rows * w.padded_rows()` elements, and nobody else touches those of
/// `panels`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
pub(super) unsafe fn matmul(w: &Q8Matrix, x: &Activations, out: *mut f32, panels: Range<usize>) {
    let mut panel = panels.start;
    // SAFETY (all calls): as the caller promised; the panels named are in `panels`, the tokens in `x`.
    if x.rows == 1 {
        // One token is bound by memory: four panels at once keep more loads in flight.
        while panel + 4 <= panels.end {
            // SAFETY: see above.
            unsafe { tile::<4, 1>(w, x, out, panel, 0) };
            panel += 4;
        }
    } else {
        while panel + 2 <= panels.end {
            let mut t = 0;
            while t + TILE <= x.rows {
                // SAFETY: see above.
                unsafe { tile::<2, TILE>(w, x, out, panel, t) };
                t += TILE;
            }
            // SAFETY: see above.
            unsafe {
                match x.rows - t {
                    0 => {}
                    1 => tile::<2, 1>(w, x, out, panel, t),
                    2 => tile::<2, 2>(w, x, out, panel, t),
                    3 => tile::<2, 3>(w, x, out, panel, t),
                    4 => tile::<2, 4>(w, x, out, panel, t),
                    _ => tile::<2, 5>(w, x, out, panel, t),
                }
            }
            panel += 2;
        }
    }
    while panel < panels.end {
        for t in 0..x.rows {
            // SAFETY: see above.
            unsafe { tile::<1, 1>(w, x, out, panel, t) };
        }
        panel += 1;
    }
}

/// # Safety
/// As [`matmul`]; panels `panel..panel+P` are the caller's own, tokens `t0..t0+T` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
#[inline]
unsafe fn tile<const P: usize, const T: usize>(
    w: &Q8Matrix,
    x: &Activations,
    out: *mut f32,
    panel: usize,
    t0: usize,
) {
    let blocks = w.blocks();
    let mut acc = [[_mm512_setzero_ps(); T]; P];
    for b in 0..blocks {
        // Weights are stored as w + 128, so each sum starts at -128 times the activations' sum.
        let mut sums = [[_mm512_setzero_si512(); T]; P];
        for i in 0..T {
            let bias = _mm512_set1_epi32(x.bias[(t0 + i) * blocks + b]);
            for p in 0..P {
                sums[p][i] = bias;
            }
        }
        for group in 0..8 {
            let mut values = [_mm512_setzero_si512(); P];
            for p in 0..P {
                let at = (panel + p) * blocks + b;
                // SAFETY: block `at` has eight aligned lines of 64 bytes.
                values[p] = unsafe { _mm512_load_si512(w.values_ptr().add(at * 512 + group * 64).cast()) };
                if T == 1 {
                    let ahead = w.values_ptr().wrapping_add(at * 512 + group * 64 + 4096);
                    // A prefetch never faults, whatever the address.
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
            }
            for i in 0..T {
                // SAFETY: four activations of token t0+i at b*32 + group*4 lie inside its row of k.
                let four = unsafe {
                    x.q.as_ptr().add((t0 + i) * w.k() + b * 32 + group * 4).cast::<i32>().read_unaligned()
                };
                let four = _mm512_set1_epi32(four);
                for p in 0..P {
                    sums[p][i] = _mm512_dpbusd_epi32(sums[p][i], values[p], four);
                }
            }
        }
        for p in 0..P {
            let at = (panel + p) * blocks + b;
            // SAFETY: block `at` has sixteen scales.
            let scales = unsafe { _mm256_loadu_si256(w.scales_ptr().add(at * PANEL).cast()) };
            let scales = _mm512_cvtph_ps(scales);
            for i in 0..T {
                let a = _mm512_set1_ps(x.scale[(t0 + i) * blocks + b]);
                let product = _mm512_mul_ps(_mm512_mul_ps(scales, a), _mm512_cvtepi32_ps(sums[p][i]));
                acc[p][i] = _mm512_add_ps(acc[p][i], product);
            }
        }
    }
    for p in 0..P {
        for i in 0..T {
            // SAFETY: sixteen elements of panel `panel + p`, which is this caller's own, inside `out`.
            unsafe { _mm512_storeu_ps(out.add((t0 + i) * w.padded_rows() + (panel + p) * PANEL), acc[p][i]) };
        }
    }
}
