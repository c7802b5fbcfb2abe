//! Sixteen f32 lanes on each instruction set: one body of attention serves them all.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Sixteen f32. Every operation works lane by lane and rounds as IEEE-754 says, so all implementations give equal bits.
///
/// # Safety
/// All functions: the CPU has the features of the implementing type, and pointers lead to sixteen elements.
pub(crate) trait Lanes: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load_half(at: *const u16) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
}

/// The reference.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 16]);

// SAFETY (whole impl): plain reads and writes of the sixteen elements that the caller promises.
impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self {
        // SAFETY: as the caller promised.
        Self(std::array::from_fn(|i| crate::f16_to_f32(unsafe { at.add(i).read_unaligned() })))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
}

/// AVX2 and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Two(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Lanes for Two {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self {
        // SAFETY: as the caller promised.
        unsafe {
            let (a, b) = (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast()));
            Self(_mm256_cvtph_ps(a), _mm256_cvtph_ps(b))
        }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
}

/// AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct One(__m512);

#[cfg(target_arch = "x86_64")]
impl Lanes for One {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as the caller promised.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
}
