//! What may be spent in a day.

use crate::{ClientError, files};
use alloy_primitives::U256;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::warn;

/// What was spent on one day; the file that survives a restart.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Spent {
    /// Days since the Unix epoch (UTC).
    day: u64,
    /// Wei promised to nodes on that day.
    wei: U256,
}

#[derive(Debug)]
struct State {
    spent: Spent,
    /// What answers under way may cost.
    reserved: U256,
}

/// A day's money.
#[derive(Debug)]
pub(super) struct Budget {
    max: Option<U256>,
    path: PathBuf,
    state: Mutex<State>,
}

/// Money that is kept for an answer under way; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    price: U256,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.reserved = state.reserved.saturating_sub(self.price);
    }
}

fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400)
}

impl Budget {
    pub(super) fn open(max: Option<U256>, path: PathBuf) -> Result<Arc<Self>, ClientError> {
        let spent = files::read(&path)?.unwrap_or_default();
        Ok(Arc::new(Self { max, path, state: Mutex::new(State { spent, reserved: U256::ZERO }) }))
    }

    /// Keeps money for an answer that may cost `price`.
    ///
    /// # Errors
    /// [`ClientError::DayLimit`].
    pub(super) fn reserve(self: &Arc<Self>, price: u128) -> Result<Reservation, ClientError> {
        let mut state = self.state.lock();
        if state.spent.day != today() {
            state.spent = Spent { day: today(), wei: U256::ZERO };
        }
        let spent = state.spent.wei.saturating_add(state.reserved);
        if let Some(max) = self.max
            && spent.saturating_add(U256::from(price)) > max
        {
            return Err(ClientError::DayLimit { spent, price, max });
        }
        state.reserved = state.reserved.saturating_add(U256::from(price));
        Ok(Reservation { budget: self.clone(), price: U256::from(price) })
    }

    /// Notes what an answer cost.
    pub(super) fn spend(&self, price: u128) {
        let spent = {
            let mut state = self.state.lock();
            if state.spent.day != today() {
                state.spent = Spent { day: today(), wei: U256::ZERO };
            }
            state.spent.wei = state.spent.wei.saturating_add(U256::from(price));
            state.spent
        };
        if let Err(e) = files::write(&self.path, &spent) {
            warn!("what was spent today could not be written: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_under_way_count_and_a_restart_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spent.json");
        let open = || Budget::open(Some(U256::from(100)), path.clone()).unwrap();
        let budget = open();
        let first = budget.reserve(60).unwrap();
        assert!(matches!(budget.reserve(41), Err(ClientError::DayLimit { price: 41, .. })));
        let second = budget.reserve(40).unwrap();
        drop(first);
        budget.spend(50);
        drop(second);
        assert!(budget.reserve(51).is_err() && budget.reserve(50).is_ok());
        assert!(open().reserve(51).is_err(), "a restart does not give a new day");
        let unlimited = Budget::open(None, dir.path().join("other.json")).unwrap();
        assert!(unlimited.reserve(u128::MAX).is_ok());
    }
}
