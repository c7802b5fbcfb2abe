//! What may enter the mempool, and what may take another's place.

use crate::{
    Executed, LedgerError, RecoveredTx,
    evm::{SPEC, TX_GAS_LIMIT_CAP},
};
use alloy_consensus::Transaction as _;
use alloy_primitives::U256;
use revm::context_interface::cfg::gas::calculate_initial_tx_gas_for_tx;

/// Most transactions of one sender.
pub(crate) const PER_SENDER_MAX: usize = 64;
/// Smallest fee cap, in wei.
const FEE_CAP_MIN: u128 = 1;
/// Percent by which a replacement must raise fee cap and tip.
const REPLACEMENT_PERCENT: u128 = 10;

/// EIP-1559 replacement as in geth: both fee cap and tip must rise by a tenth.
pub(super) fn outbids(new: &RecoveredTx, old: &RecoveredTx) -> bool {
    let raised =
        |new: u128, old: u128| new >= old.saturating_add((old * REPLACEMENT_PERCENT).div_ceil(100).max(1));
    let tip = |t: &RecoveredTx| t.tx().max_priority_fee_per_gas().unwrap_or(t.tx().max_fee_per_gas());
    raised(new.tx().max_fee_per_gas(), old.tx().max_fee_per_gas()) && raised(tip(new), tip(old))
}

/// Most wei that a transaction can take from its sender.
pub(super) fn cost(tx: &RecoveredTx) -> U256 {
    let t = tx.tx();
    U256::from(t.max_fee_per_gas()).saturating_mul(U256::from(t.gas_limit())).saturating_add(t.value())
}

/// Checks what is the same on every block of a chain with this gas limit. Who passes on a transaction that fails here has not looked at it.
///
/// # Errors
/// [`LedgerError`] with geth's wording.
pub fn check_fixed(tx: &RecoveredTx, gas_limit: u64) -> Result<(), LedgerError> {
    let t = tx.tx();
    if t.gas_limit() > gas_limit {
        return Err(LedgerError::GasLimit);
    }
    if t.gas_limit() > TX_GAS_LIMIT_CAP {
        return Err(LedgerError::GasLimitCap { cap: TX_GAS_LIMIT_CAP, tx: t.gas_limit() });
    }
    if t.max_priority_fee_per_gas().is_some_and(|tip| tip > t.max_fee_per_gas()) {
        return Err(LedgerError::TipAboveFeeCap);
    }
    if t.max_fee_per_gas() < FEE_CAP_MIN {
        return Err(LedgerError::Underpriced { have: t.max_fee_per_gas(), want: FEE_CAP_MIN });
    }
    let gas = calculate_initial_tx_gas_for_tx(tx.env(), SPEC, None);
    let want = gas.initial_total_gas().max(gas.floor_gas());
    if t.gas_limit() < want {
        return Err(LedgerError::IntrinsicGas { have: t.gas_limit(), want });
    }
    Ok(())
}

/// Checks `tx` against the newest state; `reserved` wei of its sender pay for other transactions.
pub(super) fn check(tx: &RecoveredTx, head: &Executed, reserved: U256) -> Result<(), LedgerError> {
    check_fixed(tx, head.header().gas_limit)?;
    let t = tx.tx();
    let address = tx.sender();
    let account = head.state().account(&address)?.unwrap_or_default();
    let state = account.nonce;
    if t.nonce() < state {
        return Err(LedgerError::NonceTooLow { address, tx: t.nonce(), state });
    }
    if t.nonce() - state >= PER_SENDER_MAX as u64 {
        return Err(LedgerError::NonceTooHigh { address, tx: t.nonce(), state });
    }
    let want = cost(tx).saturating_add(reserved);
    let have = account.balance;
    if have < want {
        return Err(LedgerError::InsufficientFunds { address, have, want });
    }
    Ok(())
}
