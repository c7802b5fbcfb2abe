use super::{TensorStore, Trace};
use crate::{EngineError, Model};
use referee::{
    CELL_CHUNK, CellsOpening, LeafOpening, OpKind, Program, Reader, RefereeError, RowKind, RowOpening,
    TensorKind, Witness, eval,
};
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use types::{
    B256, Bias, Options, merkle,
    opening::{RangeOpening, chunk_hashes, range_path_of},
};

/// What a computation is made from.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a TensorStore,
    /// Rows and tokens that the computation goes on from.
    pub trace: &'a dyn Trace,
    /// Biases and grammar.
    pub options: Option<&'a Options>,
    /// Which tokens a grammar allows at the disputed place, a bit a token.
    pub mask: Option<&'a [u8]>,
}

impl std::fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inputs of {:?}", self.model)
    }
}

/// All vectors of a program.
#[derive(Debug)]
pub struct Table {
    /// What was computed.
    pub program: Program,
    /// Bytes of each vector.
    pub vectors: Vec<Vec<u8>>,
    /// Leaf hashes of each vector's chunks.
    pub hashes: Vec<Vec<B256>>,
}

/// Reads everything and notes what was read.
struct Full<'a> {
    inputs: Inputs<'a>,
    vectors: RefCell<Vec<Vec<u8>>>,
    rows: RefCell<BTreeMap<(usize, usize, RowKind), Vec<u8>>>,
    read: RefCell<Read>,
}

#[derive(Default)]
struct Read {
    cells: BTreeMap<usize, BTreeSet<(usize, usize)>>,
    tensors: BTreeMap<String, BTreeSet<(usize, usize)>>,
    tokens: BTreeSet<usize>,
    rows: BTreeSet<(usize, usize, RowKind)>,
    divisors: Option<usize>,
    options: bool,
}

fn missing(what: impl Into<String>) -> RefereeError {
    RefereeError::Missing(what.into())
}

impl Reader for Full<'_> {
    fn cells(&self, op: usize, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError> {
        self.read.borrow_mut().cells.entry(op).or_default().insert((range.start, range.end));
        let vectors = self.vectors.borrow();
        let found = vectors.get(op).and_then(|v| v.get(range));
        found.map(|b| Cow::Owned(b.to_vec())).ok_or_else(|| missing(format!("vector {op}")))
    }

    fn tensor(&self, name: &str) -> Result<(TensorKind, Vec<u64>), RefereeError> {
        self.inputs.weights.kind(name).ok_or_else(|| missing(name))
    }

    fn weights(&self, name: &str, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError> {
        let mut read = self.read.borrow_mut();
        read.tensors.entry(name.to_owned()).or_default().insert((range.start, range.end));
        self.inputs.weights.bytes(name, range).map(Cow::Borrowed).ok_or_else(|| missing(name))
    }

    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Cow<'_, [u8]>, RefereeError> {
        let key = (position, layer, kind);
        let mut read = self.read.borrow_mut();
        read.rows.insert(key);
        read.tokens.insert(position);
        let mut rows = self.rows.borrow_mut();
        if let Some(row) = rows.get(&key) {
            return Ok(Cow::Owned(row.clone()));
        }
        let row = self.inputs.trace.row(position, layer, kind).map_err(|e| missing(e.to_string()))?;
        rows.insert(key, row.clone());
        Ok(Cow::Owned(row))
    }

    fn token(&self, position: usize) -> Result<u32, RefereeError> {
        self.read.borrow_mut().tokens.insert(position);
        self.inputs.trace.token(position).ok_or_else(|| missing(format!("the token at {position}")))
    }

    fn divisors(&self, rope: usize) -> Result<Cow<'_, [u8]>, RefereeError> {
        self.read.borrow_mut().divisors = Some(rope);
        let decoder = self.inputs.model.decoder().map_err(|e| missing(e.to_string()))?;
        let rope = decoder.spec.ropes.get(rope).ok_or_else(|| missing("a rotary table"))?;
        Ok(Cow::Owned(rope.divisors.iter().flat_map(|d| d.to_bits().to_be_bytes()).collect()))
    }

    fn biases(&self) -> Result<Vec<Bias>, RefereeError> {
        self.read.borrow_mut().options = self.inputs.options.is_some();
        Ok(self.inputs.options.map(|o| o.biases.clone()).unwrap_or_default())
    }

    fn grammar(&self) -> Result<bool, RefereeError> {
        self.read.borrow_mut().options = self.inputs.options.is_some();
        Ok(self.inputs.options.is_some_and(|o| o.grammar))
    }
}

/// Decides what an element becomes: the number of its vector, its own, and what was computed.
pub type Tamper<'a> =
    dyn Fn(usize, usize, Result<Vec<u8>, RefereeError>) -> Result<Vec<u8>, RefereeError> + 'a;

/// Every element is what was computed.
pub const UNTOUCHED: &Tamper<'static> = &|_, _, value| value;

/// What the other side has shown.
pub(super) struct Theirs<'a> {
    /// Roots of its trace.
    pub(super) trace: &'a KnownRoots<'a>,
    /// The leaf of its trace that differs, and its position.
    pub(super) leaf: Option<(usize, &'a [u8])>,
    /// Roots of its disputed vector.
    pub(super) vector: &'a KnownRoots<'a>,
    /// Bytes of its disputed vector, as far as they are needed.
    pub(super) bytes: &'a [u8],
}

/// Roots of subtrees of a tree that the other side committed to.
pub(super) type KnownRoots<'a> = dyn Fn(u64, u64) -> Option<B256> + 'a;

impl Table {
    /// Computes all vectors. `tamper(vector, element, bytes)` may change an element before what follows is computed from it; honest
    /// callers give [`UNTOUCHED`].
    ///
    /// # Errors
    /// [`EngineError`] when the trace or the weights lack an input.
    pub fn build(inputs: Inputs<'_>, program: Program, tamper: &Tamper<'_>) -> Result<Self, EngineError> {
        let fault = |e: RefereeError| EngineError::Format(format!("a dispute cannot be computed: {e}"));
        let full = Full::new(inputs, Vec::new());
        for (i, op) in program.ops.iter().enumerate() {
            full.vectors.borrow_mut().push(Vec::with_capacity(op.bytes()));
            let order = match op.kind {
                OpKind::Order { x } => Some(ranks(&full.vectors.borrow()[x])),
                _ => None,
            };
            for cell in 0..op.cells {
                let value = match (&op.kind, &order) {
                    (_, Some(order)) => Ok(order[cell].to_le_bytes().to_vec()),
                    (OpKind::Mask, _) if inputs.options.is_some_and(|o| o.grammar) => {
                        Ok(vec![inputs.mask.and_then(|m| m.get(cell).copied()).unwrap_or(0)])
                    }
                    _ => eval(&program, i, cell, u32::MAX, &full),
                };
                let value = tamper(i, cell, value).map_err(fault)?;
                full.vectors.borrow_mut()[i].extend_from_slice(&value);
            }
            *full.read.borrow_mut() = Read::default();
        }
        let vectors = full.vectors.into_inner();
        let hashes = vectors.iter().map(|v| chunk_hashes(v, CELL_CHUNK)).collect();
        Ok(Self { program, vectors, hashes })
    }

    /// Roots of the vectors.
    pub fn roots(&self) -> Vec<B256> {
        self.hashes.iter().map(|h| merkle::root(h)).collect()
    }

    /// Opens all that element `cell` of vector `op` is computed from, in the other side's trees.
    pub(super) fn witness(
        &self,
        inputs: Inputs<'_>,
        (op, cell, hint): (usize, usize, u32),
        theirs: &Theirs<'_>,
    ) -> Result<Witness, EngineError> {
        let fault = |what: &str| EngineError::Format(format!("a dispute cannot be proved: {what}"));
        // The element's own vector is theirs where the two differ: elements before it are the same.
        let mut vectors = self.vectors.clone();
        vectors[op] = theirs.bytes.to_vec();
        let full = Full::new(inputs, vectors);
        eval(&self.program, op, cell, hint, &full).map_err(|e| fault(&e.to_string()))?;
        let size = self.program.ops[op].size;
        let (from, to) = (cell * size, (cell + 1) * size);
        if from / CELL_CHUNK != (to - 1) / CELL_CHUNK {
            // An element over the end of a chunk is opened whole.
            full.read.borrow_mut().cells.entry(op).or_default().insert((from, to));
        }
        let read = full.read.into_inner();
        let vectors = full.vectors.into_inner();
        let mut witness = Witness::default();
        for (i, ranges) in read.cells {
            for (from, to) in merged(ranges, CELL_CHUNK) {
                let opening = if i == op {
                    let chunks = (from / CELL_CHUNK) as u64..to.div_ceil(CELL_CHUNK) as u64;
                    let count = (vectors[i].len() as u64).div_ceil(CELL_CHUNK as u64);
                    let path = range_path_of(count, chunks.clone(), theirs.vector);
                    let end = vectors[i].len().min(chunks.end as usize * CELL_CHUNK);
                    let bytes = vectors[i][chunks.start as usize * CELL_CHUNK..end].to_vec().into();
                    let path = path.ok_or_else(|| fault("a part of their vector is unknown"))?;
                    RangeOpening { first: chunks.start, bytes, path }
                } else {
                    RangeOpening::new(&vectors[i], &self.hashes[i], CELL_CHUNK, from..to)
                };
                witness.cells.push(CellsOpening { op: i as u64, opening });
            }
        }
        for (name, ranges) in read.tensors {
            for (from, to) in merged(ranges, referee::TENSOR_CHUNK) {
                let opening = inputs.weights.open_range(&name, from..to);
                witness.tensors.push(opening.ok_or_else(|| fault(&name))?);
            }
        }
        let leaves = inputs.trace.leaves();
        for position in read.tokens {
            let at = position as u64;
            let path = range_path_of(leaves.len() as u64, at..at + 1, theirs.trace);
            let data = match theirs.leaf {
                Some((p, data)) if p == position => data.to_vec(),
                _ => leaves[position].clone(),
            };
            witness.leaves.push(LeafOpening {
                position: at,
                data: data.into(),
                path: path.ok_or_else(|| fault("a part of their trace is unknown"))?,
            });
        }
        for (position, layer, kind) in read.rows {
            let bytes = inputs.trace.row(position, layer, kind)?.into();
            let output = kind == RowKind::Output;
            witness.rows.push(RowOpening { position: position as u64, layer: layer as u64, output, bytes });
        }
        if let Some(rope) = read.divisors {
            let full = Full::new(inputs, Vec::new());
            let divisors = full.divisors(rope).map_err(|e| fault(&e.to_string()))?;
            witness.divisors = divisors.into_owned().into();
        }
        if read.options {
            witness.options = inputs.options.map(|o| o.encode().into()).unwrap_or_default();
        }
        Ok(witness)
    }
}

impl<'a> Full<'a> {
    fn new(inputs: Inputs<'a>, vectors: Vec<Vec<u8>>) -> Self {
        let vectors = RefCell::new(vectors);
        Self { inputs, vectors, rows: RefCell::default(), read: RefCell::default() }
    }
}

/// Byte ranges whose chunks touch or overlap, as one.
fn merged(ranges: BTreeSet<(usize, usize)>, chunk: usize) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (from, to) in ranges {
        match out.last_mut() {
            Some(last) if from / chunk <= last.1.div_ceil(chunk) => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

/// Tokens that did not leave, best first, `u32::MAX` behind them.
fn ranks(logits: &[u8]) -> Vec<u32> {
    let logits: Vec<f32> = logits.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut order: Vec<u32> =
        (0..logits.len() as u32).filter(|t| logits[*t as usize] > f32::NEG_INFINITY).collect();
    order.sort_unstable_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    order.resize(logits.len(), u32::MAX);
    order
}
