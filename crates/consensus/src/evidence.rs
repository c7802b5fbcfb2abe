//! What the engine reports of validators that vote twice, in the network's own form.

use crate::{Chain, engine::Scheme, epochs::Epochs};
use alloy_primitives::{B256, FixedBytes};
use commonware_actor::Feedback;
use commonware_codec::{Encode as _, ReadExt as _};
use commonware_consensus::{
    Epochable as _, Reporter, Viewable as _,
    simplex::types::{Activity, Attributable as _, Finalize, Notarize, Nullify, Proposal},
    types::Participant,
};
use commonware_cryptography::{certificate::Attestation, keccak256::Digest};
use std::sync::Arc;
use tracing::warn;
use types::{Equivocation, FINALIZE, NOTARIZE, NULLIFY, Vote};

/// Passes what the engine reports on, and keeps the evidence in it.
#[derive(Clone)]
pub(crate) struct Watch<R> {
    pub(crate) inner: R,
    pub(crate) chain: Arc<Chain>,
    pub(crate) epochs: Epochs,
}

fn vote(kind: u8, proposal: Option<&Proposal<Digest>>, attestation: &Attestation<Scheme>) -> Option<Vote> {
    let (parent_view, block_hash) =
        proposal.map_or((0, B256::ZERO), |p| (p.parent.get(), B256::new(p.payload.0)));
    let signature = FixedBytes::from_slice(&attestation.signature.get()?.encode());
    Some(Vote { kind, parent_view, block_hash, signature })
}

/// The two votes in `activity`, in the order in which [`Equivocation::contradicts`] wants them, and who cast them. The engine keeps the
/// parts of its evidence to itself, but its encoding is one after the other.
fn votes(activity: &Activity<Scheme, Digest>) -> Option<(u32, Vote, Vote)> {
    let signer = |s: Participant| s.get();
    Some(match activity {
        Activity::ConflictingNotarize(c) => {
            let mut bytes = c.encode();
            let a = Notarize::<Scheme, Digest>::read(&mut bytes).ok()?;
            let b = Notarize::<Scheme, Digest>::read(&mut bytes).ok()?;
            let first = vote(NOTARIZE, Some(&a.proposal), &a.attestation)?;
            (signer(c.signer()), first, vote(NOTARIZE, Some(&b.proposal), &b.attestation)?)
        }
        Activity::ConflictingFinalize(c) => {
            let mut bytes = c.encode();
            let a = Finalize::<Scheme, Digest>::read(&mut bytes).ok()?;
            let b = Finalize::<Scheme, Digest>::read(&mut bytes).ok()?;
            let first = vote(FINALIZE, Some(&a.proposal), &a.attestation)?;
            (signer(c.signer()), first, vote(FINALIZE, Some(&b.proposal), &b.attestation)?)
        }
        Activity::NullifyFinalize(c) => {
            let mut bytes = c.encode();
            let a = Nullify::<Scheme>::read(&mut bytes).ok()?;
            let b = Finalize::<Scheme, Digest>::read(&mut bytes).ok()?;
            let first = vote(NULLIFY, None, &a.attestation)?;
            (signer(c.signer()), first, vote(FINALIZE, Some(&b.proposal), &b.attestation)?)
        }
        _ => return None,
    })
}

impl<R> Watch<R> {
    fn keep(&self, activity: &Activity<Scheme, Digest>) {
        let Some((signer, first, second)) = votes(activity) else { return };
        let (epoch, view) = (activity.epoch().get(), activity.view().get());
        let key = self.epochs.set(epoch).and_then(|set| set.members.get(signer as usize).map(|v| v.vote));
        let Some(vote_key) = key else { return };
        warn!(epoch, view, signer, "a validator voted twice");
        self.chain.report(Equivocation { vote_key, epoch, view, first, second });
    }
}

impl<R: Reporter<Activity = Activity<Scheme, Digest>>> Reporter for Watch<R> {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        self.keep(&activity);
        self.inner.report(activity)
    }
}
