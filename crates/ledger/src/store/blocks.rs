//! Blocks and what belongs to them, by number.

use super::fault;
use crate::{Block, Executed, LedgerError, block::Turn, sync::Anchor};
use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_primitives::B256;
use alloy_rlp::Decodable as _;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::collections::BTreeMap;
use types::{FinalityCertificate, Handover, ValidatorSet};

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
const HASHES: TableDefinition<'_, u64, [u8; 32]> = TableDefinition::new("hashes");
const TURNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("turns");
const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
const CERTIFICATES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("certificates");
const NUMBERS: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("numbers");
const TRANSACTIONS: TableDefinition<'_, [u8; 32], (u64, u32)> = TableDefinition::new("transactions");
/// Validator sets by the first epoch in which they vote.
const VALIDATORS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("validators");
/// The mempool of the last run.
const WAITING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("waiting");

/// Handovers that a state sync brought, by the first epoch of the new set.
const HANDOVERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("handovers");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// First epoch in which the node may vote after a state sync.
pub(super) const VOTES_FROM: &str = "votes_from";
/// Block at which a state sync began this store.
pub(super) const SYNCED_AT: &str = "synced_at";

/// Which blocks a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The first one; above 1 after a state sync.
    pub first: u64,
    /// The newest one.
    pub last: u64,
}

/// The block database.
pub(crate) struct BlockDb {
    db: Database,
    /// Certificates that are written with the next block. Losing them in a crash loses nothing: consensus can give them again.
    certificates: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl BlockDb {
    pub(super) fn prepare(db: Database) -> Result<Self, LedgerError> {
        let write = db.begin_write().map_err(fault)?;
        for table in [BLOCKS, TURNS, RECEIPTS, CERTIFICATES, VALIDATORS, WAITING, HANDOVERS] {
            write.open_table(table).map_err(fault)?;
        }
        write.open_table(META).map_err(fault)?;
        write.open_table(HASHES).map_err(fault)?;
        write.open_table(NUMBERS).map_err(fault)?;
        write.open_table(TRANSACTIONS).map_err(fault)?;
        write.commit().map_err(fault)?;
        Ok(Self { db, certificates: Mutex::default() })
    }

    pub(super) fn commit(&self, executed: &Executed) -> Result<(), LedgerError> {
        let certificates = std::mem::take(&mut *self.certificates.lock());
        let write = self.db.begin_write().map_err(fault)?;
        put_block(&write, executed.block(), executed.turn(), executed.receipts())?;
        {
            let mut sets = write.open_table(VALIDATORS).map_err(fault)?;
            let set = executed.validators();
            if sets.get(set.epoch).map_err(fault)?.is_none() {
                sets.insert(set.epoch, set.encode().as_slice()).map_err(fault)?;
            }
            let mut table = write.open_table(CERTIFICATES).map_err(fault)?;
            for (number, bytes) in &certificates {
                table.insert(number, bytes.as_slice()).map_err(fault)?;
            }
        }
        write.commit().map_err(fault)
    }

    /// Writes what a state sync brought besides the state.
    pub(crate) fn import(&self, anchor: &Anchor, sets: &[ValidatorSet]) -> Result<(), LedgerError> {
        let number = anchor.block.header.number;
        let write = self.db.begin_write().map_err(fault)?;
        for (number, hash) in &anchor.hashes {
            put_hash(&write, *number, *hash)?;
        }
        put_block(&write, &anchor.genesis, &Turn::default(), &[])?;
        put_block(&write, &anchor.block, &anchor.turn, &anchor.receipts)?;
        {
            let mut certificates = write.open_table(CERTIFICATES).map_err(fault)?;
            certificates.insert(number, anchor.certificate.encode().as_slice()).map_err(fault)?;
            let mut table = write.open_table(VALIDATORS).map_err(fault)?;
            for set in sets {
                table.insert(set.epoch, set.encode().as_slice()).map_err(fault)?;
            }
            let mut table = write.open_table(HANDOVERS).map_err(fault)?;
            for handover in &anchor.handovers {
                let bytes = serde_json::to_vec(handover).map_err(fault)?;
                table.insert(handover.next.epoch, bytes.as_slice()).map_err(fault)?;
            }
            let mut meta = write.open_table(META).map_err(fault)?;
            meta.insert(VOTES_FROM, anchor.votes_from).map_err(fault)?;
            meta.insert(SYNCED_AT, number).map_err(fault)?;
        }
        write.commit().map_err(fault)
    }

    /// A handover that a state sync brought.
    pub(super) fn handover(&self, epoch: u64) -> Result<Option<Handover>, LedgerError> {
        self.bytes(HANDOVERS, epoch)?.map(|b| serde_json::from_slice(&b).map_err(fault)).transpose()
    }

    pub(super) fn put_meta(&self, name: &str, value: u64) -> Result<(), LedgerError> {
        let write = self.db.begin_write().map_err(fault)?;
        write.open_table(META).map_err(fault)?.insert(name, value).map_err(fault)?;
        write.commit().map_err(fault)
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(META).map_err(fault)?;
        Ok(table.get(name).map_err(fault)?.map(|v| v.value()))
    }

    pub(super) fn put_certificate(&self, number: u64, certificate: &FinalityCertificate) {
        self.certificates.lock().insert(number, certificate.encode());
    }

    fn bytes(
        &self,
        table: TableDefinition<'_, u64, &'static [u8]>,
        number: u64,
    ) -> Result<Option<Vec<u8>>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(table).map_err(fault)?;
        Ok(table.get(number).map_err(fault)?.map(|v| v.value().to_vec()))
    }

    pub(super) fn certificate(&self, number: u64) -> Result<Option<FinalityCertificate>, LedgerError> {
        let waiting = self.certificates.lock().get(&number).cloned();
        let bytes = match waiting {
            Some(bytes) => Some(bytes),
            None => self.bytes(CERTIFICATES, number)?,
        };
        bytes.map(|b| FinalityCertificate::decode(&b).map_err(fault)).transpose()
    }

    pub(super) fn block(&self, number: u64) -> Result<Option<Block>, LedgerError> {
        self.bytes(BLOCKS, number)?.map(|b| Block::decode(&b)).transpose()
    }

    /// The header of block `number`, without decoding the rest.
    pub(super) fn header(&self, number: u64) -> Result<Option<Header>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(BLOCKS).map_err(fault)?;
        let Some(bytes) = table.get(number).map_err(fault)? else { return Ok(None) };
        let mut payload = alloy_rlp::Header::decode_bytes(&mut bytes.value(), true).map_err(fault)?;
        Header::decode(&mut payload).map(Some).map_err(fault)
    }

    pub(super) fn turn(&self, number: u64) -> Result<Option<Turn>, LedgerError> {
        self.bytes(TURNS, number)?.map(|b| alloy_rlp::decode_exact(b).map_err(fault)).transpose()
    }

    pub(super) fn hash(&self, number: u64) -> Result<Option<B256>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(HASHES).map_err(fault)?;
        Ok(table.get(number).map_err(fault)?.map(|v| v.value().into()))
    }

    pub(super) fn number(&self, hash: &B256) -> Result<Option<u64>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(NUMBERS).map_err(fault)?;
        Ok(table.get(hash.0).map_err(fault)?.map(|v| v.value()))
    }

    pub(super) fn range(&self) -> Result<Option<BlockRange>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(BLOCKS).map_err(fault)?;
        let Some((last, _)) = table.last().map_err(fault)? else { return Ok(None) };
        let first = table.range(1..).map_err(fault)?.next().transpose().map_err(fault)?;
        let last = last.value();
        Ok(Some(BlockRange { first: first.map_or(last, |(n, _)| n.value()), last }))
    }

    pub(super) fn receipts(&self, number: u64) -> Result<Option<Vec<ReceiptEnvelope>>, LedgerError> {
        self.bytes(RECEIPTS, number)?.map(|b| Vec::decode(&mut b.as_slice()).map_err(fault)).transpose()
    }

    pub(super) fn transaction(&self, hash: &B256) -> Result<Option<(u64, u32)>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(TRANSACTIONS).map_err(fault)?;
        Ok(table.get(hash.0).map_err(fault)?.map(|v| v.value()))
    }

    pub(super) fn validators(&self, epoch: u64) -> Result<Option<ValidatorSet>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(VALIDATORS).map_err(fault)?;
        let last = table.range(..=epoch).map_err(fault)?.next_back().transpose().map_err(fault)?;
        last.map(|(_, bytes)| ValidatorSet::decode(bytes.value()).map_err(fault)).transpose()
    }

    pub(super) fn validator_changes(&self, epoch: u64) -> Result<Vec<ValidatorSet>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(VALIDATORS).map_err(fault)?;
        let range = table.range(1..epoch.saturating_add(1)).map_err(fault)?;
        range.map(|entry| ValidatorSet::decode(entry.map_err(fault)?.1.value()).map_err(fault)).collect()
    }

    pub(super) fn waiting(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(WAITING).map_err(fault)?;
        table.iter().map_err(fault)?.map(|entry| Ok(entry.map_err(fault)?.1.value().to_vec())).collect()
    }

    pub(super) fn put_waiting<'a>(&self, raw: impl IntoIterator<Item = &'a [u8]>) -> Result<(), LedgerError> {
        let write = self.db.begin_write().map_err(fault)?;
        {
            let mut table = write.open_table(WAITING).map_err(fault)?;
            table.retain(|_, _| false).map_err(fault)?;
            for (i, tx) in raw.into_iter().enumerate() {
                table.insert(i as u64, tx).map_err(fault)?;
            }
        }
        write.commit().map_err(fault)
    }
}

fn put_block(
    write: &redb::WriteTransaction,
    block: &Block,
    turn: &Turn,
    receipts: &[ReceiptEnvelope],
) -> Result<(), LedgerError> {
    let number = block.header.number;
    write.open_table(BLOCKS).map_err(fault)?.insert(number, block.encode().as_slice()).map_err(fault)?;
    let turn = alloy_rlp::encode(turn);
    write.open_table(TURNS).map_err(fault)?.insert(number, turn.as_slice()).map_err(fault)?;
    let mut encoded = Vec::new();
    alloy_rlp::encode_list(receipts, &mut encoded);
    write.open_table(RECEIPTS).map_err(fault)?.insert(number, encoded.as_slice()).map_err(fault)?;
    let mut transactions = write.open_table(TRANSACTIONS).map_err(fault)?;
    for (index, tx) in block.transactions.iter().enumerate() {
        transactions.insert(tx.tx_hash().0, (number, index as u32)).map_err(fault)?;
    }
    put_hash(write, number, block.hash())
}

fn put_hash(write: &redb::WriteTransaction, number: u64, hash: B256) -> Result<(), LedgerError> {
    write.open_table(HASHES).map_err(fault)?.insert(number, hash.0).map_err(fault)?;
    write.open_table(NUMBERS).map_err(fault)?.insert(hash.0, number).map_err(fault)?;
    Ok(())
}
