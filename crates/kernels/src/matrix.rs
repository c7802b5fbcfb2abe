use crate::{BLOCK, PANEL, f16_to_f32};
use std::fmt;

/// 64 bytes on a cache line, so that vector loads are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A weight matrix of `rows` outputs and `k` inputs in Q8_0 (int8 blocks of 32 with a half-precision scale), repacked in
/// panels of 16 rows (`SPEC.md`, section 3). The repacking loses nothing.
///
/// Values: `[panel][block][4-group 0..8][row 0..16][4]` as `u8`, offset by 128. Scales: `[panel][block][row 0..16]` as f16.
/// Rows are padded with zeros to a multiple of 16.
pub struct Q8Matrix {
    rows: usize,
    k: usize,
    values: Vec<Line>,
    scales: Vec<u16>,
}

impl fmt::Debug for Q8Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Q8Matrix({} x {})", self.rows, self.k)
    }
}

/// Why bytes are no Q8_0 matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Q8MatrixError {
    /// A dimension is zero or `k` is no multiple of 32.
    Shape,
    /// The data has another length than the shape says.
    Length,
    /// A scale is NaN or infinite.
    Scale,
}

impl fmt::Display for Q8MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "dimensions must be positive and the first one a multiple of 32",
            Self::Length => "the data does not have the length that the dimensions give",
            Self::Scale => "a block scale is NaN or infinite",
        })
    }
}

impl std::error::Error for Q8MatrixError {}

/// Bytes of a Q8_0 block: an f16 scale and 32 int8 values.
const Q8_0_BYTES: usize = 2 + BLOCK;

impl Q8Matrix {
    /// Repacks GGUF Q8_0 data. Several tensors with one `k` are stacked, first rows first.
    ///
    /// # Errors
    /// [`Q8MatrixError`].
    pub fn from_q8_0(parts: &[(usize, &[u8])], k: usize) -> Result<Self, Q8MatrixError> {
        let rows: usize = parts.iter().map(|(rows, _)| rows).sum();
        if rows == 0 || k == 0 || !k.is_multiple_of(BLOCK) {
            return Err(Q8MatrixError::Shape);
        }
        let blocks = k / BLOCK;
        let panels = rows.div_ceil(PANEL);
        let mut values = vec![Line([0x80; 64]); panels * blocks * 8];
        let mut scales = vec![0u16; panels * blocks * PANEL];
        let mut first = 0;
        for (part_rows, data) in parts {
            if data.len() != part_rows * blocks * Q8_0_BYTES {
                return Err(Q8MatrixError::Length);
            }
            for (i, block) in data.chunks_exact(Q8_0_BYTES).enumerate() {
                let (row, b) = (first + i / blocks, i % blocks);
                let (panel, lane) = (row / PANEL, row % PANEL);
                let scale = u16::from_le_bytes([block[0], block[1]]);
                if !f16_to_f32(scale).is_finite() {
                    return Err(Q8MatrixError::Scale);
                }
                scales[(panel * blocks + b) * PANEL + lane] = scale;
                let lines = &mut values[(panel * blocks + b) * 8..][..8];
                for (j, value) in block[2..].iter().enumerate() {
                    lines[j / 4].0[lane * 4 + j % 4] = value ^ 0x80;
                }
            }
            first += part_rows;
        }
        Ok(Self { rows, k, values, scales })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of outputs, padded to whole panels: the stride of [`matmul`](crate::matmul)'s result.
    pub fn padded_rows(&self) -> usize {
        self.panels() * PANEL
    }

    /// Number of inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.values.len() * 64 + self.scales.len() * 2
    }

    /// Writes row `row`, as f32, to `out` of `k` elements: scale times value (an embedding look-up).
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k, "row or length out of range");
        let (panel, lane) = (row / PANEL, row % PANEL);
        let blocks = self.blocks();
        for b in 0..blocks {
            let scale = f16_to_f32(self.scales[(panel * blocks + b) * PANEL + lane]);
            let lines = &self.values[(panel * blocks + b) * 8..][..8];
            for j in 0..BLOCK {
                let value = (lines[j / 4].0[lane * 4 + j % 4] ^ 0x80) as i8;
                out[b * BLOCK + j] = scale * f32::from(value);
            }
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.k / BLOCK
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Pointer to the values, 64-byte aligned; `panels * blocks * 512` bytes.
    pub(crate) fn values_ptr(&self) -> *const u8 {
        self.values.as_ptr().cast()
    }

    /// Pointer to the scales; `panels * blocks * 16` halves.
    pub(crate) fn scales_ptr(&self) -> *const u16 {
        self.scales.as_ptr()
    }

    /// The eight lines of a block, and its sixteen scales.
    pub(crate) fn block(&self, panel: usize, b: usize) -> ([&[u8; 64]; 8], &[u16]) {
        let at = panel * self.blocks() + b;
        let lines = std::array::from_fn(|i| &self.values[at * 8 + i].0);
        (lines, &self.scales[at * PANEL..][..PANEL])
    }
}
