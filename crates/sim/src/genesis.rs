use crate::Wallet;
use alloy_primitives::{Address, Bytes, U256};
use consensus::ValidatorSecret;
use ledger::{Genesis, GenesisAccount, StakingRules, staking_deployment};
use serde::Deserialize;
use types::{NetworkConfig, SystemContracts, ValidatorKey};

/// EIP-155 chain id of all clusters.
pub const CHAIN_ID: u64 = 10_744;
/// Time between blocks in milliseconds.
pub(crate) const BLOCK_TIME_MS: u64 = 250;
/// Funded wallets.
const WALLETS: u8 = 8;

/// Rules of staking in clusters: what takes days elsewhere takes seconds here.
pub const RULES: StakingRules = StakingRules {
    min_stake: U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]),
    unbonding_seconds: 20,
    validators_max: 8,
    reward_per_block: U256::from_limbs([1_000_000_000_000_000, 0, 0, 0]),
    slash_percent: 50,
    jail_seconds: 10,
    miss_percent: 50,
    turns_min: 4,
};

#[derive(Deserialize)]
struct Artifact {
    bytecode: Bytes,
}

/// Owner of the validator number `i` and its stake; wallets own them.
pub(crate) fn operator(i: usize) -> Wallet {
    Wallet::new(100 + i as u8, CHAIN_ID)
}

/// Genesis and configuration with these first validators.
pub(crate) fn genesis(first: &[ValidatorSecret], epoch_blocks: u64) -> (Genesis, NetworkConfig, Vec<Wallet>) {
    let artifact: Artifact = serde_json::from_str(include_str!("../../../contracts/artifacts/Staking.json"))
        .expect("the artefact of the staking contract");
    let mut keys: Vec<(Address, ValidatorKey)> =
        first.iter().enumerate().map(|(i, s)| (operator(i).address(), s.public(CHAIN_ID))).collect();
    keys.sort_by_key(|(_, key)| key.peer);
    let (deployment, account) = staking_deployment(&artifact.bytecode, &RULES, &keys);
    let staking = Genesis::deployment_address(0);
    let network = NetworkConfig {
        version: types::NETWORK_VERSION,
        chain_id: CHAIN_ID,
        block_time_ms: BLOCK_TIME_MS,
        epoch_blocks,
        window_seconds: 90,
        game_seconds: 600,
        unbonding_seconds: 7 * 24 * 3600,
        contracts: SystemContracts { staking, ..SystemContracts::none() },
        validators: keys.into_iter().map(|(_, key)| key).collect(),
    };
    let wallets: Vec<_> = (0..WALLETS).map(|i| Wallet::new(i, CHAIN_ID)).collect();
    let rich = GenesisAccount { balance: U256::from(10).pow(U256::from(24)), ..Default::default() };
    let owners = (0..16).map(|i| operator(i).address());
    let mut alloc: std::collections::BTreeMap<_, _> =
        wallets.iter().map(Wallet::address).chain(owners).map(|a| (a, rich.clone())).collect();
    alloc.insert(staking, account);
    let genesis = Genesis {
        chain_id: CHAIN_ID,
        timestamp: 0,
        gas_limit: 30_000_000,
        base_fee: 1_000_000_000,
        alloc,
        deployments: vec![deployment],
    };
    (genesis, network, wallets)
}
