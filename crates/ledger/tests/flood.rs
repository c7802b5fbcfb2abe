//! The mempool under attack: strangers can fill neither the places of what can run nor those of protocol calls.
#![allow(missing_docs, clippy::unwrap_used)]

mod wallet;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, Bytes, U256};
use ledger::{
    Arrival, Candidates, Executed, Ledger, LedgerError, Limits, Mempool, Occupancy, Place, RecoveredTx,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use wallet::{CHAIN_ID, Kind, Wallet, input};

const TO: Address = Address::repeat_byte(0xaa);
const COIN: u128 = 1_000_000_000_000_000_000;
const CALL: Arrival = Arrival { from_client: false, is_protocol_call: true };

fn recovered(raw: &Bytes) -> Arc<RecoveredTx> {
    Arc::new(RecoveredTx::decode(raw, CHAIN_ID).unwrap())
}

fn transfer(wallet: &mut Wallet) -> Arc<RecoveredTx> {
    recovered(&wallet.transfer(Kind::Dynamic, TO, U256::from(1)))
}

/// A ledger where `n` numbered wallets have `wei` each.
fn start(n: u32, wei: U256) -> (Ledger, Executed) {
    let mut genesis = wallet::genesis(wei);
    let account = genesis.alloc.values().next().unwrap().clone();
    for i in 0..n {
        genesis.alloc.insert(Wallet::numbered(i).address(), account.clone());
    }
    let network = wallet::network(1000);
    let executed = genesis.execute(&network).unwrap();
    (Ledger::new(genesis.params(&network), executed.hash()), executed)
}

/// The attack of the review: 316 + 12 accounts with nonces 1 to 63, never 0. On the old code the pool then answered "txpool is full".
#[test]
fn a_flood_of_nonce_gaps_keeps_nobody_out() {
    let (ledger, head) = start(400, U256::from(10 * COIN));
    let mut pool = Mempool::default();
    for i in 0..328 {
        let mut wallet =
            Wallet { fee_cap: 3_000_000_000, ..Wallet::numbered(i) }.with_gas(21_000).with_nonce(1);
        // From the seventeenth on they are refused.
        let taken = (1..64).take_while(|_| pool.insert(transfer(&mut wallet), &head).is_ok()).count();
        assert_eq!(taken, Limits::default().idle_per_sender);
    }
    let full = pool.occupancy();
    assert_eq!(full, Occupancy { ready: 0, idle: Limits::default().idle, lane: 0 });
    // An honest transaction at a lower fee cap than the flood's, and an honest move.
    let honest = transfer(&mut Wallet { fee_cap: 2_000_000_000, ..Wallet::numbered(399) });
    pool.insert(honest.clone(), &head).unwrap();
    let moved = transfer(&mut Wallet { fee_cap: 2_000_000_000, ..Wallet::numbered(398) });
    pool.insert_as(moved.clone(), &head, CALL).unwrap();
    // The flood comes again: nobody is evicted.
    for i in 0..328 {
        let mut wallet = Wallet::numbered(i).with_gas(21_000).with_nonce(20);
        while pool.insert(transfer(&mut wallet), &head).is_ok() {}
    }
    let next = ledger.build(&head, &input(&head), pool.best(&head).unwrap()).unwrap();
    let included: Vec<_> = next.block().transactions.iter().map(|t| *t.tx_hash()).collect();
    assert_eq!(included, [moved.hash(), honest.hash()]);
}

/// Strangers that pay well for transactions that can run fill the pool, but neither the lane nor its part of the block.
#[test]
fn a_flood_of_dear_transactions_leaves_the_lane_alone() {
    let (ledger, head) = start(330, U256::from(100 * COIN));
    let limits = Limits { ready: 2000, ..Limits::default() };
    let mut pool = Mempool::with_limits(limits);
    for i in 0..40 {
        let mut wallet = Wallet { tip: 1_000_000, ..Wallet::numbered(i) }.with_gas(21_000);
        for _ in 0..64 {
            let _ = pool.insert(transfer(&mut wallet), &head);
        }
    }
    assert_eq!(pool.occupancy().ready, limits.ready);
    let poor = Wallet { fee_cap: 2_000_000_000, tip: 1, ..Wallet::numbered(329) };
    assert_eq!(pool.insert(transfer(&mut poor.clone()), &head), Err(LedgerError::PoolFull));
    let moved = transfer(&mut poor.clone());
    pool.insert_as(moved.clone(), &head, CALL).unwrap();
    let next = ledger.build(&head, &input(&head), pool.best(&head).unwrap()).unwrap();
    assert_eq!(*next.block().transactions[0].tx_hash(), moved.hash());
    assert!(next.block().transactions.len() > 1000, "and the rest of the block is for the others");
    // A block that only has others is valid too: the lane is the proposer's choice.
    let rest = Candidates { lane: vec![], ..pool.best(&head).unwrap() };
    ledger.build(&head, &input(&head), rest).unwrap();
}

/// Protocol calls take at most half of a block, so that those with standing cannot keep all others out.
#[test]
fn the_lane_takes_half_of_a_block_at_most() {
    let (ledger, head) = start(200, U256::from(100 * COIN));
    let mut pool = Mempool::default();
    // Data of zeros: about a million gas each, at the floor price.
    let heavy = |i: u32| {
        let mut wallet = Wallet::numbered(i).with_gas(1_100_000);
        recovered(&wallet.call(TO, vec![0; 100_000].into()))
    };
    for i in 0..60 {
        pool.insert_as(heavy(i), &head, CALL).unwrap();
    }
    let other = transfer(&mut Wallet::numbered(199));
    pool.insert(other.clone(), &head).unwrap();
    let mut best = pool.best(&head).unwrap();
    best.rest.retain(|tx| tx.hash() == other.hash());
    let next = ledger.build(&head, &input(&head), best).unwrap();
    let last = next.block().transactions.last().unwrap();
    assert_eq!(*last.tx_hash(), other.hash());
    assert!(next.header().gas_used < next.header().gas_limit * 6 / 10, "{}", next.header().gas_used);
}

/// What a stranger or a rival does to the pool, or the chain.
#[derive(Clone, Debug)]
enum Step {
    /// A transaction of this sender, so many nonces ahead, at this fee level; perhaps a protocol call.
    Insert { who: u32, ahead: u64, level: u128, is_call: bool },
    /// A block from the pool.
    Block,
    /// A block that the pool did not make, in which this sender gives everything away.
    Drain { who: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0u32..12, 0u64..6, 1u128..6, prop::bool::weighted(0.3))
            .prop_map(|(who, ahead, level, is_call)| Step::Insert { who, ahead, level, is_call }),
        1 => Just(Step::Block),
        1 => (0u32..12).prop_map(|who| Step::Drain { who }),
    ]
}

/// Small bounds, so that short runs meet them.
const LIMITS: Limits = Limits {
    ready: 10,
    ready_bytes: 1500,
    idle: 5,
    idle_bytes: 700,
    idle_per_sender: 2,
    lane_units: 6,
    lane_per_sender: 3,
    lane_units_per_sender: 3,
};

/// Wallets below this number may make protocol calls.
const STANDING: u32 = 4;

fn check(pool: &Mempool, head: &Executed) -> Result<(), TestCaseError> {
    let Occupancy { ready, idle, lane } = pool.occupancy();
    prop_assert!(ready <= LIMITS.ready && idle <= LIMITS.idle && lane <= LIMITS.lane_units);
    prop_assert_eq!(ready + idle + lane, pool.len());
    let (mut bytes, mut of) = (BTreeMap::new(), BTreeMap::new());
    for tx in pool.iter() {
        let place = pool.place_of(&tx.hash()).unwrap();
        *bytes.entry(format!("{place:?}")).or_insert(0) += tx.raw_len();
        *of.entry((tx.sender(), format!("{place:?}"))).or_insert(0usize) += 1;
        if place != Place::Idle {
            // Everything that has such a place can run.
            let next = head.state().nonce(tx.sender()).unwrap();
            prop_assert!(pool.pending_nonce(tx.sender(), next) > tx.tx().nonce());
            prop_assert!(tx.tx().nonce() >= next);
        }
    }
    prop_assert!(bytes.get("Ready").is_none_or(|b| *b <= LIMITS.ready_bytes));
    prop_assert!(bytes.get("Idle").is_none_or(|b| *b <= LIMITS.idle_bytes));
    for ((_, place), count) in of {
        let most = match place.as_str() {
            "Idle" => LIMITS.idle_per_sender,
            "Lane" => LIMITS.lane_per_sender,
            _ => usize::MAX,
        };
        prop_assert!(count <= most, "{count} {place}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bounds_hold_and_nothing_that_can_run_gives_way_to_what_cannot(steps in prop::collection::vec(step(), 1..120)) {
        let (ledger, mut head) = start(12, U256::from(COIN));
        let mut pool = Mempool::with_limits(LIMITS);
        for step in steps {
            match step {
                Step::Insert { who, ahead, level, is_call } => {
                    let wallet = Wallet { fee_cap: 5_000_000_000 * level, tip: level, ..Wallet::numbered(who) };
                    let nonce = head.state().nonce(wallet.address()).unwrap() + ahead;
                    let tx = transfer(&mut wallet.with_gas(21_000).with_nonce(nonce));
                    let is_protocol_call = is_call && who < STANDING;
                    let before: HashMap<_, _> =
                        pool.iter().map(|t| (t.hash(), (t.clone(), pool.place_of(&t.hash()).unwrap()))).collect();
                    let done = pool.insert_as(tx.clone(), &head, Arrival { from_client: false, is_protocol_call });
                    let mine = pool.place_of(&tx.hash());
                    let is_known = matches!(done, Err(LedgerError::AlreadyKnown));
                    prop_assert_eq!(done.is_ok() || is_known, mine.is_some());
                    for (hash, (old, place)) in before {
                        let is_replaced = (old.sender(), old.tx().nonce()) == (tx.sender(), tx.tx().nonce());
                        let now = pool.place_of(&hash);
                        if is_replaced {
                            // Both fees rise by a tenth, or the old one stays.
                            let outbid = tx.tx().max_fee_per_gas() * 10 >= old.tx().max_fee_per_gas() * 11;
                            prop_assert!(now.is_some() || (done.is_ok() && outbid));
                        } else if place != Place::Idle && now.is_none() {
                            // Only something that can run takes its place: a dearer one an ordinary place, somebody else's call one in the lane.
                            prop_assert!(done.is_ok() && mine != Some(Place::Idle), "{:?} gave way to {:?}", place, mine);
                            prop_assert!(place != Place::Lane || who < STANDING, "a stranger took a place in the lane");
                        }
                    }
                }
                Step::Block => {
                    let next = ledger.build(&head, &input(&head), pool.best(&head).unwrap()).unwrap();
                    pool.on_committed(&next).unwrap();
                    head = next;
                }
                Step::Drain { who } => {
                    let wallet = Wallet::numbered(who).with_gas(21_000);
                    let address = wallet.address();
                    let wallet = Wallet { fee_cap: 2_000_000_000, ..wallet };
                    let nonce = head.state().nonce(address).unwrap();
                    let left = head.state().balance(address).unwrap().saturating_sub(U256::from(21_000u64 * 2_000_000_000));
                    let drain = recovered(&wallet.with_nonce(nonce).transfer(Kind::Dynamic, TO, left));
                    let next = ledger.build(&head, &input(&head), vec![drain]).unwrap();
                    pool.on_committed(&next).unwrap();
                    head = next;
                }
            }
            check(&pool, &head)?;
        }
    }

    /// Whatever strangers did before: who has standing gets a protocol call in, and it comes first in the next block.
    #[test]
    fn the_lane_has_a_place_for_everybody_with_standing(steps in prop::collection::vec(step(), 1..120)) {
        let (ledger, head) = start(13, U256::from(COIN));
        let mut pool = Mempool::with_limits(LIMITS);
        for step in steps {
            if let Step::Insert { who, ahead, level, is_call } = step {
                let wallet = Wallet { fee_cap: 5_000_000_000 * level, tip: level, ..Wallet::numbered(who) };
                let tx = transfer(&mut wallet.with_gas(21_000).with_nonce(ahead));
                let arrival = Arrival { from_client: false, is_protocol_call: is_call && who < STANDING };
                let _ = pool.insert_as(tx, &head, arrival);
            }
        }
        // The cheapest that a block takes.
        let mut honest = Wallet { fee_cap: 1_000_000_000, tip: 1, ..Wallet::numbered(12) }.with_gas(21_000);
        let moved = transfer(&mut honest);
        pool.insert_as(moved.clone(), &head, CALL).unwrap();
        prop_assert_eq!(pool.place_of(&moved.hash()), Some(Place::Lane));
        let best = pool.best(&head).unwrap();
        let turn = best.lane.iter().position(|tx| tx.hash() == moved.hash()).unwrap();
        prop_assert!(turn <= STANDING as usize, "one turn each");
        let next = ledger.build(&head, &input(&head), best).unwrap();
        prop_assert!(next.block().transactions.iter().any(|t| *t.tx_hash() == moved.hash()));
    }
}

/// Peers are told of a transaction when it can run, not before, and once.
#[test]
fn peers_hear_of_what_can_run() {
    let (_, head) = start(1, U256::from(10 * COIN));
    let mut pool = Mempool::default();
    let mut wallet = Wallet::numbered(0);
    let txs: Vec<_> = (0..3).map(|_| transfer(&mut wallet)).collect();
    let client = Arrival { from_client: true, is_protocol_call: false };
    pool.insert_as(txs[1].clone(), &head, client).unwrap();
    pool.insert(txs[2].clone(), &head).unwrap();
    assert!(pool.take_news().is_empty());
    pool.insert_as(txs[0].clone(), &head, client).unwrap();
    let news: Vec<_> = pool.take_news().iter().map(|tx| tx.hash()).collect();
    assert_eq!(news, [txs[0].hash(), txs[1].hash()], "the third came from a peer, who told the others");
    assert!(pool.take_news().is_empty());
}
