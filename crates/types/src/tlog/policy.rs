use super::{Checkpoint, Note, PublicKey, SIGNATURES_MAX, VerifierKey, bad, bound};
use crate::TypesError;
use std::collections::BTreeSet;

/// What a client demands of a checkpoint: a signature of the log, and cosignatures of at least `threshold` of its witnesses.
#[derive(Clone, Debug)]
pub struct Policy {
    log: VerifierKey,
    witnesses: Vec<VerifierKey>,
    threshold: usize,
}

/// A checkpoint that a [`Policy`] accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Who cosigned: index of the witness, and when, in seconds since the Unix epoch by its clock.
    pub cosigned: Vec<(usize, u64)>,
    threshold: usize,
}

impl Policy {
    /// A policy. With threshold 0 the log's signature is enough.
    ///
    /// # Errors
    /// [`TypesError`] when there are fewer witnesses than the threshold, too many, one is no cosigner, or one key is
    /// named twice.
    pub fn new(log: VerifierKey, witnesses: Vec<VerifierKey>, threshold: usize) -> Result<Self, TypesError> {
        const WHAT: &str = "witness policy";
        bound("number of witnesses", witnesses.len(), SIGNATURES_MAX)?;
        if threshold > witnesses.len() {
            let have = witnesses.len();
            return Err(bad(
                WHAT,
                format!("it demands {threshold} cosignatures, but names {have} witnesses"),
            ));
        }
        if matches!(log.key(), PublicKey::Cosigner(_)) {
            return Err(bad(WHAT, "the log's key is a witness's"));
        }
        // One key under two names would count twice.
        let mut keys = BTreeSet::new();
        for witness in &witnesses {
            match witness.key() {
                PublicKey::Cosigner(key) if keys.insert(key) => {}
                PublicKey::Cosigner(_) => return Err(bad(WHAT, format!("{witness} is named twice"))),
                _ => return Err(bad(WHAT, format!("{witness} is no witness's key"))),
            }
        }
        Ok(Self { log, witnesses, threshold })
    }

    /// Checks a note: the checkpoint in it, if the log and enough witnesses signed it. The log is the one that its key is
    /// named after.
    ///
    /// # Errors
    /// [`TypesError`] when a signature of a key of the policy is wrong, or one is missing.
    pub fn check(&self, note: &Note) -> Result<Trusted, TypesError> {
        const WHAT: &str = "checkpoint";
        let mut keys = self.witnesses.clone();
        keys.push(self.log.clone());
        let found = note.verify(&keys)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin != self.log.name() {
            return Err(bad(
                WHAT,
                format!("it is of the log {:?}, not {:?}", checkpoint.origin, self.log.name()),
            ));
        }
        if !found.iter().any(|(i, _)| *i == self.witnesses.len()) {
            return Err(bad(WHAT, "the log has not signed it"));
        }
        let cosigned: Vec<_> = found.into_iter().filter_map(|(i, time)| Some((i, time?))).collect();
        if cosigned.len() < self.threshold {
            let (have, need) = (cosigned.len(), self.threshold);
            return Err(bad(WHAT, format!("{have} witnesses cosigned it, and {need} must")));
        }
        Ok(Trusted { checkpoint, cosigned, threshold: self.threshold })
    }
}

impl Trusted {
    /// Latest time at which as many witnesses as were demanded had this as the log's newest tree; `None` without
    /// witnesses.
    pub fn time(&self) -> Option<u64> {
        let mut times: Vec<_> = self.cosigned.iter().map(|(_, time)| *time).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(self.threshold.checked_sub(1)?).copied()
    }
}
