use super::{Out, Q4_0, Q4K, Q6K, Q8_0, lines, shared};
use crate::{Activations, Matrix, PANEL};
use std::{arch::x86_64::*, ops::Range};

/// # Safety
/// The CPU has AVX2 and F16C; `w` has format `F`; `out` has room for `x.rows` rows of `w`, and nobody else touches those of `panels`.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn matmul<const F: u8>(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    // SAFETY: as the caller promised.
    unsafe { all::<F, false>(w, x, out, panels) }
}

/// # Safety
/// As [`matmul`], and the CPU has AVX-VNNI.
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) unsafe fn matmul_vnni<const F: u8>(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    // SAFETY: as the caller promised.
    unsafe { all::<F, true>(w, x, out, panels) }
}

/// # Safety
/// As [`matmul`]; with `V` the CPU has AVX-VNNI.
#[inline(always)]
unsafe fn all<const F: u8, const V: bool>(w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    for panel in panels {
        let mut t = 0;
        while t + 4 <= x.rows {
            // SAFETY: as the caller promised, with tokens t..t+4 inside `x`.
            unsafe {
                tile::<F, V, 1, 4>(w, x, out, panel, 0, t);
                tile::<F, V, 1, 4>(w, x, out, panel, 1, t);
            }
            t += 4;
        }
        while t < x.rows {
            // SAFETY: as the caller promised, with token t inside `x`.
            unsafe { tile::<F, V, 2, 1>(w, x, out, panel, 0, t) };
            t += 1;
        }
    }
}

/// Eight rows of four inputs: group `group` of half `half` of the block at `line`, as unsigned bytes.
///
/// # Safety
/// `line` points to a whole block in format `F`; the CPU has AVX2.
#[inline(always)]
unsafe fn values<const F: u8>(line: *const u8, group: usize, half: usize) -> __m256i {
    // SAFETY: half lines are 32 bytes, aligned, and inside the block, as `super::lines` says.
    unsafe {
        let load = |i: usize| _mm256_load_si256(line.add(i * 64 + half * 32).cast());
        if F == Q8_0 {
            return load(group);
        }
        let low = _mm256_set1_epi8(15);
        let nibble = if group < 4 {
            _mm256_and_si256(load(group), low)
        } else {
            _mm256_and_si256(_mm256_srli_epi16::<4>(load(group - 4)), low)
        };
        if F != Q6K {
            return nibble;
        }
        let high = load(4 + group / 4);
        let high = match group % 4 {
            0 => _mm256_slli_epi16::<4>(high),
            1 => _mm256_slli_epi16::<2>(high),
            2 => high,
            _ => _mm256_srli_epi16::<2>(high),
        };
        _mm256_or_si256(nibble, _mm256_and_si256(high, _mm256_set1_epi8(0x30)))
    }
}

/// `sum + Σ_4 value · four`, exactly.
///
/// # Safety
/// The CPU has AVX2, and with `V` AVX-VNNI.
#[inline(always)]
unsafe fn dot<const F: u8, const V: bool>(sum: __m256i, value: __m256i, four: __m256i) -> __m256i {
    // SAFETY: the features are there, as the caller promised.
    unsafe {
        if V {
            return _mm256_dpbusd_avx_epi32(sum, value, four);
        }
        let pairs = if F == Q8_0 {
            // The unsigned byte is w + 128. |w| <= 128 and |a| <= 127, so a pair's sum is at most 32512 and cannot saturate.
            let w = _mm256_xor_si256(value, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w))
        } else {
            // Values are at most 63, so a pair's sum is at most 16002.
            _mm256_maddubs_epi16(value, four)
        };
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// # Safety
/// As [`all`]; halves `half0..half0+H` of the panel exist, and tokens `t0..t0+T`.
#[inline(always)]
unsafe fn tile<const F: u8, const V: bool, const H: usize, const T: usize>(
    w: &Matrix,
    x: &Activations,
    out: Out,
    panel: usize,
    half0: usize,
    t0: usize,
) {
    let blocks = w.blocks();
    let stored = blocks / shared(F);
    // SAFETY: the CPU has the features; block `at` lies inside the matrix, token t0+i inside `x`; the rows written are the caller's own.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; H];
        for b in 0..blocks {
            let at = panel * blocks + b;
            let line = w.values_ptr().add(at * lines(F) * 64);
            let mut sums = [[_mm256_setzero_si256(); T]; H];
            let mut seconds = [[_mm256_setzero_si256(); T]; H];
            for i in 0..T {
                let (all, half) = (x.bias[(t0 + i) * blocks + b], x.half[(t0 + i) * blocks + b]);
                let (first, second) = match F {
                    // Without VNNI the sign trick works on w itself.
                    Q8_0 => (if V { all } else { 0 }, 0),
                    Q4_0 => (all / 16, 0),
                    Q4K => (0, 0),
                    _ => (-32 * half, all / 4 + 32 * half),
                };
                for h in 0..H {
                    sums[h][i] = _mm256_set1_epi32(first);
                    seconds[h][i] = _mm256_set1_epi32(second);
                }
            }
            for group in 0..8 {
                if T == 1 && group < lines(F) {
                    // A prefetch never faults, whatever the address.
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(group * 64 + 4096).cast());
                }
                let mut value = [_mm256_setzero_si256(); H];
                for h in 0..H {
                    value[h] = values::<F>(line, group, half0 + h);
                }
                for i in 0..T {
                    let four =
                        x.q.as_ptr()
                            .add((t0 + i) * w.k() + b * 32 + group * 4)
                            .cast::<i32>()
                            .read_unaligned();
                    let four = _mm256_set1_epi32(four);
                    for h in 0..H {
                        if F == Q6K && group >= 4 {
                            seconds[h][i] = dot::<F, V>(seconds[h][i], value[h], four);
                        } else {
                            sums[h][i] = dot::<F, V>(sums[h][i], value[h], four);
                        }
                    }
                }
            }
            let scale_at = (panel * stored + b / shared(F)) * if F == Q4K { 32 } else { 16 };
            for h in 0..H {
                let lane = (half0 + h) * 8;
                let halves = |i: usize| _mm256_cvtph_ps(_mm_loadu_si128(w.scales_ptr().add(i + lane).cast()));
                let bytes = |i: usize| _mm_loadl_epi64(w.subs_ptr().add(at * 32 + i + lane).cast());
                let mut scale = halves(scale_at);
                let (mut minimum, mut sub0, mut sub1) =
                    (_mm256_setzero_ps(), _mm256_setzero_si256(), _mm256_setzero_si256());
                if F == Q4K {
                    scale = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(0))));
                    let m = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(16)));
                    minimum = _mm256_mul_ps(halves(scale_at + 16), m);
                } else if F == Q6K {
                    (sub0, sub1) = (_mm256_cvtepi8_epi32(bytes(0)), _mm256_cvtepi8_epi32(bytes(16)));
                }
                for i in 0..T {
                    let a = _mm256_set1_ps(x.scale[(t0 + i) * blocks + b]);
                    let sum = if F == Q6K {
                        let first = _mm256_mullo_epi32(sums[h][i], sub0);
                        _mm256_add_epi32(first, _mm256_mullo_epi32(seconds[h][i], sub1))
                    } else {
                        sums[h][i]
                    };
                    let product = _mm256_mul_ps(_mm256_mul_ps(scale, a), _mm256_cvtepi32_ps(sum));
                    acc[h][i] = _mm256_add_ps(acc[h][i], product);
                    if F == Q4K {
                        let total = _mm256_set1_ps((x.bias[(t0 + i) * blocks + b] / -128) as f32);
                        let product = _mm256_mul_ps(_mm256_mul_ps(minimum, a), total);
                        acc[h][i] = _mm256_sub_ps(acc[h][i], product);
                    }
                }
            }
        }
        for h in 0..H {
            for i in 0..T {
                let place = out.ptr.add((t0 + i) * out.stride + panel * PANEL + (half0 + h) * 8);
                let value =
                    if out.add { _mm256_add_ps(_mm256_loadu_ps(place), acc[h][i]) } else { acc[h][i] };
                _mm256_storeu_ps(place, value);
            }
        }
    }
}
