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
    /// Rows in any format: random bytes, with sound f16 scales.
    fn weights(&mut self, format: Format, rows: usize, k: usize) -> Vec<u8> {
        if format == Format::Q8_0 {
            return self.q8_0(rows, k);
        }
        let (elements, bytes) = format.block();
        let places: &[usize] = match format {
            Format::Q4K => &[0, 2],
            Format::Q6K => &[208],
            _ => &[0],
        };
        let mut out = Vec::new();
        for _ in 0..rows * k / elements {
            let extreme = self.next().is_multiple_of(4);
            let mut block: Vec<u8> =
                (0..bytes)
                    .map(|_| {
                        if extreme { [0x80, 0xff, 0x7f][self.next() as usize % 3] } else { self.next() as u8 }
                    })
                    .collect();
            for at in places {
                block[*at..at + 2].copy_from_slice(&f32_to_f16(self.float() * 0.01).to_le_bytes());
            }
            out.extend(block);
        }
        out
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

fn linear(format: Format, parts: &[(usize, &[u8])], k: usize) -> Linear {
    Linear::new(vec![Matrix::repack(&Pool::new(2), format, parts, k).unwrap()])
}

fn product(isa: Isa, threads: usize, w: &Linear, x: &[f32], t: usize) -> Vec<u32> {
    let pool = Pool::new(threads);
    let a = Activations::quantise(isa, x, t, w.k());
    let mut out = vec![f32::NAN; t * w.width()];
    matmul(isa, &pool, w, &a, &mut out, Mode::Store);
    bits(&out)
}

/// Attention as SPEC.md writes it, over plain f32 rows; written apart from the kernel.
#[expect(clippy::too_many_arguments, reason = "an operand list")]
fn plain_attention(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    stride: usize,
    from: usize,
    to: usize,
    scale: f32,
    cap: Option<f32>,
) -> Vec<f32> {
    let mut half = [0u16];
    let mut f16 = |x: f32| {
        to_halves(Isa::Scalar, &[x], &mut half);
        f16_to_f32(half[0])
    };
    let mut scores = Vec::new();
    for p in from..to {
        let mut acc = 0f32;
        for (d, q) in query.iter().enumerate() {
            acc += q * f16(keys[p * stride + d]);
        }
        let score = acc * scale;
        scores.push(cap.map_or(score, |c| c * tanh(score / c)));
    }
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; 16];
    for (i, s) in scores.iter_mut().enumerate() {
        *s = exp(*s - largest);
        lanes[(from + i) % 16] += *s;
    }
    let inverse = 1.0 / sum(&lanes);
    (0..query.len())
        .map(|d| {
            let mut acc = 0f32;
            for (i, s) in scores.iter().enumerate() {
                acc += s * f16(values[(from + i) * stride + d]);
            }
            acc * inverse
        })
        .collect()
}

macro_rules! suite {
    ($name:ident, $isa:expr) => {
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig::with_cases(48))]
                #[test]
                fn matmul_equals_scalar(
                    seed in 1u64.., rows in 1usize..130, blocks in 1usize..9, t in 1usize..40, threads in 1usize..4, format in 0usize..4,
                ) {
                    if !$isa.is_available() {
                        return Ok(());
                    }
                    let mut rng = Rng(seed);
                    let format = Format::ALL[format];
                    let k = if format.block().0 == 256 { blocks.div_ceil(4) * 256 } else { blocks * BLOCK };
                    let w = linear(format, &[(rows, &rng.weights(format, rows, k))], k);
                    let x = rng.floats(t * k);
                    let reference = product(Isa::Scalar, 1, &w, &x, t);
                    prop_assert_eq!(product($isa, threads, &w, &x, t), reference.clone());
                    // Each token alone gives the same bits as in the batch.
                    for i in 0..t {
                        let alone = product($isa, 1, &w, &x[i * k..(i + 1) * k], 1);
                        prop_assert_eq!(&alone[..], &reference[i * w.width()..(i + 1) * w.width()]);
                    }
                }

                #[test]
                fn the_other_kernels_equal_scalar(seed in 1u64.., n in 1usize..40, _dims in 1usize..9) {
                    if !$isa.is_available() {
                        return Ok(());
                    }
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
                    for f in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
                        let (a, b) = both(&|isa, out| gated(isa, f, &x, &up, out), n * 32);
                        prop_assert_eq!(a, b);
                    }
                    let (a, b) = both(&|isa, out| layer_norm(isa, &x, &up, &up, 1e-5, out), n * 32);
                    prop_assert_eq!(a, b);
                    let halves = |isa| { let mut h = vec![0; n * 32]; to_halves(isa, &x, &mut h); h };
                    prop_assert_eq!(halves(Isa::Scalar), halves($isa));
                    let quantised = |isa| {
                        let a = Activations::quantise(isa, &x, n, 32);
                        (0..n).map(|i| (a.row(i).0.to_vec(), bits(a.row(i).1))).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(quantised(Isa::Scalar), quantised($isa));
                }

                #[test]
                fn attention_equals_the_specification(
                    seed in 1u64.., width in 1usize..9, kv_heads in 1usize..4, group in 1usize..6, past in 0usize..80, n in 1usize..20,
                    window in 1usize..100, cap in prop::bool::ANY, threads in 1usize..3,
                ) {
                    if !$isa.is_available() {
                        return Ok(());
                    }
                    let mut rng = Rng(seed);
                    let (width, heads) = (width * 16, kv_heads * group);
                    let (stride, total) = (kv_heads * width, past + n);
                    let (keys, values) = (rng.floats(total * stride), rng.floats(total * stride));
                    let queries = rng.floats(n * (heads * width + 5));
                    let shape = KvShape { layers: 2, heads: kv_heads, width };
                    let mut pages: Vec<_> = (0..total.div_ceil(PAGE)).map(|_| KvPage::new(shape)).collect();
                    for p in 0..total {
                        let row = p * stride..(p + 1) * stride;
                        let mut halves = vec![0u16; 2 * stride];
                        to_halves($isa, &[&keys[row.clone()], &values[row]].concat(), &mut halves);
                        pages[p / PAGE].store(1, p % PAGE, &halves);
                        prop_assert_eq!(pages[p / PAGE].row(1, p % PAGE), halves);
                    }
                    let pages: Vec<_> = pages.into_iter().map(std::sync::Arc::new).collect();
                    let rows: Vec<_> = (0..n)
                        .map(|i| AttentionRow { pages: &pages, from: (past + i + 1).saturating_sub(window), to: past + i + 1 })
                        .collect();
                    let softcap = cap.then_some(3.0);
                    let job = Attention {
                        layer: 1, shape, heads, scale: 0.25, softcap, queries: &queries, stride: heads * width + 5, rows: &rows,
                    };
                    let mut out = vec![f32::NAN; n * heads * width];
                    job.run($isa, &Pool::new(threads), &mut out);
                    for (i, row) in rows.iter().enumerate() {
                        for h in 0..heads {
                            let q = &queries[i * (heads * width + 5) + h * width..][..width];
                            let from = h / group * width;
                            let expected = plain_attention(
                                q, &keys[from..], &values[from..], stride, row.from, row.to, 0.25, softcap,
                            );
                            prop_assert_eq!(bits(&out[(i * heads + h) * width..][..width]), bits(&expected));
                        }
                    }
                }
            }
        }
    };
}

suite!(scalar, Isa::Scalar);
suite!(neon, Isa::Neon);
suite!(avx2, Isa::Avx2);
suite!(avx_vnni, Isa::AvxVnni);
suite!(avx512, Isa::Avx512);

#[test]
fn golden_product() {
    // The vector of SPEC.md, section 7: another implementation that gets this hash has the matmul right.
    let mut rng = Rng(42);
    let (rows, k, t) = (48, 96, 3);
    let w = linear(Format::Q8_0, &[(rows, &rng.q8_0(rows, k))], k);
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
    let pool = Pool::new(1);
    for format in Format::ALL {
        let k = format.block().0;
        let repack =
            |rows, data: &[u8], k| Matrix::repack(&pool, format, &[(rows, data)], k).map(|m| m.rows());
        let good = rng.weights(format, 2, k);
        assert_eq!(repack(2, &good, k), Ok(2));
        assert_eq!(repack(2, &good, k - 1), Err(MatrixError::Shape));
        assert_eq!(repack(0, &[], k), Err(MatrixError::Shape));
        assert_eq!(repack(3, &good, k), Err(MatrixError::Length));
        assert_eq!(repack(usize::MAX, &good, k), Err(MatrixError::Length));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut data = good.clone();
            let at = if format == Format::Q6K { 208 } else { 0 };
            data[at..at + 2].copy_from_slice(&f32_to_f16(bad).to_le_bytes());
            assert_eq!(repack(2, &data, k), Err(MatrixError::Scale));
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_through_a_product() {
    let mut rng = Rng(3);
    let w = linear(Format::Q8_0, &[(16, &rng.q8_0(16, 64))], 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 15, 16, 31, 40] {
            for isa in Isa::available() {
                let mut x = rng.floats(64);
                x[at] = bad;
                assert!(product(isa, 1, &w, &x, 1).iter().all(|b| f32::from_bits(*b).is_nan()), "{bad} {at}");
            }
        }
    }
}

#[test]
fn every_format_multiplies_as_its_dequantised_weights_do() {
    // Independent of the panels: the product with weights as f64, and activations as quantised, is close.
    let mut rng = Rng(5);
    for format in Format::ALL {
        let (rows, k) = (20, 512);
        let w = linear(format, &[(7, &rng.weights(format, 7, k)), (13, &rng.weights(format, 13, k))], k);
        let x = rng.floats(k);
        let a = Activations::quantise(Isa::Scalar, &x, 1, k);
        let (q, scales) = a.row(0);
        let found = product(Isa::best(), 1, &w, &x, 1);
        for r in 0..rows {
            let mut row = vec![0.0; k];
            w.dequantise_row(r, &mut row);
            let term = |i: usize| f64::from(row[i]) * f64::from(q[i]) * f64::from(scales[i / 32]);
            let exact: f64 = (0..k).map(term).sum();
            let size: f64 = (0..k).map(|i| term(i).abs()).sum();
            let found = f64::from(f32::from_bits(found[r]));
            assert!((found - exact).abs() <= 1e-5 * size, "{format:?} row {r}: {found} {exact}");
        }
    }
}

#[test]
fn the_canonical_quantiser_is_exact_where_it_can_be() {
    let mut rng = Rng(9);
    // Values that Q8_0 can hold, with 127 in every block, come back.
    let mut row = vec![0.0; 64];
    for (i, x) in row.iter_mut().enumerate() {
        let q = if i % 32 == 3 { 127 } else { rng.next() as i32 % 128 };
        *x = q as f32 * 0.25;
    }
    let data = quantise_q8_0(&row).unwrap();
    let w = linear(Format::Q8_0, &[(1, &data)], 64);
    let mut back = vec![0.0; 64];
    w.dequantise_row(0, &mut back);
    assert_eq!(row, back);
    assert_eq!(quantise_q8_0(&[f32::NAN; 32]), None);
    assert_eq!(quantise_q8_0(&[1e30; 32]), None);
    assert_eq!(quantise_q8_0(&[0.0; 32]).unwrap(), vec![0; 34]);
}

#[test]
fn argmax_takes_the_lowest_of_equals() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
    assert_eq!(argmax(&[f32::NAN]), 0);
}

#[test]
fn quantisation_follows_the_specification() {
    // Written apart from the kernel: integers by rounding in f64, sums by counting.
    let mut rng = Rng(77);
    for _ in 0..2000 {
        let mut x = rng.floats(32);
        if rng.next().is_multiple_of(8) {
            let tiny = f32::from_bits(0x0d7f_ffff);
            x = vec![tiny; 32];
        }
        let a = Activations::quantise(Isa::best(), &x, 1, 32);
        let (q, scale) = a.row(0);
        let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert_eq!(scale[0].to_bits(), (most / 127.0).to_bits());
        let inverse = if most >= f32::from_bits(0x0d80_0000) { 127.0 / most } else { 0.0 };
        for (q, x) in q.iter().zip(&x) {
            assert_eq!(i32::from(*q), (x * inverse).round_ties_even() as i32);
        }
    }
}

#[test]
fn blocks_mean_what_the_gguf_package_says() {
    let json: serde_json::Value = serde_json::from_str(include_str!("blocks.json")).unwrap();
    for (name, format) in
        [("Q8_0", Format::Q8_0), ("Q4_0", Format::Q4_0), ("Q4_K", Format::Q4K), ("Q6_K", Format::Q6K)]
    {
        let hex = json[name]["bytes"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let k = 2 * format.block().0;
        let w = linear(format, &[(1, &bytes)], k);
        let mut row = vec![0.0; k];
        w.dequantise_row(0, &mut row);
        for (i, (found, expected)) in row.iter().zip(json[name]["values"].as_array().unwrap()).enumerate() {
            let expected = expected.as_f64().unwrap() as f32;
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{name} {i}: {found} {expected}");
        }
    }
}

fn fnv(bits: impl IntoIterator<Item = u32>) -> u64 {
    let bytes = bits.into_iter().flat_map(u32::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn the_second_table_of_the_specification_holds() {
    // Computed by an implementation that shares no code with this one; SPEC.md, section 7.
    let at = |b: u32| f32::from_bits(b);
    for (x, expected) in [
        (0.5, 0x3fd3_094c),
        (-0.5, 0x3f1b_4598),
        (at(0x3dcc_cccd), 0x3f8d_763e),
        (at(0xbdcc_cccd), 0x3f67_a36d),
        (at(0x3eb1_7218), 0x3fb5_04f3),
        (at(0xbeb1_7218), 0x3f35_04f3),
        (2.0, 0x40ec_7326),
        (10.0, 0x46ac_14ee),
        (-10.0, 0x383e_6bce),
        (20.0, 0x4de7_5844),
        (-20.0, 0x310d_a433),
        (88.0, 0x7ef8_82b7),
        (-87.0, 0x00b3_3687),
    ] {
        assert_eq!(exp(x).to_bits(), expected, "exp({x})");
    }
    for (x, expected) in [
        (1.0, 0x3f3b_26a8),
        (-1.0, 0xbe89_b2b1),
        (4.0, 0x407b_6541),
        (-4.0, 0xbd93_57d1),
        (-100.0, 0x834e_0705),
    ] {
        assert_eq!(silu(x).to_bits(), expected, "silu({x})");
    }
    let mut rng = Rng(42);
    let _ = rng.q8_0(48, 96);
    let x = rng.floats(3 * 96);
    let mut rng = Rng(7);
    let (a, b) = (rng.floats(40), rng.floats(40));
    assert_eq!(dot(&a, &b).to_bits(), 0x4676_d968);
    let mut rng = Rng(13);
    let (gate, up) = (rng.floats(64), rng.floats(64));
    for isa in Isa::available() {
        let acts = Activations::quantise(isa, &x, 3, 96);
        let rows = || (0..3).map(|i| acts.row(i));
        let values = rows().flat_map(|(q, _)| q.iter().map(|v| i32::from(*v) as u32).collect::<Vec<_>>());
        assert_eq!(fnv(values), 0x65ec_fcea_539b_5e36, "{}", isa.name());
        let scales = rows().flat_map(|(_, s)| bits(s));
        assert_eq!(fnv(scales), 0x92d1_3a8a_e220_8d9b, "{}", isa.name());
        let mut out = vec![0.0; 40];
        rms_norm(isa, &a, &b, at(0x3727_c5ac), &mut out);
        assert_eq!(fnv(bits(&out)), 0x3ceb_9a5d_d463_f392, "{}", isa.name());
        let mut out = vec![0.0; 64];
        gated(isa, Activation::Silu, &gate, &up, &mut out);
        assert_eq!(fnv(bits(&out)), 0xe64b_3ece_b1b9_3fa9, "{}", isa.name());
    }
}
