//! A witness (C2SP tlog-witness): it cosigns a log's checkpoint only when the log has grown from the one that it cosigned
//! last. Clients that demand cosignatures of several witnesses all see one log, or the witnesses conspire with it.

use super::{
    Checkpoint, Equivocation, NOTE_BYTES_MAX, Note, SigningKey, VerifierKey, bad, bound, decimal,
    hash_from_base64, hash_to_base64,
};
use crate::{TypesError, limits::MERKLE_PATH_MAX, merkle};
use alloy_primitives::B256;
use thiserror::Error;

/// Longest request in bytes: a note, 63 hashes in base64, and the size.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + MERKLE_PATH_MAX * 45 + 32;

/// Media type of the answer with status 409: the size of the latest checkpoint, and a line feed.
pub const SIZE_MEDIA_TYPE: &str = "text/x.tlog.size";

/// A request for a cosignature: `old <size>`, a consistency path in base64, an empty line, and the signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the latest checkpoint that the witness has, as the sender knows it.
    pub old_size: u64,
    /// Consistency path from that size to the checkpoint's.
    pub path: Vec<B256>,
    /// The signed checkpoint.
    pub note: Note,
}

impl AddCheckpoint {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`TypesError`] when it is too long or not spelled as the specification says.
    pub fn parse(body: &[u8]) -> Result<Self, TypesError> {
        const WHAT: &str = "request for a cosignature";
        bound(WHAT, body.len(), REQUEST_BYTES_MAX)?;
        let mut rest = body;
        let mut line = || {
            let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| bad(WHAT, "no empty line"))?;
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            str::from_utf8(line).map_err(|e| bad(WHAT, e.to_string()))
        };
        let old_size = line()?.strip_prefix("old ").and_then(decimal);
        let old_size = old_size.ok_or_else(|| bad(WHAT, "the first line must be `old <size>`"))?;
        let mut path = Vec::new();
        loop {
            let text = line()?;
            if text.is_empty() {
                break;
            }
            bound("consistency path", path.len() + 1, MERKLE_PATH_MAX)?;
            path.push(hash_from_base64(text).ok_or_else(|| bad(WHAT, "a hash is not 32 bytes in base64"))?);
        }
        Ok(Self { old_size, path, note: Note::parse(rest)? })
    }
}

impl std::fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", hash_to_base64(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

/// What a witness remembers of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Size of the latest checkpoint that it cosigned.
    pub size: u64,
    /// Its root.
    pub root: B256,
    /// The checkpoint with the log's signatures, for evidence if the log should ever sign another root.
    pub note: String,
}

/// Something that went wrong in a [`WitnessStore`].
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// A witness's memory. Losing it means signing a second history: a witness whose store is lost needs a new key.
pub trait WitnessStore {
    /// What is known of the log `origin`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn latest(&self, origin: &str) -> Result<Option<Seen>, StoreError>;

    /// Replaces what is known of the log if its size (0 for an unknown log) is still `old_size`, in one step that no
    /// other call can come between. It is on disk when this returns true. False when the size was another one.
    ///
    /// # Errors
    /// When it cannot be written.
    fn advance(&self, origin: &str, old_size: u64, new: &Seen) -> Result<bool, StoreError>;
}

/// The logs that a witness knows.
pub trait KnownLogs {
    /// Keys that sign the log's checkpoints (one is enough), or `None` for a log that is not witnessed here. For a node of
    /// the network, [`VerifierKey::of_account`] of its origin if it is registered on the ledger.
    fn keys(&self, origin: &str) -> Option<Vec<VerifierKey>>;
}

/// Why there is no cosignature.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The request cannot be read.
    #[error("{0}")]
    Malformed(TypesError),
    /// The old size is above the checkpoint's.
    #[error("the old size {old} is above the checkpoint's size {new}")]
    OldAboveNew {
        /// Old size in the request.
        old: u64,
        /// Size of the checkpoint.
        new: u64,
    },
    /// No such log here.
    #[error("this witness does not follow the log {0:?}")]
    UnknownLog(String),
    /// No good signature of the log.
    #[error("the checkpoint has no good signature of a key that this witness trusts for its log")]
    Untrusted,
    /// The old size is not that of the latest checkpoint.
    #[error("the latest checkpoint here has size {size}; send a consistency path from there")]
    Conflict {
        /// Size of the latest checkpoint here.
        size: u64,
    },
    /// The log signed two roots for one size.
    #[error("the log signed another root for size {size}")]
    Contradiction {
        /// Size of both.
        size: u64,
        /// Proof for anybody; `None` when the two were signed by different keys of the log.
        evidence: Option<Box<Equivocation>>,
    },
    /// The tree is not shown to have grown from the latest one.
    #[error("{0}")]
    Inconsistent(TypesError),
    /// The witness's own memory failed.
    #[error("this witness cannot use its store: {0}")]
    Store(StoreError),
}

impl Refusal {
    /// HTTP status, as the specification says.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::OldAboveNew { .. } => 400,
            Self::Untrusted => 403,
            Self::UnknownLog(_) => 404,
            Self::Conflict { .. } | Self::Contradiction { .. } => 409,
            Self::Inconsistent(_) => 422,
            Self::Store(_) => 500,
        }
    }

    /// Size that goes into the body of a 409 (as [`SIZE_MEDIA_TYPE`]).
    pub fn known_size(&self) -> Option<u64> {
        match self {
            Self::Conflict { size } | Self::Contradiction { size, .. } => Some(*size),
            _ => None,
        }
    }
}

/// A witness: a cosigner's key, a memory, and the logs that it follows.
#[derive(Debug)]
pub struct Witness<S, K> {
    key: SigningKey,
    store: S,
    logs: K,
}

impl<S: WitnessStore, K: KnownLogs> Witness<S, K> {
    /// A witness that signs with `key`, made by [`SigningKey::cosigner`].
    pub fn new(key: SigningKey, store: S, logs: K) -> Self {
        Self { key, store, logs }
    }

    /// The witness's public key.
    pub fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// The witness's memory.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Answers a request at `time` (seconds since the Unix epoch): one signature line, with its line feed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn add_checkpoint(&self, body: &[u8], time: u64) -> Result<String, Refusal> {
        let request = AddCheckpoint::parse(body).map_err(Refusal::Malformed)?;
        let Checkpoint { origin, size, root, .. } =
            Checkpoint::parse(request.note.text()).map_err(Refusal::Malformed)?;
        let keys = self.logs.keys(&origin).ok_or_else(|| Refusal::UnknownLog(origin.clone()))?;
        let note = request.note.only(&keys).map_err(|_| Refusal::Untrusted)?;
        if request.old_size > size {
            return Err(Refusal::OldAboveNew { old: request.old_size, new: size });
        }
        // A log of which nothing is known is empty.
        let empty = Seen { size: 0, root: merkle::empty_root(), note: String::new() };
        let seen = self.store.latest(&origin).map_err(Refusal::Store)?;
        let latest = seen.as_ref().unwrap_or(&empty);
        if latest.size == size && latest.root != root {
            let evidence = latest.note.parse().ok().and_then(|old: Note| {
                keys.iter().find_map(|key| Equivocation::new(key, &old, &note).ok()).map(Box::new)
            });
            return Err(Refusal::Contradiction { size, evidence });
        }
        if request.old_size != latest.size {
            return Err(Refusal::Conflict { size: latest.size });
        }
        merkle::verify_consistency(latest.size, latest.root, size, root, &request.path)
            .map_err(Refusal::Inconsistent)?;
        // Made before it is remembered, so that what is remembered was never refused.
        let line = self.key.sign(note.text(), time).map_err(Refusal::Malformed)?;
        let new = match &seen {
            // The first signatures stay: nobody may replace evidence by a note with fewer of them.
            Some(seen) if seen.size == size => seen.clone(),
            _ => Seen { size, root, note: note.to_string() },
        };
        if !self.store.advance(&origin, latest.size, &new).map_err(Refusal::Store)? {
            let now = self.store.latest(&origin).map_err(Refusal::Store)?;
            return Err(Refusal::Conflict { size: now.map_or(0, |s| s.size) });
        }
        Ok(line.to_string())
    }
}
