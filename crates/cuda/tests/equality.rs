//! The kernels against those of the processor, on whatever device there is: a GPU, or the emulator (`emulator/build.sh`).
#![allow(missing_docs, clippy::unwrap_used)]

use sha2::{Digest, Sha256};

/// The committed PTX is made of the sources that lie beside it.
#[test]
fn the_ptx_is_that_of_the_sources() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut hasher = Sha256::new();
    for name in ["platform", "arithmetic", "matrix", "matmul", "rows", "attention", "prompt", "trace"] {
        hasher.update(read(&format!("{name}.cuh")));
    }
    hasher.update(read("exact.cu"));
    let hash: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    for ptx in ["exact.ptx", "exact90.ptx"] {
        check_ptx(&String::from_utf8(read(ptx)).unwrap(), &hash);
    }
}

fn check_ptx(ptx: &str, hash: &str) {
    let line = ptx.lines().next().unwrap();
    assert_eq!(line, format!("// sources: {hash}"), "run crates/cuda/kernels/build.sh");
    // No operation that the compiler may contract, approximate or flush.
    for banned in ["fma.", ".ftz", ".approx", "ex2", "rcp", "rsqrt", " mul.f32", " add.f32", " sub.f32"] {
        assert!(!ptx.lines().skip(2).any(|l| l.contains(banned)), "{banned} in the PTX");
    }
}

#[test]
fn products_are_those_of_the_processor() {
    let gpu = match cuda::Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(e) => return println!("skipped: {e}"),
    };
    // Rows and inputs that fill no tile; tokens for each kernel, and beyond its tiles.
    let shapes = [(1, 32), (40, 96), (72, 544), (200, 1312)];
    let tokens = [1, 3, 8, 9, 16, 17, 63, 65, 130];
    let mut compared = cuda::check::products(&gpu, &shapes, &tokens).unwrap().unwrap();
    // Enough panels for the kernel in which eight of them share the tokens.
    compared += cuda::check::products(&gpu, &[(16_400, 160)], &[20, 64]).unwrap().unwrap();
    println!("{}: {compared} outputs", gpu.name());
}
