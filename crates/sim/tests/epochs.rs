//! Validator sets that change: entry, exit, punishment, and a light client that follows.
#![allow(missing_docs)]

use alloy_primitives::{B256, Bytes, U256};
use alloy_sol_types::{SolCall as _, SolEvent as _, sol};
use client::light::Trusted;
use sim::{Attack, CHAIN_ID, Cluster, Link, RULES, Setup, simulate};
use types::Handover;

const LINK: Link = Link { latency_ms: 20, jitter_ms: 5, loss_percent: 0 };

sol! {
    function register(bytes32 peer, bytes vote, bytes possession) payable;
    function requestExit();
    function withdraw();
    function reportEquivocation(bytes evidence);
    event Slashed(
        address indexed operator, address indexed reporter, uint64 atEpoch, uint64 atView, uint256 amount, uint256 reward
    );
}

fn staking(cluster: &Cluster) -> alloy_primitives::Address {
    cluster.network().contracts.staking
}

fn members(cluster: &Cluster, i: usize) -> Vec<B256> {
    cluster.chain(i).head().validators().members.iter().map(|v| v.peer).collect()
}

/// Sends a call in the name of `node`'s operator.
fn send(cluster: &Cluster, wallet: &mut sim::Wallet, value: U256, data: Vec<u8>) {
    let raw = wallet.call(staking(cluster), value, data.into(), 2_000_000);
    cluster.chain(0).submit(raw).expect("a valid transaction");
}

#[test]
fn a_candidate_joins_votes_and_leaves_and_a_light_client_follows() {
    let setup = Setup { validators: 4, others: 1, epoch_blocks: 10, link: LINK, byzantine: None };
    let run = simulate(5, setup, async |cluster: Cluster| {
        let newcomer = cluster.secret(4).peer();
        let mut operator = cluster.operator(4);
        cluster.sleep(5).await;
        // Not registered yet: it follows nothing, because nobody tells it.
        let (key, possession) = cluster.secret(4).registration(CHAIN_ID, operator.address());
        let call = registerCall { peer: key.peer, vote: key.vote.into(), possession: possession.into() };
        send(&cluster, &mut operator, RULES.min_stake, call.abi_encode());
        cluster.sleep(20).await;
        assert!(members(&cluster, 0).contains(&newcomer), "the newcomer did not become a validator");
        assert_eq!(members(&cluster, 0).len(), 5);
        let heights = cluster.heights();
        assert!(heights[4] + 5 > heights[0], "the newcomer does not keep up: {heights:?}");
        // It proposes in its turn.
        let head = cluster.chain(0).head().number();
        let proposers: std::collections::BTreeSet<_> = (head - 20..=head)
            .filter_map(|n| cluster.chain(0).recent(n))
            .map(|e| e.header().beneficiary)
            .collect();
        assert_eq!(proposers.len(), 5, "{proposers:?}");
        send(&cluster, &mut operator, U256::ZERO, requestExitCall {}.abi_encode());
        cluster.sleep(20).await;
        assert!(!members(&cluster, 0).contains(&newcomer));
        let before = cluster.chain(0).head().state().balance(operator.address()).expect("readable");
        cluster.sleep(RULES.unbonding_seconds).await;
        send(&cluster, &mut operator, U256::ZERO, withdrawCall {}.abi_encode());
        cluster.sleep(3).await;
        let after = cluster.chain(0).head().state().balance(operator.address()).expect("readable");
        assert!(after > before, "the stake came back");
        cluster.assert_no_fork();

        let chain = cluster.chain(1);
        let genesis_header: Bytes = alloy_rlp::encode(chain.genesis().header()).into();
        let (executed, certificate) = chain.certified().expect("readable").expect("a certified block");
        let header: Bytes = alloy_rlp::encode(executed.header()).into();
        let handovers = chain.handovers(certificate.epoch).expect("complete");
        (chain.network().clone(), genesis_header, chain.genesis().hash(), header, certificate, handovers)
    });
    let (network, genesis_header, genesis, header, certificate, handovers) = run.value;
    assert_eq!(handovers.len(), 2, "one entry, one exit");
    let start = || Trusted::genesis(&network, &genesis_header, genesis).expect("the genesis");
    let mut trusted = start();
    for handover in &handovers {
        trusted.follow(handover).expect("a good handover");
    }
    trusted.final_header(&header, &certificate).expect("a final header");
    // A checkpoint is as good.
    let (after, _) = client::light::header(&header).expect("a header");
    let members = &handovers[1].next.members;
    let from = Trusted::checkpoint(&network, genesis, &after, members).expect("a checkpoint");
    from.final_header(&header, &certificate).expect("a final header");
    assert!(Trusted::checkpoint(&network, genesis, &after, &handovers[0].next.members).is_err());
    // From the block that ends the epoch before, one handover leads on.
    let (before, _) = client::light::header(&handovers[1].header).expect("a header");
    let members = &handovers[0].next.members;
    let mut from = Trusted::checkpoint(&network, genesis, &before, members).expect("a checkpoint");
    assert!(from.final_header(&header, &certificate).is_err());
    from.follow(&handovers[1]).expect("a good handover");
    from.final_header(&header, &certificate).expect("a final header");
    // Nothing works without the handovers, out of order, or changed.
    assert!(
        start().final_header(&handovers[1].header, &handovers[1].certificate).is_err(),
        "five voted, not these four"
    );
    assert!(start().follow(&handovers[1]).is_err());
    let refuse = |change: fn(&mut Handover)| {
        let mut handover = handovers[0].clone();
        change(&mut handover);
        assert!(start().follow(&handover).is_err());
    };
    refuse(|h| h.next.epoch += 1);
    refuse(|h| h.next.members.truncate(4));
    refuse(|h| h.next.members[0].vote = h.next.members[1].vote);
    refuse(|h| h.certificate.view += 1);
    refuse(|h| h.certificate.epoch += 1);
    refuse(|h| h.certificate.signers = Bytes::from_static(&[1]));
    refuse(|h| h.header = Bytes::from_static(&[0xc0]));
}

#[test]
fn each_epoch_has_its_own_order_of_turns() {
    let setup = Setup { validators: 5, others: 0, epoch_blocks: 20, link: LINK, byzantine: None };
    simulate(11, setup, async |cluster: Cluster| {
        cluster.sleep(45).await;
        let chain = cluster.chain(0);
        let proposer = |n: u64| chain.recent(n).map(|e| e.header().beneficiary).expect("a recent block");
        let mut orders = std::collections::BTreeSet::new();
        let last = chain.head().number() / 20;
        assert!(last >= 4, "{last} epochs");
        for epoch in last.saturating_sub(5)..last {
            // The last ten blocks: everybody's turn twice, in one order.
            let turns: Vec<_> = (epoch * 20 + 10..epoch * 20 + 20).map(proposer).collect();
            assert_eq!(turns[..5], turns[5..], "epoch {epoch}");
            let mut order = turns[..5].to_vec();
            let first = order.iter().enumerate().min_by_key(|(_, who)| **who).map_or(0, |(i, _)| i);
            order.rotate_left(first);
            orders.insert(order);
        }
        assert!(orders.len() >= 3, "{orders:?}");
        cluster.assert_no_fork();
    });
}

#[test]
fn who_votes_twice_is_slashed_and_never_votes_again() {
    let setup =
        Setup { validators: 4, others: 0, epoch_blocks: 10, link: LINK, byzantine: Some(Attack::Equivocate) };
    simulate(9, setup, async |mut cluster: Cluster| {
        let traitor = cluster.secret(3).peer();
        let staked =
            |cluster: &Cluster| cluster.chain(0).head().state().balance(staking(cluster)).expect("readable");
        let before = staked(&cluster);
        cluster.sleep(6).await;
        let evidence = cluster.chain(0).take_evidence().expect("the engine noticed");
        verify::finality::check_equivocation(cluster.chain(0).genesis().hash(), &evidence).expect("a proof");
        // Somebody else's votes are no proof against anybody.
        let mut forged = evidence.clone();
        forged.vote_key = cluster.network().validators[0].vote;
        let mut reporter = cluster.wallets[0].clone();
        let report =
            |e: &types::Equivocation| reportEquivocationCall { evidence: e.encode().into() }.abi_encode();
        if forged.vote_key != evidence.vote_key {
            send(&cluster, &mut reporter, U256::ZERO, report(&forged));
        }
        send(&cluster, &mut reporter, U256::ZERO, report(&evidence));
        send(&cluster, &mut reporter, U256::ZERO, report(&evidence));
        cluster.wallets[0] = reporter;
        cluster.sleep(15).await;
        let slashed = (0..=cluster.chain(0).head().number())
            .filter_map(|n| cluster.chain(0).recent(n))
            .flat_map(|e| e.receipts().iter().flat_map(|r| r.logs().to_vec()).collect::<Vec<_>>())
            .filter(|log| log.topics().first() == Some(&Slashed::SIGNATURE_HASH))
            .count();
        assert_eq!(slashed, 1, "punished once");
        assert!(staked(&cluster) < before, "a part of the stake is gone");
        assert!(!members(&cluster, 0).contains(&traitor), "the traitor still votes");
        assert_eq!(members(&cluster, 0).len(), 3);
        cluster.assert_no_fork();
    });
}

#[test]
fn who_is_away_is_jailed_and_the_others_go_on_without_waiting() {
    let setup = Setup { validators: 5, others: 0, epoch_blocks: 24, link: LINK, byzantine: None };
    simulate(3, setup, async |mut cluster: Cluster| {
        let away = cluster.secret(2).peer();
        cluster.sleep(2).await;
        cluster.crash(2);
        cluster.sleep(60).await;
        assert!(!members(&cluster, 0).contains(&away), "still in the set: {:?}", cluster.heights());
        let before = cluster.heights()[0];
        cluster.sleep(10).await;
        // Nobody waits for its turns any more.
        assert!(cluster.heights()[0] > before + 25, "{before} -> {:?}", cluster.heights());
        cluster.assert_no_fork();
    });
}

#[test]
fn a_network_of_four_jails_nobody_so_that_another_one_may_fail() {
    let setup = Setup { validators: 4, others: 0, epoch_blocks: 20, link: LINK, byzantine: None };
    simulate(8, setup, async |mut cluster: Cluster| {
        cluster.sleep(2).await;
        cluster.crash(3);
        cluster.sleep(40).await;
        assert_eq!(members(&cluster, 0).len(), 4);
        cluster.restart(3).await;
        cluster.sleep(10).await;
        cluster.crash(1);
        let before = cluster.heights()[0];
        cluster.sleep(15).await;
        assert!(cluster.heights()[0] > before + 5, "{before} -> {:?}", cluster.heights());
        cluster.assert_no_fork();
    });
}

#[test]
fn everybody_restarts_from_disk_in_the_middle_of_an_epoch() {
    let setup = Setup { validators: 4, others: 0, epoch_blocks: 12, link: LINK, byzantine: None };
    simulate(4, setup, async |mut cluster: Cluster| {
        for _ in 0..3 {
            cluster.sleep(7).await;
            let before = cluster.heights();
            for i in 0..4 {
                cluster.crash(i);
            }
            for i in 0..4 {
                cluster.restart(i).await;
            }
            let after = cluster.heights();
            assert!(before.iter().zip(&after).all(|(b, a)| a >= b), "{before:?} -> {after:?}");
            cluster.sleep(7).await;
            assert!(
                cluster.heights().iter().all(|h| *h > after[0] + 5),
                "{after:?} -> {:?}",
                cluster.heights()
            );
        }
        cluster.assert_no_fork();
    });
}

#[test]
fn a_validator_that_lost_its_disks_comes_back_from_a_snapshot_and_votes_one_epoch_later() {
    let setup = Setup { validators: 4, others: 0, epoch_blocks: 40, link: LINK, byzantine: None };
    simulate(6, setup, async |mut cluster: Cluster| {
        cluster.sleep(30).await;
        cluster.crash(2);
        cluster.sleep(2).await;
        let number = cluster.take_snapshot(2, 0);
        assert!(number >= 64);
        cluster.restart(2).await;
        assert_eq!(cluster.heights()[2], number, "nothing before the snapshot was executed");
        cluster.sleep(8).await;
        let heights = cluster.heights();
        assert!(heights[2] + 4 > heights[0], "it does not follow: {heights:?}");
        assert!(cluster.chain(2).store().block(1).expect("readable").is_none());
        cluster.sleep(25).await;
        cluster.assert_no_fork();
        let head = cluster.chain(0).head().number();
        let mine = alloy_primitives::Address::repeat_byte(0xf2);
        let proposed = (head - 20..=head).filter_map(|n| cluster.chain(0).recent(n));
        assert!(proposed.into_iter().any(|e| e.header().beneficiary == mine), "it does not propose again");
        assert!(cluster.chain(0).take_evidence().is_none(), "it voted twice");
        // What it follows the validators with came with the snapshot.
        assert_eq!(
            cluster.chain(2).handovers(9).expect("complete").len(),
            cluster.chain(0).handovers(9).expect("complete").len()
        );
    });
}
