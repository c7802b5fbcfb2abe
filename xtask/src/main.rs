//! House rules. `cargo run -p xtask` prints every breach; `cargo test -p xtask` fails on one. `cargo run -p xtask -- neon` runs the
//! kernels' tests for aarch64 under an emulator.

mod neon;
mod rules;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {
            let breaches = rules::check(&rules::root());
            for breach in &breaches {
                eprintln!("{breach}");
            }
            if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Some("neon") => neon::run(&rules::root()),
        Some(other) => {
            eprintln!("xtask: no task {other:?}; there is `neon`, and without an argument the house rules");
            ExitCode::from(2)
        }
    }
}
