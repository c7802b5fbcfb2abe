//! `eth_simulateV1`: blocks of calls that might follow, on top of each other.

use crate::{
    Block, CallOutcome, ChainParams, Executed, LedgerError,
    block::Turn,
    evm::{StateView, block_env, evm, simulation_error},
    execute::{collect, envelope, fixed_header},
    guard::{Guard, QUERY_GAS_MAX, Queries, Recorded},
    query::{override_block, override_state},
    system::begin_block,
};
use alloy_consensus::{Header, Receipt, SignableTransaction as _, TxEnvelope, proofs};
use alloy_eips::eip1559::BaseFeeParams;
use alloy_primitives::{Address, B256, Bloom, Bytes, Signature, U256, address};
use alloy_rpc_types_eth::{
    BlockOverrides, Log, TransactionRequest,
    simulate::{MAX_SIMULATE_BLOCKS, SimBlock, SimCallResult, SimulateError, SimulatePayload},
};
use revm::{
    DatabaseCommit as _, InspectEvm as _,
    context::{BlockEnv, TxEnv, result::ResultAndState},
    database::CacheDB,
};
use revm_inspectors::transfer::TransferInspector;

/// Most calls in all blocks of one simulation.
const CALLS_MAX: usize = 1000;
/// Who logs the transfers of coins in simulations (ERC-7528).
const TRANSFERS: Address = address!("eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee");
/// A block that might be.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// The block; its transactions carry no valid signatures.
    pub block: Block,
    /// Who sent each transaction.
    pub senders: Vec<Address>,
    /// What each call gave.
    pub calls: Vec<SimCallResult>,
}

fn refuse<T>(code: i32, message: impl Into<String>) -> Result<T, LedgerError> {
    Err(LedgerError::Simulation { code, message: message.into() })
}

impl Queries<'_> {
    /// Runs the blocks of `payload` one after the other on the state after `at`.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when the payload makes no sense, is too large, or (with validation) a call is not valid;
    /// [`LedgerError::Interrupted`].
    pub fn simulate(&self, at: &Executed, payload: &SimulatePayload) -> Result<Vec<Simulated>, LedgerError> {
        if payload.block_state_calls.iter().map(|b| b.calls.len()).sum::<usize>() > CALLS_MAX {
            return refuse(-38026, format!("too many calls; at most {CALLS_MAX}"));
        }
        let mut db = CacheDB::new(at.view());
        let mut parent = at.header().clone();
        let mut parent_hash = at.hash();
        let mut out = Vec::new();
        // All blocks together, whatever their limits say.
        let mut budget = QUERY_GAS_MAX;
        for block in with_gaps(&payload.block_state_calls, parent.number)? {
            self.go_on()?;
            let before = Before { at, parent: &parent, hash: parent_hash };
            let simulated = self.simulate_block(before, &mut db, &block, payload, budget)?;
            budget = budget.saturating_sub(simulated.block.header.gas_used);
            parent = simulated.block.header.clone();
            parent_hash = simulated.block.hash();
            // BLOCKHASH sees the simulated blocks too.
            db.db.hashes.insert(parent.number, parent_hash);
            out.push(simulated);
        }
        Ok(out)
    }

    fn simulate_block(
        &self,
        before: Before<'_>,
        db: &mut CacheDB<StateView>,
        block: &SimBlock,
        payload: &SimulatePayload,
        budget: u64,
    ) -> Result<Simulated, LedgerError> {
        let Before { at, parent, hash: parent_hash } = before;
        if let Some(state) = &block.state_overrides {
            override_state(db, state)?;
        }
        let overrides = block.block_overrides.clone().unwrap_or_default();
        let base_fee = match payload.validation {
            true => {
                let paid = parent.base_fee_per_gas.unwrap_or_default();
                BaseFeeParams::ethereum().next_block_base_fee(parent.gas_used, parent.gas_limit, paid)
            }
            false => 0,
        };
        let (number, time, limit) = (parent.number + 1, parent.timestamp + 1, parent.gas_limit);
        let mut env = block_env(number, time, parent.beneficiary, limit, base_fee, B256::ZERO);
        override_block(&mut env, &overrides);
        if env.timestamp <= U256::from(parent.timestamp) {
            let (this, before) = (env.timestamp, parent.timestamp);
            return refuse(-38021, format!("block timestamps must be in order: {this} <= {before}"));
        }
        // The system calls of a block, without those that count validators' turns.
        let params = ChainParams { staking: None, beacon: None, ..*self.ledger.params() };
        let mut before = evm(&mut *db, &params, self.ledger.genesis(), env.clone(), |_| {});
        begin_block(&mut before, &params, parent_hash, at.validators(), &Turn::default())?;
        drop(before);
        let mut run = Simulation {
            gas_used: 0,
            budget,
            receipts: vec![],
            transactions: vec![],
            senders: vec![],
            calls: vec![],
        };
        for (index, call) in block.calls.iter().enumerate() {
            self.simulate_call(db, &env, call, payload, &mut run).map_err(|e| match e {
                LedgerError::Simulation { code, message } => {
                    LedgerError::Simulation { code, message: format!("call {index}: {message}") }
                }
                other => other,
            })?;
        }
        let (state, _) = at.state().apply(&collect(db.clone())?)?;
        let header = Header {
            parent_hash,
            beneficiary: env.beneficiary,
            state_root: state.root(),
            transactions_root: proofs::calculate_transaction_root(&run.transactions),
            receipts_root: proofs::calculate_receipt_root(&run.receipts),
            logs_bloom: run.receipts.iter().fold(Bloom::ZERO, |bloom, r| bloom | *r.logs_bloom()),
            number: env.number.saturating_to(),
            gas_limit: env.gas_limit,
            gas_used: run.gas_used,
            timestamp: env.timestamp.saturating_to(),
            mix_hash: env.prevrandao.unwrap_or_default(),
            base_fee_per_gas: Some(env.basefee),
            ..fixed_header()
        };
        let block = Block { header, transactions: run.transactions, withdrawals: vec![] };
        let hash = block.hash();
        // Logs say where they are; the block's hash is known only now.
        let mut log_index = 0;
        for (index, call) in run.calls.iter_mut().enumerate() {
            for log in &mut call.logs {
                log.block_hash = Some(hash);
                log.block_number = Some(block.header.number);
                log.block_timestamp = Some(block.header.timestamp);
                log.transaction_hash = Some(*block.transactions[index].tx_hash());
                log.transaction_index = Some(index as u64);
                log.log_index = Some(log_index);
                log_index += 1;
            }
        }
        Ok(Simulated { block, senders: run.senders, calls: run.calls })
    }

    fn simulate_call(
        &self,
        db: &mut CacheDB<StateView>,
        env: &BlockEnv,
        call: &TransactionRequest,
        payload: &SimulatePayload,
        run: &mut Simulation,
    ) -> Result<(), LedgerError> {
        let left = env.gas_limit.saturating_sub(run.gas_used);
        if call.gas.is_some_and(|gas| gas > left) {
            return refuse(-38015, format!("block gas limit reached: {} >= {}", run.gas_used, env.gas_limit));
        }
        let budget = run.budget.saturating_sub(run.gas_used);
        if budget == 0 {
            return refuse(-32000, format!("the calls use more than {QUERY_GAS_MAX} gas in all"));
        }
        let sender = call.from.unwrap_or_default();
        let nonce = db.load_account(sender)?.info.nonce;
        let mut tx = self.ledger.tx_env(call, nonce, left.min(budget))?;
        if tx.tx_type == 0 && call.gas_price.is_none() {
            (tx.tx_type, tx.gas_priority_fee) = (2, Some(0));
        }
        // Transfers are logged among the logs, in their order.
        let inspector = TransferInspector::new(false).with_logs(payload.trace_transfers);
        let tune = |cfg: &mut revm::context::CfgEnv| {
            if payload.validation {
                cfg.disable_eip3607 = true;
            } else {
                crate::query::relax(cfg, &tx);
            }
            cfg.tx_gas_limit_cap = Some(u64::MAX);
        };
        let mut evm = evm(&mut *db, self.ledger.params(), self.ledger.genesis(), env.clone(), tune)
            .with_inspector((Guard::new(self.stop, Recorded::Calls), inspector));
        let ResultAndState { result, state } = evm.inspect_tx(tx.clone()).map_err(simulation_error)?;
        evm.inspector.0.verdict()?;
        drop(evm);
        db.commit(state);
        let gas_used = result.tx_gas_used();
        run.gas_used += gas_used;
        let success = result.is_success();
        let logs = result.logs().to_vec();
        // They are not part of the block.
        let own = logs.iter().filter(|log| log.address != TRANSFERS).cloned().collect();
        let (return_data, error) = match CallOutcome::new(result) {
            CallOutcome::Success { output, .. } => (output, None),
            CallOutcome::Revert { output, .. } => {
                let code = SimulateError::EXECUTION_REVERTED_CODE;
                (
                    output.clone(),
                    Some(SimulateError { code, message: "execution reverted".into(), data: Some(output) }),
                )
            }
            CallOutcome::Halt { reason, .. } => {
                let code = SimulateError::VM_EXECUTION_ERROR_CODE;
                (Bytes::new(), Some(SimulateError { code, message: reason, data: None }))
            }
        };
        let transaction = unsigned(&tx);
        let receipt = Receipt { status: success.into(), cumulative_gas_used: run.gas_used, logs: own };
        run.receipts.push(envelope(transaction.tx_type(), receipt.into()));
        run.transactions.push(transaction);
        run.senders.push(sender);
        run.calls.push(SimCallResult {
            return_data,
            logs: logs.into_iter().map(|inner| Log { inner, ..Default::default() }).collect(),
            gas_used,
            max_used_gas: Some(gas_used),
            status: success,
            error,
        });
        Ok(())
    }
}

/// What a simulated block follows.
struct Before<'a> {
    at: &'a Executed,
    parent: &'a Header,
    hash: B256,
}

/// A simulated block under way.
struct Simulation {
    gas_used: u64,
    /// Gas that its calls may use in all.
    budget: u64,
    receipts: Vec<alloy_consensus::ReceiptEnvelope>,
    transactions: Vec<TxEnvelope>,
    senders: Vec<Address>,
    calls: Vec<SimCallResult>,
}

/// The blocks, with empty ones where numbers are skipped.
fn with_gaps(blocks: &[SimBlock], parent: u64) -> Result<Vec<SimBlock>, LedgerError> {
    if blocks.is_empty() {
        return refuse(-32602, "empty input");
    }
    let mut out = Vec::new();
    let mut next = parent + 1;
    for block in blocks {
        let number = block.block_number_override().map_or(next, |n| n.saturating_to());
        if number < next {
            return refuse(-38020, format!("block numbers must be in order: {number} <= {}", next - 1));
        }
        if number - parent > MAX_SIMULATE_BLOCKS {
            return refuse(-38026, format!("too many blocks; at most {MAX_SIMULATE_BLOCKS}"));
        }
        for empty in next..number {
            let number = Some(U256::from(empty));
            let block_overrides = Some(BlockOverrides { number, ..Default::default() });
            out.push(SimBlock { block_overrides, ..Default::default() });
        }
        out.push(block.clone());
        next = number + 1;
    }
    Ok(out)
}

/// The call as a transaction whose signature is all zeros.
fn unsigned(tx: &TxEnv) -> TxEnvelope {
    let signature = Signature::new(U256::ZERO, U256::ZERO, false);
    let (chain_id, nonce, gas_limit) = (tx.chain_id.unwrap_or_default(), tx.nonce, tx.gas_limit);
    let (to, value, input, access_list) = (tx.kind, tx.value, tx.data.clone(), tx.access_list.clone());
    match tx.tx_type {
        0 => {
            let gas_price = tx.gas_price;
            let chain_id = Some(chain_id);
            let t = alloy_consensus::TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input };
            t.into_signed(signature).into()
        }
        1 => {
            let gas_price = tx.gas_price;
            let t = alloy_consensus::TxEip2930 {
                chain_id,
                nonce,
                gas_price,
                gas_limit,
                to,
                value,
                input,
                access_list,
            };
            t.into_signed(signature).into()
        }
        _ => {
            let t = alloy_consensus::TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: tx.gas_price,
                max_priority_fee_per_gas: tx.gas_priority_fee.unwrap_or_default(),
                to,
                value,
                access_list,
                input,
            };
            t.into_signed(signature).into()
        }
    }
}
