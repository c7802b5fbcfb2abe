//! A node's receipt log as a standard transparency log, after the C2SP specifications signed-note, tlog-checkpoint,
//! tlog-tiles, tlog-cosignature and tlog-witness.
//!
//! **Problem.** A log that shows different trees to different people is worth nothing, and people should not need our
//! tools to see that. Witnesses, monitors and mirrors for these formats exist already.
//!
//! **Design.** [`Checkpoint`] is the text that is signed, [`Note`] the text with signatures, [`SigningKey`] and
//! [`VerifierKey`] make and check them, [`tiles`] is the tree as static files, [`witness`] says yes only to logs that
//! grow, [`Policy`] is what a client demands, and [`Equivocation`] is what is left when a log lied.
//!
//! **Guarantees.** Parsing never panics, every length is bounded before anything is kept, and what is parsed is written
//! back byte for byte.

mod checkpoint;
mod equivocation;
mod key;
mod note;
mod policy;
pub mod tiles;
pub mod witness;

pub use checkpoint::{Checkpoint, NodeOrigin, account_digest};
pub use equivocation::{Contradiction, EQUIVOCATION_FORMAT, Equivocation, Statement};
pub use key::{ACCOUNT_SIGNATURE, PublicKey, SigningKey, VerifierKey, log_seed, node_keys, witness_seed};
pub use note::{Note, SignatureLine};
pub use policy::{Policy, Trusted};

use crate::TypesError;
use alloy_primitives::B256;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Longest signed note in bytes (128 KiB: sixteen post-quantum signatures fit).
pub const NOTE_BYTES_MAX: usize = 128 << 10;
/// Most signatures of one note.
pub const SIGNATURES_MAX: usize = 32;
/// Longest signature in bytes, key id included.
pub const SIGNATURE_BYTES_MAX: usize = 8 << 10;
/// Longest origin of a log, and longest name of a key, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Most extension lines of a checkpoint.
pub const EXTENSIONS_MAX: usize = 4;
/// Longest extension line in bytes.
pub const EXTENSION_BYTES_MAX: usize = 256;

/// An encoding error of `what`.
fn bad(what: &'static str, detail: impl Into<String>) -> TypesError {
    TypesError::Encoding { what, detail: detail.into() }
}

/// Refuses a `size` above `max`.
fn bound(what: &'static str, size: usize, max: usize) -> Result<(), TypesError> {
    if size > max { Err(TypesError::TooLarge { what, size, max }) } else { Ok(()) }
}

/// A decimal number as these formats spell it: ASCII digits, no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Base64 (RFC 4648, section 4, with padding) of a hash.
fn hash_to_base64(hash: &B256) -> String {
    STANDARD.encode(hash)
}

/// A hash from its one base64 spelling.
fn hash_from_base64(text: &str) -> Option<B256> {
    // 32 bytes are 44 characters.
    if text.len() != 44 {
        return None;
    }
    B256::try_from(STANDARD.decode(text).ok()?.as_slice()).ok()
}
