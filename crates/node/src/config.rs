//! The settings file: one TOML file, whose keys are the names of flags. Flags win over variables, variables over the file.

use crate::cli::{Cli, PROXY_URL};
use crate::cli::{Command, ReceiptCommand, ValidatorCommand};
use anyhow::Context as _;
use serde::Deserialize;

const RPC_URL: &str = "http://127.0.0.1:8545";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// JSON-RPC of a validator.
    rpc: Option<String>,
    /// URL of the proxy.
    proxy: Option<String>,
    /// Genesis hash of the network.
    network: Option<types::B256>,
}

/// Fills in what neither flags nor variables gave.
pub(crate) fn apply(mut cli: Cli) -> anyhow::Result<Cli> {
    let Some(path) = &cli.config else { return Ok(cli) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let settings: Settings = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let fill = |value: &mut String, default: &str, setting: Option<String>| {
        if value == default
            && let Some(setting) = setting
        {
            *value = setting;
        }
    };
    match &mut cli.command {
        Command::Node(a) => fill(&mut a.rpc, RPC_URL, settings.rpc),
        Command::Proxy(a) => {
            if let (true, Some(setting)) = (a.rpcs == [RPC_URL], settings.rpc) {
                a.rpcs = vec![setting];
            }
            a.network = a.network.or(settings.network);
        }
        Command::Chat(a) => fill(&mut a.proxy, PROXY_URL, settings.proxy),
        Command::Receipt {
            command: ReceiptCommand::Get { proxy, .. } | ReceiptCommand::List { proxy, .. },
        } => {
            fill(proxy, PROXY_URL, settings.proxy);
        }
        Command::Prove(a) => fill(&mut a.rpc, RPC_URL, settings.rpc),
        Command::Verify(a) => a.network = a.network.or(settings.network),
        Command::Validator { command } => match command {
            ValidatorCommand::Register(a) => fill(&mut a.staking.rpc, RPC_URL, settings.rpc),
            ValidatorCommand::Exit(a) | ValidatorCommand::Withdraw(a) | ValidatorCommand::Unjail(a) => {
                fill(&mut a.rpc, RPC_URL, settings.rpc);
            }
            ValidatorCommand::Status(a) => fill(&mut a.rpc, RPC_URL, settings.rpc),
            ValidatorCommand::Init(_) | ValidatorCommand::Genesis(_) | ValidatorCommand::Run(_) => {}
        },
        Command::Audit(a) => fill(&mut a.rpc, RPC_URL, settings.rpc),
        Command::Devnet(_) | Command::Bench { .. } | Command::Simulate { .. } => {}
    }
    Ok(cli)
}
