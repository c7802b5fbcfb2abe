//! The mempool: order, bounds, replacement, pruning, and geth's words.
#![allow(missing_docs, clippy::unwrap_used)]

mod wallet;

use alloy_primitives::{Address, Bytes, U256};
use ledger::{Executed, Ledger, LedgerError, Mempool, RecoveredTx, Standing};
use std::sync::Arc;
use wallet::{CHAIN_ID, Kind, Wallet, input};

const TO: Address = Address::repeat_byte(0xaa);

fn start() -> (Ledger, Executed) {
    wallet::start(U256::from(10).pow(U256::from(20)))
}

fn recovered(raw: &Bytes) -> Arc<RecoveredTx> {
    Arc::new(RecoveredTx::decode(raw, CHAIN_ID).unwrap())
}

fn transfer(wallet: &mut Wallet) -> Arc<RecoveredTx> {
    recovered(&wallet.transfer(Kind::Dynamic, TO, U256::from(1)))
}

#[test]
fn the_best_tip_goes_first_and_nonces_stay_in_order() {
    let (ledger, head) = start();
    let mut pool = Mempool::default();
    let mut wallets: Vec<_> = (0..3).map(Wallet::new).collect();
    for (wallet, tip) in wallets.iter_mut().zip([5, 50, 20]) {
        wallet.tip = tip;
    }
    let a: Vec<_> = (0..3).map(|_| transfer(&mut wallets[0])).collect();
    let b = transfer(&mut wallets[1]);
    let c = transfer(&mut wallets[2]);
    // They come out of order; a gap waits.
    for tx in [&a[2], &c, &a[0], &b] {
        pool.insert(tx.clone(), &head).unwrap();
    }
    let order = |pool: &Mempool| pool.best(&head).unwrap().rest.iter().map(|t| t.hash()).collect::<Vec<_>>();
    assert_eq!(order(&pool), [b.hash(), c.hash(), a[0].hash()]);
    assert_eq!(pool.pending_nonce(wallets[0].address(), 0), 1);
    pool.insert(a[1].clone(), &head).unwrap();
    assert_eq!(order(&pool), [b.hash(), c.hash(), a[0].hash(), a[1].hash(), a[2].hash()]);
    assert_eq!(pool.pending_nonce(wallets[0].address(), 0), 3);

    let next = ledger.build(&head, &input(&head), pool.best(&head).unwrap()).unwrap();
    assert_eq!(next.block().transactions.len(), 5);
    pool.on_committed(&next).unwrap();
    assert!(pool.is_empty());
    assert!(matches!(pool.insert(a[0].clone(), &next), Err(LedgerError::NonceTooLow { .. })));
}

#[test]
fn a_replacement_must_pay_a_tenth_more() {
    let (_, head) = start();
    let mut pool = Mempool::default();
    let wallet = Wallet { tip: 100, ..Wallet::new(0) };
    let old = transfer(&mut wallet.clone());
    pool.insert(old.clone(), &head).unwrap();
    assert_eq!(pool.insert(old.clone(), &head), Err(LedgerError::AlreadyKnown));
    let with = |fee_cap: u128, tip: u128| transfer(&mut Wallet { fee_cap, tip, ..wallet.clone() });
    let cap = wallet.fee_cap;
    for (fee_cap, tip) in [(cap, 101), (cap * 11 / 10, 109), (cap * 109 / 100, 200)] {
        assert_eq!(pool.insert(with(fee_cap, tip), &head), Err(LedgerError::ReplacementUnderpriced));
    }
    let new = with(cap * 11 / 10, 110);
    pool.insert(new.clone(), &head).unwrap();
    assert_eq!((pool.len(), pool.get(&old.hash()).is_none()), (1, true));
    assert_eq!(pool.best(&head).unwrap().rest[0].hash(), new.hash());
}

#[test]
fn what_cannot_be_executed_is_refused_in_geths_words() {
    let (_, head) = start();
    let mut pool = Mempool::default();
    let wallet = Wallet::new(0);
    let mut refuse = |wallet: Wallet, value: U256| {
        let mut wallet = wallet;
        pool.insert(recovered(&wallet.transfer(Kind::Dynamic, TO, value)), &head).unwrap_err().to_string()
    };
    let one = U256::from(1);
    assert!(
        refuse(wallet.clone().with_gas(20_999), one)
            .starts_with("intrinsic gas too low: have 20999, want 21000")
    );
    assert_eq!(refuse(wallet.clone().with_gas(30_000_001), one), "exceeds block gas limit");
    assert!(
        refuse(wallet.clone().with_gas((1 << 24) + 1), one).starts_with("transaction gas limit too high")
    );
    assert!(refuse(wallet.clone(), U256::MAX).starts_with("insufficient funds for gas * price + value"));
    assert!(refuse(wallet.with_nonce(64), one).starts_with("nonce too high"));
    assert!(
        refuse(Wallet { tip: u128::MAX, ..wallet.clone() }, one).contains("max priority fee per gas higher")
    );
    assert!(
        refuse(Wallet { fee_cap: 0, tip: 0, ..wallet.clone() }, one).starts_with("transaction underpriced")
    );
    assert!(refuse(Wallet::new(9), one).starts_with("insufficient funds"));

    let decode = |wallet: Wallet, kind| {
        let mut wallet = wallet;
        RecoveredTx::decode(&wallet.transfer(kind, TO, one), CHAIN_ID).unwrap_err().to_string()
    };
    let elsewhere = Wallet { chain_id: Some(8), ..wallet.clone() };
    assert_eq!(decode(elsewhere, Kind::Dynamic), "invalid chain id for signer: have Some(8) want 7");
    // Legacy transactions without a chain id could be replayed from another chain.
    let unprotected = Wallet { chain_id: None, ..wallet.clone() };
    assert_eq!(decode(unprotected, Kind::Legacy), "invalid chain id for signer: have None want 7");
    for raw in [vec![], vec![0x02], vec![0xc0], vec![0x7f; 100]] {
        assert!(matches!(RecoveredTx::decode(&raw, CHAIN_ID), Err(LedgerError::Malformed(_))));
    }
    let mut longer = wallet.clone().transfer(Kind::Dynamic, TO, one).to_vec();
    longer.push(0);
    assert!(RecoveredTx::decode(&longer, CHAIN_ID).is_err());
    let huge = vec![2; ledger::MAX_TX_BYTES + 1];
    assert!(matches!(RecoveredTx::decode(&huge, CHAIN_ID), Err(LedgerError::Oversized { .. })));
}

#[test]
fn one_sender_cannot_fill_the_pool() {
    let (_, head) = start();
    let mut pool = Mempool::default();
    let mut wallet = Wallet::new(0).with_gas(21_000);
    for _ in 0..64 {
        pool.insert(transfer(&mut wallet), &head).unwrap();
    }
    assert!(matches!(pool.insert(transfer(&mut wallet), &head), Err(LedgerError::NonceTooHigh { .. })));
    pool.insert(transfer(&mut Wallet::new(1)), &head).unwrap();
    assert_eq!(pool.len(), 65);
}

#[test]
fn one_balance_pays_for_all_that_waits() {
    let (_, head) = start();
    let mut pool = Mempool::default();
    let mut wallet = Wallet::new(0);
    let most = U256::from(10).pow(U256::from(20)) * U256::from(9) / U256::from(10);
    pool.insert(recovered(&wallet.transfer(Kind::Dynamic, TO, most)), &head).unwrap();
    let second = recovered(&wallet.transfer(Kind::Dynamic, TO, most));
    assert!(matches!(pool.insert(second, &head), Err(LedgerError::InsufficientFunds { .. })));
}

#[test]
fn what_waits_too_long_is_forgotten_and_gaps_are_told() {
    let (ledger, head) = start();
    let mut pool = Mempool::default();
    let mut wallet = Wallet::new(0);
    let first = transfer(&mut wallet);
    let gap = transfer(&mut wallet.with_nonce(5));
    pool.insert(first.clone(), &head).unwrap();
    pool.insert(gap.clone(), &head).unwrap();
    let standing: Vec<_> = pool.all(&head).unwrap().into_iter().map(|(s, tx)| (s, tx.hash())).collect();
    assert_eq!(standing, [(Standing::Pending, first.hash()), (Standing::Queued, gap.hash())]);
    // The first one is executed; the other one stays.
    let next = ledger.build(&head, &input(&head), pool.best(&head).unwrap()).unwrap();
    pool.on_committed(&next).unwrap();
    assert_eq!(pool.all(&next).unwrap().len(), 1);
    // Alone with a nonce too high, it does not count.
    assert_eq!(pool.all(&next).unwrap()[0].0, Standing::Queued);
    assert_eq!(pool.pending_nonce(wallet.address(), 1), 1);
}

#[test]
fn a_full_pool_drops_what_pays_least_and_stays_bounded() {
    let (_, head) = {
        let mut genesis = wallet::genesis(U256::from(10).pow(U256::from(20)));
        let account = genesis.alloc.values().next().unwrap().clone();
        for i in 0..400 {
            genesis.alloc.insert(Wallet::numbered(i).address(), account.clone());
        }
        let network = wallet::network(1000);
        let executed = genesis.execute(&network).unwrap();
        (Ledger::new(genesis.params(&network), executed.hash()), executed)
    };
    let mut pool = Mempool::default();
    let mut cheap = vec![];
    for i in 0..400 {
        let mut wallet = Wallet { fee_cap: 2_000_000_000 + u128::from(i), ..Wallet::numbered(i) };
        for _ in 0..50 {
            let tx = transfer(&mut wallet);
            cheap.push(tx.hash());
            pool.insert(tx, &head).unwrap();
        }
    }
    assert_eq!(pool.len(), 20_000);
    let poor = transfer(&mut Wallet { fee_cap: 1_000_000_000, tip: 1, ..Wallet::new(0) });
    assert!(matches!(pool.insert(poor, &head), Err(LedgerError::PoolFull)));
    let rich = transfer(&mut Wallet::new(1));
    pool.insert(rich.clone(), &head).unwrap();
    assert!(pool.get(&rich.hash()).is_some());
    assert!(pool.len() <= 20_000);
    // A sender's later transactions go with the one they wait for.
    assert!(pool.get(&cheap[0]).is_none() || pool.get(&cheap[49]).is_none());
}

#[test]
fn who_can_no_longer_pay_keeps_nobody_out() {
    let (ledger, head) = start();
    let mut pool = Mempool::default();
    let mut wallet = Wallet { tip: 1_000, ..Wallet::new(0) };
    let half = U256::from(10).pow(U256::from(20)) / U256::from(2);
    // Taken while the account was rich; then the coins go another way, in a block that this pool did not make.
    let drain = recovered(&wallet.clone().transfer(Kind::Dynamic, TO, half + half / U256::from(2)));
    wallet.nonce = 1;
    let later = recovered(&wallet.transfer(Kind::Dynamic, TO, half));
    pool.insert(later.clone(), &head).unwrap();
    let next = ledger.build(&head, &input(&head), vec![drain]).unwrap();
    pool.on_committed(&next).unwrap();
    let poor = transfer(&mut Wallet::new(1));
    pool.insert(poor.clone(), &next).unwrap();
    let best: Vec<_> = pool.best(&next).unwrap().rest.iter().map(|t| t.hash()).collect();
    assert_eq!(best, [poor.hash()], "{} cannot be paid for", later.hash());
}
