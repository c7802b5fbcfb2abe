//! Wallets on a ledger that refuses, loses, forgets and lies: every call is executed once, or its sender knows why not.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod fake;

use alloy_primitives::{Address, B256, Bytes};
use fake::{Fake, Fate};
use proptest::prelude::*;
use std::{path::Path, sync::Arc, time::Duration};
use wallet::{Account, Call, Config, SendError, Wallet, WalletError};

fn call(n: u8) -> Call {
    Call::new(Address::repeat_byte(0xaa), vec![n])
}

fn data(n: u8) -> Bytes {
    Bytes::from(vec![n])
}

fn config() -> Config {
    let account = Account::new(B256::repeat_byte(7)).unwrap();
    Config { poll: Duration::from_millis(1), ..Config::new(account, 5) }
}

fn open(fake: &Arc<Fake>) -> Wallet {
    Wallet::open(config(), fake.clone()).unwrap()
}

fn open_at(path: &Path, fake: &Arc<Fake>) -> Wallet {
    Wallet::open(config().kept_in(path.into()), fake.clone()).unwrap()
}

#[tokio::test]
async fn what_is_refused_lost_or_forgotten_is_sent_again() {
    for fate in [Fate::Taken, Fate::Refused, Fate::Lost, Fate::Unanswered, Fate::Evicted, Fate::Displaced] {
        let fake = Arc::new(Fake::new());
        let wallet = open(&fake);
        fake.state().fates.extend([fate; 5]);
        let until = fake.state().time + 3600;
        let done = wallet.send(call(1).by(until)).await.unwrap();
        assert!(done.block > 0);
        assert_eq!(fake.state().executed, [data(1)], "{fate:?}");
        assert_eq!(wallet.pending(), 0);
        assert_eq!(wallet.metrics().deadlines_missed.get(), 0);
    }
}

#[tokio::test]
async fn the_offer_rises_by_eighths_until_it_is_taken() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    fake.state().least_tip = 1_000_000_000;
    let until = fake.state().time + 600;
    wallet.send(call(1).by(until)).await.unwrap();
    let seen = fake.state().seen.clone();
    assert!(seen.len() > 5 && seen.iter().all(|(nonce, _, _)| *nonce == 0));
    for pair in seen.windows(2) {
        let ((_, fee, tip), (_, next_fee, next_tip)) = (pair[0], pair[1]);
        if (fee, tip) != (next_fee, next_tip) {
            assert!(next_fee - fee >= fee / 8 && next_tip - tip >= tip / 8, "{seen:?}");
        }
    }
    assert!(wallet.metrics().replaced.get() > 5);
}

#[tokio::test]
async fn a_missed_deadline_is_an_alarm_and_the_call_is_not_executed_late() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    fake.state().is_full = true;
    let until = fake.state().time + 60;
    let first = wallet.submit(call(1).by(until)).await.unwrap();
    let second = wallet.submit(call(2)).await.unwrap();
    let error = first.wait().await.unwrap_err();
    assert!(matches!(error, SendError::TooLate { deadline, .. } if deadline == until), "{error:?}");
    let metrics = wallet.metrics();
    assert_eq!((metrics.deadlines_at_risk.get(), metrics.deadlines_missed.get()), (1, 1));
    // What takes its nonce, at the highest tip, has arrived.
    while fake.state().seen.last().is_none_or(|(_, _, tip)| *tip < 1_000_000_000) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fake.state().is_full = false;
    second.wait().await.unwrap();
    let executed = fake.state().executed.clone();
    assert!(executed.contains(&data(2)) && !executed.contains(&data(1)), "{executed:?}");
}

#[tokio::test]
async fn a_revert_is_told_with_its_data_and_costs_nothing() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    fake.state().reverts.insert(data(1), data(99));
    let error = wallet.send(call(1)).await.unwrap_err();
    assert_eq!(error, SendError::Reverted { hash: None, data: data(99) });
    assert!(error.is_revert() && fake.state().seen.is_empty());
}

#[tokio::test]
async fn a_missing_nonce_is_used_up() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    // The server says that three transactions of this account wait, and they do not.
    fake.state().pending_lie = 3;
    wallet.send(call(1)).await.unwrap();
    let executed = fake.state().executed.clone();
    assert_eq!(executed.iter().filter(|d| **d == data(1)).count(), 1);
    assert_eq!(executed.len(), 4);
}

#[tokio::test]
async fn equal_calls_are_one_and_the_queue_has_an_end() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    fake.state().is_unreachable = true;
    let twice = [wallet.submit(call(1)).await.unwrap(), wallet.submit(call(1)).await.unwrap()];
    assert_eq!(wallet.pending(), 1);
    for salt in 1..256 {
        drop(wallet.submit(Call { salt, ..call(1) }).await.unwrap());
    }
    let full = wallet.submit(call(2)).await.unwrap_err();
    assert_eq!(full, WalletError::Full(256));
    let huge = wallet.submit(Call::new(Address::ZERO, vec![0; 200_000])).await.unwrap_err();
    assert!(matches!(huge, WalletError::Oversized { .. }));
    fake.state().is_unreachable = false;
    for ticket in twice {
        ticket.wait().await.unwrap();
    }
}

#[tokio::test]
async fn out_of_reach_for_too_long_is_not_called_a_refusal() {
    let fake = Arc::new(Fake::new());
    let wallet = open(&fake);
    fake.state().is_unreachable = true;
    // The deadline is over by this machine's clock, the only one that there is.
    let error = wallet.send(call(1).by(1)).await.unwrap_err();
    assert!(matches!(error, SendError::Unreachable { .. }), "{error:?}");
    fake.state().is_unreachable = false;
    fake.state().fates.extend([Fate::Refused; 100_000]);
    let until = fake.state().time + 30;
    let error = wallet.send(call(2).by(until)).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { code: -32000, .. }), "{error:?}");
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_pending() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calls.redb");
    let fake = Arc::new(Fake::new());
    fake.state().is_full = true;
    let wallet = open_at(&path, &fake);
    drop(wallet.submit(call(1)).await.unwrap());
    while fake.state().seen.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(wallet);
    let again = loop {
        // The old worker lets go of the file when it next waits.
        match Wallet::open(config().kept_in(path.clone()), fake.clone()) {
            Ok(wallet) => break wallet,
            Err(WalletError::Store { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(again.pending(), 1);
    // Who asks again gets the call that is under way.
    let ticket = again.submit(call(1)).await.unwrap();
    assert_eq!(again.pending(), 1);
    fake.state().is_full = false;
    ticket.wait().await.unwrap();
    assert_eq!(fake.state().executed, [data(1)]);
    drop(again);
    let other = Config::new(Account::new(B256::repeat_byte(8)).unwrap(), 5).kept_in(path);
    let error = loop {
        match Wallet::open(other.clone(), fake.clone()) {
            Err(WalletError::Store { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(error, WalletError::OtherAccount { .. }));
}

const CHILD: &str = "WALLET_TEST_CHILD";

/// Run again by the test below, as a process of its own: takes a call, says so, and waits to be killed.
#[tokio::test]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let fake = Arc::new(Fake::new());
    fake.state().is_unreachable = true;
    let wallet = open_at(Path::new(&path), &fake);
    drop(wallet.submit(call(1)).await.unwrap());
    println!("taken");
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

#[tokio::test]
async fn a_call_survives_being_killed() {
    use std::io::BufRead as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calls.redb");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.contains("taken")));
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    let fake = Arc::new(Fake::new());
    let wallet = open_at(&path, &fake);
    assert_eq!(wallet.pending(), 1);
    wallet.send(call(1)).await.unwrap();
    assert_eq!(fake.state().executed, [data(1)]);
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Taken),
        Just(Fate::Refused),
        Just(Fate::Lost),
        Just(Fate::Unanswered),
        Just(Fate::Evicted),
        Just(Fate::Displaced),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_wrong_every_call_is_executed_exactly_once(
        fates in prop::collection::vec(fate(), 0..60),
        calls in 1u8..20,
        outages in prop::collection::vec(0u8..20, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let executed = runtime.block_on(async {
            let fake = Arc::new(Fake::new());
            fake.state().fates.extend(fates);
            let wallet = open(&fake);
            let mut tickets = Vec::new();
            for n in 0..calls {
                fake.state().is_unreachable = outages.contains(&n);
                tickets.push(wallet.submit(call(n).within(Duration::from_secs(100_000))).await.unwrap());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            fake.state().is_unreachable = false;
            for ticket in tickets {
                ticket.wait().await.unwrap();
            }
            fake.state().executed.clone()
        });
        for n in 0..calls {
            prop_assert_eq!(executed.iter().filter(|d| **d == data(n)).count(), 1);
        }
    }
}
