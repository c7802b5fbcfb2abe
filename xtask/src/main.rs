//! House rules. `cargo run -p xtask` prints every breach; `cargo test -p xtask` fails on one.

mod rules;

use std::process::ExitCode;

fn main() -> ExitCode {
    let breaches = rules::check(&rules::root());
    for breach in &breaches {
        eprintln!("{breach}");
    }
    if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
