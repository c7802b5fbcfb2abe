//! `og bench rpc-flood`: what becomes of the blocks while strangers send the worst calls to the validators' JSON-RPC.

use super::ledger::{network, wait};
use crate::{cli::BenchRpcFloodArgs, output::outln, validator::Running};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const CONTRACT: &str = "0x00000000000000000000000000000000000000aa";
const ALL_GAS: &str = "0xffffffffffffffff";
/// JUMPDEST PUSH1 0 JUMP.
const LOOP: &str = "0x5b600056";
/// For ever: keccak-256 of 2 MiB.
const HASHES: &str = "0x5b622000005f2050600056";
/// For ever: a power of numbers of 512 bytes (modexp), with the largest exponent of 32 bytes.
const POWERS: &str = "0x6102006100005261002061002052610200610040525f19610060525f19610240525f19610260525f19610280\
    525f19610460525b5f5f6104805f600562fffffffa5061003356";
/// How long a client waits before it leaves; every second one does.
const PATIENCE: Duration = Duration::from_millis(300);

/// Counts blocks, and the longest time without one.
#[derive(Default)]
struct Pace {
    blocks: AtomicU64,
    last: Mutex<Option<(Instant, Duration)>>,
}

impl Pace {
    fn block(&self) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = last.map_or(Duration::ZERO, |(at, longest)| longest.max(now - at));
        *last = Some((now, longest));
    }

    /// Blocks per second and the longest pause of the next `seconds`.
    fn measure(&self, seconds: u64) -> Value {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Duration::ZERO));
        let (before, began) = (self.blocks.load(Ordering::Relaxed), Instant::now());
        thread::sleep(Duration::from_secs(seconds));
        let per_second =
            (self.blocks.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        let longest =
            self.last.lock().unwrap_or_else(PoisonError::into_inner).map_or(0, |l| l.1.as_millis() as u64);
        json!({"blocks_per_second": (per_second * 100.0).round() / 100.0, "longest_pause_ms": longest})
    }
}

/// What the clients heard.
#[derive(Default)]
struct Heard {
    answered: AtomicU64,
    aborted: AtomicU64,
    busy: AtomicU64,
    left: AtomicU64,
    failed: AtomicU64,
}

fn calls() -> Vec<String> {
    let code = |code: &str| json!({CONTRACT: {"code": code}});
    let call = json!({"to": CONTRACT, "gas": ALL_GAS});
    let block = json!({"gasLimit": ALL_GAS});
    let mut calls = vec![];
    for program in [LOOP, HASHES, POWERS] {
        let state = code(program);
        let simulated =
            json!({"blockOverrides": block, "stateOverrides": state, "calls": [call, call, call]});
        let traced = json!({"tracer": "callTracer", "stateOverrides": state, "blockOverrides": block});
        calls.push(("eth_call", json!([call, "latest", state, block])));
        calls.push(("eth_estimateGas", json!([call, "latest", state, block])));
        calls.push(("eth_createAccessList", json!([call, "latest", state, block])));
        calls.push(("eth_simulateV1", json!([{"blockStateCalls": [simulated, simulated]}, "latest"])));
        calls.push(("debug_traceCall", json!([call, "latest", traced])));
    }
    calls.push(("eth_getLogs", json!([{"fromBlock": "earliest", "toBlock": "latest"}])));
    calls.push(("eth_feeHistory", json!(["0x400", "latest", [1, 50, 99]])));
    let one = |(method, params): (&str, Value)| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let mut all: Vec<Value> = calls.into_iter().map(one).collect();
    // A batch of the worst of them.
    all.push(Value::Array(vec![all[0].clone(); 50]));
    all.iter().map(Value::to_string).collect()
}

async fn client(number: usize, urls: Arc<Vec<String>>, calls: Arc<Vec<String>>, heard: Arc<Heard>) {
    let Ok(http) = reqwest::Client::builder().no_proxy().build() else { return };
    for turn in number.. {
        let (url, body) = (&urls[turn % urls.len()], &calls[turn % calls.len()]);
        let asked = http.post(url).header("content-type", "application/json").body(body.clone()).send();
        let patience = if turn.is_multiple_of(2) { PATIENCE } else { Duration::from_secs(60) };
        let count = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        let text = async { asked.await?.text().await };
        match tokio::time::timeout(patience, text).await {
            Err(_) => count(&heard.left),
            Ok(Err(_)) => count(&heard.failed),
            Ok(Ok(text)) if text.contains("too many") => {
                count(&heard.busy);
                // As impatient as an attacker, who still wants to be heard.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(Ok(text)) if text.contains("execution aborted") => count(&heard.aborted),
            Ok(Ok(_)) => count(&heard.answered),
        }
    }
}

pub(crate) fn run(args: &BenchRpcFloodArgs) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("og-bench-").tempdir()?;
    let runtime = tokio::runtime::Handle::current();
    let _guard = runtime.enter();
    let network = network(args.validators, args.block_time, temporary.path(), &[])?;
    let (validators, addresses): (Vec<Running>, Vec<SocketAddr>) = network.into_iter().unzip();
    let pace = Arc::new(Pace::default());
    let seen = pace.clone();
    validators[0].chain.on_commit(move |_| seen.block());
    wait(|| validators.iter().all(|v| v.chain.head().number() >= 4))
        .context("the validators make no blocks")?;
    let idle = pace.measure(args.seconds);
    let heard = Arc::new(Heard::default());
    let (urls, calls) =
        (Arc::new(addresses.iter().map(|a| format!("http://{a}")).collect()), Arc::new(calls()));
    let mut clients = JoinSet::new();
    for number in 0..usize::from(args.clients) {
        clients.spawn_on(client(number, Arc::clone(&urls), calls.clone(), heard.clone()), &runtime);
    }
    thread::sleep(Duration::from_secs(2));
    let flood = pace.measure(args.seconds);
    let running: usize = validators.iter().map(|v| v.rpc_load().0).sum();
    drop(clients);
    let left = Instant::now();
    wait(|| validators.iter().all(|v| v.rpc_load() == (0, 0))).context("calls run on for nobody")?;
    let ended = left.elapsed();
    for validator in validators {
        validator.stop()?;
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let answers = json!({
        "answered": get(&heard.answered), "aborted": get(&heard.aborted), "busy": get(&heard.busy),
        "left": get(&heard.left), "failed": get(&heard.failed),
    });
    let result = json!({
        "validators": args.validators, "block_time_ms": args.block_time, "clients": args.clients,
        "idle": idle, "flood": flood, "answers": answers, "running_in_flood": running,
        "idle_again_after_ms": ended.as_millis() as u64,
    });
    if args.json {
        outln!("{result:#}");
        return Ok(());
    }
    outln!("{} validators in one process, blocks at least {} ms apart", args.validators, args.block_time);
    for (name, v) in [("idle", &result["idle"]), ("flood", &result["flood"])] {
        outln!(
            "  {name:<6} {} blocks a second, longest pause {} ms",
            v["blocks_per_second"],
            v["longest_pause_ms"]
        );
    }
    outln!("  {} clients heard {}", args.clients, result["answers"]);
    outln!("  {running} calls ran at the end; {} ms after the clients left, none", ended.as_millis());
    Ok(())
}
