//! Execution watched step by step: geth's `debug_trace` methods.

use crate::{
    Block, Executed, LedgerError, Overrides, RecoveredTx,
    block::Turn,
    evm::{StateView, evm, evm_error},
    execute::Run,
    guard::{Guard, Queries, Recorded},
};
use alloy_primitives::B256;
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_trace::geth::{
    GethDebugBuiltInTracerType, GethDebugTracerType, GethDebugTracingCallOptions, GethDebugTracingOptions,
    GethTrace,
};
use revm::{
    DatabaseCommit as _, InspectEvm as _,
    context::{BlockEnv, TxEnv},
    database::CacheDB,
};
use revm_inspectors::tracing::{DebugInspector, TransactionContext};

fn failed(e: impl std::fmt::Display) -> LedgerError {
    LedgerError::Call(e.to_string())
}

/// A block and everything needed to execute it again.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The block before it, with its state.
    pub parent: &'a Executed,
    /// The block.
    pub block: &'a Block,
    /// Whose turn it was.
    pub turn: &'a Turn,
}

/// What the tracer of `options` keeps. Unknown ones are taken for the worst.
fn recorded(options: &GethDebugTracingOptions) -> Recorded {
    use GethDebugBuiltInTracerType as T;
    match &options.tracer {
        None => Recorded::Steps { memory: options.config.is_memory_enabled() },
        Some(GethDebugTracerType::BuiltInTracer(
            T::CallTracer | T::FlatCallTracer | T::FourByteTracer | T::PreStateTracer | T::NoopTracer,
        )) => Recorded::Calls,
        Some(_) => Recorded::Steps { memory: true },
    }
}

impl Queries<'_> {
    /// Traces a call on the state after `at`.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when it cannot start or the options make no sense, [`LedgerError::Interrupted`] and [`LedgerError::TraceTooLarge`].
    pub fn trace_call(
        &self,
        at: &Executed,
        request: &TransactionRequest,
        options: &GethDebugTracingCallOptions,
    ) -> Result<GethTrace, LedgerError> {
        let overrides = Overrides {
            state: options.state_overrides.clone(),
            block: options.block_overrides.clone().map(Box::new),
        };
        let (prepared, tx) = self.ledger.prepare(at, request, &overrides)?;
        let env = prepared.ctx.block.clone();
        let db = prepared.ctx.journaled_state.database;
        self.inspect(db, env, tx, options.tracing_options.clone(), None).map(|(trace, _)| trace)
    }

    /// Traces the transactions of a block, or one of them.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when the options make no sense, [`LedgerError::InvalidBlock`] when the block does not fit its parent.
    pub fn trace_block(
        &self,
        replay: Replay<'_>,
        only: Option<usize>,
        options: &GethDebugTracingOptions,
    ) -> Result<Vec<(B256, GethTrace)>, LedgerError> {
        let input = replay.block.input(replay.turn);
        let mut run = Run::start(self.ledger, replay.parent, &input)?;
        let hash = replay.block.hash();
        let mut out = Vec::new();
        for (index, tx) in replay.block.transactions.iter().enumerate() {
            self.go_on()?;
            let tx = RecoveredTx::recover(tx.clone(), self.ledger.params().chain_id)?;
            if only.is_some_and(|only| only != index) {
                run.apply(&tx)?;
                continue;
            }
            let context = TransactionContext {
                block_hash: Some(hash),
                tx_hash: Some(tx.hash()),
                tx_index: Some(index),
            };
            let env = run.evm.ctx.block.clone();
            let db = std::mem::replace(
                &mut run.evm.ctx.journaled_state.database,
                CacheDB::new(StateView::default()),
            );
            let (trace, db) = self.inspect(db, env, tx.env(), options.clone(), Some(context))?;
            run.evm.ctx.journaled_state.database = db;
            out.push((tx.hash(), trace));
            if only.is_some() {
                break;
            }
        }
        Ok(out)
    }

    /// Runs a transaction under the tracer of `options`; gives the trace and the state after it.
    fn inspect(
        &self,
        db: CacheDB<StateView>,
        env: BlockEnv,
        tx: TxEnv,
        options: GethDebugTracingOptions,
        context: Option<TransactionContext>,
    ) -> Result<(GethTrace, CacheDB<StateView>), LedgerError> {
        let is_call = context.is_none();
        let guard = Guard::new(self.stop, recorded(&options));
        let inspector = DebugInspector::new(options).map_err(failed)?;
        let tune = |cfg: &mut revm::context::CfgEnv| {
            if is_call {
                crate::query::relax(cfg, &tx);
            }
        };
        let mut evm = evm(db, self.ledger.params(), self.ledger.genesis(), env.clone(), tune)
            .with_inspector((guard, inspector));
        let result = evm.inspect_tx(tx.clone()).map_err(evm_error)?;
        evm.inspector.0.verdict()?;
        let mut db = evm.ctx.journaled_state.database.clone();
        let trace = evm.inspector.1.get_result(context, &tx, &env, &result, &mut db).map_err(failed)?;
        db.commit(result.state);
        Ok((trace, db))
    }
}
