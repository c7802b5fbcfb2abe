//! `og validator …`.

use crate::{
    cli::{GenesisArgs, InitArgs, RegisterArgs, RunArgs, StakingArgs, StatusArgs, ValidatorCommand},
    commands::{stop_signal, watch},
    court::call_of,
    genesis::{COIN, NewNetwork, scaled_epoch, scaled_staking, staking_rules},
    network_file::{NetworkFile, Peer},
    output::outln,
    sync,
    trust_rules::TrustRules,
    validator::{self, Keys, Setup},
};
use alloy_sol_types::SolCall;
use anyhow::{Context as _, ensure};
use api::rpc::RpcConfig;
use client::{RpcClient, contracts::Staking};
use ledger::Retention;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{io::IsTerminal as _, sync::Arc, time::Duration};
use types::{Address, U256, ValidatorKey};
use wallet::{Account, Config, Wallet};

/// How long a command tries before it says that it has failed.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What others need to know of a validator.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    chain_id: u64,
    operator: Address,
    key: ValidatorKey,
    peer: Peer,
}

pub(crate) async fn run(command: ValidatorCommand) -> anyhow::Result<()> {
    match command {
        ValidatorCommand::Init(args) => init(&args),
        ValidatorCommand::Genesis(args) => genesis(&args),
        ValidatorCommand::Run(args) => serve(args).await,
        ValidatorCommand::Register(args) => register(&args).await,
        ValidatorCommand::Exit(args) => act(&args, Staking::requestExitCall {}, "asked to leave").await,
        ValidatorCommand::Withdraw(args) => act(&args, Staking::withdrawCall {}, "took the stake out").await,
        ValidatorCommand::Unjail(args) => act(&args, Staking::unjailCall {}, "is out of jail").await,
        ValidatorCommand::Status(args) => status(&args).await,
    }
}

/// Smallest and largest chain id that is drawn: above every id that people chose, and what wallets still take
/// (MetaMask: `floor(2^53 / 2) - 36`).
const CHAIN_IDS: std::ops::RangeInclusive<u64> = 1 << 40..=4_503_599_627_370_459;

/// A chain id for a new network. Accounts and their transactions are bound to a network by it alone.
fn random_chain_id() -> u64 {
    rand::rng().random_range(CHAIN_IDS)
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let keys = Keys::open(&args.data)?;
    let chain_id = args.chain_id.unwrap_or_else(random_chain_id);
    let member = Member {
        chain_id,
        operator: keys.operator()?,
        key: keys.validator.public(chain_id),
        peer: Peer { key: keys.validator.peer(), address: args.announce },
    };
    outln!("{}", serde_json::to_string_pretty(&member)?);
    Ok(())
}

fn genesis(args: &GenesisArgs) -> anyhow::Result<()> {
    let mut members: Vec<Member> = vec![];
    let mut chain_id = args.chain_id;
    for path in &args.members {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let member: Member = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what `og validator init` prints", path.display()))?;
        let expected = *chain_id.get_or_insert(member.chain_id);
        ensure!(
            member.chain_id == expected,
            "{} was made for the chain id {}, not {expected}: make it again with `og validator init --chain-id {expected}`",
            path.display(),
            member.chain_id,
        );
        members.push(member);
    }
    let chain_id = chain_id.context("name at least one member")?;
    let staking = ledger::StakingRules {
        unbonding_seconds: args.unbonding,
        validators_max: args.validators_max,
        ..staking_rules()
    };
    let mut funded: Vec<_> = members.iter().map(|m| (m.operator, validator::operator_funds())).collect();
    for fund in &args.funds {
        let parsed = fund.split_once('=').and_then(|(a, c)| Some((a.parse().ok()?, c.parse::<u64>().ok()?)));
        let (address, coins) = parsed.with_context(|| format!("{fund:?} is not ADDRESS=COINS"))?;
        funded.push((address, U256::from(coins) * U256::from(COIN)));
    }
    let (genesis, network) = NewNetwork {
        chain_id,
        block_time_ms: args.block_time,
        epoch_blocks: scaled_epoch(args.epoch_blocks, args.time_scale),
        timestamp: crate::inference::now_ms() / 1000,
        validators: members.iter().map(|m| (m.operator, m.key.clone())).collect(),
        funded,
        staking: scaled_staking(staking, args.time_scale),
        trust: TrustRules::network().scaled(args.time_scale),
    }
    .build()?;
    let hash = genesis.execute(&network)?.hash();
    let file = NetworkFile { network, genesis, peers: members.iter().map(|m| m.peer).collect() };
    file.network.check()?;
    file.write(&args.out)?;
    outln!("network {hash}: {} validators, chain id {chain_id}", members.len());
    Ok(())
}

async fn serve(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_signal();
    tokio::pin!(stop);
    let file = NetworkFile::read(&args.network)?;
    let keys = Keys::open(&args.data)?;
    let rpc = api::bind(args.rpc_listen, "JSON-RPC", "--rpc-listen")?;
    // The consensus network binds for itself; this finds a taken port early, with a clear message.
    drop(api::bind(args.listen, "peer-to-peer", "--listen")?);
    if let Some(url) = args.sync.as_deref().filter(|_| sync::is_fresh(&args.data)) {
        tokio::select! {
            done = take_state(&args, &file, url) => done?,
            stopped = &mut stop => return stopped,
        }
    }
    let mut peers = file.peers.clone();
    peers.extend(&args.peers);
    let me = keys.validator.peer();
    let alone = file.network.validators.iter().all(|v| v.peer == me);
    ensure!(
        alone || peers.iter().any(|p| p.key != me),
        "no peer is known: give --peer KEY@ADDRESS of a validator (`og validator init` prints it)"
    );
    let setup = Setup {
        dir: args.data,
        keys,
        listen: args.listen,
        announce: args.announce.unwrap_or(args.listen),
        peers,
        peers_max: args.peers_max.max(file.network.validators.len() * 2),
        retention: if args.archive { Retention::Archive } else { Retention::Full },
        snapshot_every: args.snapshot_every,
        rpc,
        rpc_config: RpcConfig {
            debug: args.rpc_debug,
            browser: args.browser.rules()?,
            limits: args.limits.limits(),
            calls: args.calls.limits(),
            ..RpcConfig::default()
        },
    };
    let running = validator::start(setup, &file)?;
    outln!(
        "Validator of network {} at block {}, JSON-RPC on http://{}",
        running.chain.genesis().hash(),
        running.chain.head().number(),
        args.rpc_listen
    );
    let operator = running.operator;
    if !running.chain.is_candidate(&me) {
        outln!(
            "It is not registered, so validators do not talk to it yet: og validator register --data DIR --rpc URL (account {operator})"
        );
    }
    watch(stop, || running.check()).await?;
    tokio::task::spawn_blocking(move || running.stop()).await?
}

async fn take_state(args: &RunArgs, file: &NetworkFile, url: &str) -> anyhow::Result<()> {
    let bar = match std::io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new_spinner(),
        false => indicatif::ProgressBar::hidden(),
    };
    let progress = |entries, bytes| {
        bar.set_message(format!("{entries} accounts and slots, {} MB", bytes / 1_000_000));
        bar.tick();
    };
    let done =
        sync::run(&args.data, file, url, progress).await.with_context(|| format!("syncing from {url}"))?;
    bar.finish_and_clear();
    match done {
        Some(done) => outln!(
            "took the state of block {}: {} accounts and slots, {} bytes, {:.1} s",
            done.number,
            done.entries,
            done.bytes,
            done.took.as_secs_f64()
        ),
        None => outln!("{url} has no snapshot yet: replaying the chain"),
    }
    Ok(())
}

/// Sends a call to the staking contract.
async fn send(args: &StakingArgs, value: U256, call: impl SolCall) -> anyhow::Result<Address> {
    let keys = Keys::open(&args.data)?;
    let rpc = RpcClient::new(&args.rpc);
    let network = rpc.network().await?.network;
    let config = Config::new(Account::new(keys.operator)?, network.chain_id).patient_for(COMMAND_MAX);
    let wallet = Wallet::open(config, Arc::new(rpc))?;
    wallet.send(call_of(network.contracts.staking, &call).with_value(value)).await?;
    Ok(wallet.address())
}

async fn act(args: &StakingArgs, call: impl SolCall, what: &str) -> anyhow::Result<()> {
    let operator = send(args, U256::ZERO, call).await?;
    outln!("validator of {operator} {what}");
    Ok(())
}

async fn register(args: &RegisterArgs) -> anyhow::Result<()> {
    let keys = Keys::open(&args.staking.data)?;
    let rpc = RpcClient::new(&args.staking.rpc);
    let network = rpc.network().await?.network;
    let operator = keys.operator()?;
    let stake = U256::from(args.stake) * U256::from(COIN);
    let balance = rpc.balance(operator).await?;
    ensure!(
        balance > stake,
        "account {operator} has {balance} wei, but needs a stake of {stake} and some wei for fees; send it coins first"
    );
    let (key, possession) = keys.validator.registration(network.chain_id, operator);
    let call = Staking::registerCall { peer: key.peer, vote: key.vote.into(), possession: possession.into() };
    send(&args.staking, stake, call)
        .await
        .context("registering (is the stake at least the contract's minimum?)")?;
    outln!("registered {operator}; it votes from the next epoch on, if its stake is among the highest");
    Ok(())
}

async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let rpc = RpcClient::new(&args.rpc);
    let staking = rpc.network().await?.network.contracts.staking;
    let epoch = rpc.view(staking, &Staking::epochCall {}).await?;
    let page = |offset: u64| Staking::candidatesCall { offset: U256::from(offset), limit: U256::from(100) };
    let mut candidates = vec![];
    loop {
        let found = rpc.view(staking, &page(candidates.len() as u64)).await?;
        let last = found.len() < 100;
        candidates.extend(found);
        if last {
            break;
        }
    }
    if args.json {
        let list: Vec<_> = candidates
            .iter()
            .map(|c| {
                json!({"operator": c.operator, "peer": c.peer, "stake": c.stake.to_string(), "active": c.active,
                    "jailed_until": c.jailedUntil, "exit_at": c.exitAt, "tombstoned": c.tombstoned})
            })
            .collect();
        outln!("{:#}", json!({"epoch": epoch, "candidates": list}));
        return Ok(());
    }
    outln!("epoch {epoch}");
    for c in candidates {
        let state = match (c.tombstoned, c.jailedUntil > 0, c.active) {
            (true, ..) => "slashed",
            (_, true, _) => "jailed",
            (.., true) => "active",
            _ => "waiting",
        };
        outln!("  {}  {:<8} {} coins", c.operator, state, c.stake / U256::from(COIN));
    }
    Ok(())
}
