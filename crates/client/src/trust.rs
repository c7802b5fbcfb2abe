//! Where a reader's trust begins.

use crate::{check::Checks, light::Checkpoint};
use alloy_primitives::B256;

/// What the reader of a proof trusts, and when they read it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust {
    /// Genesis hash of the network that is meant.
    pub network: Option<B256>,
    /// A final block that the reader trusts; without one, trust begins with the first validators.
    pub checkpoint: Option<Checkpoint>,
    /// Seconds since the Unix epoch, to say how old keys are. A library does not look at the clock by itself.
    pub now: Option<u64>,
}

impl Trust {
    /// Trust in a network from its first block on.
    pub fn from_genesis(network: B256) -> Self {
        Self { network: Some(network), ..Self::default() }
    }

    /// Records whether a proof is about the network that the reader means.
    pub(crate) fn record_pin(&self, checks: &mut Checks, name: B256) {
        match self.network {
            Some(pin) if pin == name => checks.record("pin", Ok("this is the network that you named".into())),
            Some(pin) => checks.record("pin", Err(format!("this is network {name}, you named {pin}"))),
            // A checkpoint says which block is final, not which contracts are meant: the genesis block does.
            None if self.checkpoint.is_some() => checks.record(
                "pin",
                Err(format!("a checkpoint needs the network that it belongs to: add --network {name} if you trust that")),
            ),
            None => checks.note(
                "pin",
                format!("you trust that genesis {name} is the network you mean; name it with --network to be sure"),
            ),
        }
    }
}
