use crate::{
    Block, ChainParams, Executed, LedgerError,
    block::Turn,
    evm::{StateView, block_env, evm, evm_error},
    execute::{collect, fixed_header},
    executed::{Parts, Results},
    state::{AccountChange, Changes, State},
};
use alloy_consensus::Header;
use alloy_eips::{
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, address, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use imbl::OrdMap;
use revm::{ExecuteCommitEvm as _, context::TxEnv, database::CacheDB, primitives::TxKind};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use types::NetworkConfig;

/// The account that deploys the system contracts in the genesis block. Nobody has its key: the address is not
/// derived from one, and the account is left without balance.
pub const SYSTEM_DEPLOYER: Address = address!("00000000000000000000000000000000000000f9");

/// Gas for one deployment in the genesis block. Nobody has to wait for it, so the limits for transactions do not hold.
const DEPLOYMENT_GAS: u64 = 1_000_000_000;

/// An account that exists from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// Balance in wei.
    pub balance: U256,
    /// Nonce.
    #[serde(default)]
    pub nonce: u64,
    /// Code.
    #[serde(default)]
    pub code: Bytes,
    /// Storage.
    #[serde(default)]
    pub storage: BTreeMap<U256, U256>,
}

/// A contract that the genesis block deploys, constructor and all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Name of the contract, for people.
    pub name: String,
    /// Creation code with ABI-encoded constructor arguments.
    pub init_code: Bytes,
}

/// What the chain starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Seconds since the Unix epoch.
    pub timestamp: u64,
    /// Gas limit of every block.
    pub gas_limit: u64,
    /// Base fee of the first block, in wei.
    pub base_fee: u64,
    /// Accounts.
    pub alloc: BTreeMap<Address, GenesisAccount>,
    /// Contracts, in order of deployment.
    pub deployments: Vec<Deployment>,
}

impl Genesis {
    /// The rules of this chain.
    pub fn params(&self, network: &NetworkConfig) -> ChainParams {
        let (staking, beacon) = (network.contracts.staking, network.contracts.beacon);
        ChainParams {
            chain_id: self.chain_id,
            gas_limit: self.gas_limit,
            epoch_blocks: network.epoch_blocks,
            staking: (!staking.is_zero()).then_some(staking),
            beacon: (!beacon.is_zero()).then_some(beacon),
        }
    }

    /// Address of the contract deployed as number `index`.
    pub fn deployment_address(index: u64) -> Address {
        SYSTEM_DEPLOYER.create(index)
    }

    /// Executes the genesis block. Its `extraData` commits to the network's configuration.
    ///
    /// # Errors
    /// [`LedgerError::Genesis`] when a constructor fails.
    pub fn execute(&self, network: &NetworkConfig) -> Result<Executed, LedgerError> {
        let mut alloc = Changes::default();
        let system =
            [(HISTORY_STORAGE_ADDRESS, &HISTORY_STORAGE_CODE), (BEACON_ROOTS_ADDRESS, &BEACON_ROOTS_CODE)]
                .map(|(address, code)| {
                    (address, GenesisAccount { nonce: 1, code: code.clone(), ..Default::default() })
                });
        for (address, account) in self.alloc.iter().chain(system.iter().map(|(a, c)| (a, c))) {
            let code_hash = if account.code.is_empty() { KECCAK256_EMPTY } else { keccak256(&account.code) };
            if code_hash != KECCAK256_EMPTY {
                alloc.codes.insert(code_hash, account.code.clone());
            }
            let change = AccountChange {
                info: Some((account.nonce, account.balance, code_hash)),
                cleared: true,
                storage: account.storage.clone(),
            };
            alloc.accounts.insert(*address, change);
        }
        let state = self.deploy(network, State::default().apply(&alloc)?.0)?;
        let header = Header {
            state_root: state.root(),
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: EMPTY_ROOT_HASH,
            gas_limit: self.gas_limit,
            timestamp: self.timestamp,
            extra_data: Bytes::copy_from_slice(network.commitment().as_slice()),
            base_fee_per_gas: Some(self.base_fee),
            ..fixed_header()
        };
        Ok(Executed::new(Parts {
            block: Arc::new(Block { header, transactions: vec![], withdrawals: vec![] }),
            turn: Turn::default(),
            state,
            results: Results::default(),
            dropped: vec![],
            hashes: OrdMap::new(),
            validators: Arc::new(network.first_set()),
        }))
    }

    fn deploy(&self, network: &NetworkConfig, state: State) -> Result<State, LedgerError> {
        let params = self.params(network);
        let env = block_env(0, self.timestamp, Address::ZERO, DEPLOYMENT_GAS, 0, B256::ZERO);
        let db = CacheDB::new(StateView { state: state.clone(), hashes: OrdMap::new() });
        // The genesis hash does not exist yet; no constructor needs it.
        let mut evm = evm(db, &params, B256::ZERO, env, |cfg| {
            cfg.disable_base_fee = true;
            cfg.tx_gas_limit_cap = Some(u64::MAX);
            cfg.limit_contract_initcode_size = Some(usize::MAX);
        });
        for (index, deployment) in self.deployments.iter().enumerate() {
            let failed = |why: String| LedgerError::Genesis(format!("deploying {}: {why}", deployment.name));
            let done = evm
                .transact_commit(TxEnv {
                    caller: SYSTEM_DEPLOYER,
                    gas_limit: DEPLOYMENT_GAS,
                    kind: TxKind::Create,
                    data: deployment.init_code.clone(),
                    nonce: index as u64,
                    chain_id: Some(self.chain_id),
                    ..Default::default()
                })
                .map_err(|e| failed(evm_error(e).to_string()))?;
            if !done.is_success() {
                return Err(failed(format!("the constructor failed: {done:?}")));
            }
            assert_eq!(
                done.created_address(),
                Some(Self::deployment_address(index as u64)),
                "CREATE address"
            );
        }
        Ok(state.apply(&collect(evm.ctx.journaled_state.database)?)?.0)
    }
}
