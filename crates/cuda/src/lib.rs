//! The exact arithmetic on NVIDIA GPUs: whole forward passes of a decoder, with the bits of `kernels`.
//!
//! **Problem.** A GPU is an order of magnitude faster than a CPU, but only worth having here if an auditor with a laptop still gets
//! the same tokens and the same trace.
//!
//! **Design.** The integer sums of a block of 32 run on the tensor cores, which are exact; everything in f32 is single multiplications and
//! additions in the order of `SPEC.md`. Only rows, tokens, heads, positions and elements run in parallel; no float sum is split. The kernels
//! (`kernels/*.cuh`) are compiled to PTX beforehand, so that a program needs the driver and no toolkit; the driver is looked for at run time. Trace
//! rows are hashed on the device. The same text of the kernels runs under an emulator (`emulator/`) where there is no GPU.
//!
//! **Guarantees.** The same bits as `kernels` on every GPU of compute capability 8.0 or newer; `og bench gpu` compares first and measures then.
//!
//! **What you may not do here.** What `kernels` forbids; split the sum of an output between threads; flush denormals; contract operations.
//! Besides `kernels` this is the only crate that may contain `unsafe`; every block has its safety argument.

mod arguments;
mod attend;
pub mod check;
mod decoder;
mod driver;
mod forward;
mod product;
mod profile;
mod tiling;
mod weights;

pub use decoder::{BIASES_MAX, Decoder, Layer, Model, Output, Step, StepRow};
pub use driver::{CudaError, Gpu, device_copy_rate};
