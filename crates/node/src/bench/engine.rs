//! `og bench engine`: tokens a second, side by side with llama.cpp on the same file.

use crate::{
    cli::BenchEngineArgs,
    commands::load_model,
    output::{out, outln},
};
use anyhow::{Context as _, ensure};
use engine::{
    EngineConfig, Model,
    bench::{Test, measure},
};
use kernels::{Isa, Pool, StreamBuffer};
use serde_json::{Value, json};
use std::{path::Path, process::Command, sync::Arc, time::Instant};

/// Bytes that the memory test reads again and again: beyond every cache.
const STREAM_BYTES: usize = 512 << 20;

/// One row of the table, and the other program's arguments for it.
struct Row {
    name: &'static str,
    test: Test,
    other: Option<[String; 6]>,
}

fn rows(context: usize) -> Vec<Row> {
    let arguments = |test: &str, key: &str, n: usize, generate: usize| {
        Some([
            "--test".into(),
            test.into(),
            key.into(),
            n.to_string(),
            "--generate".into(),
            generate.to_string(),
        ])
    };
    let batch = |name, batch| Row {
        name,
        test: Test::Decode { batch, generate: 32 },
        other: arguments("batch", "--batch", batch, 31),
    };
    let prompt = 512.min(context - 1);
    vec![
        Row {
            name: "decode",
            test: Test::Decode { batch: 1, generate: 65 },
            other: arguments("decode", "--prompt", 16, 64),
        },
        Row {
            name: "prefill 512",
            test: Test::Prefill { prompt },
            other: arguments("prefill", "--prompt", prompt, 1),
        },
        batch("batch 1", 1),
        batch("batch 8", 8),
        batch("batch 32", 32),
        Row { name: "replay / generation", test: Test::Replay { prompt: 16, generate: 128 }, other: None },
    ]
}

/// Runs `og bench engine`.
///
/// # Errors
/// When a model or program cannot be loaded or run.
pub(super) fn run(args: &BenchEngineArgs) -> anyhow::Result<()> {
    ensure!(args.threads.iter().all(|t| (1..=1024).contains(t)), "--threads must be numbers from 1 to 1024");
    let before = peak_memory();
    let began = Instant::now();
    let model = load_model(args.model.as_deref())?;
    let load = began.elapsed();
    if args.against.is_some() {
        ensure!(args.model.as_ref().is_some_and(|m| m.is_file()), "--against needs --model with a GGUF file");
    }
    let about = json!({
        "model": model.manifest().name, "weight_bytes": model.weight_bytes(), "load_ms": load.as_millis() as u64,
        "isa": Isa::best().name(), "load_average": load_average(),
    });
    if args.json {
        outln!("{about}");
    } else {
        outln!(
            "{}: {:.2} GB of weights, loaded in {:.2} s; kernels: {}; load average {}",
            model.manifest().name,
            model.weight_bytes() as f64 / 1e9,
            load.as_secs_f64(),
            Isa::best().name(),
            load_average().unwrap_or_default(),
        );
        outln!("{:<8} {:<20} {:>12} {:>12} {:>7}", "threads", "row", "og", "llama.cpp", "ratio");
    }
    for threads in &args.threads {
        let stream = stream_bandwidth(*threads);
        for row in rows(model.context_length()).iter().filter(|r| r.name.contains(&args.only)) {
            let (ours, other) = measure_row(args, &model, *threads, row)?;
            // At batch 1 every token reads all weights once.
            let bandwidth = (row.name == "decode").then(|| ours * model.weight_bytes() as f64 / 1e9);
            if args.json {
                outln!(
                    "{}",
                    json!({"threads": threads, "row": row.name, "og": ours, "llama_cpp": other,
                        "gb_per_second": bandwidth, "stream_gb_per_second": stream})
                );
                continue;
            }
            let show = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.2}"));
            out!("{threads:<8} {:<20} {ours:>12.2} {:>12}", row.name, show(other));
            out!(" {:>7}", show(other.map(|o| ours / o)));
            if let Some(bandwidth) = bandwidth {
                let part = 100.0 * bandwidth / stream;
                out!("   {bandwidth:.1} GB/s, {part:.0} % of the {stream:.1} GB/s of a plain read");
            }
            outln!();
        }
    }
    if let (Some(before), Some(after), false) = (before, peak_memory(), args.json) {
        outln!("peak memory: {:.0} MB (before loading {:.0} MB)", after / 1e6, before / 1e6);
    }
    Ok(())
}

/// Medians of this engine and of the other program, measured in turn.
fn measure_row(
    args: &BenchEngineArgs,
    model: &Arc<Model>,
    threads: usize,
    row: &Row,
) -> anyhow::Result<(f64, Option<f64>)> {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let config = EngineConfig { threads, ..EngineConfig::default() };
        ours.push(measure(model, config, row.test)?);
        if let (Some(program), Some(model), Some(arguments)) = (&args.against, &args.model, &row.other) {
            others.push(run_other(program, model, threads, arguments)?);
        }
    }
    Ok((median(ours).context("at least one run")?, median(others)))
}

fn run_other(program: &Path, model: &Path, threads: usize, arguments: &[String]) -> anyhow::Result<f64> {
    let output = Command::new(program)
        .arg("--model")
        .arg(model)
        .args(["--threads", &threads.to_string(), "--repeat", "1"])
        .args(arguments)
        .output()
        .with_context(|| format!("running {}; build it with bench/llama-cpp/build.sh", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let line: Value = serde_json::from_slice(&output.stdout).context("the other program printed no JSON")?;
    line["median_tokens_per_second"].as_f64().context("the other program printed no median_tokens_per_second")
}

fn median(mut list: Vec<f64>) -> Option<f64> {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied()
}

/// GB/s at which threads together read memory like that of weights: the best of several passes.
fn stream_bandwidth(threads: usize) -> f64 {
    let (pool, buffer) = (Pool::new(threads), StreamBuffer::new(STREAM_BYTES));
    let once = || {
        let began = Instant::now();
        std::hint::black_box(buffer.read(Isa::best(), &pool));
        STREAM_BYTES as f64 / 1e9 / began.elapsed().as_secs_f64()
    };
    (0..8).map(|_| once()).fold(0.0, f64::max)
}

/// Peak resident memory in bytes, where the system tells.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kb| kb * 1024.0)
}

fn load_average() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next().map(str::to_owned)
}
