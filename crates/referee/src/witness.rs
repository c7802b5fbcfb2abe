//! The part of a computation that one step needs, opened from what the parties are committed to.

use crate::{CELL_CHUNK, Program, Reader, RefereeError, TensorKind};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use std::{borrow::Cow, collections::BTreeMap, ops::Range};
use types::{B256, Bias, Bytes, Options, keccak256, merkle, opening::RangeOpening};

/// Bytes of one leaf of a tensor's Merkle tree (`kernels/SPEC.md`, section 7).
pub const TENSOR_CHUNK: usize = 1 << 10;

/// Which of a layer's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    /// Keys and values that are kept.
    Kept,
    /// The layer's output.
    Output,
}

/// Some bytes of a vector, under the node's commitment.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct CellsOpening {
    /// Index of the vector.
    pub op: u64,
    /// The bytes.
    pub opening: RangeOpening,
}

/// Some bytes of a tensor, under the model's weights root.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct TensorOpening {
    /// The tensor's name.
    pub name: String,
    /// GGUF's number of its type.
    pub kind: u32,
    /// Dimensions, fastest first.
    pub dims: Vec<u64>,
    /// Root over its bytes.
    pub root: B256,
    /// Its place among the tensors in order of name.
    pub index: u64,
    /// Number of tensors.
    pub count: u64,
    /// Path from its leaf to the weights root.
    pub path: Vec<B256>,
    /// Number of its bytes.
    pub len: u64,
    /// The bytes.
    pub opening: RangeOpening,
}

/// A position's leaf of the trace.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct LeafOpening {
    /// The position.
    pub position: u64,
    /// Data of the leaf.
    pub data: Bytes,
    /// Path to the trace root.
    pub path: Vec<B256>,
}

/// A row whose digest is in an opened leaf.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct RowOpening {
    /// The position.
    pub position: u64,
    /// The layer.
    pub layer: u64,
    /// Whether it is the output, not the keys and values.
    pub output: bool,
    /// The row.
    pub bytes: Bytes,
}

/// Everything that one element is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Witness {
    /// Parts of earlier vectors.
    pub cells: Vec<CellsOpening>,
    /// Parts of tensors.
    pub tensors: Vec<TensorOpening>,
    /// Leaves of the trace.
    pub leaves: Vec<LeafOpening>,
    /// Rows of the trace.
    pub rows: Vec<RowOpening>,
    /// Divisors of the rotary table that is needed; empty when none is.
    pub divisors: Bytes,
    /// RLP of the claim's options; empty when they are not needed.
    pub options: Bytes,
}

/// Leaf hash of a tensor (`kernels/SPEC.md`, section 7).
pub fn tensor_leaf(name: &str, kind: u32, dims: &[u64], root: &B256) -> B256 {
    let mut leaf = Vec::with_capacity(44 + name.len() + dims.len() * 8);
    leaf.extend_from_slice(&(name.len() as u32).to_be_bytes());
    leaf.extend_from_slice(name.as_bytes());
    leaf.extend_from_slice(&kind.to_be_bytes());
    leaf.extend_from_slice(&(dims.len() as u32).to_be_bytes());
    for d in dims {
        leaf.extend_from_slice(&d.to_be_bytes());
    }
    leaf.extend_from_slice(root.as_slice());
    merkle::leaf_hash(&leaf)
}

/// The digest that a leaf's data holds for a row.
pub fn leaf_digest(data: &[u8], layer: usize, kind: RowKind) -> Option<&[u8]> {
    let at = 8 + layer * 64 + if kind == RowKind::Output { 32 } else { 0 };
    data.get(at..at + 32)
}

/// What a witness opens, after every opening was checked.
pub(crate) struct Opened<'a> {
    witness: &'a Witness,
    leaves: BTreeMap<u64, &'a [u8]>,
    /// `None` when the claim commits to some that are not opened.
    options: Option<Options>,
    divisors_of: Vec<B256>,
}

/// What the parties are committed to.
pub(crate) struct Commitments<'a> {
    pub(crate) trace_root: B256,
    pub(crate) positions: u64,
    pub(crate) roots: &'a [B256],
    pub(crate) options: B256,
}

impl<'a> Opened<'a> {
    pub(crate) fn new(
        witness: &'a Witness,
        program: &Program,
        bound: &Commitments<'_>,
    ) -> Result<Self, RefereeError> {
        let wrong = |what: &str| Err(RefereeError::Missing(format!("{what} as it was committed to")));
        for c in &witness.cells {
            let op =
                usize::try_from(c.op).ok().and_then(|i| Some((program.ops.get(i)?, bound.roots.get(i)?)));
            let Some((op, root)) = op else { return wrong("a vector") };
            if c.opening.root(op.bytes() as u64, CELL_CHUNK)? != *root {
                return wrong("a vector");
            }
        }
        for t in &witness.tensors {
            let leaf = tensor_leaf(&t.name, t.kind, &t.dims, &t.root);
            if merkle::root_from_range(&[leaf], t.index, t.count, &t.path)? != program.shape.weights_root
                || t.opening.root(t.len, TENSOR_CHUNK)? != t.root
            {
                return wrong("a tensor");
            }
        }
        let mut leaves = BTreeMap::new();
        for l in &witness.leaves {
            let hash = merkle::leaf_hash(&l.data);
            if merkle::root_from_range(&[hash], l.position, bound.positions, &l.path)? != bound.trace_root {
                return wrong("a leaf of the trace");
            }
            leaves.insert(l.position, l.data.as_ref());
        }
        for r in &witness.rows {
            let kind = if r.output { RowKind::Output } else { RowKind::Kept };
            let digest = leaves.get(&r.position).and_then(|d| leaf_digest(d, r.layer as usize, kind));
            if digest != Some(blake3::hash(&r.bytes).as_bytes().as_slice()) {
                return wrong("a row of the trace");
            }
        }
        let options = match witness.options.is_empty() {
            // Nothing needs to be opened when there are none.
            true if bound.options.is_zero() => {
                Some(Options { salt: B256::ZERO, biases: Vec::new(), grammar: false })
            }
            true => None,
            false => {
                let options = Options::decode(&witness.options)?;
                if Options::commitment(Some(&options)) != bound.options {
                    return wrong("the options");
                }
                Some(options)
            }
        };
        let divisors_of = program.shape.ropes.iter().map(|r| r.divisors).collect();
        Ok(Self { witness, leaves, options, divisors_of })
    }

    fn options(&self) -> Result<&Options, RefereeError> {
        self.options.as_ref().ok_or_else(|| RefereeError::Missing("the options".into()))
    }
}

impl Reader for Opened<'_> {
    fn cells(&self, op: usize, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError> {
        let mut parts = self.witness.cells.iter().filter(|c| c.op == op as u64);
        let found = parts.find_map(|c| c.opening.get(range.clone(), CELL_CHUNK));
        found
            .map(Cow::Borrowed)
            .ok_or_else(|| RefereeError::Missing(format!("bytes {range:?} of vector {op}")))
    }

    fn tensor(&self, name: &str) -> Result<(TensorKind, Vec<u64>), RefereeError> {
        let found = self.witness.tensors.iter().find(|t| t.name == name);
        let found = found.and_then(|t| Some((TensorKind::from_number(t.kind)?, t.dims.clone())));
        found.ok_or_else(|| RefereeError::Missing(format!("the tensor {name}")))
    }

    fn weights(&self, name: &str, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError> {
        let mut parts = self.witness.tensors.iter().filter(|t| t.name == name);
        let found = parts.find_map(|t| t.opening.get(range.clone(), TENSOR_CHUNK));
        found.map(Cow::Borrowed).ok_or_else(|| RefereeError::Missing(format!("bytes {range:?} of {name}")))
    }

    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Cow<'_, [u8]>, RefereeError> {
        let is = |r: &&RowOpening| {
            (r.position, r.layer, r.output) == (position as u64, layer as u64, kind == RowKind::Output)
        };
        let found = self.witness.rows.iter().find(is).map(|r| Cow::Borrowed(r.bytes.as_ref()));
        found.ok_or_else(|| RefereeError::Missing(format!("the row of layer {layer} at {position}")))
    }

    fn token(&self, position: usize) -> Result<u32, RefereeError> {
        let data = self.leaves.get(&(position as u64)).and_then(|d| d.get(4..8)?.try_into().ok());
        data.map(u32::from_be_bytes).ok_or_else(|| RefereeError::Missing(format!("the token at {position}")))
    }

    fn divisors(&self, rope: usize) -> Result<Cow<'_, [u8]>, RefereeError> {
        let bytes = &self.witness.divisors;
        match self.divisors_of.get(rope) {
            Some(hash) if keccak256(bytes) == *hash => Ok(Cow::Borrowed(bytes)),
            _ => Err(RefereeError::Missing(format!("the divisors of rotary table {rope}"))),
        }
    }

    fn biases(&self) -> Result<Vec<Bias>, RefereeError> {
        Ok(self.options()?.biases.clone())
    }

    fn grammar(&self) -> Result<bool, RefereeError> {
        Ok(self.options()?.grammar)
    }
}
