//! Single products on the device, for comparing them with the processor's.

use crate::{
    CudaError, Gpu,
    arguments::{Activations, Quantised, Target},
    driver::{Buffer, Pinned},
    product::product_launch,
    weights::{DeviceLinear, pointer},
};
use kernels::{BLOCK, Format, Isa, Linear, Matrix, Mode, Pool, philox4x32};
use std::sync::Arc;

/// `x`, of `tokens` rows, times `w`: what `kernels::matmul` computes.
///
/// # Errors
/// [`CudaError`].
///
/// # Panics
/// When `x` has another length.
pub fn product(gpu: &Arc<Gpu>, w: &Linear, x: &[f32], tokens: usize) -> Result<Vec<f32>, CudaError> {
    assert_eq!(x.len(), tokens * w.k(), "x must have tokens * k elements");
    let device = DeviceLinear::new(gpu, w)?;
    let (k, padded) = (w.k(), tokens.next_multiple_of(64));
    let input = Buffer::of(gpu, x)?;
    let (q, scale, sum) =
        (Buffer::new(gpu, padded * k)?, Buffer::new(gpu, padded * k / 8)?, Buffer::new(gpu, padded * k / 8)?);
    let acts = Activations { q: q.address(), scale: scale.address(), sum: sum.address() };
    let to = Quantised { to: acts, blocks: (k / BLOCK) as i32 };
    let out = Buffer::new(gpu, tokens * w.width() * 4)?;
    out.fill(0xff)?;
    let (address, stride) = (input.address(), k as i32);
    // SAFETY: the buffers above were sized for `tokens` rows, padded to whole tiles; they live until the stream was synchronised below.
    unsafe {
        let arguments = &mut [pointer(&address), pointer(&stride), pointer(&to)];
        gpu.launch("og_quantise", (tokens, (k / BLOCK).div_ceil(8), 1), 256, 0, arguments)?;
        for (offset, m) in &device.parts {
            let at = out.address() + *offset as u64 * 4;
            let target = Target { out: at, base: 0, stride: w.width() as i32, tokens: tokens as i32 };
            product_launch(gpu, m, &acts, &target)?;
        }
    }
    let mut host = Pinned::new(gpu, tokens * w.width() * 4)?;
    out.read(&mut host, 0, tokens * w.width() * 4)?;
    gpu.synchronise()?;
    let words = &host.words()[..tokens * w.width()];
    Ok(words.iter().map(|w| f32::from_bits(*w)).collect())
}

/// Pseudo-random numbers, the same everywhere.
struct Random(u32, u32);

impl Random {
    fn word(&mut self) -> u32 {
        self.1 += 1;
        philox4x32([self.1, 0, 0, 0], [self.0, 0])[0]
    }
}

/// A matrix of random bytes with finite scales, some of them zero or denormal.
fn random_matrix(pool: &Pool, format: Format, rows: usize, k: usize, random: &mut Random) -> Matrix {
    let (elements, bytes) = format.block();
    let mut data: Vec<u8> = (0..rows * k / elements * bytes).map(|_| random.word() as u8).collect();
    for block in data.chunks_exact_mut(bytes) {
        let mut half = |at: usize| {
            let h = match random.word() % 16 {
                0 => 0,
                1 => (random.word() & 0x3ff) as u16,
                _ => 0x2000 | (random.word() & 0x8fff) as u16,
            };
            block[at..at + 2].copy_from_slice(&h.to_le_bytes());
        };
        match format {
            Format::Q8_0 | Format::Q4_0 => half(0),
            Format::Q4K => {
                half(0);
                half(2);
            }
            Format::Q6K => half(208),
        }
    }
    // Scales above are below infinity, so this cannot fail.
    Matrix::repack(pool, format, &[(rows, &data)], k).unwrap_or_else(|e| panic!("a sound matrix: {e}"))
}

/// Compares products of all formats, of many shapes and numbers of tokens, with the processor's. Gives how many outputs agreed.
///
/// # Errors
/// [`CudaError`] when the device fails; as a text, the first output that differs.
pub fn products(
    gpu: &Arc<Gpu>,
    shapes: &[(usize, usize)],
    tokens: &[usize],
) -> Result<Result<u64, String>, CudaError> {
    let pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
    let mut random = Random(17, 0);
    let mut compared = 0;
    for format in Format::ALL {
        for (rows, k) in shapes {
            let k = k.next_multiple_of(format.block().0);
            let w = Linear::new(vec![random_matrix(&pool, format, *rows, k, &mut random)]);
            for n in tokens {
                let mut float = || match random.word() % 64 {
                    0 => 0.0,
                    1 => f32::from_bits(random.word() & 0x7f_ffff),
                    2 => -3000.0,
                    _ => (random.word() >> 8) as f32 / 8_388_608.0 - 1.0,
                };
                let x: Vec<f32> = (0..n * k).map(|_| float()).collect();
                let isa = Isa::best();
                let acts = kernels::Activations::quantise(isa, &x, *n, k);
                let mut expected = vec![0f32; n * w.width()];
                kernels::matmul(isa, &pool, &w, &acts, &mut expected, Mode::Store);
                let found = product(gpu, &w, &x, *n)?;
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    if found.to_bits() != expected.to_bits() {
                        return Ok(Err(format!(
                            "{format:?} {rows} x {k}, {n} tokens: token {}, row {}: {found} instead of {expected}",
                            i / w.width(),
                            i % w.width()
                        )));
                    }
                }
                compared += found.len() as u64;
            }
        }
    }
    Ok(Ok(compared))
}
