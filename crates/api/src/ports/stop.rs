use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Tells work that nobody waits for it any more: the client has left, or the time is over.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells it.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for what checks it very often.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
