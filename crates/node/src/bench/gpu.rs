//! `og bench gpu`: whether a GPU gives the processor's bits, and how fast.

use crate::cli::BenchGpuArgs;

/// Runs `og bench gpu`.
///
/// # Errors
/// When the program was built without GPUs.
#[cfg(not(feature = "cuda"))]
pub(super) fn run(_: &BenchGpuArgs) -> anyhow::Result<()> {
    anyhow::bail!(
        "this program was built without GPUs; build it with `cargo build --release --features cuda`"
    )
}

/// Runs `og bench gpu`.
///
/// # Errors
/// When there is no GPU, it gives other bits than the processor, or a model cannot be loaded.
#[cfg(feature = "cuda")]
pub(super) fn run(args: &BenchGpuArgs) -> anyhow::Result<()> {
    with_gpu::run(args)
}

#[cfg(feature = "cuda")]
mod with_gpu {
    use crate::{cli::BenchGpuArgs, commands::load_model, output::outln};
    use anyhow::{Context as _, anyhow};
    use engine::{
        DeviceChoice, Engine, EngineConfig, Model,
        bench::{
            Test,
            device::{Case, Cost, compare, cost, pass_times},
            measure_on,
        },
    };
    use std::{sync::Arc, time::Instant};

    /// f32 lanes of a multiprocessor (compute capability 8.6 to 9.0; 8.0 has half as many).
    const LANES: f64 = 128.0;

    /// What the GPU could do at best.
    struct Ceiling {
        bytes_per_second: f64,
        operations_per_second: f64,
    }

    pub(super) fn run(args: &BenchGpuArgs) -> anyhow::Result<()> {
        let gpu = cuda::Gpu::open(args.ordinal)?;
        let (free, total) = gpu.memory()?;
        let rate = cuda::device_copy_rate(&gpu)?;
        let (count, clock) = gpu.multiprocessors()?;
        let ceiling = Ceiling { bytes_per_second: rate, operations_per_second: count as f64 * LANES * clock };
        outln!(
            "{}: {:.1} of {:.1} GB free; a plain copy moves {:.2} TB/s (read and written); {count} multiprocessors, up to {:.0} MHz: {:.1} T f32 operations/s",
            gpu.name(),
            free as f64 / 1e9,
            total as f64 / 1e9,
            rate / 1e12,
            clock / 1e6,
            ceiling.operations_per_second / 1e12
        );
        if !args.no_equality_of_kernels {
            equality(args, &gpu)?;
        }
        for path in &args.models {
            let began = Instant::now();
            let model = load_model(Some(path))?;
            let name = &model.manifest().name;
            outln!("{name}: loaded in {:.1} s", began.elapsed().as_secs_f64());
            if !args.no_equality {
                models(name, &model, args.ordinal, &[(24, 4), (70, 3), (3, 4)])?;
            }
            if !args.no_speed {
                speed(args, &gpu, &model, &ceiling)?;
            }
        }
        Ok(())
    }

    fn config(ordinal: usize) -> EngineConfig {
        EngineConfig { device: DeviceChoice::Cuda(ordinal), batch_max: 64, ..EngineConfig::default() }
    }

    fn equality(args: &BenchGpuArgs, gpu: &Arc<cuda::Gpu>) -> anyhow::Result<()> {
        let began = Instant::now();
        let shapes = [(1, 32), (40, 96), (200, 1312), (2560, 2048), (2048, 5632), (1030, 14_336)];
        let tokens = [1, 2, 8, 9, 16, 17, 63, 65, 130, 300];
        // The last shape is large enough for the kernel of many panels.
        let mut outputs = 0;
        for (shapes, tokens) in [(&shapes[..], &tokens[..]), (&[(16_400, 512)][..], &[20, 64][..])] {
            outputs += cuda::check::products(gpu, shapes, tokens)?.map_err(|e| anyhow!("{e}"))?;
        }
        outln!("products of four formats: {outputs} outputs equal, {:.1} s", began.elapsed().as_secs_f64());
        let cases = [(1, 8), (40, 20), (75, 20), (76, 30), (31, 5), (32, 5), (33, 5), (90, 30)];
        if let Some(folder) = &args.fixtures {
            let mut folders: Vec<_> = std::fs::read_dir(folder)
                .with_context(|| format!("reading {}", folder.display()))?
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| p.is_dir())
                .collect();
            folders.sort();
            for path in folders {
                let model = Model::open(&path)?;
                let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                // Encoders stay on the processor.
                if model.embedding_width().is_none() {
                    models(&name, &model, args.ordinal, &cases)?;
                }
            }
        }
        let many: Vec<(usize, u32)> = (0..48).map(|i| (1 + i * 37 % 400, 1 + (i as u32 * 13) % 60)).collect();
        models("taskmaster-chat", &Model::embedded()?, args.ordinal, &many)
    }

    fn models(name: &str, model: &Arc<Model>, ordinal: usize, cases: &[(usize, u32)]) -> anyhow::Result<()> {
        let began = Instant::now();
        let cases: Vec<_> =
            cases.iter().map(|(prompt, generate)| Case { prompt: *prompt, generate: *generate }).collect();
        // Little memory and odd chunks, so that prompts are cut and answers preempted at random places; then plenty.
        let tight =
            EngineConfig { prefill_chunk: 7, prefill_chunk_alone: 61, batch_max: 5, ..config(ordinal) };
        for (config, greedy) in [(tight, false), (config(ordinal), false), (config(ordinal), true)] {
            let found = compare(model, &config, &cases, greedy).with_context(|| name.to_owned())?;
            outln!(
                "{name}: {} answers, {} tokens, {} trace leaves equal and replayed both ways, {:.1} s",
                found.answers,
                found.tokens,
                found.positions,
                began.elapsed().as_secs_f64()
            );
        }
        Ok(())
    }

    /// Least seconds of a pass of `rows` tokens that attend to `positions` positions on average.
    fn bound(cost: &Cost, rows: f64, positions: f64, ceiling: &Ceiling) -> (f64, f64) {
        let bytes = cost.weight_bytes as f64 + rows * positions * cost.position_bytes as f64;
        let operations =
            rows * (cost.product_operations as f64 + positions * cost.attention_operations as f64);
        (bytes / ceiling.bytes_per_second, operations / ceiling.operations_per_second)
    }

    fn speed(
        args: &BenchGpuArgs,
        gpu: &Arc<cuda::Gpu>,
        model: &Arc<Model>,
        ceiling: &Ceiling,
    ) -> anyhow::Result<()> {
        let cost = cost(model)?;
        let config = EngineConfig {
            prefix_cache: false,
            kv_bytes: 8 << 30,
            prefill_chunk: 512,
            ..config(args.ordinal)
        };
        let began = Instant::now();
        let engine = Engine::new(model.clone(), config.clone())?;
        outln!("  weights on the GPU in {:.1} s", began.elapsed().as_secs_f64());
        for batch in [1usize, 8, 16, 32, 64] {
            let generate = 257;
            let found = median(|| measure_on(&engine, &config, Test::Decode { batch, generate }))?;
            let (memory, operations) = bound(&cost, batch as f64, 16.0 + generate as f64 / 2.0, ceiling);
            show(&format!("decode, batch {batch}"), found, batch as f64 / memory, batch as f64 / operations);
        }
        let longest = (args.prompt as usize).min(model.context_length() - 1);
        for prompt in [512usize, longest] {
            let found = median(|| measure_on(&engine, &config, Test::Prefill { prompt }))?;
            let (_, operations) = bound(&cost, prompt as f64, prompt as f64 / 2.0, ceiling);
            show(&format!("prompt of {prompt}"), found, f64::INFINITY, prompt as f64 / operations);
        }
        let (free, total) = gpu.memory()?;
        outln!(
            "  memory in use on the GPU: {:.2} GB (keys and values: {:.2} GB)",
            (total - free) as f64 / 1e9,
            config.kv_bytes as f64 / 1e9
        );
        drop(engine);
        for (sequences, rows, context) in [(1usize, 1usize, 256usize), (64, 1, 256), (1, 512, longest)] {
            let times = pass_times(model, args.ordinal, (sequences, rows, context.max(rows)), 20)?;
            outln!(
                "  a pass of {sequences} x {rows} rows up to position {context}, GPU alone: {:.3} ms, of which hashing the trace's rows {:.1} %; kernels one by one:",
                times.seconds * 1e3,
                100.0 * times.hashing / times.seconds
            );
            let total: f64 = times.kernels.iter().map(|k| k.1).sum();
            for (name, seconds, launches) in times.kernels.iter().take(12) {
                outln!(
                    "    {name:<22} {launches:>4} x {:>8.1} us = {:>4.1} %",
                    seconds * 1e6 / f64::from(*launches),
                    100.0 * seconds / total
                );
            }
        }
        Ok(())
    }

    fn show(row: &str, found: f64, memory: f64, operations: f64) {
        let bound = memory.min(operations);
        let by = if memory < operations { "memory" } else { "f32 operations" };
        outln!(
            "  {row:<18} {found:>10.1} tokens/s; bound by {by}: {bound:>10.1}, reached {:>3.0} %",
            100.0 * found / bound
        );
    }

    fn median(mut once: impl FnMut() -> Result<f64, engine::EngineError>) -> anyhow::Result<f64> {
        let mut all = [once()?, once()?, once()?];
        all.sort_by(f64::total_cmp);
        Ok(all[1])
    }
}
