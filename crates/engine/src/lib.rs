//! The model runtime: bytes of a model file in, tokens and a trace out.
//!
//! **Problem.** An answer can only be checked if anyone can compute it again, bit for bit, on another machine, alone or in
//! another batch. And a model file comes from strangers.
//!
//! **Design.** All arithmetic is `kernels`. A [`Model`] is loaded from a GGUF file; its [`types::ModelManifest`] hashes all
//! that decides its answers. An [`Engine`] runs many jobs in one batch on one scheduler thread; every row of a batch is
//! computed by itself, so answers do not depend on who else is served. [`replay`] checks a finished answer.
//!
//! **Guarantees.** Same model id, prompt, sampling parameters and seed give the same tokens and the same trace root on every
//! machine. A hostile file gives an error, never a panic or an allocation that the file's own size does not justify.
//!
//! **What you may not do here.** HTTP, chains, async, clocks, or randomness that is not in the job.

mod arch;
pub mod bench;
mod constraint;
pub mod dispute;
mod error;
pub mod formats;
mod kv;
mod model;
mod replay;
mod sampler;
mod scheduler;
mod template;
mod tokenizer;
mod trace;

pub use arch::device::DeviceChoice;
pub use constraint::{Constraint, GRAMMAR_VERSION};
pub use error::EngineError;
pub use model::{ChatMessage, Model, Progress, Role, ToolCall};
pub use replay::{Replay, replay, replay_on, replay_with_logprobs};
pub use sampler::{Choosing, TokenLogprobs};
pub use scheduler::{
    Completion, Engine, EngineConfig, Event, FinishReason, Job, OnEmbedding, OnEvent, Stats,
};
pub use tokenizer::{TextDecoder, Tokenizer};
