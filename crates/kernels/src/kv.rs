use crate::{f32_to_f16, isa::for_each_isa};

/// Positions of one page of keys and values.
pub const PAGE: usize = 32;

/// What a page holds for one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Key heads of a layer.
    pub heads: usize,
    /// Width of a head, a multiple of 16.
    pub width: usize,
}

impl KvShape {
    /// Bytes of one page.
    pub fn page_bytes(self) -> usize {
        2 * 2 * PAGE * self.layers * self.heads * self.width
    }
}

/// Keys and values of [`PAGE`] positions of one sequence, all layers, as f16 (`SPEC.md`, section 4).
///
/// Keys lie as `[layer][head][16 positions][width][position]`, so that sixteen positions are scored at once without a sum across
/// lanes; values as `[layer][head][position][width]`.
#[derive(Clone, Debug)]
pub struct KvPage {
    shape: KvShape,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl KvPage {
    /// An empty page.
    ///
    /// # Panics
    /// When the width of a head is no multiple of 16.
    pub fn new(shape: KvShape) -> Self {
        assert!(shape.width.is_multiple_of(16) && shape.width > 0, "the width of a head is a multiple of 16");
        let n = shape.page_bytes() / 4;
        Self { shape, keys: vec![0; n], values: vec![0; n] }
    }

    /// The page's shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stores key and value of all heads of `layer` at place `slot` of the page. `row` has the key's halves, head after head, and then the
    /// value's, as [`to_halves`] makes them.
    ///
    /// # Panics
    /// When a length, the layer or the place is out of range.
    pub fn store(&mut self, layer: usize, slot: usize, row: &[u16]) {
        let KvShape { layers, heads, width } = self.shape;
        assert!(layer < layers && slot < PAGE, "layer or place out of range");
        assert!(row.len() == 2 * heads * width, "one row of all heads");
        let (keys, values) = row.split_at(heads * width);
        for (head, key) in keys.chunks_exact(width).enumerate() {
            let at = ((layer * heads + head) * PAGE + slot / 16 * 16) * width;
            let panel = &mut self.keys[at..][..16 * width];
            for (lanes, k) in panel.as_chunks_mut::<16>().0.iter_mut().zip(key) {
                lanes[slot % 16] = *k;
            }
        }
        for (head, value) in values.chunks_exact(width).enumerate() {
            let at = ((layer * heads + head) * PAGE + slot) * width;
            self.values[at..][..width].copy_from_slice(value);
        }
    }

    /// What [`store`](Self::store) was given for `layer` and `slot`.
    ///
    /// # Panics
    /// When the layer or the place is out of range.
    pub fn row(&self, layer: usize, slot: usize) -> Vec<u16> {
        let KvShape { layers, heads, width } = self.shape;
        assert!(layer < layers && slot < PAGE, "layer or place out of range");
        let mut row = Vec::with_capacity(2 * heads * width);
        for head in 0..heads {
            let keys = self.keys(layer, head, slot / 16);
            row.extend((0..width).map(|d| keys[d * 16 + slot % 16]));
        }
        for head in 0..heads {
            row.extend_from_slice(&self.values(layer, head)[slot * width..][..width]);
        }
        row
    }

    /// Keys of sixteen positions: `[width][16]`.
    pub(crate) fn keys(&self, layer: usize, head: usize, panel: usize) -> &[u16] {
        let KvShape { heads, width, .. } = self.shape;
        &self.keys[((layer * heads + head) * PAGE + panel * 16) * width..][..16 * width]
    }

    /// Values of all positions: `[position][width]`.
    pub(crate) fn values(&self, layer: usize, head: usize) -> &[u16] {
        let KvShape { heads, width, .. } = self.shape;
        &self.values[(layer * heads + head) * PAGE * width..][..PAGE * width]
    }
}

for_each_isa! {
    /// To half precision, rounding to nearest, ties to even; beyond ±65504 to ±65504, NaN to NaN.
    pub fn to_halves(isa: Isa, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "vectors of one length");
        for (x, out) in x.iter().zip(out) {
            // A NaN stays one.
            *out = f32_to_f16(x.clamp(-65504.0, 65504.0));
        }
    }
}
