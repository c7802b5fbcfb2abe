//! What answers under commit and reveal need (`types::replica`).

use types::{B256, ReceiptId, Seal};

/// How a node answers as one of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTicket {
    /// Name of the group.
    pub group: B256,
    /// The claim's time, in milliseconds since the Unix epoch: prompt templates see it, so that of all nodes must be the same.
    pub time_ms: u64,
    /// The seed when the request has none.
    pub seed: u64,
}

/// An answer that is sealed, and kept back until its group has committed.
#[derive(Clone, Debug)]
pub struct Withheld {
    /// Its receipt.
    pub id: ReceiptId,
    /// Name of the group.
    pub group: B256,
    /// The response: a JSON body, or a whole SSE stream.
    pub response: String,
    /// Receipt and token ids.
    pub seal: Seal,
}
