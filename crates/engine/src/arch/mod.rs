//! Model architectures, one file each.

pub(crate) mod llama;

use kernels::{Activations, Isa, Pool};

/// Keys and values of one sequence, `[layer]` of `[position][kv width]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvCache {
    pub(crate) keys: Vec<Vec<f32>>,
    pub(crate) values: Vec<Vec<f32>>,
    /// Positions that are filled.
    pub(crate) positions: usize,
}

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Which cache of the batch it belongs to.
    pub(crate) sequence: usize,
    pub(crate) token: u32,
    /// Its position in the sequence; rows of one sequence come in ascending order without gaps.
    pub(crate) position: usize,
    /// Whether logits are needed after it.
    pub(crate) wants_logits: bool,
}

/// What the output head gives for the rows that want logits, in their order.
#[derive(Debug)]
pub(crate) struct Heads {
    /// `[row][vocabulary]`.
    pub(crate) logits: Vec<Vec<f32>>,
    /// The quantised rows that entered the head.
    pub(crate) inputs: Activations,
}

/// Where and how kernels run.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
}
