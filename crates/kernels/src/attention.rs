use crate::{
    Isa, KvPage, KvShape, PAGE, Pool,
    lanes::{Lanes, Plain},
    ops::{softcap, softmax},
    pool::Shards,
};
use std::sync::Arc;

/// Queries that share one pass over keys and values.
const QUERIES: usize = 16;

/// The positions that one row sees.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// Pages of its sequence.
    pub pages: &'a [Arc<KvPage>],
    /// First position.
    pub from: usize,
    /// One beyond the last position.
    pub to: usize,
}

/// Softmax attention of the rows of a batch over the keys and values of one layer (`SPEC.md`, section 4).
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Layer of the pages.
    pub layer: usize,
    /// Shape of the pages.
    pub shape: KvShape,
    /// Query heads, a multiple of the key heads.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Soft cap of the scores, if any.
    pub softcap: Option<f32>,
    /// Rows of queries; the heads of a row are its first elements.
    pub queries: &'a [f32],
    /// Distance of the rows of `queries`.
    pub stride: usize,
    /// What each row sees.
    pub rows: &'a [AttentionRow<'a>],
}

/// Queries of one key head that are handled together: `rows` consecutive rows, `heads` consecutive query heads.
#[derive(Clone, Copy)]
struct Item {
    row: usize,
    rows: usize,
    head: usize,
    heads: usize,
}

impl Attention<'_> {
    /// Writes the attended values, `[row][heads * width]`, to `out`. Rows and heads are shared out among the workers.
    ///
    /// # Panics
    /// When shapes do not fit or a row sees no position or one beyond its pages.
    pub fn run(&self, isa: Isa, pool: &Pool, out: &mut [f32]) {
        assert!(isa.is_available(), "{} is not available on this machine", isa.name());
        let width = self.shape.width;
        assert!(self.heads.is_multiple_of(self.shape.heads), "query heads are a multiple of key heads");
        assert!(self.layer < self.shape.layers, "no such layer");
        assert_eq!(out.len(), self.rows.len() * self.heads * width, "one output a row, head and dimension");
        assert!(
            self.stride >= self.heads * width && self.queries.len() >= self.rows.len() * self.stride,
            "queries of every row"
        );
        for row in self.rows {
            assert!(row.from < row.to && row.to <= row.pages.len() * PAGE, "positions inside the pages");
            assert!(row.pages.iter().all(|p| p.shape() == self.shape), "pages of one shape");
        }
        let items = self.items(pool.threads());
        let out = Shards::new(out);
        pool.run_pieces(items.len(), 1, &|range| {
            let mut scratch = Scratch::default();
            for item in &items[range] {
                // SAFETY: `isa` and the shapes were checked above; items are disjoint sets of (row, head).
                unsafe {
                    match isa {
                        Isa::Scalar | Isa::Neon => self.item::<Plain>(isa, *item, &mut scratch, out.ptr()),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 | Isa::AvxVnni => self.item_avx2(isa, *item, &mut scratch, out.ptr()),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 => self.item_avx512(isa, *item, &mut scratch, out.ptr()),
                        #[cfg(not(target_arch = "x86_64"))]
                        _ => unreachable!("not available"),
                    }
                }
            }
        });
    }

    /// Cuts the work: rows of one sequence and heads of one key head go together, unless there would be too few items.
    fn items(&self, threads: usize) -> Vec<Item> {
        let group = self.heads / self.shape.heads;
        let together = |a: &AttentionRow<'_>, b: &AttentionRow<'_>| {
            std::ptr::eq(a.pages.as_ptr(), b.pages.as_ptr()) && a.to.abs_diff(b.to) <= QUERIES
        };
        let enough = self.rows.len() * self.shape.heads >= 4 * threads;
        let heads = if enough { group.min(QUERIES) } else { 1 };
        let most = if enough { (QUERIES / heads).max(1) } else { 1 };
        let mut items = Vec::new();
        let mut row = 0;
        while row < self.rows.len() {
            let mut rows = 1;
            while rows < most
                && row + rows < self.rows.len()
                && together(&self.rows[row], &self.rows[row + rows])
            {
                rows += 1;
            }
            for first in (0..self.heads).step_by(group) {
                for head in (first..first + group).step_by(heads) {
                    items.push(Item { row, rows, head, heads: heads.min(first + group - head) });
                }
            }
            row += rows;
        }
        items
    }

    /// # Safety
    /// As [`item`](Self::item); the CPU has AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn item_avx2(&self, isa: Isa, item: Item, scratch: &mut Scratch, out: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe { self.item::<crate::lanes::Two>(isa, item, scratch, out) }
    }

    /// # Safety
    /// As [`item`](Self::item); the CPU has AVX-512 F, BW, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
    unsafe fn item_avx512(&self, isa: Isa, item: Item, scratch: &mut Scratch, out: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe { self.item::<crate::lanes::One>(isa, item, scratch, out) }
    }

    /// # Safety
    /// `L`'s features are there; `out` has `[rows][heads * width]` elements, of which nobody else touches the item's.
    #[inline(always)]
    unsafe fn item<L: Lanes>(&self, isa: Isa, item: Item, s: &mut Scratch, out: *mut f32) {
        let width = self.shape.width;
        let key_head = item.head / (self.heads / self.shape.heads);
        let rows = &self.rows[item.row..item.row + item.rows];
        let pages = rows[0].pages;
        let from = rows.iter().map(|r| r.from).min().unwrap_or(0) / 16 * 16;
        let to = rows.iter().map(|r| r.to).max().unwrap_or(0);
        let span = (to - from).next_multiple_of(16);
        let n = item.rows * item.heads;
        s.queries.clear();
        for row in item.row..item.row + item.rows {
            let first = row * self.stride + item.head * width;
            s.queries.extend_from_slice(&self.queries[first..first + item.heads * width]);
        }
        s.scores.resize(n * span, 0.0);
        for panel in 0..span / 16 {
            let position = from + panel * 16;
            let keys = pages[position / PAGE].keys(self.layer, key_head, position % PAGE / 16);
            let mut q = 0;
            while q < n {
                let tile = [8, 4, 2, 1].into_iter().find(|t| q + t <= n).unwrap_or(1);
                // SAFETY: `keys` has width * 16 halves; queries q..q+tile have width elements each; each has `span` scores.
                unsafe {
                    let (queries, scores) =
                        (s.queries.as_ptr().add(q * width), s.scores.as_mut_ptr().add(q * span + panel * 16));
                    match tile {
                        8 => score::<L, 8>(queries, width, keys, scores, span, self.scale),
                        4 => score::<L, 4>(queries, width, keys, scores, span, self.scale),
                        2 => score::<L, 2>(queries, width, keys, scores, span, self.scale),
                        _ => score::<L, 1>(queries, width, keys, scores, span, self.scale),
                    }
                }
                q += tile;
            }
        }
        s.inverse.clear();
        for (q, scores) in s.scores[..n * span].chunks_exact_mut(span).enumerate() {
            let row = &rows[q / item.heads];
            if let Some(cap) = self.softcap {
                softcap(isa, cap, &mut scores[row.from - from..row.to - from]);
            }
            let mut total = 0.0;
            softmax(isa, scores, row.from - from, row.to - from, &mut total);
            s.inverse.push(1.0 / total);
        }
        let mut q = 0;
        while q < n {
            let tile = [4, 2, 1].into_iter().find(|t| q + t <= n).unwrap_or(1);
            let mut places = [std::ptr::null_mut(); 4];
            for (i, place) in places.iter_mut().enumerate().take(tile) {
                let (row, head) = (item.row + (q + i) / item.heads, item.head + (q + i) % item.heads);
                // SAFETY: (row, head) is inside `out`.
                *place = unsafe { out.add((row * self.heads + head) * width) };
            }
            let view = View { pages, layer: self.layer, head: key_head, width, from, to };
            let scores = &s.scores[q * span..];
            let mut d = 0;
            while d < width {
                let groups = if d + 64 <= width { 4 } else { 1 };
                // SAFETY: the features are there; dimensions d..d+groups*16 exist; places are this item's own.
                unsafe {
                    match (tile, groups) {
                        (4, 4) => mix::<L, 4, 4>(&view, scores, span, d, &s.inverse[q..], places),
                        (2, 4) => mix::<L, 2, 4>(&view, scores, span, d, &s.inverse[q..], places),
                        (_, 4) => mix::<L, 1, 4>(&view, scores, span, d, &s.inverse[q..], places),
                        (4, _) => mix::<L, 4, 1>(&view, scores, span, d, &s.inverse[q..], places),
                        (2, _) => mix::<L, 2, 1>(&view, scores, span, d, &s.inverse[q..], places),
                        _ => mix::<L, 1, 1>(&view, scores, span, d, &s.inverse[q..], places),
                    }
                }
                d += groups * 16;
            }
            q += tile;
        }
    }
}

/// Memory that a worker keeps from item to item.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    /// `[query][span]`.
    scores: Vec<f32>,
    inverse: Vec<f32>,
}

/// Scores of `T` queries against sixteen positions: a sum over dimensions in ascending order for each, then times `scale`.
///
/// # Safety
/// `L`'s features are there; `queries` has `T` rows of `width`, `keys` `width * 16` halves, `scores` `T` places `span` apart.
#[inline(always)]
unsafe fn score<L: Lanes, const T: usize>(
    queries: *const f32,
    width: usize,
    keys: &[u16],
    scores: *mut f32,
    span: usize,
    scale: f32,
) {
    // SAFETY: as the caller promised.
    unsafe {
        let mut acc = [L::splat(0.0); T];
        for d in 0..width {
            let key = L::load_half(keys.as_ptr().add(d * 16));
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = acc.add(L::splat(*queries.add(t * width + d)).mul(key));
            }
        }
        for (t, acc) in acc.into_iter().enumerate() {
            acc.mul(L::splat(scale)).store(scores.add(t * span));
        }
    }
}

/// Where the values are.
struct View<'a> {
    pages: &'a [Arc<KvPage>],
    layer: usize,
    head: usize,
    width: usize,
    from: usize,
    to: usize,
}

/// Values of `G` groups of sixteen dimensions from `d`, weighted for `T` queries and summed in ascending position. A query that
/// does not see a position has weight 0 there, which changes no bit of its sum.
///
/// # Safety
/// `L`'s features are there; the dimensions exist; `places` are writable for a whole head.
#[inline(always)]
unsafe fn mix<L: Lanes, const T: usize, const G: usize>(
    view: &View<'_>,
    scores: &[f32],
    span: usize,
    d: usize,
    inverse: &[f32],
    places: [*mut f32; 4],
) {
    assert!(scores.len() >= (T - 1) * span + view.to - view.from && d + G * 16 <= view.width);
    // SAFETY: the assertion above and the page's shape.
    unsafe {
        let mut acc = [[L::splat(0.0); G]; T];
        let mut position = view.from;
        while position < view.to {
            let values = view.pages[position / PAGE].values(view.layer, view.head);
            let end = view.to.min((position / PAGE + 1) * PAGE);
            for p in position..end {
                let row = values.as_ptr().add(p % PAGE * view.width + d);
                let mut value = [L::splat(0.0); G];
                for (g, value) in value.iter_mut().enumerate() {
                    *value = L::load_half(row.add(g * 16));
                }
                for (t, acc) in acc.iter_mut().enumerate() {
                    let weight = L::splat(*scores.get_unchecked(t * span + p - view.from));
                    for (acc, value) in acc.iter_mut().zip(value) {
                        *acc = acc.add(weight.mul(value));
                    }
                }
            }
            position = end;
        }
        for (t, acc) in acc.into_iter().enumerate() {
            for (g, acc) in acc.into_iter().enumerate() {
                acc.mul(L::splat(inverse[t])).store(places[t].add(d + g * 16));
            }
        }
    }
}
