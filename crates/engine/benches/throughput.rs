//! `OG_BENCH_MODEL=F.gguf cargo bench -p engine`: tokens a second of one model at one and two threads. `og bench engine` prints more.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::{EngineConfig, Model, bench::*};

fn main() {
    let model = match std::env::var_os("OG_BENCH_MODEL") {
        Some(path) => Model::open(path.as_ref()),
        None => Model::embedded(),
    };
    let model = model.unwrap();
    let only = std::env::var("OG_BENCH_TEST").unwrap_or_default();
    for threads in [1, 2] {
        for (name, test, unit) in [
            ("decode", Test::Decode { batch: 1, generate: 64 }, "tok/s"),
            ("batch8", Test::Decode { batch: 8, generate: 32 }, "tok/s"),
            ("batch32", Test::Decode { batch: 32, generate: 32 }, "tok/s"),
            ("prefill", Test::Prefill { prompt: 511.min(model.context_length() - 1) }, "tok/s"),
            ("replay", Test::Replay { prompt: 16, generate: 128 }, "of the generation"),
        ] {
            if !name.contains(&only) {
                continue;
            }
            let config = EngineConfig { threads, ..EngineConfig::default() };
            let mut found: Vec<f64> =
                (0..3).map(|_| measure(&model, config.clone(), test).unwrap()).collect();
            found.sort_by(f64::total_cmp);
            println!("{threads} threads {name:8} {:10.2} {unit}  ({found:.2?})", found[1]);
        }
    }
}
