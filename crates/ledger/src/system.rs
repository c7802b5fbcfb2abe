//! What the chain does by itself in each block: block hashes and committees for contracts, counts of turns, change of validators.

use crate::{
    ChainParams, LedgerError,
    block::Turn,
    evm::{OgEvm, evm_error},
};
use alloy_eips::{
    eip2935::HISTORY_STORAGE_ADDRESS,
    eip4788::{BEACON_ROOTS_ADDRESS, SYSTEM_ADDRESS},
    eip4895::Withdrawal,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall as _, sol};
use revm::{
    SystemCallCommitEvm as _,
    context::result::ExecutionResult,
    database_interface::{Database, DatabaseCommit},
};
use types::{FixedBytes, Validator, ValidatorSet};

sol! {
    struct ActiveValidator { address operator; bytes32 peer; bytes vote; }
    struct Reward { address to; uint256 amount; }
    function record(bytes32 proposer, uint64 needed, uint64 set) external;
    function beginBlock(uint256 proposer, uint256[] calldata missed) external;
    function endEpoch() external returns (ActiveValidator[] memory next, Reward[] memory rewards);
}

/// Wei in the unit of withdrawals.
const GWEI: u64 = 1_000_000_000;

/// What the end of an epoch decides.
#[derive(Debug, Default)]
pub(crate) struct EpochEnd {
    /// The validators of the next epoch; `None` when they stay.
    pub(crate) next: Option<ValidatorSet>,
    /// Rewards, minted as withdrawals are (EIP-4895).
    pub(crate) rewards: Vec<Withdrawal>,
}

/// Calls a system contract. `None` when it fails: then it changed nothing, and the chain goes on.
fn call<DB: Database<Error = LedgerError> + DatabaseCommit>(
    evm: &mut OgEvm<DB>,
    to: Address,
    data: Bytes,
) -> Result<Option<Bytes>, LedgerError> {
    match evm.system_call_with_caller_commit(SYSTEM_ADDRESS, to, data).map_err(evm_error)? {
        ExecutionResult::Success { output, .. } => Ok(Some(output.into_data())),
        _ => Ok(None),
    }
}

/// Before the transactions of a block: EIP-2935, EIP-4788, the beacon's record and the staking contract's count of turns.
pub(crate) fn begin_block<DB: Database<Error = LedgerError> + DatabaseCommit>(
    evm: &mut OgEvm<DB>,
    params: &ChainParams,
    parent_hash: B256,
    validators: &ValidatorSet,
    turn: &Turn,
) -> Result<(), LedgerError> {
    call(evm, HISTORY_STORAGE_ADDRESS, parent_hash.into())?;
    call(evm, BEACON_ROOTS_ADDRESS, validators.commitment().into())?;
    if let Some(beacon) = params.beacon {
        // A draw needs one more proposer than may be dishonest.
        let needed = validators.faults() as u64 + 1;
        let member = usize::try_from(turn.proposer).ok().and_then(|i| validators.members.get(i));
        let proposer = member.map(|v| v.peer).unwrap_or_default();
        let record = recordCall { proposer, needed, set: validators.epoch };
        call(evm, beacon, record.abi_encode().into())?;
    }
    if let Some(staking) = params.staking {
        let missed = turn.missed.iter().map(|i| U256::from(*i)).collect();
        let count = beginBlockCall { proposer: U256::from(turn.proposer), missed };
        call(evm, staking, count.abi_encode().into())?;
    }
    Ok(())
}

/// After the transactions of the last block `number` of `epoch`.
pub(crate) fn end_epoch<DB: Database<Error = LedgerError> + DatabaseCommit>(
    evm: &mut OgEvm<DB>,
    params: &ChainParams,
    number: u64,
) -> Result<EpochEnd, LedgerError> {
    let Some(staking) = params.staking else { return Ok(EpochEnd::default()) };
    let Some(output) = call(evm, staking, endEpochCall {}.abi_encode().into())? else {
        return Ok(EpochEnd::default());
    };
    let Ok(end) = endEpochCall::abi_decode_returns(&output) else { return Ok(EpochEnd::default()) };
    let members: Option<Vec<_>> = end
        .next
        .iter()
        .map(|v| Some(Validator { peer: v.peer, vote: FixedBytes::<96>::try_from(v.vote.as_ref()).ok()? }))
        .collect();
    let epoch = number / params.epoch_blocks + 1;
    let next = members.map(|members| ValidatorSet { epoch, members }).filter(|set| set.check().is_ok());
    let rewards = end
        .rewards
        .iter()
        .enumerate()
        .map(|(i, reward)| Withdrawal {
            index: number << 16 | i as u64,
            validator_index: i as u64,
            address: reward.to,
            amount: (reward.amount / U256::from(GWEI)).saturating_to(),
        })
        .collect();
    Ok(EpochEnd { next, rewards })
}
