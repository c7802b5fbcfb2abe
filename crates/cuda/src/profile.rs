//! How long each kernel of a step takes.

use crate::{CudaError, Gpu};
use cudarc::driver::{result, sys};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// A kernel's name, and the events in front of and behind it.
type Timed = (String, [sys::CUevent; 2]);

/// Launches with the events in front of and behind them, while somebody wants to know.
#[derive(Default)]
pub(crate) struct Profile(Mutex<Option<Vec<Timed>>>);

// SAFETY: events are the driver's handles, usable from any thread.
unsafe impl Send for Profile {}
// SAFETY: as above; the list has its lock.
unsafe impl Sync for Profile {}

impl Profile {
    /// Whether launches are timed at present.
    fn on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Runs `launch`, between two events if launches are timed.
    pub(crate) fn around(
        &self,
        stream: sys::CUstream,
        name: &str,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if !self.on() {
            return launch();
        }
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let events = [event()?, event()?];
        // SAFETY: the events were just created, the stream lives.
        unsafe { result::event::record(events[0], stream)? };
        launch()?;
        // SAFETY: as above.
        unsafe { result::event::record(events[1], stream)? };
        if let Some(list) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            list.push((name.to_owned(), events));
        }
        Ok(())
    }
}

impl Gpu {
    /// Seconds and launches of each kernel that `work` starts, the longest first.
    pub(crate) fn profile(
        &self,
        work: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Vec<(String, f64, u32)>, CudaError> {
        *self.profile.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        let done = work();
        let list = self.profile.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        done?;
        self.synchronise()?;
        let mut sums: BTreeMap<String, (f64, u32)> = BTreeMap::new();
        for (name, [begin, end]) in list {
            // SAFETY: both were recorded and the stream is done; they are not used afterwards.
            let milliseconds = unsafe {
                let elapsed = result::event::elapsed(begin, end)?;
                result::event::destroy(begin)?;
                result::event::destroy(end)?;
                elapsed
            };
            let (seconds, launches) = sums.entry(name).or_default();
            *seconds += f64::from(milliseconds) / 1e3;
            *launches += 1;
        }
        let mut all: Vec<_> = sums.into_iter().map(|(name, (s, n))| (name, s, n)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(all)
    }
}
