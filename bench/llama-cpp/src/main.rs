//! Measures llama.cpp on one GGUF file and prints one line of JSON.
//!
//! **What is measured.** Calls of `llama_decode` and the reading of the logits, nothing else: no sampling, no text. Token ids come
//! from a fixed sequence ([`token`]). The context has llama.cpp's defaults (f16 cache, flash attention as it decides), the
//! file is mapped, and `n_batch` and `n_ubatch` are 512. A warm-up run of the same kind comes first and does not count.
//!
//! - `decode`: a prompt of `--prompt` tokens, then `--generate` calls with one token each; only these calls are timed.
//! - `prefill`: one call with a prompt of `--prompt` tokens (at most 512), logits of the last token only.
//! - `batch`: `--batch` sequences with a prompt each, then `--generate` calls with one token of every sequence; only these
//!   calls are timed, and the rate counts the tokens of all sequences.

mod measure;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use llama_cpp_2::{
    context::params::LlamaContextParams,
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
};
use measure::{Run, Session};
use serde_json::json;
use std::{ffi::CStr, num::NonZeroU32, os::raw::c_char, path::PathBuf, process::ExitCode, time::Instant};

/// Largest number of tokens in one call of `llama_decode`.
const BATCH_TOKENS: u32 = 512;
/// Generated tokens of each sequence in the warm-up of `decode` and `batch`.
const WARM_UP_STEPS: u32 = 8;

/// Measures llama.cpp on a GGUF file and prints one line of JSON.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  llama-bench-json --model model.gguf --threads 2 --test decode
  llama-bench-json --model model.gguf --threads 2 --test prefill --prompt 512 --repeat 5
  llama-bench-json --model model.gguf --threads 2 --test batch --batch 8 --generate 32"
)]
struct Args {
    /// Model file (GGUF).
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Threads for prompts and for generation.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Test::Decode)]
    test: Test,
    /// Tokens of each prompt; 16, or 512 for prefill, when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=512))]
    prompt: Option<u32>,
    /// Tokens that each sequence generates (decode and batch).
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8192))]
    generate: u32,
    /// Sequences side by side (batch).
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    /// Counted repetitions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Let llama.cpp write its log to standard error.
    #[arg(long)]
    log: bool,
}

/// What is measured; see the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Test {
    /// One token after the other.
    Decode,
    /// A prompt in one call.
    Prefill,
    /// Several sequences side by side.
    Batch,
}

impl Test {
    /// The word of the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
            Self::Batch => "batch",
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("llama-bench-json: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    let prompt = args.prompt.unwrap_or(if args.test == Test::Prefill { BATCH_TOKENS } else { 16 });
    let (sequences, steps) = match args.test {
        Test::Decode => (1, args.generate),
        Test::Prefill => (1, 0),
        Test::Batch => (args.batch, args.generate),
    };
    let shown = args.model.display();
    ensure!(
        args.model.is_file(),
        "there is no file {shown}; make one with: og bench make-gguf --out {shown}"
    );
    let mut backend = LlamaBackend::init().context("llama.cpp does not start")?;
    if !args.log {
        backend.void_logs();
    }

    let started = Instant::now();
    let params = LlamaModelParams::default().with_use_mmap(true).with_n_gpu_layers(0);
    let model = LlamaModel::load_from_file(&backend, &args.model, &params)
        .with_context(|| format!("llama.cpp does not load {shown}; --log shows why"))?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;

    let started = Instant::now();
    // Every sequence has its own cache, and llama.cpp rounds its length up to 256 positions.
    let positions = (prompt + steps).next_multiple_of(256);
    let threads = i32::try_from(args.threads)?;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(positions * sequences))
        .with_n_seq_max(sequences)
        .with_n_batch(BATCH_TOKENS)
        .with_n_ubatch(BATCH_TOKENS)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let context = model
        .new_context(&backend, params)
        .context("llama.cpp makes no context; try a smaller --batch, or see --log")?;
    let context_ms = started.elapsed().as_secs_f64() * 1e3;

    let mut session = Session::new(context, model.n_vocab(), sequences as usize)?;
    let kind = Run { prompt, steps };
    let load_average_before = load_average();
    session.run(Run { steps: steps.min(WARM_UP_STEPS), ..kind })?;
    let mut seconds = Vec::new();
    let (counted, cpu_before) = (Instant::now(), other_cpu_seconds());
    for _ in 0..args.repeat {
        seconds.push(session.run(kind)?);
    }
    let other = cpu_before.zip(other_cpu_seconds()).map(|(before, after)| after - before);
    let other_cpus = other.map(|s| s / counted.elapsed().as_secs_f64());
    let tokens = if steps == 0 { prompt } else { steps * sequences };
    let rates: Vec<f64> = seconds.iter().map(|s| f64::from(tokens) / s).collect();
    Ok(json!({
        "program": "llama.cpp",
        // SAFETY: both functions return a string of llama.cpp that lives as long as the program.
        "version": unsafe { text(llama_cpp_sys_2::llama_version()) },
        "system_info": unsafe { text(llama_cpp_sys_2::llama_print_system_info()) },
        "crates": "llama-cpp-2 0.1.160, llama-cpp-sys-2 0.1.161",
        "model": model.meta_val_str("general.name").unwrap_or_default(),
        "model_bytes": model.size(),
        "parameters": model.n_params(),
        "test": args.test.name(),
        "threads": args.threads,
        "prompt": prompt,
        "generate": steps,
        "batch": sequences,
        "tokens": tokens,
        "tokens_per_second": rates,
        "median_tokens_per_second": median(&rates),
        "load_ms": load_ms,
        "context_ms": context_ms,
        "peak_rss_bytes": status_bytes("VmHWM")?,
        "anonymous_rss_bytes": status_bytes("RssAnon")?,
        "likeliest_token": session.likeliest(),
        "other_cpus": other_cpus,
        "load_average_before": load_average_before,
        "load_average_after": load_average(),
    }))
}

/// Text of a C string.
///
/// # Safety
/// `s` must be a C string that lives as long as the program.
unsafe fn text(s: *const c_char) -> String {
    // SAFETY: by this function's own condition.
    unsafe { CStr::from_ptr(s) }.to_string_lossy().trim().to_owned()
}

/// The middle value; the mean of the two middle ones when their number is even.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[upper] } else { (sorted[upper - 1] + sorted[upper]) / 2.0 }
}

/// A size in bytes out of `/proc/self/status`.
fn status_bytes(key: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("/proc/self/status has no {key}"))? * 1024)
}

/// CPU seconds that everything but this program has used since the machine started. Null where `/proc` does not tell.
///
/// llama.cpp's threads wait for each other by spinning after every product: one other busy process makes two threads on two cores
/// ten times slower, and no repetition shows why. A result with more than a few hundredths of `other_cpus` is worth nothing.
fn other_cpu_seconds() -> Option<f64> {
    // Both files count in ticks of 1/100 s, whatever the kernel's own tick (USER_HZ, time(7)).
    let all = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = all.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks = fields.take(8).map(|f| f.parse::<f64>().ok()).collect::<Option<Vec<_>>>()?;
    // User, nice, system, idle, waiting for disks, interrupts (2), stolen.
    let busy: f64 = ticks.iter().sum::<f64>() - ticks.get(3)? - ticks.get(4)?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold anything; behind it, user and system time are fields 12 and 13.
    let mut fields = own.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((busy - user - system) / 100.0)
}

/// Load average of the last minute: how busy the machine was with other work. Null where there is none.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
