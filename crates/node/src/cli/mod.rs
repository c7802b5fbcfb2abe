mod bench;
mod browser;
mod limits;
mod proxy;
mod validator;

pub(crate) use bench::{
    BenchCommand, BenchEngineArgs, BenchLedgerArgs, BenchRpcFloodArgs, BenchStateArgs, BenchTrustArgs,
    MakeGgufArgs,
};
pub(crate) use browser::BrowserArgs;
pub(crate) use limits::{CallArgs, LimitArgs};
pub(crate) use proxy::ProxyArgs;
pub(crate) use validator::{
    GenesisArgs, InitArgs, RegisterArgs, RunArgs, StakingArgs, StatusArgs, ValidatorCommand,
};

use crate::{genesis, trust_rules::TrustRules};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use types::{B256, ReceiptId};

/// Where the proxy listens unless told otherwise.
pub(crate) const PROXY_URL: &str = "http://127.0.0.1:8600";

/// The open network of verifiable AI inference.
///
/// Every answer comes with a receipt; `og receipt get` turns it into a proof file that `og verify` checks offline.
#[derive(Debug, Parser)]
#[command(
    name = "og",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  og devnet                               start a whole network on this machine
  og chat \"Hi\"                            ask it something, checked
  og receipt get ID > proof.json          the proof of an answer
  og verify proof.json                    check it, with no network"
)]
pub(crate) struct Cli {
    /// Print more of what happens (see also the variable OG_LOG).
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    /// Settings file; flags and variables win over it.
    #[arg(long, global = true, env = "OG_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole network in this process: validators, inference nodes and the proxy.
    Devnet(DevnetArgs),
    /// Serve a model on a network, with a staked identity.
    Node(NodeArgs),
    /// Validate: keys, a new network, running, staking.
    Validator {
        #[command(subcommand)]
        command: ValidatorCommand,
    },
    /// Check answers of others: compute them again, dispute what is wrong, sit in juries, and earn.
    Audit(AuditArgs),
    /// Work out what a network's rules mean.
    Simulate {
        #[command(subcommand)]
        command: SimulateCommand,
    },
    /// Run a local OpenAI-compatible server that checks every answer before its end is shown.
    Proxy(ProxyArgs),
    /// Ask a question through the proxy; prints the answer as it streams and what was verified.
    Chat(ChatArgs),
    /// Receipts of your answers.
    Receipt {
        #[command(subcommand)]
        command: ReceiptCommand,
    },
    /// Get a proof of an account, a storage slot or a transaction, for `og verify`.
    Prove(ProveArgs),
    /// Check a proof file, with no network.
    Verify(VerifyArgs),
    /// Tools for measuring speed.
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og devnet                               a fresh network, forgotten when it stops
  og devnet --data ./net                  one that goes on where it stopped
  og devnet --validators 7 --nodes 1 --block-time 500
  og devnet --rules network --time-scale 240 --auditors 24   the rules of public networks, a day in six minutes")]
pub(crate) struct DevnetArgs {
    /// Folder that keeps keys, ledger and receipts; a fresh temporary one when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Number of validators.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) validators: u16,
    /// Number of inference nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) nodes: u16,
    /// Number of auditors.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=32))]
    pub(crate) auditors: u16,
    /// Smallest time between blocks in milliseconds.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub(crate) block_time: u64,
    /// Number of blocks after which the set of validators may change; 240 with --rules devnet, an hour's (scaled) with --rules network.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub(crate) epoch_blocks: Option<u64>,
    /// Rules of audits, disputes and juries.
    #[arg(long, value_enum, default_value_t = Rules::Devnet)]
    pub(crate) rules: Rules,
    /// Divide every duration of the rules by this; stakes, rates, bonds and numbers of jurors stay as they are.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) time_scale: u64,
    /// EIP-155 chain id.
    #[arg(long, default_value_t = 10_744, value_parser = clap::value_parser!(u64).range(1..=9_007_199_254_740_991))]
    pub(crate) chain_id: u64,
    /// JSON-RPC port of the first validator; the others follow. 0 takes any free ports.
    #[arg(long, default_value_t = 8545)]
    pub(crate) rpc_port: u16,
    /// Port of the proxy; 0 takes any free one.
    #[arg(long, default_value_t = 8600)]
    pub(crate) proxy_port: u16,
    /// Port of the first inference node; the others follow. 0 takes any free ports.
    #[arg(long, default_value_t = 8610)]
    pub(crate) node_port: u16,
    /// Peer-to-peer port of the first validator; the others follow. 0 takes any free ports.
    #[arg(long, default_value_t = 8650)]
    pub(crate) p2p_port: u16,
    /// Model: a GGUF file, or a folder with config.json, tokenizer.json and safetensors; the built-in taskmaster-chat when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Write addresses, keys and URLs to this file, as JSON, once everything is ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Print the same JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) browser: BrowserArgs,
}

/// Which rules a development network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rules {
    /// Short times, every receipt audited at first, juries of one.
    Devnet,
    /// Those of `og validator genesis`: juries need 15 jurors, so start with more --auditors.
    Network,
}

impl DevnetArgs {
    /// Blocks of an epoch: as given, or as the rules have it.
    pub(crate) fn epoch(&self) -> u64 {
        let usual = match self.rules {
            Rules::Devnet => 240,
            Rules::Network => genesis::EPOCH_BLOCKS,
        };
        self.epoch_blocks.unwrap_or_else(|| genesis::scaled_epoch(usual, self.time_scale))
    }

    /// Rules of audits, disputes, juries and escrow.
    pub(crate) fn trust(&self) -> TrustRules {
        match self.rules {
            Rules::Devnet => TrustRules::devnet(),
            Rules::Network => TrustRules::network(),
        }
        .scaled(self.time_scale)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  og node --model model.gguf --rpc http://127.0.0.1:8545 --data ./node --listen 127.0.0.1:8700")]
pub(crate) struct NodeArgs {
    /// Model: a GGUF file, or a folder with config.json, tokenizer.json and safetensors; the built-in taskmaster-chat when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// JSON-RPC of a validator.
    #[arg(long, env = "OG_RPC", default_value = "http://127.0.0.1:8545", value_name = "URL")]
    pub(crate) rpc: String,
    /// Folder for the key and the receipt log. The key's account needs the stake and some coins for fees.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8700", value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// URL under which clients reach this node, for the registry; http:// and the listening address when absent.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Stake in whole coins, used when the node is not registered yet.
    #[arg(long, default_value_t = 100)]
    pub(crate) stake: u64,
    /// Price of a prompt token in wei.
    #[arg(long, default_value_t = 1_000_000_000)]
    pub(crate) price_input: u128,
    /// Price of a generated token in wei.
    #[arg(long, default_value_t = 2_000_000_000)]
    pub(crate) price_output: u128,
    /// Serve only clients that pay through the escrow.
    #[arg(long)]
    pub(crate) require_payment: bool,
    /// Threads for the model; all cores when absent.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Most answers computed at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) batch: u16,
    /// Most requests that wait; others get status 429.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) queue: u32,
    /// Memory for keys and values in MiB, shared beginnings of prompts included.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) kv_memory: u64,
    /// Compute every prompt from its first token, even when another one began alike.
    #[arg(long)]
    pub(crate) no_prefix_cache: bool,
    /// Longest time that answers under way may take after Ctrl-C, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) drain_timeout: u64,
    #[command(flatten)]
    pub(crate) browser: BrowserArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  og audit --data ./auditor --rpc http://127.0.0.1:8545 --model model.gguf --model other.gguf

The first run prints the account that needs coins for the stake; send them and start again.")]
pub(crate) struct AuditArgs {
    /// Models that it can check: GGUF files or Hugging Face folders; the built-in taskmaster-chat is always there.
    #[arg(long = "model", value_name = "PATH")]
    pub(crate) models: Vec<PathBuf>,
    /// JSON-RPC of a validator.
    #[arg(long, env = "OG_RPC", default_value = "http://127.0.0.1:8545", value_name = "URL")]
    pub(crate) rpc: String,
    /// Folder for the key and verdicts that are not revealed yet.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Stake in whole coins, used when the auditor has not joined yet.
    #[arg(long, default_value_t = 20)]
    pub(crate) stake: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimulateCommand {
    /// For which audit rate, stake and window does cheating lose money? Thousands of agents, seeded.
    Economics {
        /// Seed of all randomness: the same gives the same report.
        #[arg(long)]
        seed: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og chat \"Can I get a large latte?\"
  og chat --system \"You sell cinema tickets.\" --temperature 0.7 --seed 7 \"Hello\"
  og chat --assurance replicated --replicas 5 \"Hello\"
  echo \"Hi\" | og chat -")]
pub(crate) struct ChatArgs {
    /// What to say; - reads it from standard input.
    pub(crate) message: String,
    /// Instructions for the model.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Model name or id; the first that the network serves when absent.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// 0 takes the likeliest word each time.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Makes a random answer repeatable.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Longest answer in tokens.
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,
    /// How the answer is backed: signed (by its node), audited (others may compute it again) or replicated (most of several nodes
    /// agree).
    #[arg(long, value_name = "RUNG")]
    pub(crate) assurance: Option<types::Rung>,
    /// Nodes that answer with --assurance replicated; 3 unless the proxy is told otherwise.
    #[arg(long, value_name = "N", requires = "assurance", value_parser = clap::value_parser!(u8).range(2..=7))]
    pub(crate) replicas: Option<u8>,
    /// The proxy.
    #[arg(long, env = "OG_PROXY", default_value = PROXY_URL, value_name = "URL")]
    pub(crate) proxy: String,
    /// Print one JSON object at the end instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Print the proof file of an answer.
    Get {
        /// Receipt id: 0x and 64 hexadecimal digits.
        id: ReceiptId,
        /// The proxy through which the question was asked.
        #[arg(long, env = "OG_PROXY", default_value = PROXY_URL, value_name = "URL")]
        proxy: String,
        /// Longest time to wait until the receipt is on the ledger, in seconds.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=60))]
        wait: u64,
        /// A final block that the readers of the file trust; without one, the file starts at the genesis block.
        #[arg(long, value_name = "NUMBER:HASH")]
        checkpoint: Option<client::light::Checkpoint>,
    },
    /// List the newest receipts.
    List {
        /// The proxy.
        #[arg(long, env = "OG_PROXY", default_value = PROXY_URL, value_name = "URL")]
        proxy: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og prove --account 0xE17a… > account.json
  og prove --account 0xE17a… --slot 0x0 --slot 0x1 > account.json
  og prove --transaction 0x5f3c… > transaction.json       with its receipt")]
pub(crate) struct ProveArgs {
    /// JSON-RPC of any validator; it need not be trusted.
    #[arg(long, env = "OG_RPC", default_value = "http://127.0.0.1:8545", value_name = "URL")]
    pub(crate) rpc: String,
    /// An account in the newest certified state.
    #[arg(
        long,
        value_name = "ADDRESS",
        required_unless_present = "transaction",
        conflicts_with = "transaction"
    )]
    pub(crate) account: Option<types::Address>,
    /// A storage slot of the account.
    #[arg(long = "slot", value_name = "NUMBER", requires = "account")]
    pub(crate) slots: Vec<types::U256>,
    /// A final transaction.
    #[arg(long, value_name = "HASH")]
    pub(crate) transaction: Option<B256>,
    /// A final block that the readers of the file trust; without one, the file starts at the genesis block.
    #[arg(long, value_name = "NUMBER:HASH")]
    pub(crate) checkpoint: Option<client::light::Checkpoint>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0 when every check passed, 1 when one failed, 2 when the file cannot be read.

The file is the proof of an answer (`og receipt get`) or of what the chain says (`og prove`).

Examples:
  og verify proof.json --network 0x5f3c…
  og verify proof.json --network 0x5f3c… --checkpoint 1200:0x90ab…")]
pub(crate) struct VerifyArgs {
    /// The proof file; - reads standard input.
    pub(crate) file: PathBuf,
    /// Genesis hash of the network that you mean.
    #[arg(long, visible_alias = "genesis", env = "OG_NETWORK", value_name = "HASH")]
    pub(crate) network: Option<B256>,
    /// A final block that you trust; the file must have been made for it. Nobody who validated before it can deceive you then.
    #[arg(long, value_name = "NUMBER:HASH", requires = "network")]
    pub(crate) checkpoint: Option<client::light::Checkpoint>,
    /// Run the model again and compare every token and the trace (bit for bit).
    #[arg(long)]
    pub(crate) replay: bool,
    /// Model file for --replay; the built-in model when absent.
    #[arg(long, value_name = "FILE", requires = "replay")]
    pub(crate) model: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
