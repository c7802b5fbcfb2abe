//! What bounds a call that nobody pays for: its gas, whoever waits for it, and the size of its trace.

use crate::{Ledger, LedgerError};
use revm::{
    Inspector,
    context::ContextTr,
    interpreter::{
        CallInputs, CallOutcome, CreateInputs, CreateOutcome, InstructionResult, Interpreter,
        interpreter::EthInterpreter, interpreter_types::MemoryTr as _,
    },
};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most gas of one query, whatever it asks for or overrides. geth's default (`--rpc.gascap`).
pub const QUERY_GAS_MAX: u64 = 50_000_000;
/// Most memory of a trace in bytes, by the estimate below. Its JSON is several times smaller.
pub(crate) const TRACE_BYTES_MAX: usize = 128 << 20;
/// What a recorded step or call takes besides stack, memory and data.
const RECORD_BYTES: usize = 512;

/// Runs calls that are not transactions: bounded in gas, and ended by a flag.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) stop: &'a AtomicBool,
}

impl Ledger {
    /// Queries that end soon after `stop` becomes true: before the next instruction of the EVM, so a running precompile ends first.
    pub fn queries<'a>(&'a self, stop: &'a AtomicBool) -> Queries<'a> {
        Queries { ledger: self, stop }
    }
}

impl Queries<'_> {
    /// Fails when nobody waits for the answer any more.
    pub(crate) fn go_on(&self) -> Result<(), LedgerError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(LedgerError::Interrupted),
            false => Ok(()),
        }
    }
}

/// What a tracer keeps, so that its memory can be estimated while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Nothing that grows beyond what the gas pays for.
    Nothing,
    /// Calls with their data.
    Calls,
    /// Every step, and the whole memory with each when `memory` is set.
    Steps { memory: bool },
}

/// Ends the EVM when the flag is set or the trace becomes too large.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    stop: &'a AtomicBool,
    recorded: Recorded,
    bytes: usize,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(stop: &'a AtomicBool, recorded: Recorded) -> Self {
        Self { stop, recorded, bytes: 0 }
    }

    /// Why the EVM was ended, if it was.
    ///
    /// # Errors
    /// [`LedgerError::Interrupted`] or [`LedgerError::TraceTooLarge`].
    pub(crate) fn verdict(&self) -> Result<(), LedgerError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(LedgerError::Interrupted);
        }
        match self.bytes > TRACE_BYTES_MAX {
            true => Err(LedgerError::TraceTooLarge { max: TRACE_BYTES_MAX }),
            false => Ok(()),
        }
    }

    fn data(&mut self, bytes: usize) {
        if self.recorded != Recorded::Nothing {
            self.bytes = self.bytes.saturating_add(bytes).saturating_add(RECORD_BYTES);
        }
    }
}

impl<CTX: ContextTr> Inspector<CTX, EthInterpreter> for Guard<'_> {
    fn step(&mut self, interpreter: &mut Interpreter<EthInterpreter>, _: &mut CTX) {
        if let Recorded::Steps { memory } = self.recorded {
            let kept = if memory { interpreter.memory.size() } else { 0 };
            self.bytes = self.bytes.saturating_add(RECORD_BYTES + 32 * interpreter.stack.len() + kept);
        }
        if self.bytes > TRACE_BYTES_MAX || self.stop.load(Ordering::Relaxed) {
            // Every frame ends so at its next step; what it gives is thrown away.
            interpreter.halt(InstructionResult::Revert);
        }
    }

    fn call(&mut self, _: &mut CTX, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.data(inputs.input.len());
        None
    }

    fn call_end(&mut self, _: &mut CTX, _: &CallInputs, outcome: &mut CallOutcome) {
        self.data(outcome.result.output.len());
    }

    fn create(&mut self, _: &mut CTX, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        self.data(inputs.init_code().len());
        None
    }

    fn create_end(&mut self, _: &mut CTX, _: &CreateInputs, outcome: &mut CreateOutcome) {
        self.data(outcome.result.output.len());
    }

    fn log(&mut self, _: &mut CTX, log: alloy_primitives::Log) {
        self.data(log.data.data.len());
    }
}
