//! The file that says which network it is: configuration, genesis and where to find some validators.

use crate::files;
use anyhow::{Context as _, ensure};
use ledger::Genesis;
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, path::Path, str::FromStr};
use types::{B256, NETWORK_VERSION, NetworkConfig};

/// Longest network file in bytes: genesis accounts may be many.
const BYTES_MAX: u64 = 1 << 30;

/// Where a validator is reached: `KEY@ADDRESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Peer {
    pub(crate) key: B256,
    pub(crate) address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.address)
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("{text:?} is not a peer; expected KEY@ADDRESS:PORT, as `og validator init` prints it");
        let (key, address) = text.split_once('@').ok_or_else(expected)?;
        let key = key.parse().map_err(|_| expected())?;
        Ok(Self { key, address: address.parse().map_err(|_| expected())? })
    }
}

impl TryFrom<String> for Peer {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Peer> for String {
    fn from(peer: Peer) -> Self {
        peer.to_string()
    }
}

/// What `network.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkFile {
    pub(crate) network: NetworkConfig,
    pub(crate) genesis: Genesis,
    /// Validators to begin with; they know the others.
    #[serde(default)]
    pub(crate) peers: Vec<Peer>,
}

/// Enough of a network file of any version to say which one it is.
#[derive(Deserialize)]
struct Versioned {
    network: Version,
}

#[derive(Deserialize)]
struct Version {
    version: u16,
}

impl NetworkFile {
    /// Reads a network file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
        ensure!(size <= BYTES_MAX, "{shown} has {size} bytes; a network file has at most {BYTES_MAX}");
        let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        if let Ok(Versioned { network: Version { version } }) = serde_json::from_slice(&text) {
            ensure!(
                version == NETWORK_VERSION,
                "{shown} is of network format {version}; this og runs networks of format {NETWORK_VERSION}: use the og that made it, or start a new network (og validator genesis)"
            );
        }
        let file: Self =
            serde_json::from_slice(&text).with_context(|| format!("{shown} is not a network file"))?;
        file.network.check().with_context(|| format!("{shown}"))?;
        Ok(file)
    }

    /// Writes it.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        files::write(path, &serde_json::to_vec_pretty(self)?, 0o644)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peers_are_written_as_they_are_read() {
        let text = format!("{}@127.0.0.1:8650", B256::repeat_byte(7));
        let peer: Peer = text.parse().unwrap();
        assert_eq!(peer.to_string(), text);
        for wrong in ["", "@", "x@127.0.0.1:1", "0x07@127.0.0.1:1", &text[..70], &text.replace(':', "")] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
