//! Ten thousand random transactions through our blocks and through revm alone: same receipts, same accounts, same storage.
//!
//! revm decides what an opcode does. What is tested here is everything around it: order, fees, gas, created and removed accounts, storage that
//! is cleared, reverted or read from an older block, delegations, and the way from revm's cache into our trie and back.
#![allow(missing_docs, clippy::unwrap_used)]

mod wallet;

use alloy_consensus::{SignableTransaction as _, Transaction as _, TxEip7702, TxEnvelope};
use alloy_eips::{
    eip2718::Encodable2718 as _, eip2935::HISTORY_STORAGE_ADDRESS, eip4788::BEACON_ROOTS_ADDRESS,
    eip7702::Authorization,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use ledger::{Executed, Ledger, RecoveredTx, Turn};
use revm::{
    Context, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    context::{BlockEnv, TxEnv},
    context_interface::{block::BlobExcessGasAndPrice, either::Either},
    database::{CacheDB, EmptyDB, InMemoryDB},
    primitives::hardfork::SpecId,
    state::{AccountInfo, Bytecode},
};
use std::sync::Arc;
use wallet::{CHAIN_ID, Kind, Wallet, input};

const TOTAL: u64 = 10_000;
/// Offered for each block; some do not fit.
const PER_BLOCK: u64 = 250;
const SENDERS: u32 = 40;
const BALANCE: u128 = 10u128.pow(22);

/// SplitMix64: the test needs no quality, only the seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Code that does something: small pushes, storage, transient storage, logs, calls, creations, self-destruction, reverts.
fn code(rng: &mut Rng, known: &[Address]) -> Vec<u8> {
    let mut out = Vec::new();
    let push = |out: &mut Vec<u8>, byte: u8| out.extend_from_slice(&[0x60, byte]);
    for _ in 0..rng.below(12) + 1 {
        match rng.below(14) {
            0..=3 => {
                // sstore(small, small): slots collide, values are often zero.
                push(&mut out, rng.below(3) as u8);
                push(&mut out, rng.below(6) as u8);
                out.push(0x55);
            }
            4 => {
                // sstore(k, sload(k) + 1)
                let key = rng.below(6) as u8;
                push(&mut out, key);
                out.push(0x54);
                push(&mut out, 1);
                out.push(0x01);
                push(&mut out, key);
                out.push(0x55);
            }
            5 => {
                push(&mut out, 7);
                push(&mut out, rng.below(4) as u8);
                out.push(0x5d); // tstore
            }
            6 => {
                push(&mut out, rng.below(9) as u8);
                push(&mut out, rng.below(40) as u8);
                push(&mut out, 0);
                out.push(0xa1); // log1
            }
            7..=9 => {
                // A call of somebody known, or of a precompile, with some coins.
                for _ in 0..4 {
                    push(&mut out, 0);
                }
                push(&mut out, rng.below(3) as u8);
                if rng.below(4) == 0 || known.is_empty() {
                    push(&mut out, rng.below(18) as u8);
                } else {
                    out.push(0x73);
                    out.extend_from_slice(rng.pick(known).as_slice());
                }
                out.extend_from_slice(&[0x61, 0xff, 0xff]);
                out.push(*rng.pick(&[0xf1, 0xf1, 0xf2]));
                out.push(0x50);
            }
            10 => {
                // create2 of nothing, with a salt that repeats.
                push(&mut out, rng.below(3) as u8);
                push(&mut out, 0);
                push(&mut out, 0);
                push(&mut out, 0);
                out.extend_from_slice(&[0xf5, 0x50]);
            }
            11 => {
                // block hash, randomness, timestamp: into storage, so that they show.
                let op = *rng.pick(&[0x41u8, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x4a, 0x5a]);
                if op == 0x41 {
                    push(&mut out, 1);
                    out.extend_from_slice(&[0x43, 0x03, 0x40]);
                } else if op == 0x5a {
                    out.push(0x59);
                } else {
                    out.push(op);
                }
                push(&mut out, 9);
                out.push(0x55);
            }
            12 if rng.below(3) == 0 => {
                out.push(0x73);
                out.extend_from_slice(Address::from_word(B256::from(U256::from(rng.below(500)))).as_slice());
                out.push(0xff); // selfdestruct
            }
            _ => out.extend_from_slice(&[0x36, 0x50]),
        }
    }
    match rng.below(8) {
        0 => out.extend_from_slice(&[0x60, 0, 0x60, 0, 0xfd]),
        1 => out.push(0xfe),
        _ => out.push(0x00),
    }
    out
}

/// Creation code that runs `setup` and leaves `code`.
fn creation(setup: &[u8], code: &[u8]) -> Bytes {
    let setup = setup.strip_suffix(&[0x00]).unwrap_or(&[]);
    let n = code.len() as u16;
    let [hi, lo] = n.to_be_bytes();
    let offset = (setup.len() + 15) as u16;
    let [ohi, olo] = offset.to_be_bytes();
    let tail = [0x61, hi, lo, 0x80, 0x61, ohi, olo, 0x60, 0, 0x39, 0x60, 0, 0xf3, 0, 0];
    [setup, &tail, code].concat().into()
}

fn delegation(wallet: &mut Wallet, signer: &Wallet, to: Address, nonce: u64) -> Bytes {
    let authorization = Authorization { chain_id: U256::from(CHAIN_ID), address: to, nonce };
    let sign =
        |secret, hash| Signature::from_raw_array(&types::signing::sign(secret, hash).unwrap()).unwrap();
    let signed = authorization.clone().into_signed(sign(&signer.secret, authorization.signature_hash()));
    let tx = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce: wallet.nonce,
        gas_limit: 300_000,
        max_fee_per_gas: wallet.fee_cap,
        max_priority_fee_per_gas: 1,
        to: signer.address(),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: vec![signed],
        input: Bytes::new(),
    };
    wallet.nonce += 1;
    let signature = sign(&wallet.secret, tx.signature_hash());
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}

/// revm alone, with a plain map as its database.
struct Plain(InMemoryDB);

impl Plain {
    fn apply(&mut self, executed: &Executed, base_fee: u64, index: usize) -> (bool, u64, usize) {
        let header = executed.header();
        let tx = RecoveredTx::recover(executed.block().transactions[index].clone(), CHAIN_ID).unwrap();
        let env = BlockEnv {
            number: U256::from(header.number),
            beneficiary: header.beneficiary,
            timestamp: U256::from(header.timestamp),
            gas_limit: header.gas_limit,
            basefee: base_fee,
            prevrandao: Some(header.mix_hash),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
            ..Default::default()
        };
        let t = tx.tx();
        let mut evm = Context::mainnet()
            .with_db(&mut self.0)
            .with_block(env)
            .modify_cfg_chained(|cfg| {
                cfg.chain_id = CHAIN_ID;
                cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
            })
            .build_mainnet();
        let done = evm
            .transact_commit(TxEnv {
                tx_type: t.tx_type() as u8,
                caller: tx.sender(),
                gas_limit: t.gas_limit(),
                gas_price: t.max_fee_per_gas(),
                gas_priority_fee: t.max_priority_fee_per_gas(),
                kind: t.to().map_or(TxKind::Create, TxKind::Call),
                value: t.value(),
                data: t.input().clone(),
                nonce: t.nonce(),
                chain_id: t.chain_id(),
                access_list: t.access_list().cloned().unwrap_or_default(),
                authorization_list: t
                    .authorization_list()
                    .unwrap_or_default()
                    .iter()
                    .cloned()
                    .map(Either::Left)
                    .collect(),
                ..Default::default()
            })
            .unwrap();
        (done.is_success(), done.tx_gas_used(), done.logs().len())
    }
}

fn random_transaction(rng: &mut Rng, wallets: &mut [Wallet], known: &mut Vec<Address>) -> Bytes {
    let i = rng.below(u64::from(SENDERS)) as usize;
    let other = rng.below(u64::from(SENDERS)) as usize;
    let stranger = Address::from_word(B256::from(U256::from(rng.below(500) + 1)));
    match rng.below(10) {
        0 | 1 => {
            let (setup, body) = (code(rng, known), code(rng, known));
            let wallet = &mut wallets[i];
            known.push(wallet.address().create(wallet.nonce()));
            wallet.with_gas_mut(600_000).create(creation(&setup, &body))
        }
        2 => {
            let to = if known.is_empty() { stranger } else { *rng.pick(known) };
            let signer = wallets[other].clone();
            // Often with the wrong nonce: then nothing is delegated, but the transaction goes on.
            let nonce = signer.nonce + u64::from(i == other);
            let raw = delegation(&mut wallets[i], &signer, to, nonce);
            if i != other {
                // A good authorisation uses up a nonce of who signed it.
                wallets[other].nonce += 1;
            }
            raw
        }
        3 => wallets[i].transfer(Kind::Legacy, stranger, U256::from(rng.below(1000))),
        4 => wallets[i].transfer(Kind::AccessList, stranger, U256::from(rng.below(2))),
        _ if known.is_empty() => wallets[i].transfer(Kind::Dynamic, stranger, U256::from(1)),
        _ => {
            let to = *rng.pick(known);
            let data = vec![rng.below(256) as u8; rng.below(70) as usize];
            wallets[i].with_gas_mut(400_000).call(to, data.into())
        }
    }
}

#[test]
fn ten_thousand_random_transactions_agree_with_plain_revm() {
    let mut rng = Rng(42);
    let mut wallets: Vec<_> = (0..SENDERS).map(Wallet::numbered).collect();
    let mut genesis = wallet::genesis(U256::from(1));
    let rich = ledger::GenesisAccount { balance: U256::from(BALANCE), ..Default::default() };
    for wallet in &wallets {
        genesis.alloc.insert(wallet.address(), rich.clone());
    }
    let network = wallet::network(1_000_000);
    let mut parent = genesis.execute(&network).unwrap();
    let ledger = Ledger::new(genesis.params(&network), parent.hash());
    let mut plain = Plain(CacheDB::new(EmptyDB::new()));
    for (address, account) in &genesis.alloc {
        plain.0.insert_account_info(*address, AccountInfo { balance: account.balance, ..Default::default() });
    }
    for (address, code) in [
        (HISTORY_STORAGE_ADDRESS, &alloy_eips::eip2935::HISTORY_STORAGE_CODE),
        (BEACON_ROOTS_ADDRESS, &alloy_eips::eip4788::BEACON_ROOTS_CODE),
    ] {
        let code = Bytecode::new_raw(Bytes::clone(code));
        let info =
            AccountInfo { nonce: 1, code_hash: code.hash_slow(), code: Some(code), ..Default::default() };
        plain.0.insert_account_info(address, info);
    }
    let mut known = Vec::new();
    let (mut total, mut succeeded, mut logs) = (0, 0, 0);
    while total < TOTAL {
        plain.0.cache.block_hashes.insert(U256::from(parent.number()), parent.hash());
        let raws: Vec<_> =
            (0..PER_BLOCK).map(|_| random_transaction(&mut rng, &mut wallets, &mut known)).collect();
        let txs: Vec<_> =
            raws.iter().map(|raw| Arc::new(RecoveredTx::decode(raw, CHAIN_ID).unwrap())).collect();
        let built = ledger.build(&parent, &input(&parent), txs.clone()).unwrap();
        // All of them are valid, so all of them fit into the blocks that follow.
        let again = ledger.execute(&parent, built.block(), &Turn::default(), &|_| None).unwrap();
        assert_eq!(again.state().root(), built.state().root());
        for (index, outcome) in built.outcomes().iter().enumerate() {
            let (success, gas, count) = plain.apply(&built, parent.next_base_fee(), index);
            let receipt = &built.receipts()[index];
            assert_eq!(
                (receipt.status(), outcome.gas_used, receipt.logs().len()),
                (success, gas, count),
                "{index}"
            );
            total += 1;
            succeeded += u64::from(success);
            logs += count;
        }
        // What did not fit comes first in the next block: simplest is to let its sender forget it.
        for wallet in &mut wallets {
            wallet.nonce = built.state().nonce(wallet.address()).unwrap();
        }
        parent = built;
    }
    assert!(
        succeeded > total / 3 && succeeded < total && logs > 500,
        "{succeeded} of {total}, {logs} logs: too uniform"
    );

    // Every account and slot that plain revm knows of is the same here, and there are no others.
    let state = parent.state();
    let mut accounts = 0;
    for (address, account) in &plain.0.cache.accounts {
        if [HISTORY_STORAGE_ADDRESS, BEACON_ROOTS_ADDRESS].contains(address) {
            accounts += 1;
            continue;
        }
        let info = &account.info;
        let ours = state.account(address).unwrap();
        if info.is_empty() {
            assert!(ours.is_none(), "{address} should not exist");
            continue;
        }
        accounts += 1;
        let ours = ours.unwrap_or_else(|| panic!("{address} is missing"));
        assert_eq!(
            (ours.nonce, ours.balance, ours.code_hash),
            (info.nonce, info.balance, info.code_hash),
            "{address}"
        );
        let code = state.code(*address).unwrap();
        assert!(code.is_empty() || keccak256(&code) == info.code_hash);
        for (slot, value) in &account.storage {
            assert_eq!(state.storage(*address, *slot).unwrap(), *value, "{address} slot {slot}");
        }
    }
    let mut ours = 0;
    state
        .accounts_from(B256::ZERO, &mut |_, _| {
            ours += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(ours, accounts);
}
