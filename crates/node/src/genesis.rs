//! The genesis of a development network: funded accounts and the system contracts.

use crate::trust_rules::{TrustRules, scaled};
use alloy_sol_types::SolValue as _;
use anyhow::Context as _;
use ledger::{Deployment, Genesis, GenesisAccount, StakingRules, staking_deployment};
use serde::Deserialize;
use std::collections::BTreeMap;
use types::{Address, B256, Bytes, NetworkConfig, SystemContracts, U256, ValidatorKey, keccak256, signing};

/// Accounts of a development network with known keys.
const DEV_ACCOUNTS: usize = 5;
/// Gas limit of a block.
const GAS_LIMIT: u64 = 60_000_000;
/// Base fee of the first block, in wei.
const BASE_FEE: u64 = 1_000_000_000;
/// Wei in a coin.
pub(crate) const COIN: u128 = 1_000_000_000_000_000_000;
/// Time before a stake can be withdrawn, in seconds.
pub(crate) const UNBONDING_SECONDS: u64 = 7 * 24 * 3600;
/// Blocks of an epoch in networks of strangers: an hour.
pub(crate) const EPOCH_BLOCKS: u64 = 14_400;

/// Order of deployment; addresses follow from it.
const MODELS: u64 = 0;
const NODES: u64 = 1;
const LOG: u64 = 2;
const WRAPPED: u64 = 3;
const STAKING: u64 = 4;
const BEACON: u64 = 5;
const AUDITORS: u64 = 6;
const AUDITS: u64 = 7;
const DISPUTES: u64 = 8;
const JURY: u64 = 9;
const ESCROW: u64 = 10;

macro_rules! artifact {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../contracts/artifacts/", $name, ".json")))
    };
}

#[derive(Deserialize)]
struct Artifact {
    bytecode: Bytes,
}

/// A private key that everybody knows. Only for development networks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DevKey {
    pub(crate) secret: B256,
    pub(crate) address: Address,
}

/// The funded development accounts: keccak-256 of `"og devnet account N"`.
pub(crate) fn dev_keys() -> anyhow::Result<Vec<DevKey>> {
    (0..DEV_ACCOUNTS)
        .map(|i| {
            let secret = keccak256(format!("og devnet account {i}"));
            Ok(DevKey { secret, address: signing::address_of(&secret)? })
        })
        .collect()
}

/// Where the system contracts are in every network with this genesis.
pub(crate) fn system_contracts() -> SystemContracts {
    SystemContracts {
        model_registry: Genesis::deployment_address(MODELS),
        node_registry: Genesis::deployment_address(NODES),
        receipt_log: Genesis::deployment_address(LOG),
        wrapped_native: Genesis::deployment_address(WRAPPED),
        staking: Genesis::deployment_address(STAKING),
        beacon: Genesis::deployment_address(BEACON),
        auditors: Genesis::deployment_address(AUDITORS),
        audits: Genesis::deployment_address(AUDITS),
        disputes: Genesis::deployment_address(DISPUTES),
        jury: Genesis::deployment_address(JURY),
        escrow: Genesis::deployment_address(ESCROW),
    }
}

/// What a new network is made from.
#[derive(Debug)]
pub(crate) struct NewNetwork {
    pub(crate) chain_id: u64,
    pub(crate) block_time_ms: u64,
    pub(crate) epoch_blocks: u64,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
    /// Owner of the stake and keys of each first validator.
    pub(crate) validators: Vec<(Address, ValidatorKey)>,
    /// Accounts with coins, in wei.
    pub(crate) funded: Vec<(Address, U256)>,
    pub(crate) staking: StakingRules,
    pub(crate) trust: TrustRules,
}

/// Rules of staking that fit most networks.
pub(crate) fn staking_rules() -> StakingRules {
    StakingRules {
        min_stake: U256::from(1_000 * COIN),
        unbonding_seconds: UNBONDING_SECONDS,
        validators_max: 100,
        reward_per_block: U256::from(COIN / 100),
        slash_percent: 50,
        jail_seconds: 600,
        miss_percent: 50,
        turns_min: 8,
    }
}

/// The same rules with every duration divided by `scale`.
pub(crate) fn scaled_staking(rules: StakingRules, scale: u64) -> StakingRules {
    // Every field is named, so that a new duration cannot be forgotten here.
    let StakingRules {
        min_stake,
        unbonding_seconds,
        validators_max,
        reward_per_block,
        slash_percent,
        jail_seconds,
        miss_percent,
        turns_min,
    } = rules;
    StakingRules {
        min_stake,
        unbonding_seconds: scaled(unbonding_seconds, scale),
        validators_max,
        reward_per_block,
        slash_percent,
        jail_seconds: scaled(jail_seconds, scale),
        miss_percent,
        turns_min,
    }
}

/// Blocks of an epoch when time runs `scale` times as fast: at least 2, the least that a network can have.
pub(crate) fn scaled_epoch(blocks: u64, scale: u64) -> u64 {
    scaled(blocks, scale).max(2)
}

impl NewNetwork {
    /// Genesis and configuration.
    pub(crate) fn build(mut self) -> anyhow::Result<(Genesis, NetworkConfig)> {
        self.validators.sort_by_key(|(_, key)| key.peer);
        let contracts = system_contracts();
        let mut alloc: BTreeMap<Address, GenesisAccount> = BTreeMap::new();
        for (address, balance) in &self.funded {
            alloc.entry(*address).or_default().balance += balance;
        }
        let staking: Artifact = serde_json::from_str(artifact!("Staking").1).context("artefact Staking")?;
        let trust = &self.trust;
        let (staking, stakes) = staking_deployment(&staking.bytecode, &self.staking, &self.validators);
        alloc.insert(contracts.staking, stakes);
        let deployments = vec![
            deployment(artifact!("ModelRegistry"), trust.models())?,
            deployment(artifact!("NodeRegistry"), trust.nodes(&contracts))?,
            deployment(artifact!("ReceiptLog"), contracts.node_registry.abi_encode())?,
            deployment(artifact!("WrappedNative"), vec![])?,
            staking,
            deployment(artifact!("Beacon"), vec![])?,
            deployment(artifact!("Auditors"), trust.auditors(&contracts))?,
            deployment(artifact!("Audits"), trust.audits(&contracts))?,
            deployment(artifact!("Disputes"), trust.disputes(&contracts))?,
            deployment(artifact!("Jury"), trust.jury(&contracts))?,
            deployment(artifact!("Escrow"), trust.escrow(&contracts))?,
        ];
        let genesis = Genesis {
            chain_id: self.chain_id,
            timestamp: self.timestamp,
            gas_limit: GAS_LIMIT,
            base_fee: BASE_FEE,
            alloc,
            deployments,
        };
        let network = NetworkConfig {
            version: types::NETWORK_VERSION,
            chain_id: self.chain_id,
            block_time_ms: self.block_time_ms,
            epoch_blocks: self.epoch_blocks,
            window_seconds: trust.window_seconds,
            game_seconds: trust.game_seconds(),
            unbonding_seconds: UNBONDING_SECONDS,
            contracts,
            validators: self.validators.into_iter().map(|(_, key)| key).collect(),
        };
        Ok((genesis, network))
    }
}

fn deployment((name, json): (&str, &str), arguments: Vec<u8>) -> anyhow::Result<Deployment> {
    let artifact: Artifact = serde_json::from_str(json).with_context(|| format!("artefact {name}"))?;
    let init_code = Bytes::from([artifact.bytecode.as_ref(), &arguments].concat());
    Ok(Deployment { name: name.into(), init_code })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::FixedBytes;

    #[test]
    fn the_system_contracts_are_deployed_where_the_configuration_says() {
        let key = ValidatorKey {
            peer: B256::repeat_byte(1),
            vote: FixedBytes::repeat_byte(2),
            possession: FixedBytes::repeat_byte(3),
        };
        let new = NewNetwork {
            chain_id: 7,
            block_time_ms: 250,
            epoch_blocks: 100,
            timestamp: 1,
            validators: vec![(Address::repeat_byte(9), key)],
            funded: vec![],
            staking: staking_rules(),
            trust: TrustRules::devnet(),
        };
        let (genesis, network) = new.build().unwrap();
        let executed = genesis.execute(&network).unwrap();
        let c = network.contracts;
        for address in c.all() {
            assert!(executed.state().code(address).unwrap().len() > 100);
        }
        assert_eq!(executed.state().balance(c.staking).unwrap(), staking_rules().min_stake);
        assert_eq!(executed.header().extra_data.as_ref(), network.commitment().as_slice());
        // Nobody holds coins that were not given, and the deployer has none.
        assert!(executed.state().balance(ledger::SYSTEM_DEPLOYER).unwrap().is_zero());
        // Another chain id or validator gives another network.
        let mut other = network.clone();
        other.chain_id = 8;
        assert_ne!(genesis.execute(&other).unwrap().hash(), executed.hash());
    }
}
