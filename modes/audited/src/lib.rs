//! Rung `audited`: open to challenge; drawn auditors re-ran it bit for bit.
//!
//! The evidence in a receipt only says that its node submits the answer to audits and disputes: a signature cannot say how they end. What
//! the ledger says about that comes in as the anchor [`STATE`], which the caller proves first. Without it the evidence shows nothing:
//! an answer that may still be refuted is not passed off as an audited one.

use types::{Bytes, Claim, Evidence, ModeId, Rung};
use verify::{Context, Finding, Rejection, Verdict, Verifier};

const MODE: ModeId = Rung::Audited.mode();

/// Version of the body.
const VERSION: u8 = 1;

/// Name of the anchor that says what became of the answer: one of [`PENDING`], [`UNREFUTED`], [`RERUN`], [`REFUTED`].
pub const STATE: &str = "audited/state";
/// The answer was given just now; the caller knows that it can still be refuted.
pub const PENDING: &[u8] = b"pending";
/// The time for disputes is over and nobody refuted it; no auditor was drawn.
pub const UNREFUTED: &[u8] = b"unrefuted";
/// As [`UNREFUTED`], and an auditor that was drawn computed it again and found it right.
pub const RERUN: &[u8] = b"rerun";
/// It was found wrong.
pub const REFUTED: &[u8] = b"refuted";

/// The evidence of a node that submits `claim` to audits.
pub fn pending(_claim: &Claim) -> Evidence {
    Evidence { mode: MODE, body: Bytes::from_static(&[VERSION]) }
}

/// Judges by what the ledger says.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditedVerifier;

impl Verifier for AuditedVerifier {
    fn mode(&self) -> ModeId {
        MODE
    }

    fn work(&self, _evidence: &Evidence) -> u64 {
        1
    }

    fn check(&self, claim: &Claim, evidence: &Evidence, context: &Context<'_>) -> Result<Finding, Rejection> {
        if evidence.body.as_ref() != [VERSION] {
            return Err(Rejection::Malformed("the evidence of an audited answer is one byte"));
        }
        if claim.rung_achieved != Rung::Audited as u8 {
            return Err(Rejection::Unbound("the receipt does not submit to audits".into()));
        }
        let (verdict, summary) = match context.anchors.get(STATE) {
            Some(PENDING) => (Verdict::Supports, "open to audits and disputes until its window closes"),
            Some(UNREFUTED) => (
                Verdict::Supports,
                "nobody refuted it while it could be; nothing shows that an auditor looked at it",
            ),
            Some(RERUN) => {
                (Verdict::Supports, "a drawn auditor computed it again and found it right; nobody refuted it")
            }
            Some(REFUTED) => (Verdict::Refutes, "the referee or a jury found it wrong"),
            _ => {
                return Err(Rejection::Untrusted(
                    "nothing proves that its window has closed; get the proof again when it has".into(),
                ));
            }
        };
        Ok(Finding { verdict, rung: Rung::Audited, mode: MODE, summary: summary.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::{Address, B256, Sampling};
    use verify::{Anchors, NoAnchors};

    struct One(&'static [u8]);
    impl Anchors for One {
        fn get(&self, key: &str) -> Option<&[u8]> {
            (key == STATE).then_some(self.0)
        }
    }

    fn claim(rung: Rung) -> Claim {
        Claim {
            chain_id: 1,
            genesis: B256::ZERO,
            node: Address::ZERO,
            model: B256::ZERO,
            request_hash: B256::ZERO,
            response_hash: B256::ZERO,
            prompt_hash: B256::ZERO,
            output_hash: B256::ZERO,
            prompt_tokens: 1,
            completion_tokens: 1,
            max_tokens: 1,
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
            arithmetic_version: 3,
            rung_requested: rung as u8,
            rung_achieved: rung as u8,
        }
    }

    #[test]
    fn only_what_the_ledger_says_counts() {
        let claim = claim(Rung::Audited);
        let evidence = pending(&claim);
        let check = |evidence: &Evidence, anchors: &dyn Anchors| {
            AuditedVerifier.check(&claim, evidence, &Context { now_ms: 0, anchors, work_max: 9 })
        };
        for good in [PENDING, UNREFUTED, RERUN] {
            assert_eq!(check(&evidence, &One(good)).unwrap().verdict, Verdict::Supports);
        }
        assert_eq!(check(&evidence, &One(REFUTED)).unwrap().verdict, Verdict::Refutes);
        assert!(matches!(check(&evidence, &NoAnchors), Err(Rejection::Untrusted(_))));
        assert!(matches!(check(&evidence, &One(b"fine")), Err(Rejection::Untrusted(_))));
        for body in [&[][..], &[2], &[1, 1]] {
            let evidence = Evidence { body: Bytes::copy_from_slice(body), ..evidence.clone() };
            assert!(matches!(check(&evidence, &One(RERUN)), Err(Rejection::Malformed(_))));
        }
        let signed = self::claim(Rung::Signed);
        let context = Context { now_ms: 0, anchors: &One(RERUN), work_max: 9 };
        assert!(matches!(AuditedVerifier.check(&signed, &evidence, &context), Err(Rejection::Unbound(_))));
    }
}
