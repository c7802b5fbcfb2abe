use crate::{ClientError, error::Ambiguity, files, proven::ModelOffers};
use alloy_primitives::B256;
use parking_lot::Mutex;
use std::{collections::BTreeMap, path::PathBuf};
use tracing::{info, warn};

/// Most names that are remembered. They come from requests of this proxy's own users.
const NAMES_MAX: usize = 10_000;

/// Which model a name means here. Anybody can publish another model under a name; the first use of the name decides, for good.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    pins: Mutex<BTreeMap<String, B256>>,
}

impl Names {
    /// The names that the file remembers, and those that the user sets, which win.
    ///
    /// # Errors
    /// [`ClientError::File`].
    pub fn open(path: PathBuf, set: &BTreeMap<String, B256>) -> Result<Self, ClientError> {
        let mut pins: BTreeMap<String, B256> = files::read(&path)?.unwrap_or_default();
        pins.extend(set.iter().map(|(name, id)| (name.clone(), *id)));
        Ok(Self { path, pins: Mutex::new(pins) })
    }

    /// The model that `name` means, remembered or the only one with it.
    pub(super) fn find(&self, name: &str, models: &[ModelOffers]) -> Result<B256, Ambiguity> {
        let named = || models.iter().filter(|m| m.manifest.name == name).map(|m| m.id);
        let pinned = self.pins.lock().get(name).copied();
        let mut ids: Vec<_> = named().collect();
        match (pinned, ids.as_slice()) {
            // Who publishes a second model under the name changes nothing for those who use the first.
            (Some(pin), ids) if ids.contains(&pin) => Ok(pin),
            (Some(before), [now, ..]) => Err(Ambiguity::Changed { name: name.into(), before, now: *now }),
            (None, [only]) => Ok(*only),
            _ => {
                ids.sort_unstable();
                ids.truncate(8);
                Err(Ambiguity::Several { name: name.into(), ids })
            }
        }
    }

    /// The same, and remembers it.
    pub(super) fn pin(&self, name: &str, models: &[ModelOffers]) -> Result<B256, ClientError> {
        let id = self.find(name, models).map_err(ClientError::Ambiguous)?;
        let mut pins = self.pins.lock();
        if pins.get(name) == Some(&id) {
            return Ok(id);
        }
        if pins.len() >= NAMES_MAX {
            warn!("{NAMES_MAX} names of models are remembered in {}; `{name}` is not", self.path.display());
            return Ok(id);
        }
        info!("`{name}` means model {id} from now on; {} remembers it", self.path.display());
        pins.insert(name.into(), id);
        files::write(&self.path, &*pins)?;
        Ok(id)
    }
}
