//! Which validators vote when, and whose turn a view is.

use crate::{
    Chain, ConsensusError, ValidatorSecret,
    block::Context,
    engine::{self, Scheme},
    keys::{VoteKey, peer_key, vote_key},
    turns::Order,
};
use alloy_primitives::B256;
use commonware_codec::Encode as _;
use commonware_consensus::types::Epoch;
use commonware_cryptography::{
    certificate::{Provider, Scoped},
    ed25519::PublicKey,
};
use commonware_utils::{
    TryCollect as _,
    ordered::{BiMap, Set},
};
use ledger::{MISSED_MAX, Turn};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use types::{NetworkConfig, ValidatorSet};

/// Schemes of the newest sets that are kept; others are made again when old blocks are repaired.
const SCHEMES_KEPT: usize = 8;

/// The signing schemes of all epochs that are known: epochs up to the one that follows the newest final block.
#[derive(Clone, Debug)]
pub(crate) struct Epochs {
    chain: Arc<Chain>,
    secret: Arc<ValidatorSecret>,
    /// By the first epoch of the set.
    schemes: Arc<Mutex<BTreeMap<u64, Scoped<Scheme>>>>,
}

impl Epochs {
    pub(crate) fn new(chain: Arc<Chain>, secret: ValidatorSecret) -> Self {
        Self { chain, secret: Arc::new(secret), schemes: Arc::default() }
    }

    /// The epoch of the block that follows the newest final one.
    pub(crate) fn current(&self) -> u64 {
        self.chain.network().epoch_of(self.chain.head().number() + 1)
    }

    /// The validators of `epoch`, if that is known yet.
    pub(crate) fn set(&self, epoch: u64) -> Option<ValidatorSet> {
        let head = self.chain.head();
        if epoch > self.chain.network().epoch_of(head.number() + 1) {
            return None;
        }
        if head.validators().epoch <= epoch {
            return Some((**head.validators()).clone());
        }
        self.chain.store().validators(epoch).ok().flatten()
    }

    /// The scheme for the engine of `epoch`: it signs when this validator votes, else it only follows. `None` when the epoch is unknown.
    pub(crate) fn engine_scheme(&self, epoch: u64) -> Option<Scheme> {
        let set = self.set(epoch)?;
        // Who has forgotten what it voted for might vote twice.
        let forgetful = self.chain.store().votes_from().map_or(true, |from| epoch < from);
        if !forgetful && let Some(signer) = self.scoped(Epoch::new(epoch)).and_then(Scoped::into_scheme) {
            return Some((*signer).clone());
        }
        self.verifier(&set).ok()
    }

    fn verifier(&self, set: &ValidatorSet) -> Result<Scheme, ConsensusError> {
        let namespace = NetworkConfig::namespace(self.chain.genesis().hash());
        Ok(Scheme::verifier(&namespace, participants(set)?))
    }

    /// What the order of turns in `epoch` is drawn from; `None` when no state of that epoch is at hand, because it is over or did not begin.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the state cannot be read.
    pub(crate) fn turn_seed(&self, epoch: u64) -> Result<Option<B256>, ConsensusError> {
        let network = self.chain.network();
        let head = self.chain.head();
        let first = epoch.saturating_mul(network.epoch_blocks);
        // The state before any block of the epoch will do.
        let before = head.number().min(first.saturating_add(network.epoch_blocks - 2));
        let parent = if before == head.number() { Some(head) } else { self.chain.recent(before) };
        match parent.filter(|p| network.epoch_of(p.number() + 1) == epoch) {
            Some(parent) => self.chain.turn_seed(&parent).map(Some),
            None => Ok(None),
        }
    }

    /// This validator's keys.
    pub(crate) fn secret(&self) -> &ValidatorSecret {
        &self.secret
    }

    fn make(&self, set: &ValidatorSet) -> Result<Scoped<Scheme>, ConsensusError> {
        let genesis = self.chain.genesis().hash();
        Ok(match engine::scheme(set, genesis, &self.secret)? {
            Some(signer) => Scoped::scheme(Arc::new(signer)),
            None => Scoped::verifier(Arc::new(self.verifier(set)?)),
        })
    }
}

impl Provider for Epochs {
    type Scope = Epoch;
    type Scheme = Scheme;

    fn scoped(&self, epoch: Epoch) -> Option<Scoped<Scheme>> {
        let set = self.set(epoch.get())?;
        let mut schemes = self.schemes.lock();
        if let Some(known) = schemes.get(&set.epoch) {
            return Some(known.clone());
        }
        let made = match self.make(&set) {
            Ok(made) => made,
            Err(e) => {
                tracing::error!(epoch = set.epoch, "unusable validator set: {e}");
                return None;
            }
        };
        schemes.insert(set.epoch, made.clone());
        if schemes.len() > SCHEMES_KEPT {
            schemes.pop_first();
        }
        Some(made)
    }
}

/// The keys of a set in the engine's form.
pub(crate) fn participants(set: &ValidatorSet) -> Result<BiMap<PublicKey, VoteKey>, ConsensusError> {
    set.check().map_err(|e| ConsensusError::Key(e.to_string()))?;
    let entries: Vec<_> = set
        .members
        .iter()
        .map(|v| Ok((peer_key(&v.peer)?, vote_key(&v.vote)?)))
        .collect::<Result<_, ConsensusError>>()?;
    entries
        .into_iter()
        .try_collect::<BiMap<_, _>>()
        .map_err(|_| ConsensusError::Key("two validators share a key".into()))
}

/// The peer keys of a set.
pub(crate) fn peers(set: &ValidatorSet) -> Set<PublicKey> {
    Set::from_iter_dedup(set.members.iter().filter_map(|v| peer_key(&v.peer).ok()))
}

/// Whose turn a block was, and whose turns passed since its parent. `None` when the leader is not in the set, or it was not its turn.
pub(crate) fn turn(set: &ValidatorSet, seed: B256, context: &Context) -> Option<Turn> {
    let peer = context.leader.encode();
    let proposer = set.members.iter().position(|v| v.peer.as_slice() == peer.as_ref())? as u64;
    let view = context.round.view().get();
    let order = Order::draw(seed, set.members.iter().map(|v| v.peer));
    if order.leader(view) != proposer {
        return None;
    }
    let first = context.parent.0.get().saturating_add(1).max(view.saturating_sub(MISSED_MAX as u64));
    let missed = (first..view).map(|v| order.leader(v)).collect();
    Some(Turn { proposer, missed })
}
