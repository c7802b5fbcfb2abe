use crate::{ClientError, files};
use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use std::path::Path;
use types::ValidatorSet;

/// Name of the file.
const FILE: &str = "network.pin";
/// What it is.
const FORMAT: &str = "og-pin/1";

/// The network that a folder belongs to, and the newest validators that were proved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    format: String,
    pub(super) genesis: B256,
    pub(super) set: ValidatorSet,
}

impl Pin {
    pub(super) fn new(genesis: B256, set: ValidatorSet) -> Self {
        Self { format: FORMAT.into(), genesis, set }
    }

    /// The pin in `folder`, when there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, ClientError> {
        let path = folder.join(FILE);
        let Some(pin) = files::read::<Self>(&path)? else { return Ok(None) };
        let fault = |reason: String| ClientError::File { path: path.display().to_string(), reason };
        if pin.format != FORMAT {
            return Err(fault(format!("its format is {}, this program reads {FORMAT}", pin.format)));
        }
        pin.set.check().map_err(|e| fault(e.to_string()))?;
        Ok(Some(pin))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), ClientError> {
        files::create_dir(folder)?;
        files::write(&folder.join(FILE), self)
    }

    /// The error when somebody means another network than the folder's.
    pub(super) fn contradicts(&self, folder: Option<&Path>, meant: B256) -> ClientError {
        let origin = folder.map_or_else(String::new, |f| f.join(FILE).display().to_string());
        ClientError::OtherNetwork { origin, served: self.genesis, meant }
    }
}
