use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// To whom a node may show the request and answer behind a receipt. The client chooses with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Disclose {
    /// To nobody: only the client can have the answer checked.
    None = 0,
    /// To auditors and jurors that were drawn for this receipt.
    Auditors = 1,
    /// To everybody.
    Public = 2,
}

impl Disclose {
    /// The word in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auditors => "auditors",
            Self::Public => "public",
        }
    }
}

impl fmt::Display for Disclose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Disclose {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let all = [Self::None, Self::Auditors, Self::Public];
        let found = all.into_iter().find(|d| d.name() == s);
        found.ok_or_else(|| format!("{s:?} is none of none, auditors, public"))
    }
}
