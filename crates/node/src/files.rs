//! Files that hold secrets: mode 600, written whole or not at all.

use anyhow::{Context as _, ensure};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};
use types::hex;

/// Creates a folder that only its owner can enter.
pub(crate) fn private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Writes `bytes` to `path` by way of a draft beside it.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let draft = path.with_extension("tmp");
    let result = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    result.with_context(|| format!("cannot write {}", path.display()))
}

/// The secret of `N` bytes in `path` (hexadecimal), made by `make` when there is no such file.
pub(crate) fn secret<const N: usize>(path: &Path, make: impl FnOnce() -> [u8; N]) -> anyhow::Result<[u8; N]> {
    if !path.exists() {
        let secret = make();
        write(path, format!("{}\n", hex::encode(secret)).as_bytes(), 0o600)?;
        return Ok(secret);
    }
    existing_secret(path)
}

/// The secret of `N` bytes in `path` (hexadecimal), which must be there.
pub(crate) fn existing_secret<const N: usize>(path: &Path) -> anyhow::Result<[u8; N]> {
    let shown = path.display();
    let mode = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "others can read the key file {shown}; run: chmod 600 {shown}");
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let mut secret = [0u8; N];
    hex::decode_to_slice(text.trim().trim_start_matches("0x"), &mut secret)
        .with_context(|| format!("{shown} is not a key file of {N} bytes in hexadecimal"))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_are_private_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = secret(&path, || [7u8; 32]).unwrap();
        assert_eq!(secret(&path, || [8u8; 32]).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret(&path, || [8u8; 32]).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(secret(&path, || [8u8; 32]).is_err());
    }
}
