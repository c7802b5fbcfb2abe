//! `og bench state`: execution, state root and disk, one validator, no network.

use crate::{cli::BenchStateArgs, output::outln};
use alloy_consensus::{Header, TxEip1559, proofs};
use anyhow::Context as _;
use ledger::{
    Anchor, Block, BlockInput, ChainParams, Import, Ledger, Part, RecoveredTx, Retention, Store, Turn,
};
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use types::{
    Address, B256, Bytes, FinalityCertificate, FixedBytes, U256, Validator, ValidatorSet, keccak256,
};
use wallet::Account;

const CHAIN_ID: u64 = 10_744;
/// Accounts that send; the others only receive.
const SENDERS: u64 = 500;
/// Accounts of one part of the import.
const PART: u64 = 50_000;

fn sender(i: u64) -> anyhow::Result<Account> {
    Ok(Account::new(keccak256(format!("og bench sender {i}")))?)
}

fn receiver(i: u64) -> Address {
    Address::from_word(keccak256(i.to_be_bytes()))
}

pub(crate) fn run(args: &BenchStateArgs) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("og-bench-").tempdir()?;
    let dir = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    if !args.json {
        outln!(
            "{:>10}  {:>9}  {:>9}  {:>9}  {:>9}  {:>8}  {:>9}  {:>10}",
            "accounts",
            "build ms",
            "execute ms",
            "commit ms",
            "flush ms",
            "open ms",
            "proof us",
            "grown B/tx"
        );
    }
    let mut rows = vec![];
    for accounts in &args.accounts {
        let row = measure(&dir.join(accounts.to_string()), *accounts, args)?;
        if !args.json {
            outln!(
                "{accounts:>10}  {:>9}  {:>9}  {:>9}  {:>9}  {:>8}  {:>9}  {:>10}",
                row["build_ms"],
                row["execute_ms"],
                row["commit_ms"],
                row["flush_ms"],
                row["open_ms"],
                row["proof_us"],
                row["bytes_per_transfer"]
            );
        }
        rows.push(row);
    }
    if args.json {
        outln!("{:#}", json!({"transfers": args.transfers, "blocks": args.blocks, "rows": rows}));
    }
    Ok(())
}

/// A store with this many accounts, as if it had been synced.
fn fill(dir: &Path, accounts: u64, senders: &[Account]) -> anyhow::Result<(Ledger, Arc<Store>)> {
    std::fs::create_dir_all(dir)?;
    let genesis = Block { header: Header::default(), transactions: vec![], withdrawals: vec![] };
    let params = ChainParams {
        chain_id: CHAIN_ID,
        gas_limit: 60_000_000,
        epoch_blocks: 1 << 40,
        staking: None,
        beacon: None,
    };
    let ledger = Ledger::new(params, genesis.hash());
    let mut import = Import::new(Store::open(dir, Retention::Full)?, 1);
    import.add(Part::of_accounts(senders.iter().map(|s| (s.address(), U256::MAX >> 8))))?;
    let mut first = 0;
    while first < accounts {
        let last = accounts.min(first + PART);
        import.add(Part::of_accounts((first..last).map(|i| (receiver(i), U256::from(1)))))?;
        first = last;
    }
    let header = Header {
        number: 1,
        state_root: import.root(),
        receipts_root: proofs::calculate_receipt_root::<alloy_consensus::ReceiptEnvelope>(&[]),
        gas_limit: params.gas_limit,
        base_fee_per_gas: Some(7),
        ..Header::default()
    };
    let block = Block { header, transactions: vec![], withdrawals: vec![] };
    let member = Validator { peer: B256::ZERO, vote: FixedBytes::ZERO };
    import.finish(&Anchor {
        certificate: FinalityCertificate {
            epoch: 0,
            view: 1,
            parent_view: 0,
            block_hash: block.hash(),
            signers: Bytes::from_static(&[1]),
            signature: FixedBytes::ZERO,
        },
        hashes: vec![(0, genesis.hash())],
        genesis,
        block,
        turn: Turn::default(),
        receipts: vec![],
        first: ValidatorSet { epoch: 0, members: vec![member] },
        handovers: vec![],
        votes_from: 0,
    })?;
    Ok((ledger, Arc::new(Store::open(dir, Retention::Full)?)))
}

fn measure(dir: &Path, accounts: u64, args: &BenchStateArgs) -> anyhow::Result<Value> {
    let senders: Vec<_> = (0..SENDERS).map(sender).collect::<Result<_, _>>()?;
    let began = Instant::now();
    let (ledger, store) = fill(dir, accounts, &senders)?;
    let filled = began.elapsed();
    let mut head = store.recover(&ledger)?.context("an empty store")?;
    let (_, bytes_before) = store.state_size()?;
    let (mut build, mut execute, mut commit, mut flush) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut next = 0;
    for _ in 0..args.blocks {
        let numbers: Vec<u64> = (next..next + args.transfers).collect();
        next += args.transfers;
        let txs: Vec<_> = numbers
            .into_par_iter()
            .map(|i| {
                let raw = senders[(i % SENDERS) as usize].sign(TxEip1559 {
                    chain_id: CHAIN_ID,
                    nonce: i / SENDERS,
                    gas_limit: 21_000,
                    max_fee_per_gas: 1_000_000_000_000,
                    max_priority_fee_per_gas: 1,
                    // Spread over all accounts, with a stride that visits each.
                    to: alloy_primitives::TxKind::Call(receiver(
                        i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % accounts,
                    )),
                    value: U256::from(1),
                    ..Default::default()
                })?;
                Ok(Arc::new(RecoveredTx::decode(&raw, CHAIN_ID)?))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let input = BlockInput {
            timestamp: head.header().timestamp + 1,
            seal: B256::ZERO,
            beneficiary: Address::ZERO,
            randomness: B256::ZERO,
            turn: Turn::default(),
        };
        let at = Instant::now();
        let built = ledger.build(&head, &input, txs.iter().cloned())?;
        build += at.elapsed();
        let known: std::collections::HashMap<_, _> = txs.iter().map(|t| (t.hash(), t.clone())).collect();
        let at = Instant::now();
        let block = Arc::new(Block::decode(&built.block().encode())?);
        head = ledger.execute(&head, &block, &Turn::default(), &|hash| known.get(hash).cloned())?;
        execute += at.elapsed();
        let at = Instant::now();
        let due = store.commit(&head)?;
        commit += at.elapsed();
        if let Some(due) = due {
            let at = Instant::now();
            store.flush(&due)?;
            flush += at.elapsed();
        }
    }
    store.close(&head)?;
    let (_, bytes_after) = store.state_size()?;
    let at = Instant::now();
    for i in 0..200 {
        head.state().proof(receiver(i * 7919 % accounts), &[])?;
    }
    let proof = at.elapsed() / 200;
    drop((head, store));
    let at = Instant::now();
    let store = Store::open(dir, Retention::Full)?;
    store.recover(&ledger)?.context("an empty store")?;
    let open = at.elapsed();
    drop(store);
    let size = std::fs::metadata(dir.join("state.redb"))?.len();
    std::fs::remove_dir_all(dir)?;
    let per_block = |d: Duration| (d.as_secs_f64() * 1e5 / args.blocks as f64).round() / 100.0;
    let transfers = (args.blocks * args.transfers) as f64;
    Ok(json!({
        "accounts": accounts, "fill_s": filled.as_secs(), "build_ms": per_block(build), "execute_ms": per_block(execute),
        "commit_ms": per_block(commit), "flush_ms": per_block(flush), "open_ms": open.as_millis() as u64,
        "proof_us": proof.as_micros() as u64,
        "bytes_per_transfer": ((bytes_after as f64 - bytes_before as f64) / transfers).round(), "state_file_bytes": size,
    }))
}
