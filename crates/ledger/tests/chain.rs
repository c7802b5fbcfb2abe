//! Building and executing blocks: two instances agree, and nothing else is accepted.
#![allow(missing_docs, clippy::unwrap_used)]

mod wallet;

use alloy_consensus::{Header, TxEnvelope};
use alloy_primitives::{Address, B256, Bloom, Bytes, U256, hex};
use alloy_rpc_types_eth::TransactionRequest;
use ledger::{Block, CallOutcome, Executed, Ledger, LedgerError, Overrides, RecoveredTx, Turn};
use proptest::prelude::*;
use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
};
use wallet::{CHAIN_ID, Kind, Wallet, input};

const RICH: u128 = 10u128.pow(24);

fn recovered(raw: &Bytes) -> Arc<RecoveredTx> {
    Arc::new(RecoveredTx::decode(raw, CHAIN_ID).unwrap())
}

fn start() -> (Ledger, Executed) {
    wallet::start(U256::from(RICH))
}

fn total(executed: &Executed) -> U256 {
    let mut sum = U256::ZERO;
    executed
        .state()
        .accounts_from(B256::ZERO, &mut |_, account| {
            sum += account.balance;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    sum
}

/// Executes `block` as in the turn of [`input`].
fn execute(ledger: &Ledger, parent: &Executed, block: Block) -> Result<Executed, LedgerError> {
    ledger.execute(parent, &Arc::new(block), &Turn::default(), &|_| None)
}

/// Builds on one instance and executes the encoded block on another.
fn build_and_check(ledger: &Ledger, parent: &Executed, txs: Vec<Arc<RecoveredTx>>) -> Executed {
    let built = ledger.build(parent, &input(parent), txs).unwrap();
    let decoded = Block::decode(&built.block().encode()).unwrap();
    assert_eq!(built.block().encode().len(), built.block().encoded_len());
    let executed = execute(ledger, parent, decoded).unwrap();
    assert_eq!((executed.hash(), executed.state().root()), (built.hash(), built.state().root()));
    assert_eq!(executed.receipts(), built.receipts());
    built
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn two_instances_agree_and_only_the_base_fee_is_burnt(
        steps in prop::collection::vec((0u8..4, 0u8..6, 0u64..1_000_000, 0u8..12), 1..40), blocks in 1usize..4,
    ) {
        let (ledger, mut parent) = start();
        let mut wallets: Vec<_> = (0..4).map(Wallet::new).collect();
        for chunk in steps.chunks(steps.len().div_ceil(blocks)) {
            let mut txs = Vec::new();
            for (from, to, wei, flaw) in chunk {
                let to = if *to < 4 { wallets[usize::from(*to)].address() } else { Address::repeat_byte(*to) };
                let wallet = &mut wallets[usize::from(*from)];
                // Some of them must not get into a block, and must not hold up the others.
                let raw = match flaw {
                    0 => wallet.with_nonce(wallet.nonce() + 5).transfer(Kind::Dynamic, to, U256::from(*wei)),
                    1 => wallet.clone().transfer(Kind::Dynamic, to, U256::from(RICH)),
                    2 => wallet.clone().with_gas(20_000).transfer(Kind::Dynamic, to, U256::from(*wei)),
                    3 => wallet.transfer(Kind::Legacy, to, U256::from(*wei)),
                    4 => wallet.transfer(Kind::AccessList, to, U256::from(*wei)),
                    _ => wallet.transfer(Kind::Dynamic, to, U256::from(*wei)),
                };
                txs.push(recovered(&raw));
            }
            let before = total(&parent);
            let built = build_and_check(&ledger, &parent, txs);
            let header = built.header();
            let burnt = U256::from(header.gas_used) * U256::from(header.base_fee_per_gas.unwrap());
            prop_assert_eq!(before - total(&built), burnt);
            let used: u64 = built.outcomes().iter().map(|o| o.gas_used).sum();
            prop_assert_eq!(used, header.gas_used);
            parent = built;
        }
        // Every good transaction got in, in order.
        for wallet in &wallets {
            prop_assert_eq!(parent.state().nonce(wallet.address()).unwrap(), wallet.nonce());
        }
    }

    #[test]
    fn any_bytes_are_a_block_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..600, byte: u8) {
        let _ = Block::decode(&bytes);
        let (ledger, parent) = start();
        let mut good = ledger.build(&parent, &input(&parent), vec![]).unwrap().block().encode();
        let at = at % good.len();
        good[at] = byte;
        if let Ok(block) = Block::decode(&good) {
            prop_assert_eq!(block.encode(), good);
        }
        let _ = RecoveredTx::decode(&bytes, CHAIN_ID);
    }
}

#[test]
fn a_header_that_differs_in_any_field_is_refused() {
    let (ledger, parent) = start();
    let mut wallet = Wallet::new(0);
    let txs: Vec<_> = (0..2)
        .map(|_| recovered(&wallet.transfer(Kind::Dynamic, Address::repeat_byte(9), U256::from(5))))
        .collect();
    let good = ledger.build(&parent, &input(&parent), txs).unwrap();
    type Change = (&'static str, fn(&mut Header));
    let wrong: [Change; 20] = [
        ("parent", |h| h.parent_hash = B256::ZERO),
        ("ommers", |h| h.ommers_hash = B256::ZERO),
        ("state", |h| h.state_root = B256::ZERO),
        ("transactions", |h| h.transactions_root = B256::ZERO),
        ("receipts", |h| h.receipts_root = B256::ZERO),
        ("bloom", |h| h.logs_bloom = Bloom::repeat_byte(1)),
        ("difficulty", |h| h.difficulty = U256::from(1)),
        ("number", |h| h.number += 1),
        ("gas limit", |h| h.gas_limit += 1),
        ("gas used", |h| h.gas_used += 1),
        ("older than parent", |h| h.timestamp = 999),
        ("extra data", |h| h.extra_data = Bytes::from_static(&[1; 31])),
        ("nonce", |h| h.nonce = [1; 8].into()),
        ("base fee", |h| h.base_fee_per_gas = Some(1)),
        ("no base fee", |h| h.base_fee_per_gas = None),
        ("withdrawals", |h| h.withdrawals_root = Some(B256::ZERO)),
        ("blob gas", |h| h.blob_gas_used = Some(1)),
        ("excess blob gas", |h| h.excess_blob_gas = None),
        ("beacon root", |h| h.parent_beacon_block_root = Some(B256::repeat_byte(1))),
        ("requests", |h| h.requests_hash = None),
    ];
    for (what, change) in wrong {
        let mut block = Block::clone(good.block());
        change(&mut block.header);
        let refused = execute(&ledger, &parent, block);
        assert!(matches!(refused, Err(LedgerError::InvalidBlock { .. })), "{what}");
    }
    // The beneficiary gets the tips, so changing it changes the state.
    let mut block = Block::clone(good.block());
    block.header.beneficiary = Address::ZERO;
    assert!(execute(&ledger, &parent, block).is_err());
    let reorder: [fn(&mut Vec<TxEnvelope>); 3] =
        [|t| t.reverse(), |t| drop(t.pop()), |t| t.push(t[1].clone())];
    for change in reorder {
        let mut block = Block::clone(good.block());
        change(&mut block.transactions);
        assert!(execute(&ledger, &parent, block).is_err());
    }
}

/// Stores 42 at slot 0 and emits a log; called with input it reverts with that input.
fn contract() -> Bytes {
    // if calldatasize == 0 { sstore(0, sload(0) + 42); log1(0, 0, 7) } else { revert(calldata) }
    // CALLDATASIZE PUSH1 0x15 JUMPI  PUSH1 0 SLOAD PUSH1 42 ADD PUSH1 0 SSTORE  PUSH1 7 PUSH1 0 PUSH1 0 LOG1 STOP
    // JUMPDEST(0x15) CALLDATASIZE PUSH1 0 PUSH1 0 CALLDATACOPY CALLDATASIZE PUSH1 0 REVERT
    let code = hex!("36601557600054602a01600055600760006000a1005b366000600037366000fd");
    let n = code.len() as u8;
    // PUSH1 n DUP1 PUSH1 11 PUSH1 0 CODECOPY PUSH1 0 RETURN
    let init = [&[0x60, n, 0x80, 0x60, 0x0b, 0x60, 0x00, 0x39, 0x60, 0x00, 0xf3], code.as_slice()].concat();
    init.into()
}

#[test]
fn contracts_run_emit_logs_revert_and_can_be_proved() {
    let (ledger, parent) = start();
    let mut wallet = Wallet::new(0);
    let create = recovered(&wallet.with_gas_mut(200_000).create(contract()));
    let deployed = build_and_check(&ledger, &parent, vec![create]);
    let address = deployed.outcomes()[0].created.unwrap();
    assert!(!deployed.state().code(address).unwrap().is_empty());
    let calls = (0..2).map(|_| recovered(&wallet.call(address, Bytes::new()))).collect();
    let called = build_and_check(&ledger, &deployed, calls);
    assert_eq!(called.state().storage(address, U256::ZERO).unwrap(), U256::from(84));
    assert!(called.receipts().iter().all(|r| r.status() && r.logs().len() == 1));
    assert_ne!(called.header().logs_bloom, Bloom::ZERO);
    let reverted = build_and_check(
        &ledger,
        &called,
        vec![recovered(&wallet.call(address, Bytes::from_static(&[1, 2])))],
    );
    assert!(!reverted.receipts()[0].status());
    assert_eq!(reverted.state().storage(address, U256::ZERO).unwrap(), U256::from(84));

    let request = |data: &'static [u8]| {
        let request = TransactionRequest::default().from(wallet.address()).to(address);
        request.input(Bytes::from_static(data).into())
    };
    let plain = Overrides::default();
    let never = AtomicBool::new(false);
    let revert = ledger.queries(&never).call(&reverted, &request(&[9, 9]), &plain).unwrap();
    assert!(matches!(revert, CallOutcome::Revert { output, .. } if output.as_ref() == [9, 9]));
    assert!(ledger.queries(&never).estimate_gas(&reverted, &request(&[9]), &plain).unwrap().is_err());
    let estimate = ledger.queries(&never).estimate_gas(&reverted, &request(&[]), &plain).unwrap().unwrap();
    let with = |gas| ledger.queries(&never).call(&reverted, &request(&[]).gas_limit(gas), &plain).unwrap();
    assert!(matches!(with(estimate), CallOutcome::Success { .. }));
    assert!(matches!(with(estimate * 9 / 10), CallOutcome::Halt { .. } | CallOutcome::Revert { .. }));
    // A call changes nothing.
    assert_eq!(reverted.state().storage(address, U256::ZERO).unwrap(), U256::from(84));
    let poor = request(&[]).value(U256::MAX);
    assert!(
        ledger
            .queries(&never)
            .call(&reverted, &poor, &plain)
            .unwrap_err()
            .to_string()
            .starts_with("insufficient funds for gas")
    );
}
