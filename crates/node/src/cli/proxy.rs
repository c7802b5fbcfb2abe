use super::{BrowserArgs, LimitArgs};
use anyhow::Context as _;
use clap::Args;
use client::Ceilings;
use std::{collections::BTreeMap, path::PathBuf};
use types::{B256, U256};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  og proxy --data ./proxy --network 0x5f3c… --rpc http://203.0.113.7:8545 --rpc http://203.0.113.8:8545
  og proxy --data ./proxy --pay key.txt --max-answer 1000000000000000 --max-day 50

Requests can say more: og-max-price (most wei for the whole answer), og-model-id (which of two models with one name), og-assurance, og-replicas,
og-disclose, and og-release: verified.")]
pub(crate) struct ProxyArgs {
    /// Pay for answers with the account of the key in this file (0x and 64 hexadecimal digits, mode 600).
    #[arg(long, value_name = "FILE")]
    pub(crate) pay: Option<PathBuf>,
    /// What to put into the escrow for a node when it holds too little, in thousandths of a coin.
    #[arg(long, default_value_t = 100, requires = "pay")]
    pub(crate) deposit: u64,
    /// How many times the median price of the registered offers for a model a node may ask, for a prompt token and for a generated one; 0
    /// turns this ceiling off. Nodes above a ceiling are never asked.
    #[arg(long, default_value_t = 4, value_name = "TIMES")]
    pub(crate) max_median: u32,
    /// Most wei for one token of any kind.
    #[arg(long, value_name = "WEI")]
    pub(crate) max_token: Option<u128>,
    /// Most wei for a whole answer, with as many tokens as the request allows. The header og-max-price can only lower it.
    #[arg(long, value_name = "WEI")]
    pub(crate) max_answer: Option<u128>,
    /// Most that all answers of one day (UTC) may cost together, in thousandths of a coin. Nothing is deposited beyond it.
    #[arg(long, default_value_t = 1000, value_name = "THOUSANDTHS")]
    pub(crate) max_day: u64,
    /// What a model's name means: NAME=ID; may be repeated. A name that is not set means, for good, the model that it meant when it was first
    /// used here; the file names.pin in the data folder remembers it.
    #[arg(long = "model", value_name = "NAME=ID")]
    pub(crate) models: Vec<String>,
    /// JSON-RPC of a validator; may be repeated, and the servers are tried in turn. None of them is believed without proofs.
    #[arg(
        long = "rpc",
        env = "OG_RPC",
        default_value = "http://127.0.0.1:8545",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub(crate) rpcs: Vec<String>,
    /// Oldest block that counts as the newest one, in seconds. When the servers show nothing newer, requests are refused.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(crate) stale_max: u64,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8600", value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// Folder for receipts of your answers, and for what is remembered of the network.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Genesis hash of the network that you mean. When absent, the network of the first use counts: the file network.pin in the data folder
    /// remembers it, and any other network is an error from then on.
    #[arg(long, value_name = "HASH")]
    pub(crate) network: Option<B256>,
    /// Withhold streams until they are verified, instead of only their end.
    #[arg(long)]
    pub(crate) release_verified: bool,
    /// Nodes that answer a request with `og-assurance: replicated` and no header `og-replicas`.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=7))]
    pub(crate) replicas: u8,
    #[command(flatten)]
    pub(crate) browser: BrowserArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

impl ProxyArgs {
    /// What answers may cost.
    pub(crate) fn ceilings(&self) -> Ceilings {
        Ceilings {
            median_times: self.max_median,
            token: self.max_token,
            answer: self.max_answer,
            day: Some(U256::from(self.max_day) * U256::from(crate::genesis::COIN / 1000)),
        }
    }

    /// What names mean.
    pub(crate) fn names(&self) -> anyhow::Result<BTreeMap<String, B256>> {
        let one = |text: &String| {
            let (name, id) = text.rsplit_once('=')?;
            Some((name.to_owned(), id.parse().ok()?))
        };
        let parse = |text| {
            one(text).with_context(|| {
                format!("--model {text}: write NAME=ID, with an id as `og_model_id` in /v1/models")
            })
        };
        self.models.iter().map(parse).collect()
    }
}
