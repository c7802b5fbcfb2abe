//! One element of one vector, from elements of earlier vectors, weights and rows of the trace.

use crate::{
    OpKind, Program, RefereeError, RowKind, Shape,
    program::{MIX, SCAN},
    sampling,
};
use kernels::{
    Activation, Format, Isa, RopeStyle, dot, exp, f16_to_f32, gelu_erf, gelu_tanh, reference, rope_frequency,
    rope_turn, silu, softcap, tanh, to_halves,
};
use std::{borrow::Cow, ops::Range};
use types::Bias;

/// Type of a tensor's elements, by GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// 0: f32.
    F32,
    /// 2, 8, 12, 14: blocks.
    Blocks(Format),
}

impl TensorKind {
    /// The kind with this number.
    pub fn from_number(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::F32,
            2 => Self::Blocks(Format::Q4_0),
            8 => Self::Blocks(Format::Q8_0),
            12 => Self::Blocks(Format::Q4K),
            14 => Self::Blocks(Format::Q6K),
            _ => return None,
        })
    }
}

/// Where elements are computed from: all of it for whoever computed the answer, an opened part for the referee.
pub trait Reader {
    /// Bytes of the vector `op`.
    ///
    /// # Errors
    /// [`RefereeError::Missing`], as all functions here, when they are not there.
    fn cells(&self, op: usize, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError>;
    /// Type and dimensions (fastest first) of a tensor.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn tensor(&self, name: &str) -> Result<(TensorKind, Vec<u64>), RefereeError>;
    /// Bytes of a tensor.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn weights(&self, name: &str, range: Range<usize>) -> Result<Cow<'_, [u8]>, RefereeError>;
    /// A row that the trace commits to.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Cow<'_, [u8]>, RefereeError>;
    /// The token that was fed at a position.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn token(&self, position: usize) -> Result<u32, RefereeError>;
    /// Bits of the divisors of a rotary table, big-endian.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn divisors(&self, rope: usize) -> Result<Cow<'_, [u8]>, RefereeError>;
    /// Biases of logits.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn biases(&self) -> Result<Vec<Bias>, RefereeError>;
    /// Whether a grammar was in force.
    ///
    /// # Errors
    /// As [`cells`](Self::cells).
    fn grammar(&self) -> Result<bool, RefereeError>;
}

pub(crate) fn f32_at(bytes: &[u8], i: usize) -> f32 {
    f32::from_bits(u32_at(bytes, i))
}

pub(crate) fn u32_at(bytes: &[u8], i: usize) -> u32 {
    bytes.get(i * 4..i * 4 + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn f16_at(bytes: &[u8], i: usize) -> f32 {
    bytes.get(i * 2..i * 2 + 2).map_or(0.0, |b| f16_to_f32(u16::from_le_bytes([b[0], b[1]])))
}

/// A vector's elements by type.
pub(crate) struct Cells<'a>(pub(crate) &'a dyn Reader);

impl Cells<'_> {
    pub(crate) fn all(&self, op: usize, bytes: usize) -> Result<Cow<'_, [u8]>, RefereeError> {
        self.0.cells(op, 0..bytes)
    }

    pub(crate) fn f32(&self, op: usize, i: usize) -> Result<f32, RefereeError> {
        Ok(f32_at(&self.0.cells(op, i * 4..i * 4 + 4)?, 0))
    }

    pub(crate) fn u32(&self, op: usize, i: usize) -> Result<u32, RefereeError> {
        Ok(u32_at(&self.0.cells(op, i * 4..i * 4 + 4)?, 0))
    }

    /// Element `i`, which came from outside, of `count`.
    pub(crate) fn f32_of(&self, op: usize, i: u32, count: usize) -> Result<f32, RefereeError> {
        self.u32_of(op, i, count).map(f32::from_bits)
    }

    pub(crate) fn u32_of(&self, op: usize, i: u32, count: usize) -> Result<u32, RefereeError> {
        if i as usize >= count {
            return Err(RefereeError::BadMove("an element that does not exist"));
        }
        self.u32(op, i as usize)
    }

    pub(crate) fn f32s(&self, op: usize, range: Range<usize>) -> Result<Vec<f32>, RefereeError> {
        let bytes = self.0.cells(op, range.start * 4..range.end * 4)?;
        Ok((0..range.len()).map(|i| f32_at(&bytes, i)).collect())
    }

    /// An index and a value.
    pub(crate) fn pair(&self, op: usize, i: usize) -> Result<(u32, f32), RefereeError> {
        let bytes = self.0.cells(op, i * 8..i * 8 + 8)?;
        Ok((u32_at(&bytes, 0), f32_at(&bytes, 1)))
    }

    /// Element `i` of an f32 tensor.
    fn gain(&self, name: &str, i: usize) -> Result<f32, RefereeError> {
        match self.0.tensor(name)?.0 {
            TensorKind::F32 => Ok(f32_at(&self.0.weights(name, i * 4..i * 4 + 4)?, 0)),
            TensorKind::Blocks(_) => Err(RefereeError::Shape(format!("{name} is no vector"))),
        }
    }

    /// Format and row `row` of a matrix of `k` inputs.
    fn matrix_row(&self, name: &str, row: usize, k: usize) -> Result<(Format, Cow<'_, [u8]>), RefereeError> {
        let (kind, dims) = self.0.tensor(name)?;
        let TensorKind::Blocks(format) = kind else {
            return Err(RefereeError::Shape(format!("{name} is no matrix")));
        };
        let (elements, bytes) = format.block();
        if dims.first() != Some(&(k as u64)) || !k.is_multiple_of(elements) {
            return Err(RefereeError::Shape(format!("{name} has other dimensions")));
        }
        let row_bytes = k / elements * bytes;
        Ok((format, self.0.weights(name, row * row_bytes..(row + 1) * row_bytes)?))
    }
}

/// Which matrix holds row `row` of some that lie one behind the other, and its number there.
fn part(parts: &[(String, usize)], mut row: usize) -> Result<(&str, usize), RefereeError> {
    for (name, rows) in parts {
        if row < *rows {
            return Ok((name, row));
        }
        row -= rows;
    }
    Err(RefereeError::BadMove("an element that does not exist"))
}

/// Computes element `cell` of vector `op`. `hint` matters for [`OpKind::Order`] only, where it names the token that stands in the wrong place.
///
/// # Errors
/// [`RefereeError`] when `r` lacks an input or the element does not exist.
pub fn eval(p: &Program, op: usize, cell: usize, hint: u32, r: &dyn Reader) -> Result<Vec<u8>, RefereeError> {
    let Some(vector) = p.ops.get(op).filter(|o| cell < o.cells) else {
        return Err(RefereeError::BadMove("an element that does not exist"));
    };
    let (cells, shape) = (Cells(r), &p.shape);
    let value = match &vector.kind {
        OpKind::Embed => {
            let token = r.token(p.position)? as usize;
            let (format, row) = cells.matrix_row("token_embd.weight", token, shape.width)?;
            let x = reference::element(format, &row, cell);
            shape.embedding_scale.map_or(x, |scale| x * scale)
        }
        OpKind::Row { layer } => f32_at(&r.row(p.position, *layer, RowKind::Output)?, cell),
        OpKind::Inverse { x, n } => {
            let x = cells.f32s(*x, cell * n..(cell + 1) * n)?;
            let mean = dot(&x, &x) / (*n as f32);
            1.0 / (mean + shape.eps).sqrt()
        }
        OpKind::Norm { x, inverse, gain } => {
            let (x, inverse) = (cells.f32(*x, cell)?, cells.f32(*inverse, 0)?);
            (x * inverse) * cells.gain(gain, cell)?
        }
        OpKind::HeadNorm { x, inverse, layer } => {
            let value = cells.f32(*x, cell)?;
            let head = cell / shape.head_width;
            if head < shape.heads + shape.kv_heads {
                let which = if head < shape.heads { "q" } else { "k" };
                let gain =
                    cells.gain(&format!("blk.{layer}.attn_{which}_norm.weight"), cell % shape.head_width)?;
                (value * cells.f32(*inverse, head)?) * gain
            } else {
                value
            }
        }
        OpKind::Quantise { x } => {
            let x = cells.f32s(*x, cell * 32..(cell + 1) * 32)?;
            let mut block = [0f32; 32];
            block.copy_from_slice(&x);
            let (scale, q) = reference::quantise_block(&block);
            return Ok(scale.to_le_bytes().into_iter().chain(q.map(|q| q as u8)).collect());
        }
        OpKind::Product { x, k, parts } => {
            let (name, row) = part(parts, cell)?;
            let (format, row) = cells.matrix_row(name, row, *k)?;
            let bytes = r.cells(*x, 0..k / 32 * 36)?;
            let blocks: Vec<_> = bytes
                .as_chunks::<36>()
                .0
                .iter()
                .map(|b| (f32_at(b, 0), std::array::from_fn(|i| b[4 + i] as i8)))
                .collect();
            reference::product(format, &row, &blocks)
        }
        OpKind::Bias { x, parts } => {
            let (name, i) = part(parts, cell)?;
            cells.f32(*x, cell)? + cells.gain(name, i)?
        }
        OpKind::Rope { x, layer } => rope(p, *x, *layer, cell, &cells)?,
        OpKind::Halves { x } => {
            let mut half = [0u16];
            to_halves(Isa::Scalar, &[cells.f32(*x, shape.query_width() + cell)?], &mut half);
            return Ok(half[0].to_le_bytes().to_vec());
        }
        OpKind::Gather { layer, values } => {
            let (head, seen) = (cell / p.seen(), cell % p.seen());
            let row = r.row(p.from + seen, *layer, RowKind::Kept)?;
            let bytes = shape.head_width * 2;
            let at = head * bytes + if *values { shape.kv_width() * 2 } else { 0 };
            return row
                .get(at..at + bytes)
                .map(<[u8]>::to_vec)
                .ok_or(RefereeError::BadMove("a row of another length"));
        }
        OpKind::Scores { rope, keys } => {
            let (head, seen) = (cell / p.seen(), cell % p.seen());
            let width = shape.head_width;
            let q = cells.f32s(*rope, head * width..(head + 1) * width)?;
            let at = (key_head(shape, head) * p.seen() + seen) * width * 2;
            let key = r.cells(*keys, at..at + width * 2)?;
            let mut z = 0f32;
            for (d, q) in q.iter().enumerate() {
                z += q * f16_at(&key, d);
            }
            let mut z = [z * shape.attention_scale];
            if let Some(cap) = shape.attention_cap {
                softcap(Isa::Scalar, cap, &mut z);
            }
            z[0]
        }
        OpKind::Largest { scores } => {
            let (own, head, range) = step(p, &vector.kind, cell)?;
            let mut largest = match own {
                None => f32::NEG_INFINITY,
                Some((op, before)) => cells.f32(op, before)?,
            };
            for z in cells.f32s(*scores, head * p.seen() + range.start..head * p.seen() + range.end)? {
                largest = if z > largest { z } else { largest };
            }
            largest
        }
        OpKind::Exps { scores, largest } => {
            let steps = p.seen().div_ceil(SCAN);
            let last = (cell / p.seen() + 1) * steps - 1;
            exp(cells.f32(*scores, cell)? - cells.f32(*largest, last)?)
        }
        OpKind::Lanes { exps } => {
            let (own, head, range) = step(p, &vector.kind, cell)?;
            let mut lanes = [0f32; 16];
            if let Some((op, before)) = own {
                let bytes = r.cells(op, before * 64..before * 64 + 64)?;
                lanes = std::array::from_fn(|i| f32_at(&bytes, i));
            }
            let weights = cells.f32s(*exps, head * p.seen() + range.start..head * p.seen() + range.end)?;
            for (seen, w) in range.zip(weights) {
                lanes[(p.from + seen) % 16] += w;
            }
            return Ok(lanes.iter().flat_map(|l| l.to_le_bytes()).collect());
        }
        OpKind::Total { lanes } => {
            let steps = p.seen().div_ceil(SCAN);
            let at = ((cell + 1) * steps - 1) * 64;
            let bytes = r.cells(*lanes, at..at + 64)?;
            1.0 / reference::tree(std::array::from_fn(|i| f32_at(&bytes, i)))
        }
        OpKind::Mix { exps, values } => {
            let (width, steps) = (shape.head_width, p.seen().div_ceil(MIX));
            let (head, at, i) = (cell / (steps * width), cell / width % steps, cell % width);
            let mut a = match at {
                0 => 0.0,
                _ => cells.f32(p.index_of(&vector.kind)?, cell - width)?,
            };
            let range = at * MIX..p.seen().min((at + 1) * MIX);
            let weights = cells.f32s(*exps, head * p.seen() + range.start..head * p.seen() + range.end)?;
            let first = key_head(shape, head) * p.seen();
            let values =
                r.cells(*values, (first + range.start) * width * 2..(first + range.end) * width * 2)?;
            for (j, w) in weights.iter().enumerate() {
                a += w * f16_at(&values, j * width + i);
            }
            a
        }
        OpKind::Attended { mix, total } => {
            let (width, steps) = (shape.head_width, p.seen().div_ceil(MIX));
            let (head, i) = (cell / width, cell % width);
            cells.f32(*mix, (head * steps + steps - 1) * width + i)? * cells.f32(*total, head)?
        }
        OpKind::Add { a, b } => cells.f32(*a, cell)? + cells.f32(*b, cell)?,
        OpKind::Gated { x } => {
            let (gate, up) = (cells.f32(*x, cell)?, cells.f32(*x, shape.hidden + cell)?);
            match shape.activation {
                Activation::Silu => silu(gate) * up,
                Activation::GeluTanh => gelu_tanh(gate) * up,
                Activation::GeluErf => gelu_erf(gate) * up,
            }
        }
        OpKind::Softcap { x } => {
            let cap = shape.final_cap.unwrap_or(1.0);
            cap * tanh(cells.f32(*x, cell)? / cap)
        }
        OpKind::Commit { x } => {
            let bytes = r.cells(*x, 0..p.ops[*x].bytes())?;
            return Ok(blake3::hash(&bytes).as_bytes().to_vec());
        }
        kind => return sampling::eval(p, kind, cell, hint, r),
    };
    Ok(value.to_le_bytes().to_vec())
}

fn key_head(shape: &Shape, head: usize) -> usize {
    head / (shape.heads / shape.kv_heads)
}

/// Of a scan over positions: the element before (vector and index) if there is one, the head, and the places seen in this step.
type Step = (Option<(usize, usize)>, usize, Range<usize>);

fn step(p: &Program, kind: &OpKind, cell: usize) -> Result<Step, RefereeError> {
    let steps = p.seen().div_ceil(SCAN);
    let (head, at) = (cell / steps, cell % steps);
    let before = if at == 0 { None } else { Some((p.index_of(kind)?, cell - 1)) };
    Ok((before, head, at * SCAN..p.seen().min((at + 1) * SCAN)))
}

fn rope(p: &Program, x: usize, layer: usize, cell: usize, cells: &Cells<'_>) -> Result<f32, RefereeError> {
    let shape = &p.shape;
    let (head, i) = (cell / shape.head_width, cell % shape.head_width);
    let index = shape.layers[layer].rope;
    let table = &shape.ropes[index];
    let value = cells.f32(x, cell)?;
    if head >= shape.heads + shape.kv_heads || i >= table.dims {
        return Ok(value);
    }
    let half = table.dims / 2;
    // The pair, the other element's place, and whether this is the first of the two.
    let (pair, other, first) = match table.style {
        RopeStyle::Neighbours => (i / 2, i ^ 1, i % 2 == 0),
        RopeStyle::Halves => (i % half, if i < half { i + half } else { i - half }, i < half),
    };
    let other = cells.f32(x, head * shape.head_width + other)?;
    let divisors = cells.0.divisors(index)?;
    let divisor = divisors.get(pair * 8..pair * 8 + 8).and_then(|b| b.try_into().ok());
    let divisor =
        f64::from_bits(u64::from_be_bytes(divisor.ok_or(RefereeError::BadMove("too few divisors"))?));
    let frequency = rope_frequency(pair, table.dims, table.theta, divisor);
    let (cos, sin) = rope_turn(p.position, frequency, table.magnitude);
    Ok(if first { value * cos - other * sin } else { other * sin + value * cos })
}
