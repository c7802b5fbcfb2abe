//! Tools for measuring: model files of known shapes with random weights, and the engine's speed beside another program's.

mod engine;
mod ledger;
mod make_gguf;
mod random_weights;
mod rpc_flood;
mod shapes;
mod state;
mod trust;
mod vocabulary;

pub(crate) use random_weights::WeightType;
pub(crate) use shapes::ShapeName;

use crate::cli::BenchCommand;

/// Runs a subcommand of `og bench`.
///
/// # Errors
/// What went wrong and what to do about it.
pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::MakeGguf(args) => make_gguf::run(args),
        BenchCommand::Engine(args) => engine::run(args),
        BenchCommand::Ledger(args) => ledger::run(args),
        BenchCommand::RpcFlood(args) => rpc_flood::run(args),
        BenchCommand::State(args) => state::run(args),
        BenchCommand::Trust(args) => trust::run(args),
    }
}
