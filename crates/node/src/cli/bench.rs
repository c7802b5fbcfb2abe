use crate::bench::{ShapeName, WeightType};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write a model file with the shape of a known model and random weights.
    MakeGguf(MakeGgufArgs),
    /// Measure decoding, prompts, batches and replays of a model, beside another program if you like.
    Engine(BenchEngineArgs),
    /// Measure a network of validators in this process: finality, transfers per second, receipts per second.
    Ledger(BenchLedgerArgs),
    /// Measure what receipts, audits and disputes cost beside the answer.
    Trust(BenchTrustArgs),
    /// Measure the pace of blocks while many clients send the worst calls to the validators' JSON-RPC servers.
    RpcFlood(BenchRpcFloodArgs),
    /// Measure execution and storage alone, as the number of accounts grows.
    State(BenchStateArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og bench trust
  og bench trust --model tiny.gguf --prompt 256 --tokens 128 --games 40")]
pub(crate) struct BenchTrustArgs {
    /// Model; the built-in one when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Prompt tokens.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) prompt: u32,
    /// Generated tokens.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tokens: u32,
    /// Disputes that are played.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) games: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og bench ledger
  og bench ledger --validators 7 --seconds 30 --json")]
pub(crate) struct BenchLedgerArgs {
    /// Number of validators.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) validators: u16,
    /// Smallest time between blocks in milliseconds.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub(crate) block_time: u64,
    /// Length of each measurement in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(crate) seconds: u64,
    /// Accounts that send.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) senders: u32,
    /// Transfers signed beforehand for each second of the measurement.
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) rate: u64,
    /// Folder for the ledgers; a temporary one when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og bench rpc-flood
  og bench rpc-flood --clients 1000 --seconds 60 --json")]
pub(crate) struct BenchRpcFloodArgs {
    /// Number of validators, all in this process.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) validators: u16,
    /// Smallest time between blocks in milliseconds.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub(crate) block_time: u64,
    /// Clients that send one call after the other; half of the time they leave before the answer.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) clients: u16,
    /// Length of each measurement in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(crate) seconds: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  og bench state --accounts 10000,100000,1000000,10000000")]
pub(crate) struct BenchStateArgs {
    /// Numbers of accounts.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000", value_name = "LIST")]
    pub(crate) accounts: Vec<u64>,
    /// Blocks of each measurement.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) blocks: u64,
    /// Transfers in a block, each to another account.
    #[arg(long, default_value_t = 1250, value_parser = clap::value_parser!(u64).range(1..=2800))]
    pub(crate) transfers: u64,
    /// Folder for the ledgers; a temporary one when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Rows are measured in turn with the other program's, so that both see the same machine; medians are printed. Leave the machine
alone meanwhile: a busy core makes every number meaningless.

Examples:
  og bench engine                                           the built-in model
  og bench engine --model tinyllama-1.1b-q8_0.gguf --threads 1,2
  og bench engine --model F.gguf --against bench/llama-cpp/target/native/release/llama-bench-json")]
pub(crate) struct BenchEngineArgs {
    /// Model: a GGUF file or a folder; the built-in one when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "LIST")]
    pub(crate) threads: Vec<usize>,
    /// Runs of each row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) repeat: u16,
    /// Program that measures llama.cpp (bench/llama-cpp/build.sh builds it).
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) only: String,
    /// Print one JSON object a row.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The weights are random, so the model's answers are noise; its speed and memory are those of the real one.
The same shape, type and seed give the same bytes on every machine.

Examples:
  og bench make-gguf --shape smollm-135m --out smollm-135m-q8_0.gguf
  og bench make-gguf --shape tinyllama-1.1b --seed 1 --out tinyllama-1.1b-q8_0.gguf
  og bench make-gguf --shape llama-3.2-1b --type q4_0 --out llama-3.2-1b-q4_0.gguf")]
pub(crate) struct MakeGgufArgs {
    /// The model whose sizes the file has.
    #[arg(long, value_enum)]
    pub(crate) shape: ShapeName,
    /// Type of the weight matrices.
    #[arg(long = "type", value_enum, default_value = "q8_0")]
    pub(crate) kind: WeightType,
    /// Another seed gives other weights.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Overwrite the file if it is there.
    #[arg(long)]
    pub(crate) force: bool,
}
