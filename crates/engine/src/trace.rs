//! The trace: what a dispute can be narrowed down in, from answer to position to layer (`SPEC.md` of the kernels, section 7).
//!
//! A position's leaf commits to the token that was fed there and to two rows of every layer: the keys and values that it keeps, and its
//! output. BLAKE3 hashes the rows because it is the fastest of the common hashes on every CPU (rows of a layer are kilobytes, each token has
//! dozens); the tree above is the RFC 6962 tree over SHA-256 that the receipts use everywhere.

use kernels::Pool;

/// Digests of the rows of one layer at one position.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LayerDigests {
    /// BLAKE3 of the keys' halves and the values' halves, little-endian.
    pub(crate) kv: [u8; 32],
    /// BLAKE3 of the output, f32 little-endian.
    pub(crate) x: [u8; 32],
}

/// Hashes row `i` of `kv` (halves, `kv_width` a row) and of `x` (`width` a row) into `digests[i]`.
pub(crate) fn digest_rows(
    pool: &Pool,
    (kv, kv_width): (&[u16], usize),
    (x, width): (&[f32], usize),
    digests: &mut [LayerDigests],
) {
    pool.for_each_chunk(digests, 1, &|i, out| {
        let mut bytes = vec![0u8; (kv_width * 2).max(width * 4)];
        for (bytes, h) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(&kv[i * kv_width..][..kv_width]) {
            *bytes = h.to_le_bytes();
        }
        out[0].kv = *blake3::hash(&bytes[..kv_width * 2]).as_bytes();
        for (bytes, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&x[i * width..][..width]) {
            *bytes = x.to_le_bytes();
        }
        out[0].x = *blake3::hash(&bytes[..width * 4]).as_bytes();
    });
}

/// Data of the leaf of one position: position and token as big-endian `u32`, then for each layer in order the digest of its keys and values
/// and that of its output.
pub(crate) fn leaf_data<'a>(
    position: usize,
    token: u32,
    layers: impl Iterator<Item = &'a LayerDigests>,
) -> Vec<u8> {
    let mut data = Vec::with_capacity(8 + layers.size_hint().0 * 64);
    data.extend_from_slice(&(position as u32).to_be_bytes());
    data.extend_from_slice(&token.to_be_bytes());
    for digests in layers {
        data.extend_from_slice(&digests.kv);
        data.extend_from_slice(&digests.x);
    }
    data
}
