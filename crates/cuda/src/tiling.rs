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
        let fits = step.rows.len() > rows_min && WIDTHS.contains(&d.kv.width);
        fits.then(|| Self::cut(d.heads / d.kv.heads, step))
    }

    /// Cuts rows whose key heads have `group` query heads each.
    fn cut(group: usize, step: &Step<'_>) -> Self {
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
        found
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepRow;

    #[test]
    fn every_row_attends_once_and_tiles_hold_one_sequence() {
        // Sequence, first position, rows.
        let runs = [(0, 5, 1), (1, 0, 40), (2, 7, 7), (3, 100, 8), (4, 0, 1)];
        let row = |sequence, position| StepRow { token: 0, position, sequence, wants_logits: false };
        let rows: Vec<_> =
            runs.iter().flat_map(|(s, from, n)| (*from..from + n).map(|p| row(*s, p))).collect();
        for group in [1, 2, 3, 4, 7, 8, 16] {
            let found = Tiling::cut(group, &Step { rows: &rows, tables: &[], largest: None });
            assert!(group % found.heads == 0, "whole tiles for a key head");
            let mut seen: Vec<u32> = found.listed.clone();
            for [first, count] in &found.items {
                assert!(*count as usize * found.heads <= QUERIES);
                let tile = &rows[*first as usize..(first + count) as usize];
                assert!(tile.iter().all(|r| r.sequence == tile[0].sequence && r.position < found.span));
                seen.extend(*first..first + count);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..rows.len() as u32).collect::<Vec<_>>());
            assert_eq!(found.listed.len(), 1 + 7 + 1);
            assert_eq!(found.span, 128);
        }
    }
}
