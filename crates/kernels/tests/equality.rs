//! One suite for every instruction set: each kernel against the scalar reference, bit for bit.
#![allow(missing_docs, clippy::unwrap_used)]

use kernels::*;
use proptest::prelude::*;

/// A small generator, so that failing cases are reproducible from their seed.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn float(&mut self) -> f32 {
        match self.next() % 16 {
            0 => 0.0,
            1 => f32::from_bits((self.next() as u32) & 0x007f_ffff),
            2 => -3.0e4,
            _ => ((self.next() >> 40) as f32) / 8_388_608.0 - 1.0,
        }
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
    fn q8_0(&mut self, rows: usize, k: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..rows * k / BLOCK {
            let scale = if self.next().is_multiple_of(8) { 0 } else { f32_to_f16(self.float() * 0.01) };
            out.extend_from_slice(&scale.to_le_bytes());
            let extreme = self.next().is_multiple_of(4);
            out.extend((0..BLOCK).map(|_| if extreme { 0x80 } else { self.next() as u8 }));
        }
        out
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn product(isa: Isa, threads: usize, w: &Q8Matrix, x: &[f32], t: usize) -> Vec<u32> {
    let pool = Pool::new(threads);
    let a = Activations::quantise(isa, x, t, w.k());
    let mut out = vec![f32::NAN; t * w.padded_rows()];
    matmul(isa, &pool, w, &a, &mut out);
    bits(&out)
}

macro_rules! suite {
    ($name:ident, $isa:expr) => {
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig::with_cases(48))]
                #[test]
                fn matmul_equals_scalar(seed in 1u64.., rows in 1usize..130, blocks in 1usize..9, t in 1usize..17, threads in 1usize..4) {
                    prop_assume!($isa.is_available());
                    let mut rng = Rng(seed);
                    let k = blocks * BLOCK;
                    let w = Q8Matrix::from_q8_0(&[(rows, &rng.q8_0(rows, k))], k).unwrap();
                    let x = rng.floats(t * k);
                    let reference = product(Isa::Scalar, 1, &w, &x, t);
                    prop_assert_eq!(product($isa, threads, &w, &x, t), reference.clone());
                    // Each token alone gives the same bits as in the batch.
                    for i in 0..t {
                        let alone = product($isa, 1, &w, &x[i * k..(i + 1) * k], 1);
                        prop_assert_eq!(&alone[..], &reference[i * w.padded_rows()..(i + 1) * w.padded_rows()]);
                    }
                }

                #[test]
                fn the_other_kernels_equal_scalar(seed in 1u64.., n in 1usize..40, dims in 1usize..9, positions in 1usize..70) {
                    prop_assume!($isa.is_available());
                    let mut rng = Rng(seed);
                    let (x, gain) = (rng.floats(n * 32), rng.floats(32));
                    let both = |f: &dyn Fn(Isa, &mut [f32]), len: usize| {
                        let (mut a, mut b) = (vec![f32::NAN; len], vec![f32::NAN; len]);
                        f(Isa::Scalar, &mut a);
                        f($isa, &mut b);
                        (bits(&a), bits(&b))
                    };
                    let (a, b) = both(&|isa, out| rms_norm(isa, &x, &gain, 1e-5, out), n * 32);
                    prop_assert_eq!(a, b);
                    let up = rng.floats(n * 32);
                    let (a, b) = both(&|isa, out| swiglu(isa, &x, &up, out), n * 32);
                    prop_assert_eq!(a, b);
                    let d = dims * 12;
                    let (q, keys, values) = (rng.floats(d), rng.floats(positions * d), rng.floats(positions * d));
                    let (a, b) = both(&|isa, out| {
                        let mut scores = vec![0.0; positions.next_multiple_of(16)];
                        attention(isa, &q, &keys, &values, positions, d, 0.25, &mut scores, out);
                    }, d);
                    prop_assert_eq!(a, b);
                    let quantised = |isa| {
                        let a = Activations::quantise(isa, &x, n, 32);
                        (0..n).map(|i| (a.row(i).0.to_vec(), bits(a.row(i).1))).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(quantised(Isa::Scalar), quantised($isa));
                }
            }
        }
    };
}

suite!(scalar, Isa::Scalar);
suite!(avx2, Isa::Avx2);
suite!(avx_vnni, Isa::AvxVnni);
suite!(avx512, Isa::Avx512);

#[test]
fn golden_product() {
    // The vector of SPEC.md, section 7: another implementation that gets this hash has the matmul right.
    let mut rng = Rng(42);
    let (rows, k, t) = (48, 96, 3);
    let w = Q8Matrix::from_q8_0(&[(rows, &rng.q8_0(rows, k))], k).unwrap();
    let x = rng.floats(t * k);
    for isa in Isa::available() {
        let fnv = product(isa, 2, &w, &x, t)
            .iter()
            .flat_map(|b| b.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(fnv, GOLDEN_PRODUCT, "{}", isa.name());
    }
}
const GOLDEN_PRODUCT: u64 = 10_108_346_578_134_070_858;

#[test]
fn bad_matrices_are_refused() {
    let mut rng = Rng(1);
    let good = rng.q8_0(2, 32);
    assert!(Q8Matrix::from_q8_0(&[(2, &good)], 32).is_ok());
    assert_eq!(Q8Matrix::from_q8_0(&[(2, &good)], 31).unwrap_err(), Q8MatrixError::Shape);
    assert_eq!(Q8Matrix::from_q8_0(&[(0, &[])], 32).unwrap_err(), Q8MatrixError::Shape);
    assert_eq!(Q8Matrix::from_q8_0(&[(3, &good)], 32).unwrap_err(), Q8MatrixError::Length);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut data = good.clone();
        data[..2].copy_from_slice(&f32_to_f16(bad).to_le_bytes());
        assert_eq!(Q8Matrix::from_q8_0(&[(2, &data)], 32).unwrap_err(), Q8MatrixError::Scale);
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
    assert_eq!(argmax(&[f32::NAN]), 0);
}
