use super::{Checkpoint, NOTE_BYTES_MAX, Note, PublicKey, VerifierKey, bad, bound};
use crate::TypesError;
use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// Value of [`Equivocation::format`].
pub const EQUIVOCATION_FORMAT: &str = "og-log-equivocation/1";

/// Two checkpoints of one log and one size with different roots, signed by one key: whoever has the key lied, and anybody
/// can see it without knowing the log. As a file it is indented JSON with exactly one spelling.
///
/// Trees of *different* sizes that do not belong together cannot be convicted like this: that no consistency path leads
/// from one root to the other is a statement about all leaves, and a log that hides its leaves cannot be made to show
/// it. A witness refuses such a tree; it has no proof for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivocation {
    /// [`EQUIVOCATION_FORMAT`].
    pub format: String,
    /// The [`VerifierKey`] that signed both.
    pub key: String,
    /// Signed note with the numerically smaller root, and only this key's signature.
    pub first: String,
    /// Signed note with the larger root, and only this key's signature.
    pub second: String,
}

/// What an [`Equivocation`] proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Who signed. Compare it with the key that you know, or for an account with the address.
    pub key: VerifierKey,
    /// The log.
    pub origin: String,
    /// The size of both trees.
    pub size: u64,
    /// Both statements, the smaller root first.
    pub statements: [Statement; 2],
}

/// A root that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The root.
    pub root: B256,
    /// The signature without key id; for an account, 65 bytes r ‖ s ‖ v for a contract.
    pub signature: Vec<u8>,
}

impl Equivocation {
    /// Puts together evidence out of two notes that both have a signature of `key`.
    ///
    /// # Errors
    /// [`TypesError`] when they do not contradict each other, or one is not signed by `key`.
    pub fn new(key: &VerifierKey, one: &Note, other: &Note) -> Result<Self, TypesError> {
        let mut notes = [one, other].map(|n| n.only(std::slice::from_ref(key)));
        notes.sort_by_key(|n| n.as_ref().ok().and_then(|n| Some(Checkpoint::parse(n.text()).ok()?.root)));
        let [first, second] = notes;
        let found = Self {
            format: EQUIVOCATION_FORMAT.into(),
            key: key.to_string(),
            first: first?.to_string(),
            second: second?.to_string(),
        };
        found.verify()?;
        Ok(found)
    }

    /// Checks everything: both signatures, that both speak of one log and one size, and that the roots differ.
    ///
    /// # Errors
    /// [`TypesError`] that says what is missing.
    pub fn verify(&self) -> Result<Contradiction, TypesError> {
        const WHAT: &str = "evidence of equivocation";
        if self.format != EQUIVOCATION_FORMAT {
            let found = &self.format;
            return Err(bad(
                WHAT,
                format!("format is {found:?}; this version reads {EQUIVOCATION_FORMAT:?}"),
            ));
        }
        let key: VerifierKey = self.key.parse()?;
        let read = |note: &String| {
            let note: Note = note.parse()?;
            let [line] = note.signatures() else {
                return Err(bad(WHAT, "a note must have exactly one signature"));
            };
            note.verify(std::slice::from_ref(&key))?;
            let checkpoint = Checkpoint::parse(note.text())?;
            // A witness signs for other logs; any other key is trusted only for the log that it is named after.
            if !matches!(key.key(), PublicKey::Cosigner(_)) && checkpoint.origin != key.name() {
                return Err(bad(WHAT, "the key is not of this log: its name is not the origin"));
            }
            Ok((
                checkpoint.origin,
                checkpoint.size,
                Statement { root: checkpoint.root, signature: line.signature.clone() },
            ))
        };
        let (first, second) = (read(&self.first)?, read(&self.second)?);
        if (&first.0, first.1) != (&second.0, second.1) {
            return Err(bad(
                WHAT,
                "the checkpoints are of different logs or sizes, so they may both be true",
            ));
        }
        if first.2.root >= second.2.root {
            return Err(bad(WHAT, "the roots must differ, and the smaller one come first"));
        }
        Ok(Contradiction { key, origin: first.0, size: first.1, statements: [first.2, second.2] })
    }

    /// The canonical bytes: indented JSON and a final line feed.
    ///
    /// # Errors
    /// Never for evidence that [`verify`](Self::verify) accepts.
    pub fn encode(&self) -> Result<Vec<u8>, TypesError> {
        let mut out =
            serde_json::to_vec_pretty(self).map_err(|e| bad("evidence of equivocation", e.to_string()))?;
        out.push(b'\n');
        Ok(out)
    }

    /// Reads canonical bytes and checks the evidence.
    ///
    /// # Errors
    /// [`TypesError`] when too long, spelled differently from [`encode`](Self::encode), or no proof of anything.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Contradiction), TypesError> {
        const WHAT: &str = "evidence of equivocation";
        bound(WHAT, bytes.len(), 2 * NOTE_BYTES_MAX)?;
        let file: Self = serde_json::from_slice(bytes).map_err(|e| bad(WHAT, e.to_string()))?;
        let contradiction = file.verify()?;
        let canonical = file.encode()?;
        if canonical != bytes {
            let offset = canonical.iter().zip(bytes).position(|(a, b)| a != b);
            let offset = offset.unwrap_or(canonical.len().min(bytes.len()));
            return Err(bad(WHAT, format!("some byte was added, removed or changed at offset {offset}")));
        }
        Ok((file, contradiction))
    }
}
