//! Which rows of a step share the keys and values that they read.

use crate::{Decoder, Step};
use std::ops::Range;

/// Queries of a tile: rows times heads; as the kernels have it.
const QUERIES: usize = 64;
/// Positions that the kernels load at once.
const POSITIONS: usize = 64;
/// Widths of a head for which there is a kernel.
const WIDTHS: [usize; 4] = [16, 32, 64, 128];
/// Fewest rows of one sequence that are worth a tile.
const ROWS_MIN: usize = 8;
/// Memory for the scores of the tiles that run at once.
const SCORE_BYTES: usize = 512 << 20;

/// How the rows of a step attend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tiling {
    /// First row and number of rows of each tile.
    pub(crate) items: Vec<[u32; 2]>,
    /// Rows that attend for themselves.
    pub(crate) listed: Vec<u32>,
    /// Query heads of a tile.
    pub(crate) heads: usize,
    /// Places for the scores of a query.
    pub(crate) span: usize,
}

impl Tiling {
    /// Cuts the rows of `step` into tiles. `None` when there are few rows, or no kernel for these heads.
    pub(crate) fn of(d: &Decoder, step: &Step<'_>, rows_min: usize) -> Option<Self> {
        if step.rows.len() <= rows_min || !WIDTHS.contains(&d.kv.width) {
            return None;
        }
        let group = d.heads / d.kv.heads;
        let heads = [8, 4, 2].into_iter().find(|t| group.is_multiple_of(*t)).unwrap_or(1);
        let mut found = Self { heads, ..Self::default() };
        let mut first = 0;
        while first < step.rows.len() {
            let same = |r: &&crate::StepRow| r.sequence == step.rows[first].sequence;
            let end = first + step.rows[first..].iter().take_while(same).count();
            if end - first < ROWS_MIN {
                found.listed.extend(first as u32..end as u32);
            } else {
                let each = QUERIES / heads;
                found.items.extend((first..end).step_by(each).map(|i| [i as u32, each.min(end - i) as u32]));
                let last = step.rows[end - 1].position + 1;
                found.span = found.span.max(last.next_multiple_of(POSITIONS));
            }
            first = end;
        }
        Some(found)
    }

    /// Groups of heads, each of which is a tile of its own.
    pub(crate) fn groups(&self, d: &Decoder) -> usize {
        d.heads / self.heads
    }

    fn bytes_of_item(&self, d: &Decoder) -> usize {
        self.groups(d) * QUERIES * self.span * 4
    }

    /// The items, in parts whose scores fit into the memory for them.
    pub(crate) fn parts(&self, d: &Decoder) -> impl Iterator<Item = Range<usize>> {
        let each = (SCORE_BYTES / self.bytes_of_item(d).max(1)).max(1);
        let count = self.items.len();
        (0..count).step_by(each).map(move |i| i..(i + each).min(count))
    }

    /// Bytes of the scores of the largest part.
    pub(crate) fn score_bytes(&self, d: &Decoder) -> usize {
        self.parts(d).map(|p| p.len()).max().unwrap_or(0) * self.bytes_of_item(d)
    }

    /// Shared memory of a thread block.
    pub(crate) fn shared(d: &Decoder) -> usize {
        let width = d.kv.width;
        (64 * width.max(64) + 64 * width) * 4
    }
}
