//! All decoder architectures on a GPU (or the emulator, `crates/cuda/emulator`) against the processor.
#![cfg(feature = "cuda")]
#![allow(missing_docs, clippy::unwrap_used)]

use engine::{
    bench::device::{Case, compare},
    *,
};
use std::{path::PathBuf, sync::Arc};

fn config() -> EngineConfig {
    EngineConfig { device: DeviceChoice::Cuda(0), ..EngineConfig::default() }
}

/// False, with the reason printed, where no GPU is.
fn there_is_a_gpu() -> bool {
    match cuda::Gpu::open(0) {
        Ok(_) => true,
        Err(e) => {
            println!("skipped: {e}");
            false
        }
    }
}

fn fixture(case: &str) -> Arc<Model> {
    Model::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/fixtures").join(case)).unwrap()
}

fn check(case: &str) {
    if !there_is_a_gpu() {
        return;
    }
    let cases = [(1, 4), (40, 3), (75, 3), (76, 2)].map(|(prompt, generate)| Case { prompt, generate });
    let run = |config: EngineConfig, greedy: bool| {
        println!("{case}: {:?}", compare(&fixture(case), &config, &cases, greedy).unwrap());
    };
    run(EngineConfig { prefill_chunk: 5, prefill_chunk_alone: 33, ..config() }, false);
    // Enough rows in a step for the kernels of prompts; tokens are chosen on the device.
    run(EngineConfig { prefill_chunk: 75, prefill_chunk_alone: 100, ..config() }, true);
}

macro_rules! cases {
    ($($name:ident $case:literal),* $(,)?) => { $( #[test] fn $name() { check($case); } )* };
}

cases! {
    llama2 "llama2", llama3_scaled "llama3-scaled", llama_linear "llama-linear", mistral "mistral", smollm "smollm", qwen2 "qwen2",
    qwen3 "qwen3", gemma2 "gemma2", gemma3 "gemma3", phi3 "phi3",
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let config = EngineConfig { device: DeviceChoice::Cuda(99), ..EngineConfig::default() };
    let error = Engine::new(Model::embedded().unwrap(), config).unwrap_err();
    assert!(matches!(error, EngineError::Device(_)), "{error}");
}
