//! The kernels' tests on aarch64, emulated: the same bits on NEON as on every other instruction set.
//!
//! The toolchain of this project has no aarch64 standard library, so Debian's compiler builds one from source. Nothing of this is part of
//! the default build or of CI.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const PACKAGES: &str = "rustc-web rust-web-src gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";
const RUSTC: &str = "/usr/bin/rustc";

/// Runs `cargo test -p kernels` for aarch64 under qemu.
pub(crate) fn run(root: &Path) -> ExitCode {
    let missing = |program: &str| Command::new(program).arg("--version").output().is_err();
    if [RUSTC, "aarch64-linux-gnu-gcc", "qemu-aarch64"].into_iter().any(missing) {
        eprintln!("xtask: this needs Debian packages; run: apt-get install {PACKAGES}");
        return ExitCode::FAILURE;
    }
    let status = Command::new("cargo")
        .current_dir(root)
        .args(["test", "-p", "kernels", "--lib", "--tests", "--release", "-Zbuild-std", "--target", TARGET])
        .args(["--target-dir", "target/neon"])
        .env("RUSTC", RUSTC)
        // Building the standard library is an unstable option of a compiler that is otherwise stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64 -L /usr/aarch64-linux-gnu")
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("xtask: cannot run cargo: {e}");
            ExitCode::FAILURE
        }
    }
}
