//! One element at a time: what a referee computes. The same bits as the kernels for whole vectors give (`SPEC.md`).

use crate::{
    BLOCK, Format, Isa,
    activations::quantise_blocks,
    f16_to_f32,
    format::{block_of, dequantise},
};

/// A block of 32 activations: their scale and int8 values (`SPEC.md`, section 2).
pub fn quantise_block(x: &[f32; BLOCK]) -> (f32, [i8; BLOCK]) {
    let (mut q, mut scale, mut bias, mut half) = ([0i8; BLOCK], [0f32], [0i32], [0i32]);
    quantise_blocks(Isa::Scalar, x, &mut q, &mut scale, &mut bias, &mut half);
    (scale[0], q)
}

/// One element of a matrix product: a row of weights in `format` times quantised activations (`SPEC.md`, section 3).
///
/// # Panics
/// When `row` is shorter than the activations need. Both lengths are the caller's to check.
pub fn product(format: Format, row: &[u8], activations: &[(f32, [i8; BLOCK])]) -> f32 {
    let offset = match format {
        Format::Q8_0 => 128,
        Format::Q4_0 => 8,
        Format::Q4K => 0,
        Format::Q6K => 32,
    };
    let mut acc = 0f32;
    for (b, (a_scale, q)) in activations.iter().enumerate() {
        let block = block_of(format, row, b);
        let scale = f16_to_f32(block.scales[0]);
        let part = |from: usize, to: usize| -> i32 {
            (from..to).map(|j| (i32::from(block.values[j]) - offset) * i32::from(q[j])).sum()
        };
        match format {
            Format::Q8_0 | Format::Q4_0 => acc += (scale * a_scale) * (part(0, 32) as f32),
            Format::Q6K => {
                let [s0, s1] = block.subs.map(|s| i32::from(s as i8));
                acc += (scale * a_scale) * ((s0 * part(0, 16) + s1 * part(16, 32)) as f32);
            }
            Format::Q4K => {
                let [sub, minimum] = block.subs.map(f32::from);
                let total: i32 = q.iter().map(|v| i32::from(*v)).sum();
                acc += ((scale * sub) * a_scale) * (part(0, 32) as f32);
                acc -= ((f16_to_f32(block.scales[1]) * minimum) * a_scale) * (total as f32);
            }
        }
    }
    acc
}

/// Element `i` of a row of weights as f32: what an embedding look-up gives.
///
/// # Panics
/// When the row has no such element.
pub fn element(format: Format, row: &[u8], i: usize) -> f32 {
    let mut out = [0f32; BLOCK];
    dequantise(format, &block_of(format, row, i / BLOCK), &mut out);
    out[i % BLOCK]
}

/// Sum of sixteen partial sums by the fixed tree (`SPEC.md`, section 4).
pub fn tree(lanes: [f32; 16]) -> f32 {
    crate::ops::tree(lanes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Activations, Linear, Matrix, Mode, Pool, matmul, quantise_q8_0};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn elements_are_those_of_the_kernels(
            weights in prop::collection::vec(-1f32..1.0, 64 * 19), x in prop::collection::vec(-3f32..3.0, 64),
        ) {
            let bytes: Vec<u8> = weights.chunks(64).flat_map(|row| quantise_q8_0(row).unwrap()).collect();
            let pool = Pool::new(1);
            let matrix = Matrix::repack(&pool, Format::Q8_0, &[(19, &bytes)], 64).unwrap();
            let linear = Linear::new(vec![matrix]);
            let acts = Activations::quantise(Isa::best(), &x, 1, 64);
            let mut out = vec![0f32; linear.width()];
            matmul(Isa::best(), &pool, &linear, &acts, &mut out, Mode::Store);
            let blocks: Vec<_> = x.as_chunks::<32>().0.iter().map(quantise_block).collect();
            let mut row = vec![0f32; 64];
            for (r, expected) in out.iter().enumerate().take(19) {
                let bytes = &bytes[r * 68..][..68];
                prop_assert_eq!(product(Format::Q8_0, bytes, &blocks).to_bits(), expected.to_bits());
                linear.dequantise_row(r, &mut row);
                for (i, value) in row.iter().enumerate() {
                    prop_assert_eq!(element(Format::Q8_0, bytes, i).to_bits(), value.to_bits());
                }
            }
        }
    }
}
