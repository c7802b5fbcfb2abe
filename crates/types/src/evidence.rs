use alloy_primitives::Bytes;
use alloy_rlp::{RlpDecodable, RlpDecodableWrapper, RlpEncodable, RlpEncodableWrapper};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Number of a verification mode; stable for ever.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    RlpEncodableWrapper,
    RlpDecodableWrapper,
)]
#[serde(transparent)]
pub struct ModeId(pub u16);

/// Opaque to all but its own mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The mode that can read the body.
    pub mode: ModeId,
    /// The mode's own bytes.
    pub body: Bytes,
}

/// A rung of the assurance ladder. The order is that of the ladder; a higher rung is not a superset of a
/// lower one, so what was checked is always named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Rung {
    /// This node said so, and cannot deny it.
    Signed = 1,
    /// An attested program with this key said so.
    Attested = 2,
    /// k of n independent nodes got the same bits.
    Replicated = 3,
    /// Drawn auditors re-ran it bit for bit.
    Audited = 4,
    /// A succinct proof shows it.
    Proved = 5,
}

impl Rung {
    /// All rungs, lowest first.
    pub const ALL: [Self; 5] = [Self::Signed, Self::Attested, Self::Replicated, Self::Audited, Self::Proved];

    /// The one word used in the API, the CLI, pages and contracts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Attested => "attested",
            Self::Replicated => "replicated",
            Self::Audited => "audited",
            Self::Proved => "proved",
        }
    }

    /// The mode whose evidence reaches this rung.
    pub const fn mode(self) -> ModeId {
        ModeId(self as u16)
    }
}

impl TryFrom<u8> for Rung {
    type Error = ();
    fn try_from(value: u8) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|r| *r as u8 == value).ok_or(())
    }
}

impl FromStr for Rung {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.name() == s).ok_or_else(|| {
            format!("unknown assurance {s:?}; use one of signed, attested, replicated, audited, proved")
        })
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
