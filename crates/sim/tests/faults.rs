//! Many seeds of bad luck and malice: safety always, liveness once the network has healed.
//!
//! Each seed is its own run: four validators, of which at most one is faulty at a time (f = 1): Byzantine, crashed, cut off, or with a
//! disk that fails. A failing seed prints the line that replays it.
#![allow(missing_docs)]

use alloy_primitives::{Address, U256};
use sim::{ATTACKS, Cluster, Link, Setup, simulate};
use std::collections::BTreeSet;

const SEEDS: u64 = 200;
/// Tests that share the seeds, so that they run side by side.
const PARTS: u64 = 8;

const TO: Address = Address::repeat_byte(0xaa);

/// Events of a run, two seconds apart.
const EVENTS: usize = 7;

fn setup(seed: u64) -> Setup {
    let link = Link {
        latency_ms: 10 + seed % 5 * 20,
        jitter_ms: 5 + seed % 3 * 10,
        loss_percent: [0, 2, 10][(seed % 3) as usize],
    };
    // Every other seed has a traitor; then everybody else is honest and lucky, but the links are not.
    let byzantine = (seed % 2 == 1).then(|| ATTACKS[(seed / 2) as usize % ATTACKS.len()]);
    // Short epochs: some events fall on their ends.
    Setup { validators: 4, others: 0, epoch_blocks: 10 + seed % 20, link, byzantine }
}

/// What is wrong at the moment.
#[derive(Default)]
struct Trouble {
    down: Option<usize>,
    cut: Option<usize>,
}

async fn scenario(mut cluster: Cluster, traitor: bool) -> Vec<u64> {
    let everybody = [0, 1, 2, 3];
    let honest = if traitor { 3 } else { 4 };
    let mut trouble = Trouble::default();
    let mut sent = 0u64;
    for _ in 0..EVENTS {
        // Work for the ledger, given to whoever is up.
        for wallet in 0..4 {
            let up: Vec<_> =
                (0..honest).filter(|i| trouble.down != Some(*i) && !cluster.failed(*i)).collect();
            let at = up[cluster.random(up.len() as u64) as usize];
            let raw = cluster.wallets[wallet].transfer(TO, 1);
            // A validator that has just come back may not know of the nonce before; the transfer is given to all then.
            if cluster.chain(at).submit(raw.clone()).is_err() {
                for i in up {
                    let _ = cluster.chain(i).submit(raw.clone());
                }
            }
            sent += 1;
        }
        match cluster.random(6) {
            0 | 1 if !traitor && trouble.down.is_none() && trouble.cut.is_none() => {
                let victim = cluster.random(4) as usize;
                cluster.crash(victim);
                trouble.down = Some(victim);
            }
            2 if !traitor && trouble.down.is_none() && trouble.cut.is_none() => {
                // The disk fails in the middle of some write; the validator stops by itself.
                let victim = cluster.random(4) as usize;
                let operations = cluster.random(120);
                cluster.break_disks(victim, operations);
                trouble.down = Some(victim);
            }
            3 if trouble.cut.is_none() && trouble.down.is_none() => {
                let victim = cluster.random(honest as u64) as usize;
                let others: Vec<_> = everybody.into_iter().filter(|i| *i != victim).collect();
                cluster.cut(&[victim], &others).await;
                trouble.cut = Some(victim);
            }
            4 => repair(&mut cluster, &mut trouble).await,
            5 if trouble.cut.is_none() => {
                // No quorum at all for a moment.
                cluster.cut(&[0, 1], &[2, 3]).await;
                cluster.sleep(2).await;
                cluster.connect(&[0, 1], &[2, 3]).await;
            }
            _ => {}
        }
        cluster.sleep(2).await;
        cluster.assert_no_fork();
    }
    repair(&mut cluster, &mut trouble).await;
    cluster.end_losses().await;
    let healed = cluster.heights();
    cluster.sleep(20).await;
    cluster.assert_no_fork();
    let heights = cluster.heights();
    for i in 0..honest {
        assert!(!cluster.failed(i), "validator {i} stopped: {:?}", cluster.chain(i).failure());
        let before = healed.iter().max().expect("validators");
        assert!(heights[i] > before + 5, "no progress after healing: {healed:?} -> {heights:?}");
    }
    // Nothing that was accepted is lost, unless the only one that had it crashed before it could tell.
    let head = cluster.chain(0).head();
    let got = head.state().balance(TO).expect("a readable state");
    assert!(got <= U256::from(sent), "{got} of {sent}");
    let roots: BTreeSet<_> = (0..honest)
        .filter_map(|i| cluster.chain(i).recent(heights.iter().take(honest).min().copied()?))
        .map(|executed| (executed.hash(), executed.state().root()))
        .collect();
    assert_eq!(roots.len(), 1, "different states at one height");
    heights
}

async fn repair(cluster: &mut Cluster, trouble: &mut Trouble) {
    if let Some(victim) = trouble.cut.take() {
        let others: Vec<_> = (0..4).filter(|i| *i != victim).collect();
        cluster.connect(&[victim], &others).await;
    }
    if let Some(victim) = trouble.down.take() {
        cluster.crash(victim);
        cluster.restart(victim).await;
    }
}

fn run(seed: u64) -> Vec<u64> {
    let traitor = setup(seed).byzantine.is_some();
    simulate(seed, setup(seed), move |cluster| scenario(cluster, traitor)).value
}

fn part(part: u64) {
    // One seed alone, when asked for.
    let only: Option<u64> = std::env::var("OG_SIM_SEED").ok().and_then(|s| s.parse().ok());
    let mut failed = vec![];
    for seed in (0..SEEDS).filter(|s| s % PARTS == part && only.is_none_or(|only| only == *s)) {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            failed.push(seed);
        }
    }
    for seed in &failed {
        eprintln!("replay: OG_SIM_SEED={seed} cargo nextest run -p sim --test faults  # {:?}", setup(*seed));
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}

macro_rules! parts {
    ($($name:ident $part:literal)*) => { $(#[test] fn $name() { part($part); })* };
}

parts!(seeds_0_mod_8 0 seeds_1_mod_8 1 seeds_2_mod_8 2 seeds_3_mod_8 3 seeds_4_mod_8 4 seeds_5_mod_8 5 seeds_6_mod_8 6 seeds_7_mod_8 7);
