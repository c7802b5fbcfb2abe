use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Opens or creates a file that only its owner can read and write. One that others can read, from an older version or a careless copy, is
/// closed to them.
///
/// # Errors
/// What the system says.
pub fn private_file(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Retention, Store};

    #[test]
    fn what_a_ledger_writes_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        for _ in 0..2 {
            drop(Store::open(dir.path(), Retention::Full).unwrap());
            assert_eq!((mode("blocks.redb"), mode("state.redb")), (0o600, 0o600));
            // As an older version left it.
            let wide = Permissions::from_mode(0o644);
            std::fs::set_permissions(dir.path().join("blocks.redb"), wide).unwrap();
        }
    }
}
