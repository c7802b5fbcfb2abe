//! The state on disk: nodes of the tries by id, roots by block, codes.

use super::fault;
use crate::{
    LedgerError,
    state::State,
    trie::{Input, NodeId, Nodes, Reader, Trie},
};
use alloy_primitives::{B256, Bytes};
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::{collections::HashMap, sync::Arc};

const NODES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("nodes");
/// Ids of nodes that the state of this block no longer has, but an older one had.
const STALE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("stale");
const ROOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("roots");
const CODES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("codes");
const NEXT_ID: TableDefinition<'_, (), u64> = TableDefinition::new("next_id");

/// Most nodes that one transaction of the store removes: old states go in small steps.
const REMOVED_MAX: usize = 200_000;

/// Nodes that are being written, or were written a moment ago.
type InFlight = RwLock<HashMap<u64, Vec<u8>>>;

/// The state database.
pub(crate) struct StateDb {
    db: Database,
    in_flight: InFlight,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl Nodes for StateDb {
    fn node(&self, id: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        if let Some(record) = self.in_flight.read().get(&id) {
            return Ok(Some(record.clone()));
        }
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(NODES).map_err(fault)?;
        Ok(table.get(id).map_err(fault)?.map(|v| v.value().to_vec()))
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(CODES).map_err(fault)?;
        Ok(table.get(hash.0).map_err(fault)?.map(|v| Bytes::copy_from_slice(v.value())))
    }
}

impl StateDb {
    pub(super) fn prepare(db: Database) -> Result<Self, LedgerError> {
        let write = db.begin_write().map_err(fault)?;
        write.open_table(NODES).map_err(fault)?;
        write.open_table(STALE).map_err(fault)?;
        write.open_table(ROOTS).map_err(fault)?;
        write.open_table(CODES).map_err(fault)?;
        write.open_table(NEXT_ID).map_err(fault)?;
        write.commit().map_err(fault)?;
        Ok(Self { db, in_flight: RwLock::default(), writing: Mutex::new(()) })
    }

    /// Writes the state after block `number` and the nodes in `dropped` that it no longer has, and removes what only blocks below `keep_from`
    /// needed. Durable on return.
    pub(crate) fn write(
        &self,
        number: u64,
        state: &State,
        dropped: &[NodeId],
        keep_from: u64,
    ) -> Result<(), LedgerError> {
        let _writing = self.writing.lock();
        let write = self.db.begin_write().map_err(fault)?;
        {
            let mut ids = write.open_table(NEXT_ID).map_err(fault)?;
            let mut next = ids.get(()).map_err(fault)?.map_or(0, |v| v.value());
            let mut nodes = write.open_table(NODES).map_err(fault)?;
            let stale: Vec<u8> =
                dropped.iter().filter_map(|id| id.get()).flat_map(|id| id.to_be_bytes()).collect();
            let mut root = Vec::new();
            state.trie().persist(state.reader(), &mut |record| {
                next += 1;
                nodes.insert(next, record.as_slice()).map_err(fault)?;
                // From now on the node may be looked for by id, before the transaction is over.
                self.in_flight.write().insert(next, record);
                Ok(next)
            })?;
            state.trie().write_root(&mut root);
            ids.insert((), next).map_err(fault)?;
            write.open_table(ROOTS).map_err(fault)?.insert(number, root.as_slice()).map_err(fault)?;
            let mut codes = write.open_table(CODES).map_err(fault)?;
            for (hash, code) in state.codes() {
                if codes.get(hash.0).map_err(fault)?.is_none() {
                    codes.insert(hash.0, code.as_ref()).map_err(fault)?;
                }
            }
            if !stale.is_empty() {
                let mut table = write.open_table(STALE).map_err(fault)?;
                table.insert(number, stale.as_slice()).map_err(fault)?;
            }
        }
        prune(&write, keep_from)?;
        write.commit().map_err(fault)?;
        self.in_flight.write().clear();
        Ok(())
    }

    /// Numbers of blocks whose state is here, newest first.
    pub(super) fn newest(&self) -> Result<Option<u64>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let roots = read.open_table(ROOTS).map_err(fault)?;
        Ok(roots.last().map_err(fault)?.map(|(n, _)| n.value()))
    }

    /// The state after block `number`, if it is here.
    pub(super) fn state(&self, number: u64, reader: &Arc<Reader>) -> Result<Option<State>, LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let roots = read.open_table(ROOTS).map_err(fault)?;
        let Some(record) = roots.get(number).map_err(fault)? else { return Ok(None) };
        let accounts = Trie::read_root(&mut Input(record.value()))?;
        Ok(Some(State::stored(accounts, reader.clone())))
    }

    /// Number of nodes and of bytes on disk.
    pub(super) fn size(&self) -> Result<(u64, u64), LedgerError> {
        let read = self.db.begin_read().map_err(fault)?;
        let table = read.open_table(NODES).map_err(fault)?;
        let stats = redb::ReadableTableMetadata::stats(&table).map_err(fault)?;
        Ok((redb::ReadableTableMetadata::len(&table).map_err(fault)?, stats.stored_bytes()))
    }
}

/// Removes what only states of blocks below `keep_from` needed.
fn prune(write: &redb::WriteTransaction, keep_from: u64) -> Result<(), LedgerError> {
    let mut roots = write.open_table(ROOTS).map_err(fault)?;
    roots.retain_in(..keep_from, |_, _| false).map_err(fault)?;
    // With no root below the oldest kept one, nodes that it no longer has are unreachable.
    let Some(oldest) = roots.first().map_err(fault)?.map(|(n, _)| n.value()) else { return Ok(()) };
    let mut stale = write.open_table(STALE).map_err(fault)?;
    let mut nodes = write.open_table(NODES).map_err(fault)?;
    let mut removed = 0;
    while removed < REMOVED_MAX {
        let Some((number, ids)) = stale.first().map_err(fault)?.map(|(n, v)| (n.value(), v.value().to_vec()))
        else {
            break;
        };
        if number > oldest {
            break;
        }
        for id in ids.chunks_exact(8) {
            let id = u64::from_be_bytes(id.try_into().unwrap_or_else(|_| unreachable!("eight bytes")));
            nodes.remove(id).map_err(fault)?;
            removed += 1;
        }
        stale.remove(number).map_err(fault)?;
    }
    Ok(())
}
