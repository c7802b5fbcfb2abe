//! `og bench ledger`: whole validators over real TCP and real disks, in one process.

use crate::{
    cli::BenchLedgerArgs,
    genesis::{COIN, NewNetwork, staking_rules},
    network_file::{NetworkFile, Peer},
    output::outln,
    receipt_log::{Kept, ReceiptLog},
    trust_rules::TrustRules,
    validator::{self, Keys, Running, Setup},
};
use alloy_consensus::TxEip1559;
use anyhow::{Context as _, ensure};
use api::rpc::RpcConfig;
use ledger::{Retention, SNAPSHOT_BLOCKS};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use types::{
    ARITHMETIC_EXACT, Address, B256, Bytes, Claim, Disclose, Disclosure, Evidence, Receipt, Rung, Sampling,
    U256, keccak256,
};
use wallet::Account;

const CHAIN_ID: u64 = 10_744;
/// Transfers on their way at once; one sender may have 64.
const WINDOW: usize = 12_000;
/// Single transfers with which the idle network is measured.
const PROBES: usize = 60;

/// When transfers were sent, and how long those took that are final on the first validator.
#[derive(Default)]
struct Watch {
    sent: Mutex<HashMap<B256, Instant>>,
    took: Mutex<Vec<Duration>>,
    done: AtomicUsize,
    blocks: AtomicU64,
}

impl Watch {
    fn send(&self, hash: B256) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, Instant::now());
    }

    fn final_block(&self, hashes: impl Iterator<Item = B256>) {
        let now = Instant::now();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            if let Some(began) = sent.remove(&hash) {
                took.push(now - began);
                self.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0, |d| d.as_millis() as u64)
}

fn account(i: u32) -> anyhow::Result<Account> {
    Ok(Account::new(keccak256(format!("og bench sender {i}")))?)
}

fn transfer(account: &Account, nonce: u64, to: Address) -> anyhow::Result<Bytes> {
    Ok(account.sign(TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000_000,
        max_priority_fee_per_gas: 1,
        to: alloy_primitives::TxKind::Call(to),
        value: U256::from(1),
        ..Default::default()
    })?)
}

pub(crate) fn run(args: &BenchLedgerArgs) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("og-bench-").tempdir()?;
    let dir = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    let senders: Vec<_> = (0..args.senders).map(account).collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Handle::current();
    let _guard = runtime.enter();
    let network = network(args.validators, args.block_time, &dir, &senders)?;
    let validators: Vec<_> = network.into_iter().map(|(validator, _)| validator).collect();
    let watch = Arc::new(Watch::default());
    let seen = watch.clone();
    validators[0].chain.on_commit(move |executed| {
        seen.final_block(executed.block().transactions.iter().map(|tx| *tx.tx_hash()));
    });
    wait(|| validators.iter().all(|v| v.chain.head().number() >= 4))
        .context("the validators make no blocks")?;

    let idle = probe(&validators, &watch, &senders[0])?;
    let load = load(args, &validators, &watch, &senders)?;
    let (nodes, bytes) = validators[0].chain.store().state_size()?;
    for validator in validators {
        validator.stop()?;
    }
    let receipts = receipts(&dir, args.seconds)?;
    let result = json!({
        "validators": args.validators, "block_time_ms": args.block_time, "senders": args.senders,
        "idle": idle, "load": load, "state": {"nodes": nodes, "bytes": bytes}, "receipt_log": receipts,
    });
    if args.json {
        outln!("{result:#}");
        return Ok(());
    }
    outln!("{} validators in one process, blocks at least {} ms apart", args.validators, args.block_time);
    let line = |name: &str, v: &Value, keys: &[(&str, &str)]| {
        let shown: Vec<_> = keys.iter().map(|(key, unit)| format!("{key} {}{unit}", v[*key])).collect();
        outln!("  {name:<12} {}", shown.join(", "));
    };
    line("idle", &result["idle"], &[("p50_ms", ""), ("p99_ms", ""), ("samples", "")]);
    line(
        "load",
        &result["load"],
        &[("transfers_per_second", ""), ("p50_ms", ""), ("p99_ms", ""), ("blocks_per_second", "")],
    );
    line("receipt log", &result["receipt_log"], &[("appends_per_second", ""), ("writers", "")]);
    Ok(())
}

/// Starts `validators` whose accounts and `senders` are rich; also gives where their JSON-RPC servers listen.
pub(super) fn network(
    validators: u16,
    block_time_ms: u64,
    dir: &Path,
    senders: &[Account],
) -> anyhow::Result<Vec<(Running, SocketAddr)>> {
    let n = usize::from(validators);
    let folder = |i: usize| dir.join(i.to_string());
    let keys: Vec<_> = (0..n).map(|i| Keys::open(&folder(i))).collect::<Result<_, _>>()?;
    let operators = keys.iter().map(Keys::operator).collect::<Result<Vec<_>, _>>()?;
    let rich = U256::from(1_000_000 * COIN);
    let funded = senders.iter().map(Account::address).chain(operators.iter().copied());
    let (genesis, network) = NewNetwork {
        chain_id: CHAIN_ID,
        block_time_ms,
        epoch_blocks: 14_400,
        timestamp: crate::inference::now_ms() / 1000,
        validators: operators
            .iter()
            .copied()
            .zip(keys.iter().map(|k| k.validator.public(CHAIN_ID)))
            .collect(),
        funded: funded.map(|a| (a, rich)).collect(),
        staking: staking_rules(),
        trust: TrustRules::devnet(),
    }
    .build()?;
    let file = NetworkFile { network, genesis, peers: vec![] };
    let local = || TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let addresses: Vec<_> = (0..n).map(|_| local()?.local_addr()).collect::<Result<_, std::io::Error>>()?;
    let peers: Vec<_> = keys
        .iter()
        .zip(&addresses)
        .map(|(k, address)| Peer { key: k.validator.peer(), address: *address })
        .collect();
    keys.into_iter()
        .enumerate()
        .map(|(i, keys)| {
            let rpc = local()?;
            rpc.set_nonblocking(true)?;
            let address = rpc.local_addr()?;
            let setup = Setup {
                dir: folder(i),
                keys,
                listen: addresses[i],
                announce: addresses[i],
                peers: peers.clone(),
                peers_max: n * 2,
                retention: Retention::Full,
                snapshot_every: SNAPSHOT_BLOCKS,
                rpc,
                rpc_config: RpcConfig::default(),
            };
            Ok((validator::start(setup, &file)?, address))
        })
        .collect()
}

pub(super) fn wait(ready: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready() {
        ensure!(Instant::now() < deadline, "nothing happened for a minute");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One transfer at a time: from submission at one validator until it is final at another.
fn probe(validators: &[Running], watch: &Watch, sender: &Account) -> anyhow::Result<Value> {
    for i in 0..PROBES {
        let raw = transfer(sender, i as u64, Address::repeat_byte(1))?;
        watch.send(keccak256(&raw));
        validators[i % validators.len()].chain.submit(raw)?;
        wait(|| watch.done.load(Ordering::Relaxed) > i)?;
        // Not in step with the blocks.
        thread::sleep(Duration::from_millis(37 * (i as u64 % 7)));
    }
    let mut took = watch.take();
    took.sort_unstable();
    Ok(json!({"p50_ms": percentile(&took, 50), "p99_ms": percentile(&took, 99), "samples": took.len()}))
}

/// As many transfers as the network takes, submitted to all validators in turn.
fn load(
    args: &BenchLedgerArgs,
    validators: &[Running],
    watch: &Watch,
    senders: &[Account],
) -> anyhow::Result<Value> {
    let total = (args.seconds * args.rate) as usize;
    // Signed beforehand: clients sign on their own machines.
    let numbers: Vec<usize> = (0..total).collect();
    let first = |i: usize| if i.is_multiple_of(senders.len()) { PROBES as u64 } else { 0 };
    let raws: Vec<Bytes> = numbers
        .par_iter()
        .map(|i| {
            let to = Address::from_word(keccak256(i.to_be_bytes()));
            transfer(&senders[i % senders.len()], first(*i) + (i / senders.len()) as u64, to)
        })
        .collect::<Result<_, _>>()?;
    let (before, blocks_before) = (watch.done.load(Ordering::Relaxed), watch.blocks.load(Ordering::Relaxed));
    let began = Instant::now();
    let deadline = began + Duration::from_secs(args.seconds);
    let mut sent = 0;
    for (i, raw) in raws.into_iter().enumerate() {
        while sent - (watch.done.load(Ordering::Relaxed) - before) >= WINDOW && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if Instant::now() >= deadline {
            break;
        }
        watch.send(keccak256(&raw));
        // A sender's transfers go to one validator, so that they arrive in order.
        validators[(i % senders.len()) % validators.len()].chain.submit(raw)?;
        sent += 1;
    }
    let counted = began.elapsed();
    let finished = watch.done.load(Ordering::Relaxed) - before;
    let blocks = watch.blocks.load(Ordering::Relaxed) - blocks_before;
    wait(|| watch.done.load(Ordering::Relaxed) - before == sent)
        .context("some transfers never became final")?;
    let heads: Vec<_> = validators.iter().map(|v| v.chain.head().number()).collect();
    let mut took = watch.take();
    took.sort_unstable();
    let seconds = counted.as_secs_f64();
    Ok(json!({
        "seconds": seconds, "sent": sent, "final_in_time": finished,
        "transfers_per_second": (finished as f64 / seconds) as u64,
        "blocks_per_second": (blocks as f64 / seconds * 10.0).round() / 10.0,
        "p50_ms": percentile(&took, 50), "p99_ms": percentile(&took, 99), "heads": heads,
    }))
}

fn receipt(i: u64) -> Receipt {
    let hash = keccak256(i.to_be_bytes());
    let claim = Claim {
        chain_id: CHAIN_ID,
        genesis: hash,
        node: Address::ZERO,
        model: hash,
        request_hash: hash,
        response_hash: hash,
        prompt_hash: hash,
        output_hash: hash,
        prompt_tokens: 100,
        completion_tokens: 100,
        max_tokens: 0,
        choices: 1,
        sampling: Sampling::GREEDY,
        options: B256::ZERO,
        trace_root: hash,
        price_input: 1,
        price_output: 2,
        price: 300,
        payer: Address::ZERO,
        anchor_number: 1,
        anchor_hash: hash,
        time_ms: i,
        arithmetic_class: ARITHMETIC_EXACT,
        arithmetic_version: 3,
        rung_requested: Rung::Signed as u8,
        rung_achieved: Rung::Signed as u8,
    };
    Receipt { claim, evidence: vec![Evidence { mode: Rung::Signed.mode(), body: vec![0; 65].into() }] }
}

/// A short answer, as a node keeps it behind its receipt.
fn answer() -> Kept {
    let disclosure = Disclosure {
        nonce: B256::ZERO,
        request: "x".repeat(300),
        response: "y".repeat(400),
        prompt_tokens: vec![7; 20],
        output_tokens: vec![7; 20],
    };
    Kept { time_ms: 0, disclose: Disclose::None, disclosure }
}

/// Appends to one node's log from many threads, each entry durable before the next of its thread.
fn receipts(dir: &Path, seconds: u64) -> anyhow::Result<Value> {
    const WRITERS: u64 = 256;
    let log = Arc::new(ReceiptLog::open(&dir.join("receipts.redb"))?);
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let deadline = began + Duration::from_secs(seconds.min(10));
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (log, count) = (log.clone(), count.clone());
            thread::spawn(move || -> anyhow::Result<()> {
                let mut i = 0;
                while Instant::now() < deadline {
                    log.append(&receipt(w << 32 | i), &answer())?;
                    count.fetch_add(1, Ordering::Relaxed);
                    i += 1;
                }
                Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }
    let per_second = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    ensure!(log.size() == count.load(Ordering::Relaxed), "the log has another size than was written");
    Ok(json!({"appends_per_second": per_second as u64, "writers": WRITERS, "entries": log.size()}))
}
