//! The staking contract in the genesis block.

use crate::{Deployment, Executed, GenesisAccount, LedgerError};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolValue as _, sol};
use types::ValidatorKey;

sol! {
    /// Constructor argument: a validator of epoch 0.
    struct GenesisValidator { address operator; bytes32 peer; bytes vote; bytes possession; uint256 stake; }
    /// Constructor argument: rules that never change.
    struct Params {
        uint256 minStake; uint64 unbondingSeconds; uint32 maxValidators; uint256 rewardPerBlock;
        uint32 slashPercent; uint64 jailSeconds; uint32 missPercent; uint32 minTurns;
    }
}

/// Storage slot of the staking contract with what the order of turns in an epoch is drawn from.
const TURN_SEED_SLOT: U256 = U256::ZERO;

/// What the order of turns is drawn from in the epoch of the block that follows `parent`: the randomness of the last block of the epoch before,
/// as the staking contract keeps it; zero in epoch 0 and without a staking contract.
///
/// # Errors
/// [`LedgerError`] when the state cannot be read.
pub fn turn_seed(parent: &Executed, staking: Option<Address>) -> Result<B256, LedgerError> {
    let Some(staking) = staking else { return Ok(B256::ZERO) };
    Ok(parent.state().storage(staking, TURN_SEED_SLOT)?.into())
}

/// Rules of staking; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StakingRules {
    /// Smallest stake of a validator, in wei.
    pub min_stake: U256,
    /// Time from leaving the set until the stake can be withdrawn, in seconds.
    pub unbonding_seconds: u64,
    /// Most validators in the set.
    pub validators_max: u32,
    /// What the proposer of a block earns, in wei.
    pub reward_per_block: U256,
    /// Part of the stake that voting twice costs, in percent.
    pub slash_percent: u32,
    /// Shortest time in jail, in seconds.
    pub jail_seconds: u64,
    /// Part of its turns that a validator may miss in an epoch, in percent.
    pub miss_percent: u32,
    /// Fewest turns in an epoch for which anybody is jailed.
    pub turns_min: u32,
}

/// The contract's deployment, with `validators` (owner and keys, sorted by peer key) in the first set with the smallest stake each, and the
/// account that must exist before, with the coins for their stakes.
pub fn staking_deployment(
    bytecode: &Bytes,
    rules: &StakingRules,
    validators: &[(Address, ValidatorKey)],
) -> (Deployment, GenesisAccount) {
    let params = Params {
        minStake: rules.min_stake,
        unbondingSeconds: rules.unbonding_seconds,
        maxValidators: rules.validators_max,
        rewardPerBlock: rules.reward_per_block,
        slashPercent: rules.slash_percent,
        jailSeconds: rules.jail_seconds,
        missPercent: rules.miss_percent,
        minTurns: rules.turns_min,
    };
    let first: Vec<_> = validators
        .iter()
        .map(|(operator, key)| GenesisValidator {
            operator: *operator,
            peer: key.peer,
            vote: key.vote.into(),
            possession: key.possession.into(),
            stake: rules.min_stake,
        })
        .collect();
    let init_code = [bytecode.as_ref(), &(params, first).abi_encode_params()].concat().into();
    let balance = rules.min_stake * U256::from(validators.len());
    (Deployment { name: "Staking".into(), init_code }, GenesisAccount { balance, ..Default::default() })
}
