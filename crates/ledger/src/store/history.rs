//! Inner nodes of the accumulator of block hashes (`types::history`), so that a path to an old block costs few reads.
//!
//! Only every 64th block adds a node, and nodes nearer to the leaves are computed from the block hashes when somebody asks: less than
//! two bytes a block.

use super::{blocks::HASHES, fault};
use crate::LedgerError;
use alloy_primitives::B256;
use redb::{ReadableDatabase as _, ReadableTable, TableDefinition};
use types::history;

/// Roots of perfect trees over 2^h block hashes, for h of at least [`HEIGHT_MIN`], by [`key`].
pub(super) const NODES: TableDefinition<'_, u64, [u8; 32]> = TableDefinition::new("history");

/// Lowest height that is stored.
const HEIGHT_MIN: u32 = 6;

/// A tree of height h over leaves from `start` on, a multiple of 2^h.
fn key(height: u32, start: u64) -> u64 {
    // Heights are below 64, and a tree's number among those of its height is below 2^(64 - HEIGHT_MIN).
    u64::from(height) << 58 | start >> height
}

/// Root of the tree of `height` over the blocks from `start` on; `None` when a block hash is not here (after a state sync).
fn node(
    hashes: &impl ReadableTable<u64, [u8; 32]>,
    nodes: &impl ReadableTable<u64, [u8; 32]>,
    height: u32,
    start: u64,
) -> Result<Option<B256>, LedgerError> {
    if height >= HEIGHT_MIN {
        return Ok(nodes.get(key(height, start)).map_err(fault)?.map(|v| v.value().into()));
    }
    if height == 0 {
        return Ok(hashes.get(start).map_err(fault)?.map(|v| history::leaf(v.value().into())));
    }
    let half = 1 << (height - 1);
    let left = node(hashes, nodes, height - 1, start)?;
    let right = node(hashes, nodes, height - 1, start + half)?;
    Ok(left.zip(right).map(|(left, right)| history::parent(left, right)))
}

/// Writes the trees that block `number`, whose hash is written, completes.
pub(super) fn grow(write: &redb::WriteTransaction, number: u64) -> Result<(), LedgerError> {
    let leaves = number + 1;
    if leaves.trailing_zeros() < HEIGHT_MIN {
        return Ok(());
    }
    let hashes = write.open_table(HASHES).map_err(fault)?;
    let mut nodes = write.open_table(NODES).map_err(fault)?;
    for height in HEIGHT_MIN..=leaves.trailing_zeros() {
        let start = leaves - (1 << height);
        let half = 1 << (height - 1);
        let children = (
            node(&hashes, &nodes, height - 1, start)?,
            node(&hashes, &nodes, height - 1, start + half)?,
        );
        // After a state sync the older blocks are unknown: others can give paths to them.
        let (Some(left), Some(right)) = children else { break };
        nodes.insert(key(height, start), history::parent(left, right).0).map_err(fault)?;
    }
    Ok(())
}

/// Siblings from block `index` up in the range of the first `size` blocks; `None` when it has no such block or a hash is missing here.
pub(super) fn path(db: &redb::Database, index: u64, size: u64) -> Result<Option<Vec<B256>>, LedgerError> {
    let read = db.begin_read().map_err(fault)?;
    let hashes = read.open_table(HASHES).map_err(fault)?;
    let nodes = read.open_table(NODES).map_err(fault)?;
    // `Err(None)`: a hash is missing.
    let found = history::path(index, size, |height, start| match node(&hashes, &nodes, height, start) {
        Ok(Some(node)) => Ok(node),
        Ok(None) => Err(None),
        Err(e) => Err(Some(e)),
    });
    match found {
        Ok(path) => Ok(path),
        Err(None) => Ok(None),
        Err(Some(e)) => Err(e),
    }
}
