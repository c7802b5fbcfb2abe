//! The store: what was committed comes back, after crashes at any point, and old states go.
#![allow(missing_docs, clippy::unwrap_used)]

mod wallet;

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use ledger::{Executed, FLUSH_BLOCKS, Ledger, LedgerError, RecoveredTx, Retention, Store};
use redb::StorageBackend;
use std::{
    io,
    sync::{Arc, Mutex},
};
use types::FinalityCertificate;
use wallet::{CHAIN_ID, Kind, Wallet, input};

fn recovered(raw: &Bytes) -> Arc<RecoveredTx> {
    Arc::new(RecoveredTx::decode(raw, CHAIN_ID).unwrap())
}

fn start() -> (Ledger, Executed) {
    wallet::start(U256::from(10).pow(U256::from(24)))
}

/// The block after `head`: some transfers to fresh and old accounts.
fn next(ledger: &Ledger, head: &Executed, wallet: &mut Wallet) -> Executed {
    let number = head.number() + 1;
    let txs: Vec<_> = (0..3)
        .map(|i| {
            let to = Address::from_word(B256::from(U256::from(1_000_000 + number * 7 % 50 + i)));
            recovered(&wallet.transfer(Kind::Dynamic, to, U256::from(number)))
        })
        .collect();
    ledger.build(head, &input(head), txs).unwrap()
}

fn certificate(hash: B256) -> FinalityCertificate {
    FinalityCertificate {
        epoch: 0,
        view: 1,
        parent_view: 0,
        block_hash: hash,
        signers: Bytes::from_static(&[1]),
        signature: FixedBytes::repeat_byte(5),
    }
}

#[test]
fn what_was_committed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, genesis) = start();
    let store = Store::open(dir.path(), Retention::Full).unwrap();
    assert!(store.recover(&ledger).unwrap().is_none());
    store.initialise(&genesis).unwrap();
    let mut head = store.recover(&ledger).unwrap().unwrap();
    assert_eq!(head.hash(), genesis.hash());
    let mut wallet = Wallet::new(1);
    let mut hashes = vec![head.hash()];
    for i in 0..FLUSH_BLOCKS + 8 {
        head = next(&ledger, &head, &mut wallet);
        if let Some(flush) = store.commit(&head).unwrap() {
            store.flush(&flush).unwrap();
        }
        if i == 2 {
            store.put_certificate(3, &certificate(head.hash()));
        }
        hashes.push(head.hash());
    }
    store.put_waiting([&[1u8, 2][..], &[3]]).unwrap();
    // Nobody else may open it meanwhile.
    assert!(Store::open(dir.path(), Retention::Full).is_err());
    let after = next(&ledger, &head, &mut wallet).hash();
    let (number, hash, root, tx) =
        (head.number(), head.hash(), head.state().root(), *head.block().transactions[1].tx_hash());
    // As after a crash: the last blocks have no state on disk. A state keeps the files open, so it goes too.
    drop((store, head));
    let store = Store::open(dir.path(), Retention::Full).unwrap();
    let loaded = store.recover(&ledger).unwrap().unwrap();
    assert_eq!((loaded.hash(), loaded.state().root()), (hash, root));
    for (number, hash) in hashes.iter().enumerate() {
        assert_eq!(store.block_hash(number as u64).unwrap(), Some(*hash));
        assert_eq!(store.number(hash).unwrap(), Some(number as u64));
    }
    assert_eq!(store.certificate(3).unwrap(), Some(certificate(hashes[3])));
    assert_eq!(store.receipts(5).unwrap().unwrap().len(), 3);
    assert_eq!(store.transaction(&tx).unwrap(), Some((number, 1)));
    assert_eq!(store.waiting().unwrap(), vec![vec![1, 2], vec![3]]);
    // What follows the loaded head is what follows the original one, BLOCKHASH included.
    let mut wallet = Wallet { nonce: loaded.state().nonce(wallet.address()).unwrap(), ..wallet };
    assert_eq!(next(&ledger, &loaded, &mut wallet).hash(), after);
    store.close(&loaded).unwrap();
}

#[test]
fn archives_keep_every_state_and_others_only_new_ones() {
    for retention in [Retention::Archive, Retention::Full] {
        let (ledger, genesis) = start();
        let store = Store::on(
            redb::backends::InMemoryBackend::new(),
            redb::backends::InMemoryBackend::new(),
            retention,
        )
        .unwrap()
        .with_snapshots_every(64);
        store.initialise(&genesis).unwrap();
        let mut head = store.recover(&ledger).unwrap().unwrap();
        let mut wallet = Wallet::new(1);
        let mut roots = vec![head.state().root()];
        for _ in 0..700 {
            head = next(&ledger, &head, &mut wallet);
            if let Some(flush) = store.commit(&head).unwrap() {
                store.flush(&flush).unwrap();
            }
            roots.push(head.state().root());
        }
        let kept: Vec<u64> = (0..=700).filter(|n| store.executed(&ledger, *n).unwrap().is_some()).collect();
        match retention {
            Retention::Archive => assert_eq!(kept.len(), 701),
            Retention::Full => {
                assert!(kept.iter().all(|n| n % FLUSH_BLOCKS == 0 && *n >= 100), "{kept:?}");
                assert!(kept.len() > 10, "{kept:?}");
            }
        }
        for number in kept {
            // Every kept state is whole.
            let executed = store.executed(&ledger, number).unwrap().unwrap();
            let mut accounts = 0;
            executed
                .state()
                .accounts_from(B256::ZERO, &mut |_, _| {
                    accounts += 1;
                    Ok(std::ops::ControlFlow::Continue(()))
                })
                .unwrap();
            assert!(accounts > 4);
            assert_eq!(executed.state().root(), roots[number as usize]);
        }
    }
}

/// A disk that loses power: after `left` operations everything fails; what was not synced may be lost, in any combination.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    data: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    left: u64,
}

impl Disk {
    fn new(data: Vec<u8>, left: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter { synced: data.clone(), data, unsynced: vec![], left })))
    }

    /// What is on the disk when power comes back.
    fn after_crash(&self, rng: &mut Rng) -> Vec<u8> {
        let platter = self.0.lock().unwrap();
        let mut data = platter.synced.clone();
        for (offset, bytes) in &platter.unsynced {
            if rng.below(2) == 0 {
                let end = *offset as usize + bytes.len();
                data.resize(data.len().max(end), 0);
                data[*offset as usize..end].copy_from_slice(bytes);
            }
        }
        data
    }

    fn step(&self) -> io::Result<std::sync::MutexGuard<'_, Platter>> {
        let mut platter = self.0.lock().unwrap();
        platter.left = platter.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(platter)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().data.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(platter.data.get(range).ok_or_else(|| io::Error::other("past the end"))?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.data.resize(len as usize, 0);
        // Lengths are kept: file systems order them before the data in them.
        platter.synced.resize(len as usize, 0);
        platter.unsynced.retain(|(offset, bytes)| offset + bytes.len() as u64 <= len);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.synced = platter.data.clone();
        platter.unsynced.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.data[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        platter.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}

/// A small generator (SplitMix64): the test needs no quality, only the seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Two hundred power cuts, at random points of commits and flushes: what was acknowledged is there, with the right state.
#[test]
fn power_cuts_lose_nothing_final() {
    let (ledger, genesis) = start();
    let mut chain = vec![genesis.clone()];
    let mut wallet = Wallet::new(1);
    for _ in 0..150 {
        let head = next(&ledger, chain.last().unwrap(), &mut wallet);
        chain.push(head);
    }
    let (mut blocks, mut state) = (vec![], vec![]);
    {
        let (a, b) = (Disk::new(vec![], u64::MAX), Disk::new(vec![], u64::MAX));
        let store = Store::on(a.clone(), b.clone(), Retention::Full).unwrap();
        store.initialise(&genesis).unwrap();
        drop(store);
        blocks.clone_from(&a.0.lock().unwrap().data);
        state.clone_from(&b.0.lock().unwrap().data);
    }
    let fresh = (blocks.clone(), state.clone());
    let (mut cuts, mut finished, mut acknowledged) = (0, 0, 0);
    let mut rng = Rng(7);
    while cuts < 200 {
        let disks = (Disk::new(blocks, 1 + rng.below(600)), Disk::new(state, 1 + rng.below(400)));
        let run = || -> Result<u64, (u64, LedgerError)> {
            let mut seen = acknowledged;
            let fail = |seen: u64| move |e: LedgerError| (seen, e);
            let store = Store::on(disks.0.clone(), disks.1.clone(), Retention::Full).map_err(fail(seen))?;
            let mut head = store.recover(&ledger).map_err(fail(seen))?.unwrap();
            assert!(head.number() >= acknowledged, "block {acknowledged} was lost");
            assert_eq!(head.hash(), chain[head.number() as usize].hash());
            while head.number() < 150 {
                let block = chain[head.number() as usize + 1].block();
                head = ledger.execute(&head, block, &Default::default(), &|_| None).map_err(fail(seen))?;
                let flush = store.commit(&head).map_err(fail(seen))?;
                seen = head.number();
                if let Some(flush) = flush {
                    store.flush(&flush).map_err(fail(seen))?;
                }
            }
            Ok(seen)
        };
        match run() {
            Ok(_) => {
                finished += 1;
                (blocks, state) = fresh.clone();
                acknowledged = 0;
            }
            Err((seen, _)) => {
                cuts += 1;
                acknowledged = seen;
                blocks = disks.0.after_crash(&mut rng);
                state = disks.1.after_crash(&mut rng);
            }
        }
    }
    assert!(finished > 3, "only {finished} runs came to their end");
}
