use super::{BrowserArgs, CallArgs, LimitArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ValidatorCommand {
    /// Make keys, and print what others need to know of them.
    Init(InitArgs),
    /// Make a network file from the keys of its first validators.
    Genesis(GenesisArgs),
    /// Run a validator, or a node that follows without voting.
    Run(RunArgs),
    /// Stake and register with the network's staking contract.
    Register(RegisterArgs),
    /// Leave: the stake can be withdrawn after the unbonding delay.
    Exit(StakingArgs),
    /// Take the stake out after the unbonding delay.
    Withdraw(StakingArgs),
    /// Take out what came back of a stake above the largest one, and rewards for reports.
    Claim(StakingArgs),
    /// Come back from jail.
    Unjail(StakingArgs),
    /// Show the staking contract's candidates.
    Status(StatusArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  og validator init --data ./v0 --announce 203.0.113.7:8650 > v0.json                        the first member draws the chain id
  og validator init --data ./v1 --announce 203.0.113.8:8650 --chain-id 2718281828459045 > v1.json   the others take it")]
pub(crate) struct InitArgs {
    /// Folder for the keys.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address at which other validators reach this one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) announce: std::net::SocketAddr,
    /// EIP-155 chain id of the network; a random one when absent, so that no two networks have the same.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9_007_199_254_740_991))]
    pub(crate) chain_id: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  og validator genesis --member v0.json --member v1.json --member v2.json --member v3.json \\
     --fund 0xE17a…=1000000 --out network.json")]
pub(crate) struct GenesisArgs {
    /// What `og validator init` printed, once for each first validator.
    #[arg(long = "member", value_name = "FILE", required = true)]
    pub(crate) members: Vec<PathBuf>,
    /// An account with coins: ADDRESS=COINS. The validators' accounts get ten times the smallest stake.
    #[arg(long = "fund", value_name = "ADDRESS=COINS")]
    pub(crate) funds: Vec<String>,
    /// Time between blocks in milliseconds, at most a second; empty blocks are made too, so that clocks in contracts go on.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=1_000))]
    pub(crate) block_time: u64,
    /// Number of blocks after which the set of validators may change.
    #[arg(long, default_value_t = crate::genesis::EPOCH_BLOCKS, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub(crate) epoch_blocks: u64,
    /// EIP-155 chain id; that of the members' files when absent, and it must be theirs.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9_007_199_254_740_991))]
    pub(crate) chain_id: Option<u64>,
    /// Time before a stake can be withdrawn, in seconds.
    #[arg(long, default_value_t = 604_800)]
    pub(crate) unbonding: u64,
    /// Most validators at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub(crate) validators_max: u32,
    /// Divide every duration of the rules by this, also those that other flags give: for trying a network out in minutes. Stakes, rates,
    /// bonds and numbers of jurors stay as they are, and so does the time between blocks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) time_scale: u64,
    /// Where to write the network file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og validator run --data ./v0 --network network.json --listen 0.0.0.0:8650
  og validator run --data ./v9 --network network.json --sync http://203.0.113.7:8545   join a long chain quickly")]
pub(crate) struct RunArgs {
    /// Folder with the keys; the ledger goes there too.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The network file.
    #[arg(long, value_name = "FILE")]
    pub(crate) network: PathBuf,
    /// Address to listen on for other validators.
    #[arg(long, default_value = "127.0.0.1:8650", value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// Address at which others reach it; the listening address when absent.
    #[arg(long, value_name = "ADDR")]
    pub(crate) announce: Option<std::net::SocketAddr>,
    /// A validator to begin with, besides those in the network file: KEY@ADDRESS.
    #[arg(long = "peer", value_name = "PEER")]
    pub(crate) peers: Vec<crate::network_file::Peer>,
    /// Most validators and candidates of one epoch; memory for messages grows with it.
    #[arg(long, default_value_t = crate::validator::PEERS_MAX)]
    pub(crate) peers_max: usize,
    /// Address of the JSON-RPC server (HTTP and WebSocket).
    #[arg(long, default_value = "127.0.0.1:8545", value_name = "ADDR")]
    pub(crate) rpc_listen: std::net::SocketAddr,
    /// Serve debug_ methods too; they can keep a core and much memory busy.
    #[arg(long)]
    pub(crate) rpc_debug: bool,
    /// Keep the state of every block, not only of the newest ones.
    #[arg(long)]
    pub(crate) archive: bool,
    /// Blocks between the snapshots that new validators can start from; two of them stay on disk.
    #[arg(long, default_value_t = ledger::SNAPSHOT_BLOCKS, value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub(crate) snapshot_every: u64,
    /// In a fresh folder: take the state of a recent block from the node with this JSON-RPC instead of executing the whole chain.
    #[arg(long, value_name = "URL")]
    pub(crate) sync: Option<String>,
    #[command(flatten)]
    pub(crate) browser: BrowserArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) calls: CallArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StakingArgs {
    /// Folder with the keys.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// JSON-RPC of a validator, or of several with commas between them.
    #[arg(long, env = "OG_RPC", default_value = "http://127.0.0.1:8545", value_name = "URL")]
    pub(crate) rpc: String,
}

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    #[command(flatten)]
    pub(crate) staking: StakingArgs,
    /// Stake in whole coins: 80 to 120 % of the price of a vote, which `og validator status` prints. What is above comes back when the validator is
    /// chosen (`og validator claim`); further votes need further validators.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) stake: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// JSON-RPC of a validator, or of several with commas between them.
    #[arg(long, env = "OG_RPC", default_value = "http://127.0.0.1:8545", value_name = "URL")]
    pub(crate) rpc: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
