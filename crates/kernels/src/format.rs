use crate::{BLOCK, f16_to_f32, f32_to_f16};

/// How the weights of a matrix are stored: GGUF's block formats that this arithmetic covers (`SPEC.md`, section 3). In all of
/// them the products of a block of 32 are summed exactly in integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Blocks of 32: f16 scale, int8 values.
    Q8_0,
    /// Blocks of 32: f16 scale, 4-bit values less 8.
    Q4_0,
    /// Superblocks of 256: f16 scale and minimum, 6-bit scale and minimum for each 32, 4-bit values.
    Q4K,
    /// Superblocks of 256: f16 scale, int8 scale for each 16, 6-bit values less 32.
    Q6K,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Q8_0, Self::Q4_0, Self::Q4K, Self::Q6K];

    /// Weights and bytes of one stored block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// Lines of 64 bytes that hold the values of 16 rows and 32 inputs.
    pub(crate) const fn lines(self) -> usize {
        match self {
            Self::Q8_0 => 8,
            Self::Q4_0 | Self::Q4K => 4,
            Self::Q6K => 6,
        }
    }

    /// f16 scales that 16 rows have for one stored block.
    pub(crate) const fn scales(self) -> usize {
        match self {
            Self::Q4K => 32,
            _ => 16,
        }
    }

    /// Small scales (bytes) that 16 rows have for 32 inputs.
    pub(crate) const fn subs(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 0,
            Self::Q4K | Self::Q6K => 32,
        }
    }
}

/// One stored block of 32 weights, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// The values as stored without sign: the weight's integer is `value - offset`.
    pub(crate) values: [u8; BLOCK],
    /// Scale, and minimum for Q4_K.
    pub(crate) scales: [u16; 2],
    /// Small scales: (scale, minimum) for Q4_K, one for each 16 weights for Q6_K.
    pub(crate) subs: [u8; 2],
}

/// Takes block `b` (of 32) out of a row in `format`. The row's length was checked.
#[inline]
pub(crate) fn block_of(format: Format, row: &[u8], b: usize) -> Block {
    let half = |at: usize| u16::from_le_bytes([row[at], row[at + 1]]);
    let mut values = [0u8; BLOCK];
    match format {
        Format::Q8_0 => {
            let at = b * 34;
            for (value, byte) in values.iter_mut().zip(&row[at + 2..at + 34]) {
                *value = byte ^ 0x80;
            }
            Block { values, scales: [half(at), 0], subs: [0; 2] }
        }
        Format::Q4_0 => {
            let at = b * 18;
            for (j, byte) in row[at + 2..at + 18].iter().enumerate() {
                (values[j], values[j + 16]) = (byte & 15, byte >> 4);
            }
            Block { values, scales: [half(at), 0], subs: [0; 2] }
        }
        Format::Q4K => {
            let (at, j) = (b / 8 * 144, b % 8);
            let packed = &row[at + 4..at + 16];
            let subs = if j < 4 {
                [packed[j] & 63, packed[j + 4] & 63]
            } else {
                [
                    (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
                    (packed[j + 4] >> 4) | (packed[j] >> 6 << 4),
                ]
            };
            let nibbles = &row[at + 16 + j / 2 * 32..][..32];
            for (value, byte) in values.iter_mut().zip(nibbles) {
                *value = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            }
            Block { values, scales: [half(at), half(at + 2)], subs }
        }
        Format::Q6K => {
            let (at, j) = (b / 8 * 210, b % 8);
            // 128 weights share 64 bytes of low nibbles and 32 bytes of high pairs of bits.
            let (part, quarter) = (j / 4, j % 4);
            let low = &row[at + part * 64 + (quarter % 2) * 32..][..32];
            let high = &row[at + 128 + part * 32..][..32];
            for i in 0..BLOCK {
                let nibble = if quarter < 2 { low[i] & 15 } else { low[i] >> 4 };
                values[i] = nibble | ((high[i] >> (2 * quarter)) & 3) << 4;
            }
            let sub = at + 192 + j * 2;
            Block { values, scales: [half(at + 208), 0], subs: [row[sub], row[sub + 1]] }
        }
    }
}

/// The weights of block `b` of a row as f32: what an embedding look-up gives (`SPEC.md`, section 3).
pub(crate) fn dequantise(format: Format, block: &Block, out: &mut [f32]) {
    let scale = f16_to_f32(block.scales[0]);
    for (i, (out, value)) in out.iter_mut().zip(block.values).enumerate() {
        *out = match format {
            Format::Q8_0 => scale * f32::from(value as i16 - 128),
            Format::Q4_0 => scale * f32::from(value as i16 - 8),
            Format::Q4K => {
                let minimum = f16_to_f32(block.scales[1]) * f32::from(block.subs[1]);
                (scale * f32::from(block.subs[0])) * f32::from(value) - minimum
            }
            Format::Q6K => (scale * f32::from(block.subs[i / 16] as i8)) * f32::from(value as i16 - 32),
        };
    }
}

/// The canonical quantiser (`SPEC.md`, section 3): one row of floats to Q8_0. The scale is the block's largest magnitude over 127,
/// rounded to f16; values are rounded to nearest, ties to even, under the exact (unrounded) scale.
///
/// # Panics
/// When the row is no multiple of 32 long.
///
/// Returns `None` when an element is NaN or infinite or the scale overflows f16.
pub fn quantise_q8_0(row: &[f32]) -> Option<Vec<u8>> {
    assert!(row.len().is_multiple_of(BLOCK), "rows are whole blocks");
    let mut out = Vec::with_capacity(row.len() / BLOCK * 34);
    for block in row.as_chunks::<BLOCK>().0 {
        let largest = block.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m });
        let scale = f32_to_f16(largest / 127.0);
        if block.iter().any(|x| !x.is_finite()) || !f16_to_f32(scale).is_finite() {
            return None;
        }
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        out.extend_from_slice(&scale.to_le_bytes());
        for x in block {
            let rounded = (x * inverse).round_ties_even() as i32;
            out.push(rounded.clamp(-127, 127) as i8 as u8);
        }
    }
    Some(out)
}
