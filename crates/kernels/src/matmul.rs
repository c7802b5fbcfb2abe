//! Matrix times activations: `out[t][r] = Σ_blocks (w_scale · a_scale) · Σ_32 w · a` (`SPEC.md`, section 3).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod scalar;

use crate::{Activations, Isa, Pool, Q8Matrix, pool::Shards};
use std::ops::Range;

/// Multiplies all tokens of `x` by `w`. `out` has shape `[x.rows()][w.padded_rows()]`.
///
/// Panels of 16 rows are shared out among the pool's workers.
///
/// # Panics
/// When the shapes do not fit or the machine lacks `isa`.
pub fn matmul(isa: Isa, pool: &Pool, w: &Q8Matrix, x: &Activations, out: &mut [f32]) {
    assert!(isa.is_available(), "{} is not available on this machine", isa.name());
    assert_eq!(w.k(), x.k, "inner dimensions differ");
    assert_eq!(out.len(), x.rows * w.padded_rows(), "out must be rows * padded_rows");
    let out = Shards::new(out);
    pool.run_ranges(w.panels(), 2, &|panels: Range<usize>| {
        // SAFETY: the shapes and `isa` were checked above; every worker gets other panels, so it writes other elements of `out`.
        unsafe {
            match isa {
                Isa::Scalar => scalar::matmul(w, x, out.ptr(), panels),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::matmul(w, x, out.ptr(), panels),
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => avxvnni::matmul(w, x, out.ptr(), panels),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512::matmul(w, x, out.ptr(), panels),
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("not available"),
            }
        }
    });
}
