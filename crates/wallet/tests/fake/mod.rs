//! A ledger in memory that misbehaves on command. Every look at its head makes a block, a second later than the last.
#![allow(dead_code, clippy::unwrap_used)]

use alloy_consensus::{Transaction as _, TxEnvelope, transaction::SignerRecoverable as _};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};
use wallet::{Draft, Fault, Head, Ledger, Receipt};

/// What happens to the next submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As it should be.
    Taken,
    /// "txpool is full".
    Refused,
    /// Nobody answers, and it did not arrive.
    Lost,
    /// Nobody answers, although it did arrive.
    Unanswered,
    /// It is taken and then forgotten.
    Evicted,
    /// Another program's transaction takes its nonce.
    Displaced,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) number: u64,
    pub(crate) time: u64,
    pub(crate) base_fee: u128,
    /// Blocks take nothing below this tip.
    pub(crate) least_tip: u128,
    /// Whether blocks have transactions at all.
    pub(crate) is_full: bool,
    pub(crate) is_unreachable: bool,
    pub(crate) fates: VecDeque<Fate>,
    /// What estimates say of calls with these data.
    pub(crate) reverts: HashMap<Bytes, Bytes>,
    pub(crate) nonce: u64,
    /// What `pending` says beyond the pool.
    pub(crate) pending_lie: u64,
    pool: BTreeMap<u64, TxEnvelope>,
    receipts: HashMap<B256, Receipt>,
    /// Nonce, fee and tip of everything that arrived or was refused.
    pub(crate) seen: Vec<(u64, u128, u128)>,
    /// Data of the calls that were executed.
    pub(crate) executed: Vec<Bytes>,
}

#[derive(Default)]
pub(crate) struct Fake(Mutex<State>);

impl Fake {
    pub(crate) fn new() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self(Mutex::new(State { time, base_fee: 1000, ..State::default() }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn reach(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.state();
        match state.is_unreachable {
            true => Err(Fault::Unreachable("the cable is out".into())),
            false => Ok(state),
        }
    }
}

impl State {
    fn mine(&mut self) {
        self.number += 1;
        self.time += 1;
        while !self.is_full
            && let Some(tx) = self.pool.get(&self.nonce)
            && tx.max_fee_per_gas() >= self.base_fee
            && tx.max_priority_fee_per_gas().unwrap() >= self.least_tip
        {
            let tx = self.pool.remove(&self.nonce).unwrap();
            self.nonce += 1;
            self.receipts.insert(*tx.tx_hash(), Receipt { success: true, block: self.number });
            self.executed.push(tx.input().clone());
        }
    }
}

#[async_trait]
impl Ledger for Fake {
    async fn head(&self) -> Result<Head, Fault> {
        let mut state = self.reach()?;
        state.mine();
        Ok(Head { number: state.number, time: state.time, base_fee: state.base_fee })
    }

    async fn nonces(&self, _: Address) -> Result<(u64, u64), Fault> {
        let state = self.reach()?;
        let pooled = (state.nonce..).find(|n| !state.pool.contains_key(n)).unwrap();
        Ok((state.nonce, pooled + state.pending_lie))
    }

    async fn estimate(&self, draft: &Draft) -> Result<u64, Fault> {
        match self.reach()?.reverts.get(&draft.data) {
            Some(data) => Err(Fault::Reverted(data.clone())),
            None => Ok(50_000),
        }
    }

    async fn submit(&self, raw: Bytes) -> Result<(), Fault> {
        let mut state = self.reach()?;
        let tx = TxEnvelope::decode_2718_exact(&raw).unwrap();
        tx.recover_signer().unwrap();
        let (nonce, fee, tip) = (tx.nonce(), tx.max_fee_per_gas(), tx.max_priority_fee_per_gas().unwrap());
        state.seen.push((nonce, fee, tip));
        let refused = |message: &str| Err(Fault::Refused { code: -32000, message: message.into() });
        let unanswered = Err(Fault::Unreachable("no answer".into()));
        let fate = state.fates.pop_front().unwrap_or(Fate::Taken);
        match fate {
            Fate::Refused => return refused("no"),
            Fate::Lost => return unanswered,
            Fate::Displaced if nonce == state.nonce => {
                state.pool.remove(&nonce);
                state.nonce += 1;
                return refused("no");
            }
            _ => (),
        }
        if nonce < state.nonce {
            return refused("no");
        }
        if let Some(old) = state.pool.get(&nonce) {
            let raised = |new: u128, old: u128| new >= old + old.div_ceil(10);
            let old_tip = old.max_priority_fee_per_gas().unwrap();
            if old.tx_hash() == tx.tx_hash() || !raised(fee, old.max_fee_per_gas()) || !raised(tip, old_tip) {
                return refused("no");
            }
        }
        if fate != Fate::Evicted {
            state.pool.insert(nonce, tx);
        }
        if fate == Fate::Unanswered { unanswered } else { Ok(()) }
    }

    async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, Fault> {
        Ok(self.reach()?.receipts.get(&hash).copied())
    }
}
