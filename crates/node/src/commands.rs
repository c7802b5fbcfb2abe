//! The subcommands.

use crate::{
    auditor::{self, AuditorConfig},
    bench,
    cli::{
        AuditArgs, ChatArgs, Cli, Command, DevnetArgs, NodeArgs, ProveArgs, ProxyArgs, ReceiptCommand,
        SimulateCommand, VerifyArgs,
    },
    devnet, files,
    genesis::COIN,
    node::{self, NodeConfig},
    output::{out, outln},
    proxy,
};
use anyhow::Context as _;
use api::ServeOptions;
use client::{
    chain::check_chain,
    check::{Checks, Outcome},
    proxy::{Payer, ProxyConfig, Replicas},
    trust::Trust,
};
use engine::{Engine, EngineConfig, Model};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use types::{B256, U256, limits::PROOF_BYTES_MAX};

/// Longest time that answers under way may take when a proxy is stopped.
const PROXY_DRAIN: Duration = Duration::from_secs(10);

/// Runs a command; `false` means that something was checked and refused.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Devnet(args) => run_devnet(&args).await.map(|()| true),
        Command::Node(args) => run_node(args).await.map(|()| true),
        Command::Validator { command } => crate::validator_commands::run(command).await.map(|()| true),
        Command::Audit(args) => run_audit(args).await.map(|()| true),
        Command::Simulate { command } => simulate(&command).map(|()| true),
        Command::Proxy(args) => run_proxy(args).await.map(|()| true),
        Command::Chat(args) => chat(args).await.map(|()| true),
        Command::Receipt { command } => receipt(command).await.map(|()| true),
        Command::Prove(args) => prove(args).await.map(|()| true),
        Command::Verify(args) => verify(&args),
        Command::Bench { command } => {
            tokio::task::spawn_blocking(move || bench::run(&command)).await?.map(|()| true)
        }
    }
}

/// Resolves on Ctrl-C or SIGTERM.
pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        r = tokio::signal::ctrl_c() => r?,
        _ = term.recv() => {}
    }
    Ok(())
}

/// Waits for the stop signal; ends early when `check`, made every second, fails.
pub(crate) async fn watch(
    mut stop: impl Future<Output = anyhow::Result<()>> + Unpin,
    check: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            stopped = &mut stop => return stopped,
            _ = ticks.tick() => check()?,
        }
    }
}

async fn run_devnet(args: &DevnetArgs) -> anyhow::Result<()> {
    let stop = stop_signal();
    tokio::pin!(stop);
    let devnet = tokio::select! {
        started = devnet::start(args) => started?,
        stopped = &mut stop => return stopped,
    };
    if args.json {
        outln!("{:#}", devnet.about);
    } else {
        out!("{}", banner(&devnet.about, args));
    }
    watch(stop, || devnet.check()).await?;
    if !args.json {
        outln!("\nStopping.");
    }
    tokio::task::spawn_blocking(move || devnet.stop()).await?
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn banner(about: &Value, args: &DevnetArgs) -> String {
    let mut out = String::new();
    let mut line = |s: String| {
        out.push_str(&s);
        out.push('\n');
    };
    let empty = vec![];
    line(format!(
        "A network is running: {} validators, {} inference nodes, ready after {:.1} s.\n",
        args.validators,
        args.nodes,
        about["ready_after_ms"].as_u64().unwrap_or_default() as f64 / 1000.0
    ));
    line(format!("  network    {}  (genesis hash)", text(about, "network")));
    line(format!("  chain id   {}", about["chain_id"]));
    line(format!(
        "  OpenAI API {}/v1  (proxy: checks answers before their end is shown)",
        text(about, "proxy_url")
    ));
    line(format!("  JSON-RPC   {}", text(about, "rpc_url")));
    line(format!("  model      {}  {}", text(&about["model"], "name"), text(&about["model"], "id")));
    line(format!("  data       {}", text(about, "data")));
    line("\nNodes:".into());
    let urls = about["node_urls"].as_array().unwrap_or(&empty);
    for (node, url) in about["nodes"].as_array().unwrap_or(&empty).iter().zip(urls) {
        line(format!("  {}  {}", node.as_str().unwrap_or_default(), url.as_str().unwrap_or_default()));
    }
    line("\nContracts:".into());
    for (name, address) in about["contracts"].as_object().into_iter().flatten() {
        line(format!("  {name:<14} {}", address.as_str().unwrap_or_default()));
    }
    line("\nFunded accounts (everybody knows these keys: never use them elsewhere):".into());
    for key in about["keys"].as_array().unwrap_or(&empty) {
        line(format!("  {}  {}", text(key, "address"), text(key, "private_key")));
    }
    let proxy = text(about, "proxy_url");
    let flag = if proxy == crate::cli::PROXY_URL { String::new() } else { format!(" --proxy {proxy}") };
    line("\nTry next, in another terminal:".into());
    line(format!("  og chat{flag} \"Can I get a large latte with oat milk?\""));
    line(format!("  og receipt get{flag} ID > proof.json   (ID: from the last line of the answer)"));
    line(format!("  og verify --network {} proof.json", text(about, "network")));
    line("\nCtrl-C stops it.".into());
    out
}

async fn run_node(args: NodeArgs) -> anyhow::Result<()> {
    let listener = api::bind(args.listen, "inference node", "--listen")?;
    let model = load_model(args.model.as_deref())?;
    let defaults = EngineConfig::default();
    let config = EngineConfig {
        threads: args.threads.unwrap_or(defaults.threads),
        batch_max: usize::from(args.batch),
        queue_max: args.queue as usize,
        kv_bytes: (args.kv_memory as usize) << 20,
        prefix_cache: !args.no_prefix_cache,
        ..defaults
    };
    let engine = Engine::new(model.clone(), config)?;
    let config = NodeConfig {
        rpc_url: args.rpc,
        data_dir: args.data,
        endpoint: args.endpoint.unwrap_or(format!("http://{}", listener.local_addr()?)),
        stake_wei: U256::from(args.stake) * U256::from(COIN),
        price_input: args.price_input,
        price_output: args.price_output,
        require_payment: args.require_payment,
        browser: args.browser.rules()?,
        limits: args.limits.limits(),
    };
    let endpoint = config.endpoint.clone();
    let stop = stop_signal();
    tokio::pin!(stop);
    let node = tokio::select! {
        started = node::start(config, engine, listener) => started?,
        stopped = &mut stop => return stopped,
    };
    outln!("Node {} serves {} ({}) on {endpoint}", node.address, model.manifest().name, model.id());
    stop.await?;
    // A second signal ends it at once.
    let again = stop_signal();
    tokio::select! {
        () = node.drain(Duration::from_secs(args.drain_timeout)) => Ok(()),
        stopped = again => stopped,
    }
}

async fn run_audit(args: AuditArgs) -> anyhow::Result<()> {
    let mut models = vec![Model::embedded()?];
    for path in &args.models {
        models.push(load_model(Some(path))?);
    }
    let names: Vec<String> = models.iter().map(|m| m.manifest().name.clone()).collect();
    let stake_wei = U256::from(args.stake) * U256::from(COIN);
    let config = AuditorConfig { rpc_url: args.rpc, data_dir: args.data, stake_wei };
    let stop = stop_signal();
    tokio::pin!(stop);
    let auditor = tokio::select! {
        started = auditor::start(config, models) => started?,
        stopped = &mut stop => return stopped,
    };
    outln!("Auditor {} checks answers of {}", auditor.address, names.join(", "));
    stop.await
}

fn simulate(command: &SimulateCommand) -> anyhow::Result<()> {
    let SimulateCommand::Economics { seed, json } = command;
    let mut config = economics::Config::default();
    if let Some(seed) = seed {
        config.seed = *seed;
    }
    let report = economics::run(&config)?;
    match json {
        true => outln!("{}", serde_json::to_string_pretty(&report)?),
        false => out!("{report}"),
    }
    Ok(())
}

/// Loads a model, with a progress bar where someone looks.
pub(crate) fn load_model(path: Option<&Path>) -> anyhow::Result<Arc<Model>> {
    let Some(path) = path else { return Ok(Model::embedded()?) };
    let bar = match std::io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new(0),
        false => indicatif::ProgressBar::hidden(),
    };
    bar.set_style(indicatif::ProgressStyle::with_template(
        "loading {bar:40} {bytes}/{total_bytes} {bytes_per_sec}",
    )?);
    let model = Model::open_with(path, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(model?)
}

async fn run_proxy(args: ProxyArgs) -> anyhow::Result<()> {
    let listener = api::bind(args.listen, "proxy", "--listen")?;
    let payer = match &args.pay {
        Some(path) => {
            let deposit = U256::from(args.deposit) * U256::from(COIN / 1000);
            Some(Payer { secret: B256::from(files::existing_secret(path)?), deposit })
        }
        None => None,
    };
    let rules = args.browser.rules()?;
    let config = ProxyConfig {
        ceilings: args.ceilings(),
        names: args.names()?,
        rpc_urls: args.rpcs,
        network: args.network,
        stale_max: Duration::from_secs(args.stale_max),
        data_dir: args.data,
        release_verified: args.release_verified,
        payer,
        idle_max: Duration::from_secs(120),
        replicas: Replicas { nodes: args.replicas, ..Replicas::default() },
    };
    let running = proxy::start(
        config,
        listener,
        ServeOptions { browser: rules, limits: args.limits.limits(), ..ServeOptions::default() },
    )
    .await?;
    outln!("OpenAI API on http://{}/v1, network {}", args.listen, running.proxy.genesis());
    stop_signal().await?;
    running.server.shut_down(PROXY_DRAIN).await;
    Ok(())
}

async fn chat(args: ChatArgs) -> anyhow::Result<()> {
    let message = if args.message == "-" {
        let mut text = String::new();
        std::io::stdin().take(types::limits::REQUEST_BYTES_MAX as u64).read_to_string(&mut text)?;
        text
    } else {
        args.message
    };
    let proxy = args.proxy.trim_end_matches('/');
    let model = match args.model {
        Some(model) => model,
        None => {
            let models = client::chat::models(proxy).await.context("start a network with: og devnet")?;
            models.into_iter().next().context("no node serves a model yet; try again in a second")?
        }
    };
    let mut messages = vec![];
    if let Some(system) = args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": message}));
    let mut request = json!({"model": model, "messages": messages, "stream": true});
    // Without wishes, the likeliest answer: it is the easiest to check again.
    request["temperature"] = json!(args.temperature.unwrap_or(0.0));
    if let Some(seed) = args.seed {
        request["seed"] = json!(seed);
    }
    if let Some(max) = args.max_tokens {
        request["max_tokens"] = json!(max);
    }
    let mut answer = String::new();
    let wanted = client::chat::Wanted { assurance: args.assurance, replicas: args.replicas };
    let asked = client::chat::ask(proxy, &request, wanted, |text| {
        answer.push_str(text);
        if !args.json {
            out!("{text}");
        }
    })
    .await;
    if !args.json {
        outln!();
    }
    let verified = asked?;
    let s = &verified.summary;
    if args.json {
        let mut out = s.clone();
        out["answer"] = json!(answer);
        outln!("{out:#}");
        return Ok(());
    }
    let replicas = &s["replicas"];
    let agreed = match replicas["agreed"].as_array() {
        Some(nodes) => format!(" ({} of {} nodes agree)", nodes.len(), replicas["asked"]),
        None => String::new(),
    };
    let price = s["price_total_wei"].as_str().unwrap_or(text(s, "price_wei"));
    let line = format!(
        "verified: {}{agreed} by node {}, model {}, {}+{} tokens, {} wei, {} checks; receipt {}",
        text(s, "assurance"),
        text(s, "node"),
        text(s, "model"),
        s["prompt_tokens"],
        s["completion_tokens"],
        price,
        s["checks"].as_array().map_or(0, Vec::len),
        text(s, "receipt_id"),
    );
    outln!("{}", colour(&line, "2"));
    Ok(())
}

/// Colours `line` when standard output is a terminal and NO_COLOR is unset.
fn colour(line: &str, code: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{line}\x1b[0m")
    } else {
        line.to_owned()
    }
}

async fn receipt(command: ReceiptCommand) -> anyhow::Result<()> {
    match command {
        ReceiptCommand::Get { id, proxy, wait, checkpoint } => {
            let mut url = format!("{}/og/v1/receipts/{id}/proof?wait={wait}", proxy.trim_end_matches('/'));
            if let Some(checkpoint) = checkpoint {
                url = format!("{url}&checkpoint={checkpoint}");
            }
            let proof = client::chat::get_bytes(&url).await?;
            std::io::stdout().write_all(&proof)?;
        }
        ReceiptCommand::List { proxy, json } => {
            let url = format!("{}/og/v1/receipts", proxy.trim_end_matches('/'));
            let list = client::chat::get(&url).await?;
            if json {
                outln!("{list:#}");
            } else {
                for id in list["receipts"].as_array().into_iter().flatten() {
                    outln!("{}", id.as_str().unwrap_or_default());
                }
            }
        }
    }
    Ok(())
}

/// Reads a file, or standard input for `-`, up to the largest proof file.
fn read_proof(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = PROOF_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

fn verify(args: &VerifyArgs) -> anyhow::Result<bool> {
    let bytes = read_proof(&args.file)?;
    if is_chain_proof(&bytes) {
        return verify_chain(&bytes, args);
    }
    let mut report = client::proof::check_proof(&bytes, &trust(args), &client::registry());
    if args.replay {
        report.checks.record("replay", crate::replay::replay(&bytes, args.model.as_deref()));
        report.ok = report.checks.ok();
    }
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(report.ok);
    }
    if let Some(s) = &report.summary {
        outln!("receipt {}", s.receipt_id);
        outln!("  {} answered by node {}, assurance `{}`\n", s.model, s.node, s.assurance);
    }
    print_checks(&report.checks);
    let verdict = if report.ok { "The proof holds." } else { "The proof does NOT hold." };
    outln!("\n{verdict}");
    Ok(report.ok)
}

fn print_checks(checks: &Checks) {
    for check in &checks.0 {
        let (word, code) = match check.outcome {
            Outcome::Pass => ("pass", "32"),
            Outcome::Fail => ("FAIL", "31"),
            Outcome::Note => ("note", "33"),
        };
        outln!("  {}  {:<10} {}", colour(word, code), check.name, check.detail);
    }
}

/// What the caller of `og verify` trusts.
fn trust(args: &VerifyArgs) -> Trust {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
    Trust { network: args.network, checkpoint: args.checkpoint, now }
}

fn is_chain_proof(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Format {
        format: String,
    }
    serde_json::from_slice::<Format>(bytes).is_ok_and(|f| f.format.starts_with("og-chain/"))
}

fn verify_chain(bytes: &[u8], args: &VerifyArgs) -> anyhow::Result<bool> {
    anyhow::ensure!(!args.replay, "--replay is for proofs of answers (og receipt get)");
    let checks = check_chain(bytes, &trust(args));
    let ok = checks.ok();
    if args.json {
        outln!("{:#}", json!({"ok": ok, "checks": checks}));
        return Ok(ok);
    }
    print_checks(&checks);
    outln!("\n{}", if ok { "The proof holds." } else { "The proof does NOT hold." });
    Ok(ok)
}

async fn prove(args: ProveArgs) -> anyhow::Result<()> {
    let slots: Vec<_> = args.slots.iter().map(|s| types::B256::from(*s)).collect();
    let checkpoint = args.checkpoint.map(|c| format!("0x{:x}", c.number));
    let wanted = match args.transaction {
        Some(hash) => json!({"transaction": hash, "checkpoint": checkpoint}),
        None => json!({"account": args.account, "slots": slots, "checkpoint": checkpoint}),
    };
    let proof: Value = client::RpcClient::new(&args.rpc).call("og_chainProof", json!([wanted])).await?;
    outln!("{proof:#}");
    Ok(())
}
