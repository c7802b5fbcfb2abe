use crate::{WalletError, job::Job};
use alloy_primitives::Address;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::path::{Path, PathBuf};

/// Pending calls by number, as JSON.
const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("calls");
/// Address and chain id.
const OWNER: TableDefinition<'_, (), ([u8; 20], u64)> = TableDefinition::new("owner");

/// The pending calls on disk. Every write is durable when it returns.
pub(crate) struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens or makes the file of one account on one chain; what is pending in it.
    pub(crate) fn open(path: &Path, owner: Address, chain_id: u64) -> Result<(Self, Vec<Job>), WalletError> {
        let fault = |reason: String| WalletError::Store { path: path.display().to_string(), reason };
        let db = Database::create(path).map_err(|e| fault(e.to_string()))?;
        let read = || -> Result<Option<Vec<Vec<u8>>>, redb::Error> {
            let write = db.begin_write()?;
            write.open_table(JOBS)?;
            let known = {
                let mut table = write.open_table(OWNER)?;
                let known = table.get(())?.map(|v| v.value());
                if known.is_none() {
                    table.insert((), (owner.into_array(), chain_id))?;
                }
                known
            };
            write.commit()?;
            if known.is_some_and(|k| k != (owner.into_array(), chain_id)) {
                return Ok(None);
            }
            let table = db.begin_read()?.open_table(JOBS)?;
            table.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect::<Result<_, _>>().map(Some)
        };
        let found = read().map_err(|e| fault(e.to_string()))?;
        let found = found.ok_or_else(|| WalletError::OtherAccount { path: path.display().to_string() })?;
        let jobs = found.iter().map(|bytes| serde_json::from_slice(bytes).map_err(|e| fault(e.to_string())));
        let jobs = jobs.collect::<Result<_, _>>()?;
        Ok((Self { db, path: path.to_owned() }, jobs))
    }

    /// Writes a call.
    pub(crate) fn put(&self, job: &Job) -> Result<(), WalletError> {
        let bytes = serde_json::to_vec(job).map_err(|e| self.fault(e.to_string()))?;
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            write.open_table(JOBS)?.insert(job.id, bytes.as_slice())?;
            Ok(write.commit()?)
        };
        write().map_err(|e| self.fault(e.to_string()))
    }

    /// Forgets a call.
    pub(crate) fn remove(&self, id: u64) -> Result<(), WalletError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            write.open_table(JOBS)?.remove(id)?;
            Ok(write.commit()?)
        };
        write().map_err(|e| self.fault(e.to_string()))
    }

    fn fault(&self, reason: String) -> WalletError {
        WalletError::Store { path: self.path.display().to_string(), reason }
    }
}
