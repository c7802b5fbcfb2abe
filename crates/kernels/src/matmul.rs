//! Matrix times activations: `out[t][r] = Σ_blocks scale · Σ_32 w · a` (`SPEC.md`, section 3).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::{Activations, Format, Isa, Matrix, PANEL, Pool, pool::Shards};
use std::ops::Range;

/// One or more matrices over the same input, whose outputs lie side by side. Tensors of one format are stacked in one matrix; those
/// of another format follow.
#[derive(Debug)]
pub struct Linear {
    parts: Vec<(usize, Matrix)>,
    width: usize,
    k: usize,
}

impl Linear {
    /// Puts `matrices` side by side.
    ///
    /// # Panics
    /// When there is none, their inputs differ, or one but the last does not have a multiple of 16 rows.
    pub fn new(matrices: Vec<Matrix>) -> Self {
        let k = matrices.first().expect("at least one matrix").k();
        let mut width = 0;
        let count = matrices.len();
        let place = |(i, m): (usize, Matrix)| {
            assert_eq!(m.k(), k, "inner dimensions differ");
            assert!(i + 1 == count || m.rows().is_multiple_of(PANEL), "rows of a part are whole panels");
            let offset = width;
            width += m.padded_rows();
            (offset, m)
        };
        let parts = matrices.into_iter().enumerate().map(place).collect();
        Self { parts, width, k }
    }

    /// Number of outputs of a row, padded to whole panels: the stride of the result.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The matrices, each with the first output that is its.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Matrix)> {
        self.parts.iter().map(|(offset, m)| (*offset, m))
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|(_, m)| m.bytes()).sum()
    }

    /// Writes row `row`, as f32, to `out` of `k` elements (an embedding look-up).
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        let (offset, matrix) = self.parts.iter().rev().find(|(o, _)| row >= *o).expect("a first part");
        matrix.dequantise_row(row - offset, out);
    }
}

/// What happens to what `out` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is overwritten.
    Store,
    /// The product is added to it: `out = out + product`.
    Add,
}

/// Where a kernel writes.
#[derive(Clone, Copy)]
struct Out {
    ptr: *mut f32,
    stride: usize,
    add: bool,
}

/// Multiplies all tokens of `x` by `w`. `out` has shape `[x.rows()][w.width()]`. Panels of 16 rows are shared out among the workers.
///
/// # Panics
/// When the shapes do not fit or the machine lacks `isa`.
pub fn matmul(isa: Isa, pool: &Pool, w: &Linear, x: &Activations, out: &mut [f32], mode: Mode) {
    assert!(isa.is_available(), "{} is not available on this machine", isa.name());
    assert_eq!(w.k, x.k, "inner dimensions differ");
    assert_eq!(out.len(), x.rows * w.width, "out must be rows * width");
    let out = Shards::new(out);
    let total = w.width / PANEL;
    let each = |range: Range<usize>| {
        for (offset, matrix) in &w.parts {
            let first = offset / PANEL;
            let from = range.start.clamp(first, first + matrix.panels()) - first;
            let to = range.end.clamp(first, first + matrix.panels()) - first;
            if from < to {
                // SAFETY: the offset is inside a row of `out`.
                let ptr = unsafe { out.ptr().add(*offset) };
                let out = Out { ptr, stride: w.width, add: mode == Mode::Add };
                // SAFETY: the shapes and `isa` were checked above; every worker gets other panels, so it writes other elements.
                unsafe { panels(isa, matrix, x, out, from..to) };
            }
        }
    };
    if x.rows > 4 && total >= 16 * pool.threads() {
        // Enough work in a piece to give pieces to whoever is free.
        pool.run_pieces(total, 4, &each);
    } else {
        pool.run_ranges(total, 2, &each);
    }
}

/// # Safety
/// The CPU has `isa`; `out` has room for `x.rows` rows of `w`; nobody else touches those of `panels`.
unsafe fn panels(isa: Isa, w: &Matrix, x: &Activations, out: Out, panels: Range<usize>) {
    macro_rules! dispatch {
        ($m:ident, $f:ident) => {
            // SAFETY: as the caller promised.
            unsafe {
                match w.format() {
                    Format::Q8_0 => $m::$f::<{ Q8_0 }>(w, x, out, panels),
                    Format::Q4_0 => $m::$f::<{ Q4_0 }>(w, x, out, panels),
                    Format::Q4K => $m::$f::<{ Q4K }>(w, x, out, panels),
                    Format::Q6K => $m::$f::<{ Q6K }>(w, x, out, panels),
                }
            }
        };
    }
    match isa {
        // SAFETY: as the caller promised.
        Isa::Scalar => unsafe { scalar::matmul(w, x, out, panels) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => dispatch!(avx2, matmul),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => dispatch!(avx2, matmul_vnni),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => dispatch!(avx512, matmul),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => dispatch!(neon, matmul),
        _ => unreachable!("not available"),
    }
}

/// Formats as constants, so that each kernel is compiled for each of them.
const Q8_0: u8 = 0;
const Q4_0: u8 = 1;
const Q4K: u8 = 2;
const Q6K: u8 = 3;

/// Lines of a block.
const fn lines(format: u8) -> usize {
    match format {
        Q8_0 => 8,
        Q4_0 | Q4K => 4,
        _ => 6,
    }
}

/// Blocks of 32 that share their f16 scales.
const fn shared(format: u8) -> usize {
    if format < Q4K { 1 } else { 8 }
}
