//! The exact arithmetic: the same bits on every CPU, thread count and batch size.
//!
//! **Problem.** Floating-point addition is not associative, so engines that sum in a different order on
//! different machines give different answers, and nobody can check an answer bit for bit.
//!
//! **Design.** Weights and activations are int8 in blocks of 32; a block's products are summed exactly in
//! i32; blocks are combined in f32 in ascending order, without fused multiply-add; reductions use 16 strided partial sums and
//! a fixed tree; `exp` is a polynomial; keys and values are f16. Only rows, heads and tokens run in parallel, so no sum is ever split. The text
//! that another team can implement from is `SPEC.md`; its version is [`ARITHMETIC_VERSION`].
//!
//! **Guarantees.** Every function gives equal bits for every [`Isa`]; the tests compare each with the scalar reference.
//!
//! **What you may not do here.** Use `f32::exp`, `sin`, `powf`, `mul_add`, reciprocal estimates or any sum whose order depends
//! on the machine. Besides `cuda` this is the only crate that may contain `unsafe`; every block has its safety argument.

mod activations;
mod attention;
mod float;
mod format;
mod fpenv;
mod isa;
mod kv;
mod lanes;
mod map;
mod matmul;
mod matrix;
mod ops;
mod philox;
mod pool;
pub mod reference;
mod rope;

pub use activations::Activations;
pub use attention::{Attention, AttentionRow};
pub use float::{exp, f16_to_f32, f32_to_f16, gelu_erf, gelu_tanh, silu, tanh};
pub use format::{Format, quantise_q8_0};
pub use fpenv::denormals_are_kept;
pub use isa::Isa;
pub use kv::{KvPage, KvShape, PAGE, to_halves};
pub use map::FileMap;
pub use matmul::{Linear, Mode, matmul};
pub use matrix::{Matrix, MatrixError, MatrixParts, StreamBuffer};
pub use ops::{Activation, add, argmax, dot, gated, layer_norm, rms_norm, softcap, sum};
pub use philox::{philox4x32, uniform};
pub use pool::Pool;
pub use rope::{RopeStyle, RopeTable, rope_frequency, rope_turn};

/// Version of `SPEC.md`. It is part of every model id and receipt.
pub const ARITHMETIC_VERSION: u16 = 3;

/// Elements of one quantisation block.
pub const BLOCK: usize = 32;

/// Rows of one weight panel.
pub const PANEL: usize = 16;
