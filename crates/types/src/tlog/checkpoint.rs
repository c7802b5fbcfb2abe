use super::{
    EXTENSION_BYTES_MAX, EXTENSIONS_MAX, NAME_BYTES_MAX, bad, bound, decimal, hash_from_base64,
    hash_to_base64,
};
use crate::TypesError;
use alloy_primitives::{Address, B256, U256, hex};
use alloy_sol_types::{Eip712Domain, SolStruct};
use std::{fmt, str::FromStr};

/// Size and root of a log, and which log it is: the text of a checkpoint (C2SP tlog-checkpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log; of a node's log, a [`NodeOrigin`].
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: B256,
    /// Further lines, without meaning here. Our logs have none.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    pub fn new(origin: impl Into<String>, size: u64, root: B256) -> Self {
        Self { origin: origin.into(), size, root, extensions: Vec::new() }
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// [`TypesError`] when a line is missing, too long or not spelled as the specification says.
    pub fn parse(text: &str) -> Result<Self, TypesError> {
        const WHAT: &str = "checkpoint";
        let max = NAME_BYTES_MAX + 66 + EXTENSIONS_MAX * (EXTENSION_BYTES_MAX + 1);
        bound(WHAT, text.len(), max)?;
        let lines = text.strip_suffix('\n').ok_or_else(|| bad(WHAT, "it does not end with a line feed"))?;
        let mut lines = lines.split('\n');
        let mut next = |name: &str| {
            lines.next().filter(|l| !l.is_empty()).ok_or_else(|| bad(WHAT, format!("no {name}")))
        };
        let origin = next("origin")?.to_owned();
        bound("origin", origin.len(), NAME_BYTES_MAX)?;
        let size = decimal(next("size")?)
            .ok_or_else(|| bad(WHAT, "the size is not a decimal number without leading zeros"))?;
        let root = hash_from_base64(next("root hash")?)
            .ok_or_else(|| bad(WHAT, "the root hash is not 32 bytes in base64"))?;
        let extensions: Vec<_> = lines.map(str::to_owned).collect();
        bound("number of extension lines", extensions.len(), EXTENSIONS_MAX)?;
        for line in &extensions {
            bound("extension line", line.len(), EXTENSION_BYTES_MAX)?;
            if line.is_empty() {
                return Err(bad(WHAT, "an extension line is empty"));
            }
        }
        if text.bytes().any(|b| b < 0x20 && b != b'\n') {
            return Err(bad(WHAT, "it has control characters"));
        }
        Ok(Self { origin, size, root, extensions })
    }

    /// EIP-712 digest that the node's account signs, and the account. See [`account_digest`].
    ///
    /// # Errors
    /// [`TypesError::Encoding`] when the origin is no [`NodeOrigin`], or there are extension lines, which the digest would
    /// not cover.
    pub fn account_digest(&self) -> Result<(Address, B256), TypesError> {
        let origin: NodeOrigin = self.origin.parse()?;
        if !self.extensions.is_empty() {
            return Err(bad("checkpoint", "an account's signature does not cover extension lines"));
        }
        Ok((origin.node, account_digest(origin.chain_id, origin.genesis, origin.node, self.size, self.root)))
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, hash_to_base64(&self.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

mod typed {
    alloy_sol_types::sol! {
        /// EIP-712 form of a node's checkpoint.
        struct Checkpoint {
            address node;
            uint64 size;
            bytes32 root;
        }
    }
}

/// What a node's account signs about its log: EIP-712 type `Checkpoint(address node,uint64 size,bytes32 root)` in the
/// domain with name `og log`, version `1`, the network's chain id and, as salt, the hash of its genesis block, so that a
/// contract can read it. Two signatures for one size and different roots convict the node; those of two networks do not
/// contradict each other.
pub fn account_digest(chain_id: u64, genesis: B256, node: Address, size: u64, root: B256) -> B256 {
    let domain = Eip712Domain::new(
        Some("og log".into()),
        Some("1".into()),
        Some(U256::from(chain_id)),
        None,
        Some(genesis),
    );
    typed::Checkpoint { node, size, root }.eip712_signing_hash(&domain)
}

/// Name of a node's log: `og/<chain id>/<genesis hash>/<node>`, hexadecimal in lower case without `0x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeOrigin {
    /// EIP-155 chain id of the network.
    pub chain_id: u64,
    /// Hash of the network's genesis block.
    pub genesis: B256,
    /// The node's account.
    pub node: Address,
}

impl NodeOrigin {
    /// Name of the key with which this node witnesses other logs: the origin and `/witness`.
    pub fn witness_name(&self) -> String {
        format!("{self}/witness")
    }
}

impl fmt::Display for NodeOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "og/{}/{}/{}", self.chain_id, hex::encode(self.genesis), hex::encode(self.node))
    }
}

impl FromStr for NodeOrigin {
    type Err = TypesError;

    fn from_str(text: &str) -> Result<Self, TypesError> {
        let read = || {
            let mut parts = text.strip_prefix("og/")?.split('/');
            let origin = Self {
                chain_id: decimal(parts.next()?)?,
                genesis: B256::try_from(hex::decode(parts.next()?).ok()?.as_slice()).ok()?,
                node: Address::try_from(hex::decode(parts.next()?).ok()?.as_slice()).ok()?,
            };
            // Upper case, `0x` and a fifth part end here.
            (origin.to_string() == text).then_some(origin)
        };
        bound("origin", text.len(), NAME_BYTES_MAX)?;
        read().ok_or_else(|| {
            bad(
                "origin of a node's log",
                "expected og/<chain id>/<genesis hash>/<node>, lower case without 0x",
            )
        })
    }
}
