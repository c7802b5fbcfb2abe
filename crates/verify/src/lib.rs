//! The trust kernel: what it means that an answer was checked.
//!
//! **Problem.** There are many ways to back an answer (a signature, an attestation, a second run, a zk proof), and new ones
//! come. Whoever relies on an answer needs one door through which all of them go, and that door must not open by accident.
//!
//! **Design.** A [`Verifier`] checks the evidence of one mode, a [`Producer`] makes it; they are two traits, because
//! who verifies must not have to carry a prover. The [`Registry`] is the only way in: it refuses unknown modes,
//! bounds the work first, then asks the mode.
//!
//! **Guarantees.** [`Verifier::check`] is pure: time and trust anchors come in with the [`Context`], so wallet, browser and
//! validator run the same code, also for old receipts. A [`Finding`] states the rung that was reached; it is never inferred
//! from `Ok`. Only [`Verdict::Refutes`] may slash; a [`Rejection`] shows nothing, since anybody can attach bad
//! evidence to an honest claim.
//!
//! **What you may not do here.** Name a mode, read a clock, open a socket, draw a random number.

pub mod finality;

use std::{collections::BTreeMap, fmt, sync::Arc};
use thiserror::Error;
use types::{Claim, Evidence, ModeId, Receipt, Rung};

/// Everything a check may look at besides claim and evidence.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The time at which the evidence is judged, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Trust anchors (roots, policies, validator sets) by name.
    pub anchors: &'a dyn Anchors,
    /// Most work, in units of the mode, that the caller is ready to spend.
    pub work_max: u64,
}

/// A source of trust anchors, by name.
pub trait Anchors: Sync {
    /// The anchor called `key`, if there is one.
    fn get(&self, key: &str) -> Option<&[u8]>;
}

/// No anchors at all.
pub struct NoAnchors;

impl Anchors for NoAnchors {
    fn get(&self, _key: &str) -> Option<&[u8]> {
        None
    }
}

/// What valid evidence shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim is backed.
    Supports,
    /// The executor's own commitment is shown to be false. The only verdict that may slash.
    Refutes,
}

/// The result of a check that came to a conclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which way the evidence points.
    pub verdict: Verdict,
    /// The rung of the ladder that it reaches.
    pub rung: Rung,
    /// The mode that found it.
    pub mode: ModeId,
    /// What was checked, in words for a person.
    pub summary: String,
}

/// Why evidence shows nothing either way. It never slashes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// No verifier for this mode is registered.
    #[error("evidence of mode {} is not known here; update the software or ask for another assurance", .0.0)]
    UnknownMode(ModeId),
    /// The evidence cannot be parsed.
    #[error("the evidence is malformed: {0}")]
    Malformed(&'static str),
    /// Checking would cost more than the caller allows.
    #[error("checking the evidence takes {need} units of work, more than the allowed {max}")]
    WorkLimit {
        /// Work that the evidence needs.
        need: u64,
        /// Work that the context allows.
        max: u64,
    },
    /// The evidence is sound, but nobody whom the caller trusts stands behind it.
    #[error("the evidence is not trusted: {0}")]
    Untrusted(String),
    /// The evidence is about something else.
    #[error("the evidence is not bound to this claim: {0}")]
    Unbound(String),
}

/// Checks the evidence of one mode.
pub trait Verifier: Send + Sync {
    /// The mode whose evidence this verifier reads.
    fn mode(&self) -> ModeId;
    /// Upper bound on the work of [`check`](Self::check), from the length of the evidence alone.
    fn work(&self, evidence: &Evidence) -> u64;
    /// Judges `evidence` for `claim`. Pure.
    ///
    /// # Errors
    /// A [`Rejection`] when the evidence shows nothing either way.
    fn check(&self, claim: &Claim, evidence: &Evidence, context: &Context<'_>) -> Result<Finding, Rejection>;
}

/// Makes the evidence of one mode; `T` is what the mode needs besides the claim (a trace, for example).
pub trait Producer<T>: Send + Sync {
    /// The mode of the evidence.
    fn mode(&self) -> ModeId;
    /// Makes evidence for `claim`.
    ///
    /// # Errors
    /// [`ProduceError`] when the evidence cannot be made; the message says what to do.
    fn produce(&self, claim: &Claim, input: &T) -> Result<Evidence, ProduceError>;
}

/// Evidence could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot produce evidence: {0}")]
pub struct ProduceError(pub String);

/// The verifiers that are known here, by mode.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<ModeId, Arc<dyn Verifier>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Registry {
    /// A registry of the given verifiers.
    ///
    /// # Panics
    /// When two verifiers have one mode: that is a mistake in the program, not in its input.
    pub fn new(verifiers: impl IntoIterator<Item = Arc<dyn Verifier>>) -> Self {
        let mut map = BTreeMap::new();
        for verifier in verifiers {
            let twice = map.insert(verifier.mode(), verifier).is_some();
            assert!(!twice, "two verifiers for one mode");
        }
        Self(map)
    }

    /// Checks one piece of evidence: fails closed on an unknown mode, bounds the work, then asks the mode.
    ///
    /// # Errors
    /// A [`Rejection`].
    pub fn check(
        &self,
        claim: &Claim,
        evidence: &Evidence,
        context: &Context<'_>,
    ) -> Result<Finding, Rejection> {
        let verifier = self.0.get(&evidence.mode).ok_or(Rejection::UnknownMode(evidence.mode))?;
        let need = verifier.work(evidence);
        if need > context.work_max {
            return Err(Rejection::WorkLimit { need, max: context.work_max });
        }
        verifier.check(claim, evidence, context)
    }

    /// Checks all evidence of a receipt. Every piece must be accepted, none may refute, and the evidence must reach both
    /// the rung that the claim says it achieved and the one that was requested: no silent downgrade.
    ///
    /// # Errors
    /// The first [`Rejection`].
    pub fn check_receipt(&self, receipt: &Receipt, context: &Context<'_>) -> Result<Vec<Finding>, Rejection> {
        let claim = &receipt.claim;
        let findings = receipt
            .evidence
            .iter()
            .map(|evidence| self.check(claim, evidence, context))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(refuted) = findings.iter().find(|f| f.verdict == Verdict::Refutes) {
            return Err(Rejection::Untrusted(format!("the claim is refuted: {}", refuted.summary)));
        }
        for (rung, word) in [(claim.rung_achieved, "achieved"), (claim.rung_requested, "requested")] {
            let rung = Rung::try_from(rung).map_err(|()| Rejection::Malformed("unknown rung number"))?;
            if !findings.iter().any(|f| f.rung == rung) {
                return Err(Rejection::Unbound(format!("no evidence reaches the {word} assurance `{rung}`")));
            }
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::{Address, B256, Sampling};

    fn claim() -> Claim {
        Claim {
            chain_id: 1,
            genesis: B256::ZERO,
            node: types::Address::ZERO,
            model: B256::ZERO,
            request_hash: B256::ZERO,
            response_hash: B256::ZERO,
            prompt_hash: B256::ZERO,
            output_hash: B256::repeat_byte(7),
            prompt_tokens: 0,
            completion_tokens: 0,
            max_tokens: 0,
            choices: 1,
            sampling: Sampling::GREEDY,
            options: B256::ZERO,
            trace_root: B256::ZERO,
            price_input: 0,
            price_output: 0,
            price: 0,
            payer: Address::ZERO,
            anchor_number: 0,
            anchor_hash: B256::ZERO,
            time_ms: 0,
            arithmetic_class: 1,
            arithmetic_version: 1,
            rung_requested: 4,
            rung_achieved: 4,
        }
    }

    /// Evidence is 32 bytes of "output according to a second run".
    struct Echo;
    impl Verifier for Echo {
        fn mode(&self) -> ModeId {
            ModeId(4)
        }
        fn work(&self, e: &Evidence) -> u64 {
            e.body.len() as u64
        }
        fn check(&self, c: &Claim, e: &Evidence, _: &Context<'_>) -> Result<Finding, Rejection> {
            let output = B256::try_from(e.body.as_ref()).map_err(|_| Rejection::Malformed("length"))?;
            let verdict = if output == c.output_hash { Verdict::Supports } else { Verdict::Refutes };
            Ok(Finding { verdict, rung: Rung::Audited, mode: self.mode(), summary: "echo".into() })
        }
    }

    fn evidence(mode: u16, byte: u8, len: usize) -> Evidence {
        Evidence { mode: ModeId(mode), body: vec![byte; len].into() }
    }

    const CONTEXT: Context<'static> = Context { now_ms: 0, anchors: &NoAnchors, work_max: 64 };

    #[test]
    fn fails_closed() {
        let registry = Registry::new([Arc::new(Echo) as Arc<dyn Verifier>]);
        let check = |e| registry.check(&claim(), &e, &CONTEXT).map(|f| f.verdict);
        assert_eq!(check(evidence(4, 7, 32)), Ok(Verdict::Supports));
        assert_eq!(check(evidence(4, 8, 32)), Ok(Verdict::Refutes));
        assert_eq!(check(evidence(4, 7, 31)), Err(Rejection::Malformed("length")));
        assert_eq!(check(evidence(9, 7, 32)), Err(Rejection::UnknownMode(ModeId(9))));
        assert_eq!(check(evidence(4, 7, 65)), Err(Rejection::WorkLimit { need: 65, max: 64 }));
    }

    #[test]
    fn no_silent_downgrade() {
        let registry = Registry::new([Arc::new(Echo) as Arc<dyn Verifier>]);
        let mut receipt = Receipt { claim: claim(), evidence: vec![evidence(4, 7, 32)] };
        assert_eq!(registry.check_receipt(&receipt, &CONTEXT).unwrap().len(), 1);
        receipt.claim.rung_requested = Rung::Proved as u8;
        assert!(matches!(registry.check_receipt(&receipt, &CONTEXT), Err(Rejection::Unbound(_))));
        receipt.claim.rung_requested = Rung::Audited as u8;
        receipt.claim.rung_achieved = 99;
        assert!(registry.check_receipt(&receipt, &CONTEXT).is_err());
        receipt.claim.rung_achieved = 4;
        receipt.evidence[0] = evidence(4, 8, 32);
        assert!(matches!(registry.check_receipt(&receipt, &CONTEXT), Err(Rejection::Untrusted(_))));
        receipt.evidence.clear();
        assert!(registry.check_receipt(&receipt, &CONTEXT).is_err());
    }

    #[test]
    #[should_panic(expected = "two verifiers")]
    fn one_verifier_a_mode() {
        let _ = Registry::new([Arc::new(Echo) as Arc<dyn Verifier>, Arc::new(Echo)]);
    }
}
