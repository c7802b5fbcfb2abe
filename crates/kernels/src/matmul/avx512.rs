use super::{Out, Q4_0, Q4K, Q6K, Q8_0, lines, shared};
use crate::{Activations, Matrix, PANEL};
use std::{arch::x86_64::*, ops::Range};

/// Tokens in one register tile.
const TILE: usize = 6;

/// # Safety
/// The CPU has AVX-512 F, BW, VL, DQ, VNNI and F16C; `w` has format `F`; `out` has room for `x.rows` rows of `w`, and nobody else
/// touches those of `panels`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
pub(super) unsafe fn matmul<const F: u8>(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    let mut panel = panels.start;
    // SAFETY (all calls): as the caller promised; the panels named are in `panels`, the tokens in `x`.
    if x.rows == 1 {
        // One token is bound by memory: four panels at once keep more loads in flight.
        while panel + 4 <= panels.end {
            // SAFETY: see above.
            unsafe { tile::<F, 4, 1>(w, x, out, panel, 0) };
            panel += 4;
        }
    }
    while panel + 2 <= panels.end {
        let mut t = 0;
        while t + TILE <= x.rows {
            // SAFETY: see above.
            unsafe { tile::<F, 2, TILE>(w, x, out, panel, t) };
            t += TILE;
        }
        // SAFETY: see above.
        unsafe {
            match x.rows - t {
                0 => {}
                1 => tile::<F, 2, 1>(w, x, out, panel, t),
                2 => tile::<F, 2, 2>(w, x, out, panel, t),
                3 => tile::<F, 2, 3>(w, x, out, panel, t),
                4 => tile::<F, 2, 4>(w, x, out, panel, t),
                _ => tile::<F, 2, 5>(w, x, out, panel, t),
            }
        }
        panel += 2;
    }
    while panel < panels.end {
        for t in 0..x.rows {
            // SAFETY: see above.
            unsafe { tile::<F, 1, 1>(w, x, out, panel, t) };
        }
        panel += 1;
    }
}

/// Sixteen rows of four inputs: group `group` of the block at `line`, as unsigned bytes.
///
/// # Safety
/// `line` points to a whole block in format `F`; the CPU has AVX-512 F.
#[inline(always)]
unsafe fn values<const F: u8>(line: *const u8, group: usize) -> __m512i {
    // SAFETY: lines are 64 bytes, aligned, and inside the block, as `super::lines` says.
    unsafe {
        let load = |i: usize| _mm512_load_si512(line.add(i * 64).cast());
        if F == Q8_0 {
            return load(group);
        }
        let low = _mm512_set1_epi8(15);
        let nibble = if group < 4 {
            _mm512_and_si512(load(group), low)
        } else {
            _mm512_and_si512(_mm512_srli_epi16::<4>(load(group - 4)), low)
        };
        if F != Q6K {
            return nibble;
        }
        let high = load(4 + group / 4);
        let two = _mm512_set1_epi8(0x30);
        let high = match group % 4 {
            0 => _mm512_slli_epi16::<4>(high),
            1 => _mm512_slli_epi16::<2>(high),
            2 => high,
            _ => _mm512_srli_epi16::<2>(high),
        };
        _mm512_or_si512(nibble, _mm512_and_si512(high, two))
    }
}

/// # Safety
/// As [`matmul`]; panels `panel..panel+P` are the caller's own, tokens `t0..t0+T` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
#[inline]
unsafe fn tile<const F: u8, const P: usize, const T: usize>(
    w: &Matrix,
    x: &Activations,
    out: Out,
    panel: usize,
    t0: usize,
) {
    let blocks = w.blocks();
    let (subs, block_bytes) = (w.subs_ptr(), lines(F) * 64);
    let stored = blocks / shared(F);
    let mut acc = [[_mm512_setzero_ps(); T]; P];
    for b in 0..blocks {
        // Weights are stored with an offset, so each sum starts at minus that many times the activations' sum. With a scale for
        // each sixteen weights (Q6_K) the second sum is of the second half.
        let mut sums = [[_mm512_setzero_si512(); T]; P];
        let mut seconds = [[_mm512_setzero_si512(); T]; P];
        for i in 0..T {
            // SAFETY: token t0+i has `blocks` sums.
            let (all, half) = unsafe {
                let at = (t0 + i) * blocks + b;
                (*x.bias.get_unchecked(at), *x.half.get_unchecked(at))
            };
            let (first, second) = match F {
                Q8_0 => (all, 0),
                Q4_0 => (all / 16, 0),
                Q4K => (0, 0),
                _ => (-32 * half, all / 4 + 32 * half),
            };
            for p in 0..P {
                sums[p][i] = _mm512_set1_epi32(first);
                seconds[p][i] = _mm512_set1_epi32(second);
            }
        }
        for group in 0..8 {
            let mut value = [_mm512_setzero_si512(); P];
            for p in 0..P {
                let at = (panel + p) * blocks + b;
                // SAFETY: block `at` is inside the values.
                unsafe {
                    let line = w.values_ptr().add(at * block_bytes);
                    value[p] = values::<F>(line, group);
                    if T == 1 && group < lines(F) {
                        // A prefetch never faults, whatever the address.
                        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(group * 64 + 4096).cast());
                    }
                }
            }
            for i in 0..T {
                // SAFETY: four activations of token t0+i at b*32 + group*4 lie inside its row of k.
                let four = unsafe {
                    x.q.as_ptr().add((t0 + i) * w.k() + b * 32 + group * 4).cast::<i32>().read_unaligned()
                };
                let four = _mm512_set1_epi32(four);
                for p in 0..P {
                    if F == Q6K && group >= 4 {
                        seconds[p][i] = _mm512_dpbusd_epi32(seconds[p][i], value[p], four);
                    } else {
                        sums[p][i] = _mm512_dpbusd_epi32(sums[p][i], value[p], four);
                    }
                }
            }
        }
        for p in 0..P {
            let at = (panel + p) * blocks + b;
            let scale_at = ((panel + p) * stored + b / shared(F)) * if F == Q4K { 32 } else { 16 };
            // SAFETY: sixteen scales (and for Q4_K as many minimums) and two times sixteen small scales are there.
            let (scale, minimum, sub0, sub1) = unsafe {
                let halves = |i: usize| _mm512_cvtph_ps(_mm256_loadu_si256(w.scales_ptr().add(i).cast()));
                let bytes = |i: usize| _mm_loadu_si128(subs.add(at * 32 + i).cast());
                match F {
                    Q4K => (
                        _mm512_mul_ps(halves(scale_at), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(0)))),
                        _mm512_mul_ps(
                            halves(scale_at + 16),
                            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(16))),
                        ),
                        _mm512_setzero_si512(),
                        _mm512_setzero_si512(),
                    ),
                    Q6K => (
                        halves(scale_at),
                        _mm512_setzero_ps(),
                        _mm512_cvtepi8_epi32(bytes(0)),
                        _mm512_cvtepi8_epi32(bytes(16)),
                    ),
                    _ => (
                        halves(scale_at),
                        _mm512_setzero_ps(),
                        _mm512_setzero_si512(),
                        _mm512_setzero_si512(),
                    ),
                }
            };
            for i in 0..T {
                // SAFETY: token t0+i has `blocks` scales and sums.
                let (a, all) = unsafe {
                    let at = (t0 + i) * blocks + b;
                    (_mm512_set1_ps(*x.scale.get_unchecked(at)), *x.bias.get_unchecked(at))
                };
                let sum = match F {
                    Q6K => {
                        let first = _mm512_mullo_epi32(sums[p][i], sub0);
                        _mm512_add_epi32(first, _mm512_mullo_epi32(seconds[p][i], sub1))
                    }
                    _ => sums[p][i],
                };
                let product = _mm512_mul_ps(_mm512_mul_ps(scale, a), _mm512_cvtepi32_ps(sum));
                acc[p][i] = _mm512_add_ps(acc[p][i], product);
                if F == Q4K {
                    let total = _mm512_set1_ps((all / -128) as f32);
                    let product = _mm512_mul_ps(_mm512_mul_ps(minimum, a), total);
                    acc[p][i] = _mm512_sub_ps(acc[p][i], product);
                }
            }
        }
    }
    for p in 0..P {
        for i in 0..T {
            // SAFETY: sixteen elements of panel `panel + p`, which is this caller's own, inside `out`.
            unsafe {
                let place = out.ptr.add((t0 + i) * out.stride + (panel + p) * PANEL);
                let value =
                    if out.add { _mm512_add_ps(_mm512_loadu_ps(place), acc[p][i]) } else { acc[p][i] };
                _mm512_storeu_ps(place, value);
            }
        }
    }
}
