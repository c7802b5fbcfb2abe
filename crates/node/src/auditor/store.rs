//! What an auditor must not forget in a crash: what it committed to, what it must take to a judge, and what it may have to defend.

use super::{
    Refuted,
    fetch::{self, Place, Shown},
};
use anyhow::Context as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::Path;
use types::{Address, B256};

/// A receipt's or a batch's key: node, and index or size.
type Key = ([u8; 20], u64);

/// Rounds under way by node and size, as JSON.
const ROUNDS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("rounds2");
/// Faults that no judge knows yet, by node and index, as JSON.
const FAULTS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("faults");
/// Answers that were looked at, by receipt id, as JSON.
const CASES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("cases");
/// First block that was not looked at.
const NEXT: TableDefinition<'_, (), u64> = TableDefinition::new("next");

/// Verdicts on the receipts of one batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) node: Address,
    pub(super) size: u64,
    pub(super) indices: Vec<u64>,
    pub(super) verdicts: Vec<u8>,
    pub(super) models: Vec<B256>,
    pub(super) salt: B256,
    pub(super) commit_until: u64,
}

/// A fault that must go to a judge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) node: Address,
    pub(super) size: u64,
    pub(super) index: u64,
    pub(super) verdict: u8,
    /// Unix time after which no judge takes it.
    pub(super) until: u64,
}

#[derive(Serialize, Deserialize)]
struct Case {
    node: Address,
    size: u64,
    index: u64,
    /// Root of the log, so that the receipt's place is checked again when it is read.
    root: B256,
    /// Unix time after which nobody can ask for it.
    until: u64,
    shown: Shown,
}

/// An auditor's file.
#[derive(Debug)]
pub(crate) struct Store(Database);

impl Store {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot open {}", path.display());
        let file = ledger::private_file(path).with_context(failed)?;
        let db = Database::builder().create_file(file).with_context(failed)?;
        let write = db.begin_write()?;
        write.open_table(ROUNDS)?;
        write.open_table(FAULTS)?;
        write.open_table(CASES)?;
        write.open_table(NEXT)?;
        write.commit()?;
        Ok(Self(db))
    }

    pub(super) fn next(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.0.begin_read()?.open_table(NEXT)?.get(())?.map(|v| v.value()))
    }

    pub(super) fn set_next(&self, block: u64) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        write.open_table(NEXT)?.insert((), block)?;
        write.commit()?;
        Ok(())
    }

    pub(super) fn save_round(&self, round: &Round) -> anyhow::Result<()> {
        self.put(ROUNDS, (round.node, round.size), round)
    }

    pub(super) fn drop_round(&self, round: &Round) -> anyhow::Result<()> {
        self.delete(ROUNDS, (round.node, round.size))
    }

    pub(super) fn rounds(&self) -> anyhow::Result<Vec<Round>> {
        self.all(ROUNDS)
    }

    pub(super) fn save_fault(&self, fault: &Fault) -> anyhow::Result<()> {
        self.put(FAULTS, (fault.node, fault.index), fault)
    }

    pub(super) fn drop_fault(&self, fault: &Fault) -> anyhow::Result<()> {
        self.delete(FAULTS, (fault.node, fault.index))
    }

    pub(super) fn faults(&self) -> anyhow::Result<Vec<Fault>> {
        self.all(FAULTS)
    }

    /// Keeps an answer until Unix time `until`.
    pub(super) fn save_case(&self, known: &Refuted, until: u64) -> anyhow::Result<()> {
        let answer = &known.answer;
        let leaf = types::merkle::leaf_hash(&answer.receipt.log_leaf()?);
        let root = types::merkle::root_from_path(leaf, known.index, known.size, &answer.inclusion.path)?;
        let Refuted { node, size, index, .. } = *known;
        let case = Case { node, size, index, root, until, shown: answer.shown() };
        let id = answer.receipt.claim.receipt_id().0;
        let write = self.0.begin_write()?;
        write.open_table(CASES)?.insert(id.0, serde_json::to_vec(&case)?.as_slice())?;
        write.commit()?;
        Ok(())
    }

    /// An answer by its receipt id.
    pub(super) fn case(&self, id: &B256) -> anyhow::Result<Option<Refuted>> {
        let Some(bytes) = self.0.begin_read()?.open_table(CASES)?.get(id.0)?.map(|v| v.value().to_vec())
        else {
            return Ok(None);
        };
        read_case(&bytes).map(Some)
    }

    /// An answer by its place.
    pub(super) fn case_at(&self, node: Address, index: u64) -> anyhow::Result<Option<Refuted>> {
        for entry in self.0.begin_read()?.open_table(CASES)?.iter()? {
            let bytes = entry?.1.value().to_vec();
            let case: Case = serde_json::from_slice(&bytes)?;
            if (case.node, case.index) == (node, index) {
                return read_case(&bytes).map(Some);
            }
        }
        Ok(None)
    }

    /// Deletes answers that nobody can ask for any more at Unix time `now`.
    pub(super) fn forget(&self, now: u64) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        write
            .open_table(CASES)?
            .retain(|_, bytes| serde_json::from_slice::<Case>(bytes).is_ok_and(|case| case.until >= now))?;
        write.commit()?;
        Ok(())
    }

    fn put(
        &self,
        table: TableDefinition<'_, Key, &[u8]>,
        (node, number): (Address, u64),
        value: &impl Serialize,
    ) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        write
            .open_table(table)?
            .insert((node.into_array(), number), serde_json::to_vec(value)?.as_slice())?;
        write.commit()?;
        Ok(())
    }

    fn delete(
        &self,
        table: TableDefinition<'_, Key, &[u8]>,
        (node, number): (Address, u64),
    ) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        write.open_table(table)?.remove((node.into_array(), number))?;
        write.commit()?;
        Ok(())
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<'_, Key, &[u8]>) -> anyhow::Result<Vec<T>> {
        let mut out = Vec::new();
        for entry in self.0.begin_read()?.open_table(table)?.iter()? {
            out.push(serde_json::from_slice(entry?.1.value())?);
        }
        Ok(out)
    }
}

fn read_case(bytes: &[u8]) -> anyhow::Result<Refuted> {
    let case: Case = serde_json::from_slice(bytes)?;
    let Case { node, size, index, root, .. } = case;
    let answer = fetch::read(Place { node, size, index, root }, &serde_json::to_vec(&case.shown)?, false)?;
    Ok(Refuted { node, size, index, answer })
}
