//! What is computed between two rows of a trace, operator by operator.

use crate::{Shape, Target, TargetKind, sampling};
use types::Sampling;

/// Bytes of one leaf of a vector's Merkle tree.
pub const CELL_CHUNK: usize = 256;

/// Cells of one step of a scan.
pub(crate) const SCAN: usize = 1024;
/// Positions of one step of the weighted sum of values.
pub(crate) const MIX: usize = 64;

/// What a vector is. Numbers are indices of earlier vectors; elements are f32 unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are the inputs, in the order of the formula.
pub enum OpKind {
    /// The row of weights of the token that was fed, widened and scaled.
    Embed,
    /// The output of a layer at this position, as the trace commits to it.
    Row { layer: usize },
    /// `1 / sqrt(mean square + eps)` of each segment of `n` elements.
    Inverse { x: usize, n: usize },
    /// RMSNorm of one row.
    Norm { x: usize, inverse: usize, gain: String },
    /// RMSNorm of query and key heads; values pass.
    HeadNorm { x: usize, inverse: usize, layer: usize },
    /// Blocks of 32: f32 scale, 32 int8 (36 bytes a cell).
    Quantise { x: usize },
    /// Matrix product; the matrices' rows lie one behind the other.
    Product { x: usize, k: usize, parts: Vec<(String, usize)> },
    /// `x + bias`.
    Bias { x: usize, parts: Vec<(String, usize)> },
    /// Rotary positions of query and key heads; values pass.
    Rope { x: usize, layer: usize },
    /// Keys and values of this position as f16 (2 bytes a cell).
    Halves { x: usize },
    /// Keys (or values) of all positions that are seen, as the trace commits to them: `[head][position]`, a cell is a head's row of f16.
    Gather { layer: usize, values: bool },
    /// Scaled and capped scores, `[head][position]`.
    Scores { rope: usize, keys: usize },
    /// Largest score so far, `[head][step]`.
    Largest { scores: usize },
    /// `exp(score - largest)`, `[head][position]`.
    Exps { scores: usize, largest: usize },
    /// Sixteen partial sums so far, `[head][step]` (64 bytes a cell).
    Lanes { exps: usize },
    /// One over the sum, `[head]`.
    Total { lanes: usize },
    /// Weighted sum of values so far, `[head][step][element]`.
    Mix { exps: usize, values: usize },
    /// The sum times one over the total, `[head][element]`.
    Attended { mix: usize, total: usize },
    /// `a + b`.
    Add { a: usize, b: usize },
    /// `f(gate) * up`.
    Gated { x: usize },
    /// Soft cap of logits.
    Softcap { x: usize },
    /// BLAKE3 of a whole vector (one cell of 32 bytes): what the trace commits to.
    Commit { x: usize },
    /// Tokens generated before (u32 little-endian).
    History,
    /// Logits with biases and penalties.
    Adjusted { x: usize, history: Option<usize> },
    /// What a grammar allows (bytes, a bit a token): the node's word.
    Mask,
    /// Logits, minus infinity where not allowed.
    Masked { x: usize, mask: usize },
    /// Index (u32) and value of the largest logit so far (8 bytes a cell).
    Best { x: usize },
    /// `exp((logit - largest) / temperature)`, or -1 for a token that left.
    Weight { x: usize, best: usize },
    /// Tokens that did not leave, best first (u32), `u32::MAX` behind the last.
    Order { x: usize },
    /// Weights behind top-k and min-p, -1 for a token that left.
    Kept { x: usize, weight: usize, order: usize },
    /// Sum of the weights so far by ascending id.
    Sum { x: usize },
    /// Sum of the weights so far in order.
    Below { order: usize, kept: usize },
    /// First rank that reaches top-p's goal, of those so far (u32), `u32::MAX` for none.
    Cut { order: usize, kept: usize, below: usize, sum: usize },
    /// Weights behind top-p.
    Final { x: usize, order: usize, kept: usize, cut: usize },
    /// Token that is drawn and last token that was kept, of those so far (two u32), `u32::MAX` for none.
    Draw { weights: usize, sum: usize },
    /// The token (u32 little-endian) from what was drawn or is best.
    Token { best: usize, draw: Option<usize> },
}

/// One vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// How its elements are computed.
    pub kind: OpKind,
    /// Number of elements.
    pub cells: usize,
    /// Bytes of an element.
    pub size: usize,
}

impl Op {
    /// Bytes of the whole vector.
    pub fn bytes(&self) -> usize {
        self.cells * self.size
    }
}

/// All vectors between what a target is computed from and the target, inputs before outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The model's sizes.
    pub shape: Shape,
    /// Position of the computation.
    pub position: usize,
    /// Number of prompt tokens.
    pub prompt: usize,
    /// First position that attention sees.
    pub from: usize,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// The vectors.
    pub ops: Vec<Op>,
}

impl Program {
    /// The program of a target in an answer with `prompt` prompt tokens. `options`: whether the claim commits to any.
    pub fn new(shape: Shape, target: &Target, prompt: usize, sampling: Sampling, options: bool) -> Self {
        let position = target.position as usize;
        let mut p = Self { shape, position, prompt, from: 0, sampling, ops: Vec::new() };
        match target.kind {
            TargetKind::Kept => p.kept(target.layer as usize),
            TargetKind::Output => p.output(target.layer as usize),
            TargetKind::Token => sampling::program(&mut p, options),
        }
        p
    }

    /// Positions that attention sees.
    pub fn seen(&self) -> usize {
        self.position + 1 - self.from
    }

    pub(crate) fn push(&mut self, kind: OpKind, cells: usize, size: usize) -> usize {
        self.ops.push(Op { kind, cells, size });
        self.ops.len() - 1
    }

    /// RMSNorm of a row and its quantisation.
    pub(crate) fn normed(&mut self, x: usize, gain: String) -> usize {
        let width = self.shape.width;
        let inverse = self.push(OpKind::Inverse { x, n: width }, 1, 4);
        self.push(OpKind::Norm { x, inverse, gain }, width, 4)
    }

    pub(crate) fn product(&mut self, x: usize, k: usize, parts: Vec<(String, usize)>) -> usize {
        let x = self.push(OpKind::Quantise { x }, k / 32, 36);
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        self.push(OpKind::Product { x, k, parts }, rows, 4)
    }

    /// Up to rotated queries and keys: (the row that comes in, queries with keys and values).
    fn rotated(&mut self, layer: usize) -> (usize, usize) {
        let (width, query, kv, heads) = (
            self.shape.width,
            self.shape.query_width(),
            self.shape.kv_width(),
            self.shape.heads + self.shape.kv_heads,
        );
        let head_width = self.shape.head_width;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let input = match layer {
            0 => self.push(OpKind::Embed, width, 4),
            _ => self.push(OpKind::Row { layer: layer - 1 }, width, 4),
        };
        let normed = self.normed(input, name("attn_norm.weight"));
        let split = |suffix: &str| {
            vec![
                (name(&format!("attn_q.{suffix}")), query),
                (name(&format!("attn_k.{suffix}")), kv),
                (name(&format!("attn_v.{suffix}")), kv),
            ]
        };
        let parts = match self.shape.fused_qkv {
            true => vec![(name("attn_qkv.weight"), query + 2 * kv)],
            false => split("weight"),
        };
        let mut x = self.product(normed, width, parts);
        if self.shape.qkv_biases {
            x = self.push(OpKind::Bias { x, parts: split("bias") }, query + 2 * kv, 4);
        }
        if self.shape.head_norms {
            let inverse = self.push(OpKind::Inverse { x, n: head_width }, heads, 4);
            x = self.push(OpKind::HeadNorm { x, inverse, layer }, query + 2 * kv, 4);
        }
        (input, self.push(OpKind::Rope { x, layer }, query + 2 * kv, 4))
    }

    fn kept(&mut self, layer: usize) {
        let (_, x) = self.rotated(layer);
        let x = self.push(OpKind::Halves { x }, 2 * self.shape.kv_width(), 2);
        self.push(OpKind::Commit { x }, 1, 32);
    }

    fn output(&mut self, layer: usize) {
        if let Some(window) = self.shape.layers[layer].window {
            self.from = (self.position + 1).saturating_sub(window);
        }
        let (input, rope) = self.rotated(layer);
        let attended = self.attention(layer, rope);
        let (width, hidden, query) = (self.shape.width, self.shape.hidden, self.shape.query_width());
        let name = |part: &str| format!("blk.{layer}.{part}");
        let mut y = self.product(attended, query, vec![(name("attn_output.weight"), width)]);
        if self.shape.post_norms {
            y = self.normed(y, name("post_attention_norm.weight"));
        }
        let middle = self.push(OpKind::Add { a: input, b: y }, width, 4);
        let normed = self.normed(middle, name("ffn_norm.weight"));
        let parts = match self.shape.fused_gate_up {
            true => vec![(name("ffn_up.weight"), 2 * hidden)],
            false => vec![(name("ffn_gate.weight"), hidden), (name("ffn_up.weight"), hidden)],
        };
        let x = self.product(normed, width, parts);
        let gated = self.push(OpKind::Gated { x }, hidden, 4);
        let mut y = self.product(gated, hidden, vec![(name("ffn_down.weight"), width)]);
        if self.shape.post_norms {
            y = self.normed(y, name("post_ffw_norm.weight"));
        }
        let x = self.push(OpKind::Add { a: middle, b: y }, width, 4);
        self.push(OpKind::Commit { x }, 1, 32);
    }

    fn attention(&mut self, layer: usize, rope: usize) -> usize {
        let (heads, kv_heads, width) = (self.shape.heads, self.shape.kv_heads, self.shape.head_width);
        let seen = self.seen();
        let steps = seen.div_ceil(SCAN);
        let keys = self.push(OpKind::Gather { layer, values: false }, kv_heads * seen, width * 2);
        let values = self.push(OpKind::Gather { layer, values: true }, kv_heads * seen, width * 2);
        let scores = self.push(OpKind::Scores { rope, keys }, heads * seen, 4);
        let largest = self.push(OpKind::Largest { scores }, heads * steps, 4);
        let exps = self.push(OpKind::Exps { scores, largest }, heads * seen, 4);
        let lanes = self.push(OpKind::Lanes { exps }, heads * steps, 64);
        let total = self.push(OpKind::Total { lanes }, heads, 4);
        let mix = self.push(OpKind::Mix { exps, values }, heads * seen.div_ceil(MIX) * width, 4);
        self.push(OpKind::Attended { mix, total }, heads * width, 4)
    }
}
