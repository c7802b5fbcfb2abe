//! The trace: what a dispute can be narrowed down in, from answer to position to layer (`SPEC.md` of the kernels, section 7).
//!
//! A position's leaf commits to the token that was fed there and to every layer's output row. BLAKE3 hashes the rows because it is the
//! fastest of the common hashes on every CPU (rows of a layer are kilobytes, each token has dozens); the tree above is the
//! RFC 6962 tree over SHA-256 that the receipts use everywhere.

use kernels::Pool;
use types::{B256, merkle};

/// Appends the BLAKE3 digest of each row of `x` (`width` f32, little-endian).
pub(crate) fn digest_rows(pool: &Pool, x: &[f32], width: usize, digests: &mut Vec<[u8; 32]>) {
    let first = digests.len();
    digests.resize(first + x.len() / width, [0; 32]);
    pool.for_each_chunk(&mut digests[first..], 1, &|i, out| {
        let mut bytes = vec![0u8; width * 4];
        for (bytes, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&x[i * width..]) {
            *bytes = x.to_le_bytes();
        }
        out[0] = *blake3::hash(&bytes).as_bytes();
    });
}

/// Leaf of one position: RFC 6962 leaf over position and token as big-endian `u32`, then the digests of all layers in order.
pub(crate) fn leaf<'a>(position: usize, token: u32, layers: impl Iterator<Item = &'a [u8; 32]>) -> B256 {
    let mut data = Vec::with_capacity(8 + layers.size_hint().0 * 32);
    data.extend_from_slice(&(position as u32).to_be_bytes());
    data.extend_from_slice(&token.to_be_bytes());
    for digest in layers {
        data.extend_from_slice(digest);
    }
    merkle::leaf_hash(&data)
}
