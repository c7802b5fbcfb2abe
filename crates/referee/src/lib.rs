//! The referee of disputes: which of two parties is right about an answer, decided by computing a single element.
//!
//! **Problem.** A node signed a claim about an answer; somebody who computed the same answer again found another one. Nobody can compute a whole answer on
//! the ledger, and nobody's word counts.
//!
//! **Design.** The claim commits to the trace: for every position the token fed there and the rows that every layer kept and gave. In a [`Game`]
//! the challenger names the first thing in the trace that differs from its own: a position, then a layer's row (or the token chosen
//! there). The node then commits to every vector between that row and the one before ([`Program`] lists them, one for each operator), and the challenger names the first
//! vector and the first element that differ. Everything that this element is computed from is now agreed on or committed to, so
//! the challenger opens it (weights under the model id, earlier vectors under the node's own commitments) and [`eval`]
//! computes the element. If the node's is the same, the node wins; else the challenger.
//!
//! **Guarantees.** Whoever computes by `kernels/SPEC.md` wins every game as long as it moves in time: an honest node's elements are
//! what `eval` gives for any inputs that open its own commitments, and an honest challenger's first difference has inputs that both agree on.
//! A step needs kilobytes, however large the model is. No byte from outside causes a panic or an allocation that its own size does not justify.
//!
//! **Limits.** Answers of one choice by decoders: several answers and embeddings are not played. What a grammar allows is the node's
//! word here; whether text, tokens and grammar fit together is for auditors to judge.
//!
//! **What you may not do here.** I/O, clocks, randomness, floats outside `kernels`' rules, or naming a ledger.

mod error;
mod eval;
mod game;
mod moves;
mod program;
mod sampling;
mod shape;
mod witness;

pub use error::RefereeError;
pub use eval::{Reader, TensorKind, eval};
pub use game::{Game, Outcome, Party, Phase, Target, TargetKind};
pub use moves::{Move, Opening};
pub use program::{CELL_CHUNK, Op, OpKind, Program};
pub use shape::{LayerShape, RopeShape, Shape};
pub use witness::{
    CellsOpening, LeafOpening, RowKind, RowOpening, TENSOR_CHUNK, TensorOpening, Witness, leaf_digest,
    tensor_leaf,
};
