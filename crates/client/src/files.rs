//! Files that are for the user only and are written whole or not at all.

use crate::ClientError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

pub(crate) fn fault(path: &Path) -> impl Fn(std::io::Error) -> ClientError {
    let path = path.display().to_string();
    move |e| ClientError::File { path: path.clone(), reason: e.to_string() }
}

/// A folder for the user only.
pub(crate) fn create_dir(dir: &Path) -> Result<(), ClientError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fault(dir))
}

/// Writes `value` as JSON, whole or not at all, for the user only.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), ClientError> {
    let draft = path.with_extension("tmp");
    let bytes = serde_json::to_vec(value)
        .map_err(|e| ClientError::File { path: path.display().to_string(), reason: e.to_string() })?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(fault(&draft))?;
    file.write_all(&bytes).map_err(fault(&draft))?;
    fs::rename(&draft, path).map_err(fault(path))
}

/// Reads JSON; `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ClientError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fault(path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| ClientError::File { path: path.display().to_string(), reason: e.to_string() })
}
