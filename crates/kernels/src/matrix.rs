use crate::{
    BLOCK, Format, Isa, PANEL, Pool, f16_to_f32,
    format::{block_of, dequantise},
    isa::for_each_isa,
};
use memmap2::{Advice, MmapMut};
use std::fmt;

/// A weight matrix of `rows` outputs and `k` inputs, repacked in panels of 16 rows (`SPEC.md`, section 3). The repacking loses
/// nothing.
///
/// Values: `[panel][block of 32][line][row 0..16][4]` bytes, each with an offset that makes it unsigned. Q8_0 has eight lines (line g
/// holds inputs 4g..4g+4); the 4-bit formats four (line g holds group g in the low and group g+4 in the high nibble); Q6_K has six (four
/// as the 4-bit formats, then two with the upper bits: group g in bits 2(g%4) of line g/4). Rows are padded to a multiple of 16
/// with zero scales.
pub struct Matrix {
    format: Format,
    rows: usize,
    k: usize,
    values: Region,
    /// `[panel][stored block][format.scales()]` f16.
    scales: Vec<u16>,
    /// `[panel][block of 32][format.subs()]`.
    subs: Vec<u8>,
}

/// Anonymous memory on its own pages, which the system is asked to make large: streaming weights then misses the TLB less.
struct Region(MmapMut);

impl Region {
    fn new(bytes: usize) -> Self {
        let map = MmapMut::map_anon(bytes.max(1)).expect("the system gives no more memory for weights");
        // Large pages are only faster; a system without them runs as well.
        let _ = map.advise(Advice::HugePage);
        Self(map)
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({:?} {} x {})", self.format, self.rows, self.k)
    }
}

/// Why bytes are no matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixError {
    /// A dimension is zero or `k` is no multiple of the format's block.
    Shape,
    /// The data has another length than the shape says.
    Length,
    /// A scale is NaN or infinite.
    Scale,
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => {
                "dimensions must be positive and the first one a multiple of the format's block (32 or 256)"
            }
            Self::Length => "the data does not have the length that the dimensions give",
            Self::Scale => "a block scale is NaN or infinite",
        })
    }
}

impl std::error::Error for MatrixError {}

/// What a [`Matrix`] holds.
#[derive(Clone, Copy, Debug)]
pub struct MatrixParts<'a> {
    /// Values, `[panel][block of 32][line][row 0..16][4]`.
    pub values: &'a [u8],
    /// f16 scales of 16 rows (of Q4_K then their minima), `[panel][stored block]`.
    pub scales: &'a [u16],
    /// Small scales of 16 rows in two groups (Q4_K: scales, minima; Q6_K: first, second half), `[panel][block of 32]`.
    pub subs: &'a [u8],
}

impl Matrix {
    /// Repacks GGUF data. Several tensors with one `k` are stacked, first rows first. Panels are shared out among the workers.
    ///
    /// # Errors
    /// [`MatrixError`].
    pub fn repack(
        pool: &Pool,
        format: Format,
        parts: &[(usize, &[u8])],
        k: usize,
    ) -> Result<Self, MatrixError> {
        let rows: usize = parts.iter().map(|(rows, _)| rows).sum();
        let (elements, bytes) = format.block();
        if rows == 0 || k == 0 || !k.is_multiple_of(elements) {
            return Err(MatrixError::Shape);
        }
        let row_bytes = k / elements * bytes;
        if parts.iter().any(|(rows, data)| Some(data.len()) != rows.checked_mul(row_bytes)) {
            return Err(MatrixError::Length);
        }
        let row_at: Vec<&[u8]> = parts.iter().flat_map(|(_, data)| data.chunks_exact(row_bytes)).collect();
        let (blocks, panels, stored) = (k / BLOCK, rows.div_ceil(PANEL), k / elements);
        let mut values = Region::new(panels * blocks * format.lines() * 64);
        let mut scales = vec![0u16; panels * stored * format.scales()];
        let mut subs = vec![0u8; panels * blocks * format.subs()];
        let mut work: Vec<_> = {
            let mut subs = subs.chunks_exact_mut((blocks * format.subs()).max(1));
            values
                .0
                .chunks_exact_mut(blocks * format.lines() * 64)
                .zip(scales.chunks_exact_mut(stored * format.scales()))
                .map(|(values, scales)| (values, scales, subs.next().unwrap_or_default(), true))
                .collect()
        };
        pool.for_each_chunk(&mut work, 1, &|panel, parts| {
            for (values, scales, subs, sound) in parts {
                let first = panel * PANEL;
                let rows = &row_at[first..(first + PANEL).min(row_at.len())];
                *sound = repack_panel(format, rows, blocks, values, scales, subs);
            }
        });
        let sound = work.iter().all(|(_, _, _, sound)| *sound);
        drop(work);
        if sound { Ok(Self { format, rows, k, values, scales, subs }) } else { Err(MatrixError::Scale) }
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of outputs, padded to whole panels.
    pub fn padded_rows(&self) -> usize {
        self.panels() * PANEL
    }

    /// Number of inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.values.0.len() + self.scales.len() * 2 + self.subs.len()
    }

    /// What it holds, for other devices; the type's description says how it lies.
    pub fn parts(&self) -> MatrixParts<'_> {
        MatrixParts { values: &self.values.0[..self.value_bytes()], scales: &self.scales, subs: &self.subs }
    }

    fn value_bytes(&self) -> usize {
        self.panels() * self.blocks() * self.format.lines() * 64
    }

    /// Writes row `row`, as f32, to `out` of `k` elements (an embedding look-up).
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k, "row or length out of range");
        for (b, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            dequantise(self.format, &self.block(row / PANEL, row % PANEL, b), out);
        }
    }

    /// The block of row `lane` of `panel`, unpacked; the scalar reference reads weights through this.
    pub(crate) fn block(&self, panel: usize, lane: usize, b: usize) -> crate::format::Block {
        let (format, blocks) = (self.format, self.blocks());
        let at = panel * blocks + b;
        let lines = &self.values.0[at * format.lines() * 64..][..format.lines() * 64];
        let byte = |line: usize, i: usize| lines[line * 64 + lane * 4 + i];
        let values = std::array::from_fn(|j| {
            let (g, i) = (j / 4, j % 4);
            let nibble = || if g < 4 { byte(g, i) & 15 } else { byte(g - 4, i) >> 4 };
            match format {
                Format::Q8_0 => byte(g, i),
                Format::Q4_0 | Format::Q4K => nibble(),
                Format::Q6K => nibble() | ((byte(4 + g / 4, i) >> (2 * (g % 4))) & 3) << 4,
            }
        });
        let scales = &self.scales[self.scales_at(panel, b)..][..format.scales()];
        let second = scales.get(PANEL + lane).copied().unwrap_or(0);
        let subs = &self.subs[at * format.subs()..][..format.subs()];
        let subs = if subs.is_empty() { [0; 2] } else { [subs[lane], subs[PANEL + lane]] };
        crate::format::Block { values, scales: [scales[lane], second], subs }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.k / BLOCK
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Where the scales of block `b` (of 32) of `panel` begin.
    #[inline(always)]
    pub(crate) fn scales_at(&self, panel: usize, b: usize) -> usize {
        let each = self.format.block().0 / BLOCK;
        (panel * (self.blocks() / each) + b / each) * self.format.scales()
    }

    /// Pointer to the values, 64-byte aligned.
    pub(crate) fn values_ptr(&self) -> *const u8 {
        self.values.0.as_ptr()
    }

    pub(crate) fn scales_ptr(&self) -> *const u16 {
        self.scales.as_ptr()
    }

    pub(crate) fn subs_ptr(&self) -> *const u8 {
        self.subs.as_ptr()
    }
}

/// Fills one panel; false when a scale is not finite.
fn repack_panel(
    format: Format,
    rows: &[&[u8]],
    blocks: usize,
    values: &mut [u8],
    scales: &mut [u16],
    subs: &mut [u8],
) -> bool {
    let each = format.block().0 / BLOCK;
    let mut sound = true;
    for (lane, row) in rows.iter().enumerate() {
        for b in 0..blocks {
            let block = block_of(format, row, b);
            if b % each == 0 {
                sound &= block.scales.iter().all(|s| f16_to_f32(*s).is_finite());
                let scales = &mut scales[b / each * format.scales()..][..format.scales()];
                scales[lane] = block.scales[0];
                if let Some(minimum) = scales.get_mut(PANEL + lane) {
                    *minimum = block.scales[1];
                }
            }
            if format.subs() > 0 {
                let subs = &mut subs[b * format.subs()..][..format.subs()];
                (subs[lane], subs[PANEL + lane]) = (block.subs[0], block.subs[1]);
            }
            let lines = &mut values[b * format.lines() * 64..][..format.lines() * 64];
            if format == Format::Q8_0 {
                for (g, four) in block.values.as_chunks::<4>().0.iter().enumerate() {
                    lines[g * 64 + lane * 4..][..4].copy_from_slice(four);
                }
                continue;
            }
            for (j, value) in block.values.into_iter().enumerate() {
                let (g, at) = (j / 4, lane * 4 + j % 4);
                lines[g % 4 * 64 + at] |= (value & 15) << (g / 4 * 4);
                if format == Format::Q6K {
                    lines[(4 + g / 4) * 64 + at] |= value >> 4 << (2 * (g % 4));
                }
            }
        }
    }
    sound
}

/// Memory like that of weights, for measuring how fast it can be read: the bound for decoding one sequence.
pub struct StreamBuffer(Region);

impl fmt::Debug for StreamBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamBuffer({} bytes)", self.0.0.len())
    }
}

impl StreamBuffer {
    /// A buffer of `bytes` (rounded up to 4 KiB), filled.
    pub fn new(bytes: usize) -> Self {
        let mut region = Region::new(bytes.next_multiple_of(4096));
        region.0.fill(1);
        Self(region)
    }

    /// Reads everything once, shared out among the workers; the sum of all 8-byte words keeps the compiler from leaving it out.
    pub fn read(&self, isa: Isa, pool: &Pool) -> u64 {
        let total = std::sync::atomic::AtomicU64::new(0);
        pool.run_ranges(self.0.0.len() / 4096, 1, &|pages| {
            let mut sum = 0;
            sum_words(isa, &self.0.0[pages.start * 4096..pages.end * 4096], &mut sum);
            total.fetch_add(sum, std::sync::atomic::Ordering::Relaxed);
        });
        total.into_inner()
    }
}

/// Asks for a cache line, as the products do: on some machines reads reach their full speed only so.
#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address, and every x86-64 CPU has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Places that are read in turn: a single one does not keep enough reads under way.
const STREAMS: usize = 8;

for_each_isa! {
    /// Sum of little-endian words, read in [`STREAMS`] places at once, in sums that do not wait for each other.
    fn sum_words(isa: Isa, bytes: &[u8], sum: &mut u64) {
        let share = bytes.len() / STREAMS / 64;
        let mut sums = [[0u64; 8]; STREAMS];
        for line in 0..share {
            for (stream, sums) in sums.iter_mut().enumerate() {
                let line = &bytes[(stream * share + line) * 64..][..64];
                prefetch(line.as_ptr().wrapping_add(4096));
                for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                    *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                }
            }
        }
        *sum = sums.iter().flatten().fold(0, |a, b| a.wrapping_add(*b));
    }
}
