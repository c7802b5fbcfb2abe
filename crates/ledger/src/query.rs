//! Read-only execution over a snapshot: `eth_call`, `eth_estimateGas`, `eth_createAccessList`.

use crate::{
    Executed, Ledger, LedgerError,
    evm::{OgEvm, StateView, TX_GAS_LIMIT_CAP, block_env, evm, evm_error},
    guard::{Guard, QUERY_GAS_MAX, Queries, Recorded},
};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Bytes, U256};
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest, state::StateOverride};
use revm::{
    InspectEvm as _,
    context::{BlockEnv, CfgEnv, TxEnv, result::ExecutionResult},
    context_interface::either::Either,
    database::CacheDB,
    primitives::TxKind,
    state::Bytecode,
};
use revm_inspectors::access_list::AccessListInspector;

/// What a call pretends to be otherwise than it is.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Accounts.
    pub state: Option<StateOverride>,
    /// The block.
    pub block: Option<Box<BlockOverrides>>,
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

impl CallOutcome {
    pub(crate) fn new(result: ExecutionResult) -> Self {
        let gas_used = result.tx_gas_used();
        match result {
            ExecutionResult::Success { output, .. } => Self::Success { output: output.into_data(), gas_used },
            ExecutionResult::Revert { output, .. } => Self::Revert { output, gas_used },
            ExecutionResult::Halt { reason, .. } => Self::Halt { reason: halt(&reason), gas_used },
        }
    }
}

/// geth's words for what stops the EVM.
fn halt(reason: &revm::context::result::HaltReason) -> String {
    use revm::context::result::HaltReason as R;
    match reason {
        R::OutOfGas(_) => "out of gas".into(),
        R::OpcodeNotFound | R::InvalidFEOpcode => "invalid opcode".into(),
        R::InvalidJump => "invalid jump destination".into(),
        R::StackUnderflow => "stack underflow".into(),
        R::StackOverflow => "stack limit reached 1024 (1023)".into(),
        R::CallTooDeep => "max call depth exceeded".into(),
        R::CreateCollision => "contract address collision".into(),
        R::CreateContractSizeLimit => "max code size exceeded".into(),
        R::CreateContractStartingWithEF => "invalid code: must not begin with 0xef".into(),
        R::CreateInitCodeSizeLimit => "max initcode size exceeded".into(),
        R::OutOfFunds => "insufficient balance for transfer".into(),
        R::OutOfOffset => "return data out of bounds".into(),
        R::NonceOverflow => "nonce uint64 overflow".into(),
        R::StateChangeDuringStaticCall | R::CallNotAllowedInsideStatic => "write protection".into(),
        other => format!("{other:?}"),
    }
}

/// What a call may do that a transaction may not.
pub(crate) fn relax(cfg: &mut CfgEnv, tx: &TxEnv) {
    cfg.disable_nonce_check = true;
    cfg.disable_eip3607 = true;
    cfg.disable_block_gas_limit = true;
    cfg.disable_base_fee = tx.gas_price == 0;
    cfg.tx_gas_limit_cap = Some(u64::MAX);
}

/// Puts the overrides of accounts into the cache that the EVM reads.
pub(crate) fn override_state(db: &mut CacheDB<StateView>, state: &StateOverride) -> Result<(), LedgerError> {
    let refuse = |what: &str| Err(LedgerError::Call(what.into()));
    for (address, change) in state {
        if change.move_precompile_to.is_some() {
            return refuse("movePrecompileToAddress is not supported here");
        }
        if change.state.is_some() && change.state_diff.is_some() {
            return refuse("account has both 'state' and 'stateDiff' overrides");
        }
        let mut info = db.load_account(*address)?.info.clone();
        info.balance = change.balance.unwrap_or(info.balance);
        info.nonce = change.nonce.unwrap_or(info.nonce);
        if let Some(code) = &change.code {
            let code = Bytecode::new_raw_checked(code.clone())
                .map_err(|e| LedgerError::Call(format!("account {address} code override: {e}")))?;
            info.code_hash = code.hash_slow();
            info.code = Some(code);
        }
        db.insert_account_info(*address, info);
        let words = |slots: &alloy_primitives::map::B256HashMap<alloy_primitives::B256>| {
            slots
                .iter()
                .map(|(k, v)| (U256::from_be_bytes(k.0), U256::from_be_bytes(v.0)))
                .collect::<Vec<_>>()
        };
        if let Some(slots) = &change.state {
            db.replace_account_storage(*address, words(slots).into_iter().collect())?;
        }
        for (slot, value) in change.state_diff.as_ref().map(words).unwrap_or_default() {
            db.insert_account_storage(*address, slot, value)?;
        }
    }
    Ok(())
}

/// Changes the environment of the block.
pub(crate) fn override_block(env: &mut BlockEnv, block: &BlockOverrides) {
    env.number = block.number.unwrap_or(env.number);
    env.difficulty = block.difficulty.unwrap_or(env.difficulty);
    env.timestamp = block.time.map_or(env.timestamp, U256::from);
    env.gas_limit = block.gas_limit.unwrap_or(env.gas_limit);
    env.beneficiary = block.coinbase.unwrap_or(env.beneficiary);
    env.prevrandao = block.random.or(env.prevrandao);
    env.basefee = block.base_fee.map_or(env.basefee, |fee| fee.saturating_to());
}

impl Ledger {
    /// The environment of the block `at` itself, as geth has it for calls.
    fn env(&self, at: &Executed) -> BlockEnv {
        let h = at.header();
        let base_fee = h.base_fee_per_gas.unwrap_or_default();
        block_env(h.number, h.timestamp, h.beneficiary, h.gas_limit, base_fee, h.mix_hash)
    }

    /// The transaction that a request describes, with what it leaves out filled in.
    pub(crate) fn tx_env(
        &self,
        request: &TransactionRequest,
        nonce: u64,
        gas_limit: u64,
    ) -> Result<TxEnv, LedgerError> {
        let refuse = |what: &str| Err(LedgerError::Call(what.into()));
        let data = match (&request.input.input, &request.input.data) {
            (Some(a), Some(b)) if a != b => {
                return refuse("both \"data\" and \"input\" are set and not equal; use \"input\"");
            }
            (a, b) => a.clone().or_else(|| b.clone()).unwrap_or_default(),
        };
        if request.gas_price.is_some()
            && request.max_fee_per_gas.or(request.max_priority_fee_per_gas).is_some()
        {
            return refuse("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified");
        }
        if request.blob_versioned_hashes.is_some() || request.sidecar.is_some() {
            return Err(LedgerError::UnsupportedType);
        }
        if request.chain_id.is_some_and(|id| id != self.params().chain_id) {
            let (have, want) = (request.chain_id.unwrap_or_default(), self.params().chain_id);
            return Err(LedgerError::Call(format!(
                "chainId does not match node's (have={have}, want={want})"
            )));
        }
        let authorizations = request.authorization_list.clone().unwrap_or_default();
        let access_list = request.access_list.clone().unwrap_or_default();
        let dynamic = request.max_fee_per_gas.or(request.max_priority_fee_per_gas).is_some();
        let tx_type = match (authorizations.is_empty(), dynamic, access_list.is_empty()) {
            (false, ..) => 4,
            (true, true, _) => 2,
            (true, false, false) => 1,
            (true, false, true) => 0,
        };
        let gas_price = request.gas_price.or(request.max_fee_per_gas).unwrap_or_default();
        let priority = (tx_type >= 2).then(|| request.max_priority_fee_per_gas.unwrap_or_default());
        Ok(TxEnv {
            tx_type,
            caller: request.from.unwrap_or_default(),
            gas_limit: request.gas.unwrap_or(gas_limit).min(gas_limit),
            gas_price,
            // A tip above the cap is what the caller asked for only when there is a cap.
            gas_priority_fee: if gas_price == 0 { priority.map(|_| 0) } else { priority },
            kind: request.to.unwrap_or(TxKind::Create),
            value: request.value.unwrap_or_default(),
            data,
            nonce: request.nonce.unwrap_or(nonce),
            chain_id: Some(self.params().chain_id),
            access_list,
            authorization_list: authorizations.into_iter().map(Either::Left).collect(),
            ..Default::default()
        })
    }

    /// An EVM ready for a call on the state after `at`, and the call. Its gas is bounded, its block says what it is told to say.
    pub(crate) fn prepare(
        &self,
        at: &Executed,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<(OgEvm<CacheDB<StateView>>, TxEnv), LedgerError> {
        let mut db = CacheDB::new(at.view());
        if let Some(state) = &overrides.state {
            override_state(&mut db, state)?;
        }
        let mut env = self.env(at);
        if let Some(block) = &overrides.block {
            override_block(&mut env, block);
        }
        let nonce = db.load_account(request.from.unwrap_or_default())?.info.nonce;
        let tx = self.tx_env(request, nonce, env.gas_limit.min(QUERY_GAS_MAX))?;
        Ok((evm(db, self.params(), self.genesis(), env, |cfg| relax(cfg, &tx)), tx))
    }
}

impl Queries<'_> {
    /// Runs `request` on the state after `at`, in the environment of that block.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when the EVM cannot even start (insufficient funds, too little gas), [`LedgerError::Interrupted`].
    pub fn call(
        &self,
        at: &Executed,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<CallOutcome, LedgerError> {
        self.go_on()?;
        let (evm, tx) = self.ledger.prepare(at, request, overrides)?;
        let mut evm = evm.with_inspector(Guard::new(self.stop, Recorded::Nothing));
        let done = evm.inspect_tx(tx).map_err(evm_error)?;
        evm.inspector.verdict()?;
        Ok(CallOutcome::new(done.result))
    }

    /// Smallest gas limit with which `request` succeeds, within 1.5 %, by binary search as in geth.
    ///
    /// # Errors
    /// [`LedgerError::Call`] when it cannot start, [`LedgerError::Interrupted`].
    pub fn estimate_gas(
        &self,
        at: &Executed,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<Result<u64, CallOutcome>, LedgerError> {
        let run = |gas: u64| {
            let request = TransactionRequest { gas: Some(gas), ..request.clone() };
            self.call(at, &request, overrides)
        };
        let succeeds = |gas: u64| matches!(run(gas), Ok(CallOutcome::Success { .. }));
        let mut high =
            request.gas.unwrap_or(u64::MAX).min(self.ledger.params().gas_limit).min(TX_GAS_LIMIT_CAP);
        let used = match run(high)? {
            CallOutcome::Success { gas_used, .. } => gas_used,
            CallOutcome::Halt { reason, .. } if reason == "out of gas" => {
                return Err(LedgerError::Call(format!("gas required exceeds allowance ({high})")));
            }
            failed => return Ok(Err(failed)),
        };
        let mut low = used.saturating_sub(1);
        // Most calls need what they use, plus what a refund or the 63/64 rule hides.
        let guess = used + used / 32 + 2_300;
        if guess < high && succeeds(guess) {
            high = guess;
        }
        while low + 1 < high && (high - low) * 1000 > high * 15 {
            let middle = low + (high - low) / 2;
            if succeeds(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        if succeeds(used) {
            high = used;
        }
        // A search that was cut short found nothing.
        self.go_on()?;
        Ok(Ok(high))
    }

    /// The access list with which `request` runs cheapest, and what it gives with it (EIP-2930).
    ///
    /// # Errors
    /// [`LedgerError::Call`] when it cannot start, [`LedgerError::Interrupted`].
    pub fn create_access_list(
        &self,
        at: &Executed,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<(AccessList, CallOutcome), LedgerError> {
        let mut list = request.access_list.clone().unwrap_or_default();
        // What a call touches can depend on the list through the gas it has left; it settles soon.
        for _ in 0..8 {
            let request = TransactionRequest { access_list: Some(list.clone()), ..request.clone() };
            self.go_on()?;
            let (evm, tx) = self.ledger.prepare(at, &request, overrides)?;
            let guard = Guard::new(self.stop, Recorded::Nothing);
            let mut evm = evm.with_inspector((guard, AccessListInspector::new(list.clone())));
            let done = evm.inspect_tx(tx).map_err(evm_error)?;
            let (guard, inspector) = evm.into_inspector();
            guard.verdict()?;
            let found = inspector.into_access_list();
            if found == list {
                return Ok((list, CallOutcome::new(done.result)));
            }
            list = found;
        }
        let request = TransactionRequest { access_list: Some(list.clone()), ..request.clone() };
        Ok((list, self.call(at, &request, overrides)?))
    }
}
