use types::{B256, merkle};

/// Leaf of one generated token: SHA-256 (RFC 6962 leaf) over position and token id as big-endian `u32`, then the int8 row that
/// entered the output head and its scales as little-endian `f32`. The row binds the leaf to every weight of the model.
pub(crate) fn leaf(position: usize, token: u32, row: &[i8], scales: &[f32]) -> B256 {
    let mut data = Vec::with_capacity(8 + row.len() + scales.len() * 4);
    data.extend_from_slice(&(position as u32).to_be_bytes());
    data.extend_from_slice(&token.to_be_bytes());
    data.extend(row.iter().map(|v| *v as u8));
    for scale in scales {
        data.extend_from_slice(&scale.to_le_bytes());
    }
    merkle::leaf_hash(&data)
}
