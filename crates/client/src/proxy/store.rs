use crate::{
    ClientError,
    files::{create_dir, fault, write},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};
use types::{Bytes, Disclosure, ReceiptId};

/// Most answers that are kept; the oldest go first.
const KEPT_MAX: usize = 10_000;

/// A checked answer, with all that is needed to prove it later. It holds the prompt, so files are for the user only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// Canonical receipt bytes.
    pub receipt: Bytes,
    /// Canonical manifest bytes.
    pub manifest: Bytes,
    /// Where the node was.
    pub endpoint: String,
    /// What the commitments open to.
    pub disclosure: Disclosure,
}

/// One file an answer, written whole or not at all.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, ClientError> {
        create_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, id: ReceiptId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    pub(super) fn put(&self, id: ReceiptId, answered: &Answered) -> Result<(), ClientError> {
        write(&self.path(id), answered)?;
        self.prune()
    }

    pub(super) fn get(&self, id: ReceiptId) -> Result<Answered, ClientError> {
        let path = self.path(id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ClientError::UnknownReceipt(id));
            }
            Err(e) => return Err(fault(&path)(e)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::File { path: path.display().to_string(), reason: e.to_string() })
    }

    /// Ids by age, newest first.
    pub(super) fn newest(&self, n: usize) -> Result<Vec<ReceiptId>, ClientError> {
        Ok(self.by_age()?.into_iter().rev().take(n).map(|(_, id)| id).collect())
    }

    fn by_age(&self) -> Result<Vec<(SystemTime, ReceiptId)>, ClientError> {
        let entries = fs::read_dir(&self.dir).map_err(fault(&self.dir))?;
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|e| {
                let id = e.file_name().to_str()?.strip_suffix(".json")?.parse().ok()?;
                Some((e.metadata().ok()?.modified().ok()?, id))
            })
            .collect();
        all.sort_unstable();
        Ok(all)
    }

    fn prune(&self) -> Result<(), ClientError> {
        let count = fs::read_dir(&self.dir).map_err(fault(&self.dir))?.count();
        if count > KEPT_MAX {
            for (_, id) in self.by_age()?.into_iter().take(count - KEPT_MAX) {
                let path = self.path(id);
                fs::remove_file(&path).map_err(fault(&path))?;
            }
        }
        Ok(())
    }
}
