use alloy_primitives::Bytes;
use serde::{Deserialize, Serialize};

/// What a node sends after an answer: the receipt, and the token ids behind its commitments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Canonical bytes of the [`Receipt`](crate::Receipt).
    pub receipt: Bytes,
    /// Token ids of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Generated token ids.
    pub output_tokens: Vec<u32>,
}
