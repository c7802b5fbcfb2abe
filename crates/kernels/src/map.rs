use memmap2::{Advice, Mmap};
use std::{fs::File, io, ops::Deref, path::Path};

/// A file mapped into memory, read-only: model files are read this way, so that they need no memory of their own.
#[derive(Debug)]
pub struct FileMap(Mmap);

impl FileMap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private and read-only, and whatever is read from it is checked and copied. That nobody changes
        // or truncates the file meanwhile cannot be had from the system; who can write a node's model files could replace the
        // node's program as well. A change would show as another model id or end the process; it cannot make this process
        // write anywhere.
        let map = unsafe { Mmap::map(&file)? };
        let _ = map.advise(Advice::WillNeed);
        Ok(Self(map))
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_reads_as_the_file_does() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md");
        let map = FileMap::open(&path).map(|m| m.to_vec()).ok();
        assert_eq!(map, std::fs::read(&path).ok());
        assert!(FileMap::open(Path::new("/no/such/file")).is_err());
    }
}
