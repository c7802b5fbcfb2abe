//! Four whole validators under loss, partition and crash: safety always, liveness when a quorum can talk.
#![allow(missing_docs)]

use alloy_primitives::{Address, Bytes, U256};
use client::light::Trusted;
use sim::{Cluster, Link, Outcome, Setup, simulate};

const LOSSY: Link = Link { latency_ms: 30, jitter_ms: 10, loss_percent: 2 };

const SETUP: Setup = Setup { validators: 4, others: 0, epoch_blocks: 1_000, link: LOSSY, byzantine: None };

/// Heights after each phase of the scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Phases {
    healthy: Vec<u64>,
    partitioned: Vec<u64>,
    healed: Vec<u64>,
    crashed: Vec<u64>,
}

async fn faults(mut cluster: Cluster) -> Phases {
    let to = Address::repeat_byte(0xaa);
    // A transaction given to one validator must reach whoever leads next.
    for i in 0..4 {
        let raw = cluster.wallets[i].transfer(to, 1_000);
        cluster.chain(i).submit(raw).expect("a valid transfer");
    }
    cluster.sleep(10).await;
    let healthy = cluster.heights();
    for i in 0..4 {
        assert_eq!(cluster.chain(i).head().state().balance(to).expect("readable"), U256::from(4_000));
    }
    cluster.cut(&[0, 1], &[2, 3]).await;
    cluster.sleep(10).await;
    let partitioned = cluster.heights();
    cluster.connect(&[0, 1], &[2, 3]).await;
    cluster.sleep(10).await;
    let healed = cluster.heights();
    cluster.crash(3);
    let raw = cluster.wallets[0].transfer(to, 5);
    cluster.chain(0).submit(raw).expect("a valid transfer");
    cluster.sleep(10).await;
    let crashed = cluster.heights();
    assert_eq!(cluster.chain(0).head().state().balance(to).expect("readable"), U256::from(4_005));
    cluster.assert_no_fork();
    for i in 0..4 {
        assert_eq!(cluster.chain(i).failure(), None);
    }
    Phases { healthy, partitioned, healed, crashed }
}

fn run(seed: u64) -> Outcome<Phases> {
    simulate(seed, SETUP, faults)
}

#[test]
fn loss_partition_and_crash_never_fork_and_progress_resumes() {
    for seed in 0..3 {
        let Phases { healthy, partitioned, healed, crashed } = run(seed).value;
        assert!(healthy.iter().all(|h| *h > 15), "seed {seed}: too slow without faults: {healthy:?}");
        for i in 0..4 {
            // Two of four are no quorum. What was voted for before the cut may still become final.
            assert!(partitioned[i] <= healthy.iter().max().unwrap_or(&0) + 2, "seed {seed}: {partitioned:?}");
            assert!(healed[i] > partitioned[i] + 5, "seed {seed}: no progress after healing: {healed:?}");
        }
        for i in 0..3 {
            assert!(crashed[i] > healed[i] + 5, "seed {seed}: three of four must go on: {crashed:?}");
        }
        assert!(
            crashed[3] <= healed[3] + 1,
            "seed {seed}: the crashed validator cannot advance: {crashed:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first.auditor, run(8).auditor);
}

#[test]
fn certificates_verify_with_an_independent_implementation() {
    let run = simulate(1, SETUP, async |cluster: Cluster| {
        cluster.sleep(5).await;
        let chain = cluster.chain(2);
        let genesis_header = alloy_rlp::encode(chain.genesis().header()).into();
        let genesis = chain.genesis().hash();
        let (executed, certificate) =
            chain.certified().expect("a readable store").expect("a certified block");
        let header: Bytes = alloy_rlp::encode(executed.header()).into();
        (chain.network().clone(), genesis_header, genesis, header, executed.hash(), certificate)
    });
    let (network, genesis_header, genesis, header, hash, certificate) = run.value;
    let trusted =
        Trusted::genesis(&network, &genesis_header, genesis).expect("the genesis names the network");
    assert_eq!(certificate.block_hash, hash);
    let (_, signers) = trusted.final_header(&header, &certificate).expect("a valid certificate");
    assert!(signers >= 3);

    let check = |c| verify::finality::check_certificate(trusted.set(), genesis, &c);
    let mut other = certificate.clone();
    other.block_hash = genesis;
    assert!(check(other).expect_err("another block").contains("wrong"));
    let mut fewer = certificate.clone();
    fewer.signers = vec![0b11].into();
    assert!(check(fewer).expect_err("two signers").contains("needed"));
    let mut more = certificate.clone();
    more.signers = vec![0b1_1111].into();
    assert!(check(more).is_err());
    let mut view = certificate.clone();
    view.view += 1;
    assert!(check(view).is_err());
    // A vote of this network counts in no other.
    assert!(verify::finality::check_certificate(trusted.set(), hash, &certificate).is_err());
}
