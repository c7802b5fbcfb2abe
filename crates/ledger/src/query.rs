//! Read-only execution over a snapshot, for `eth_call` and `eth_estimateGas`.

use crate::{
    Executed, Ledger, LedgerError,
    execute::{block_env, configure, evm_error},
};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, Bytes, U256};
use revm::{
    Context, ExecuteEvm as _, MainBuilder as _, MainContext as _,
    context::{TxEnv, result::ExecutionResult},
    database::CacheDB,
    primitives::TxKind,
};

/// A call that is not a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// Caller; the zero address when absent.
    pub from: Option<Address>,
    /// Callee; absent to run creation code.
    pub to: Option<Address>,
    /// Gas limit; the block's when absent.
    pub gas: Option<u64>,
    /// Fee cap in wei; 0 when absent.
    pub gas_price: Option<u128>,
    /// Wei sent along.
    pub value: U256,
    /// Input.
    pub data: Bytes,
    /// EIP-2930 access list.
    pub access_list: AccessList,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It returned.
    Success {
        /// Return data.
        output: Bytes,
        /// Gas used after refunds.
        gas_used: u64,
    },
    /// It reverted.
    Revert {
        /// Revert data.
        output: Bytes,
        /// Gas used.
        gas_used: u64,
    },
    /// It broke a rule of the EVM.
    Halt {
        /// Which one.
        reason: String,
        /// Gas used.
        gas_used: u64,
    },
}

impl Ledger {
    /// Runs `request` on the state after `at`, as part of the block that would follow.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when the EVM cannot even start (insufficient funds, too little gas).
    pub fn call(&self, at: &Executed, request: &CallRequest) -> Result<CallOutcome, LedgerError> {
        self.run(at, request, request.gas.unwrap_or(self.params().gas_limit))
    }

    fn run(&self, at: &Executed, request: &CallRequest, gas_limit: u64) -> Result<CallOutcome, LedgerError> {
        let params = *self.params();
        let header = at.header();
        let mut evm = Context::mainnet()
            .with_db(CacheDB::new(at.view()))
            .with_block(block_env(
                header.number + 1,
                header.timestamp,
                header.beneficiary,
                params.gas_limit,
                at.next_base_fee(),
            ))
            .modify_cfg_chained(|cfg| {
                configure(cfg, params.chain_id);
                cfg.disable_nonce_check = true;
                cfg.disable_eip3607 = true;
                cfg.disable_block_gas_limit = true;
                cfg.disable_base_fee = request.gas_price.is_none();
                cfg.tx_gas_limit_cap = Some(u64::MAX);
            })
            .build_mainnet();
        let done = evm
            .transact(TxEnv {
                caller: request.from.unwrap_or_default(),
                gas_limit: gas_limit.min(params.gas_limit),
                gas_price: request.gas_price.unwrap_or_default(),
                kind: request.to.map_or(TxKind::Create, TxKind::Call),
                value: request.value,
                data: request.data.clone(),
                access_list: request.access_list.clone(),
                chain_id: Some(params.chain_id),
                ..Default::default()
            })
            .map_err(evm_error)?;
        let gas_used = done.result.tx_gas_used();
        Ok(match done.result {
            ExecutionResult::Success { output, .. } => {
                CallOutcome::Success { output: output.into_data(), gas_used }
            }
            ExecutionResult::Revert { output, .. } => CallOutcome::Revert { output, gas_used },
            ExecutionResult::Halt { reason, .. } => {
                CallOutcome::Halt { reason: format!("{reason:?}"), gas_used }
            }
        })
    }

    /// Smallest gas limit with which `request` succeeds, within 1.5 %, by binary search as in geth.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when it cannot start.
    pub fn estimate_gas(
        &self,
        at: &Executed,
        request: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, LedgerError> {
        let mut high = request.gas.unwrap_or(u64::MAX).min(self.params().gas_limit).min(TX_GAS_LIMIT_CAP);
        let used = match self.run(at, request, high)? {
            CallOutcome::Success { gas_used, .. } => gas_used,
            failed => return Ok(Err(failed)),
        };
        let mut low = used.saturating_sub(1);
        // Most calls need what they use, plus what a refund or the 63/64 rule hides.
        let guess = used + used / 32 + 2_300;
        if guess < high && self.succeeds(at, request, guess) {
            high = guess;
        }
        while low + 1 < high && (high - low) * 1000 > high * 15 {
            let middle = low + (high - low) / 2;
            if self.succeeds(at, request, middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        if self.succeeds(at, request, used) {
            high = used;
        }
        Ok(Ok(high))
    }

    fn succeeds(&self, at: &Executed, request: &CallRequest, gas: u64) -> bool {
        matches!(self.run(at, request, gas), Ok(CallOutcome::Success { .. }))
    }
}

/// EIP-7825: most gas of one transaction.
const TX_GAS_LIMIT_CAP: u64 = 1 << 24;
