use parking_lot::Mutex;
use redb::StorageBackend;
use std::{io, sync::Arc};

/// A disk that outlives its validator. It can run out of luck: after some more operations everything fails, as if the power were gone, and
/// what was not synced may be lost, in any combination.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    data: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    left: u64,
}

impl Disk {
    /// A new, empty disk.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Platter { data: vec![], synced: vec![], unsynced: vec![], left: u64::MAX })))
    }

    /// Lets the disk fail after some more operations.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.0.lock().left = operations;
    }

    /// The disk after the power was gone; `kept` says of each unsynced write whether it survived.
    pub(crate) fn after_crash(&self, mut kept: impl FnMut() -> bool) -> Self {
        let platter = self.0.lock();
        let mut data = platter.synced.clone();
        for (offset, bytes) in &platter.unsynced {
            if kept() {
                let end = *offset as usize + bytes.len();
                data.resize(data.len().max(end), 0);
                data[*offset as usize..end].copy_from_slice(bytes);
            }
        }
        let synced = data.clone();
        Self(Arc::new(Mutex::new(Platter { data, synced, unsynced: vec![], left: u64::MAX })))
    }

    fn step(&self) -> io::Result<parking_lot::MutexGuard<'_, Platter>> {
        let mut platter = self.0.lock();
        platter.left = platter.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(platter)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(platter.data.get(range).ok_or_else(|| io::Error::other("past the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.data.resize(len as usize, 0);
        platter.synced.resize(len as usize, 0);
        platter.unsynced.retain(|(offset, bytes)| offset + bytes.len() as u64 <= len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.unsynced.clear();
        let data = platter.data.clone();
        platter.synced = data;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.data[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        platter.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}
