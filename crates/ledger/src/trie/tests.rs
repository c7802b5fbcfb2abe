#![allow(clippy::unwrap_used)]
use super::{reader::Nodes, update::Update, *};
use alloy_primitives::{Bytes, U256};
use alloy_trie::{HashBuilder, proof::verify_proof};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// A disk in memory that notices the use of deleted nodes.
#[derive(Default)]
struct Disk(Mutex<BTreeMap<u64, Vec<u8>>>);

impl Nodes for Disk {
    fn node(&self, id: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.0.lock().unwrap().get(&id).cloned())
    }
    fn code(&self, _: &B256) -> Result<Option<Bytes>, LedgerError> {
        Ok(None)
    }
}

fn reference_root(map: &BTreeMap<B256, U256>) -> B256 {
    let mut builder = HashBuilder::default();
    for (key, value) in map {
        builder.add_leaf(Nibbles::unpack(key), &alloy_rlp::encode(value));
    }
    builder.root()
}

/// Keys that share long prefixes, so that all kinds of nodes come up, and short values, so that nodes are embedded in others.
fn key(seed: u16) -> B256 {
    let mut key = B256::repeat_byte(0x11);
    let bytes = seed.to_be_bytes();
    match seed % 3 {
        0 => key.0[..2].copy_from_slice(&bytes),
        1 => key.0[30..].copy_from_slice(&bytes),
        _ => key.0[15..17].copy_from_slice(&bytes),
    }
    key
}

fn check(trie: &Trie<U256>, reader: &Reader, map: &BTreeMap<B256, U256>) {
    assert_eq!(trie.root(), reference_root(map));
    let mut seen = vec![];
    trie.walk(B256::ZERO, reader, &mut |key, value| {
        seen.push((key, *value));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(seen, map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random changes, with writing to disk, forgetting and deleting in between, give the same root, leaves and proofs as a trie built from
    /// scratch, and no node that is still needed is ever deleted.
    #[test]
    fn agrees_with_a_reference(steps in prop::collection::vec((0u16..400, 0u64..4, 0u8..12), 1..120)) {
        let disk = Arc::new(Disk::default());
        let mut reader = Reader::new(disk.clone());
        let (mut trie, mut map) = (Trie::<U256>::default(), BTreeMap::new());
        let mut dropped = vec![];
        let mut next_id = 0;
        for (seed, value, action) in steps {
            let key = key(seed);
            let before = trie.clone();
            let root_before = trie.root();
            let mut update = Update { reader: &reader, dropped: &mut dropped };
            if value == 0 {
                trie.remove(key, &mut update).unwrap();
                map.remove(&key);
            } else {
                trie.insert(key, U256::from(value), &mut update).unwrap();
                map.insert(key, U256::from(value));
            }
            check(&trie, &reader, &map);
            prop_assert_eq!(before.root(), root_before, "an old trie changed");
            drop(before);
            if action == 0 {
                trie.persist(&reader, &mut |record| {
                    next_id += 1;
                    disk.0.lock().unwrap().insert(next_id, record);
                    Ok(next_id)
                }).unwrap();
                for id in dropped.drain(..) {
                    if let Some(id) = id.get() {
                        disk.0.lock().unwrap().remove(id);
                    }
                }
                trie.cut();
                // A cold cache: everything comes from disk, which has exactly the nodes of this trie.
                reader = Reader::new(disk.clone());
                check(&trie, &reader, &map);
                let mut ids = vec![];
                trie.ids(&reader, &mut ids).unwrap();
                prop_assert_eq!(ids.len(), disk.0.lock().unwrap().len());
            }
        }
        for seed in 0..40 {
            let key = key(seed);
            let proof = trie.proof(key, &reader).unwrap();
            let value = map.get(&key).map(alloy_rlp::encode);
            prop_assert!(verify_proof(trie.root(), Nibbles::unpack(key), value, &proof).is_ok());
        }
    }
}

#[test]
fn a_damaged_node_is_noticed() {
    let disk = Arc::new(Disk::default());
    let reader = Reader::new(disk.clone());
    let mut trie = Trie::<U256>::default();
    let mut dropped = vec![];
    for i in 0..50u64 {
        let mut update = Update { reader: &reader, dropped: &mut dropped };
        trie.insert(keccak256(i.to_be_bytes()), U256::from(i + 1), &mut update).unwrap();
    }
    let mut next = 0;
    trie.persist(&reader, &mut |record| {
        next += 1;
        disk.0.lock().unwrap().insert(next, record);
        Ok(next)
    })
    .unwrap();
    trie.cut();
    for id in 1..=next {
        let good = disk.0.lock().unwrap()[&id].clone();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            disk.0.lock().unwrap().insert(id, bad);
            let read = (0..50u64).try_for_each(|i| {
                let got = trie.get(keccak256(i.to_be_bytes()), &Reader::new(disk.clone()))?;
                // A flipped bit in an id leads to another node or none; in a value or path, to another hash.
                assert_eq!(got, Some(U256::from(i + 1)));
                Ok::<_, LedgerError>(())
            });
            assert!(read.is_err(), "node {id}, byte {at}");
        }
        disk.0.lock().unwrap().insert(id, good);
    }
}
