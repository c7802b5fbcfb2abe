use crate::{
    Block, ChainParams, Executed, LedgerError,
    execute::{Results, StateView, block_env, collect, configure, evm_error, fixed_header},
    state::{AccountChange, Changes, State},
};
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, address, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use imbl::OrdMap;
use revm::{
    Context, DatabaseCommit as _, ExecuteEvm as _, MainBuilder as _, MainContext as _, context::TxEnv,
    database::CacheDB, primitives::TxKind,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The account that deploys the system contracts in the genesis block. Nobody has its key: the address is not
/// derived from one, and the account is left without balance.
pub const SYSTEM_DEPLOYER: Address = address!("00000000000000000000000000000000000000f9");

/// Gas for one deployment in the genesis block.
const DEPLOYMENT_GAS: u64 = 16_000_000;

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
    pub fn params(&self) -> ChainParams {
        ChainParams { chain_id: self.chain_id, gas_limit: self.gas_limit }
    }

    /// Address of the contract deployed as number `index`.
    pub fn deployment_address(index: u64) -> Address {
        SYSTEM_DEPLOYER.create(index)
    }

    /// Executes the genesis block; `commitment` (of the network's configuration) becomes its `extraData`.
    ///
    /// # Errors
    /// [`LedgerError::Genesis`] when a constructor fails.
    pub fn execute(&self, commitment: B256) -> Result<Executed, LedgerError> {
        let mut alloc = Changes::default();
        for (address, account) in &self.alloc {
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
        let state = self.deploy(State::default().apply(&alloc))?;
        let header = Header {
            state_root: state.root(),
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: EMPTY_ROOT_HASH,
            gas_limit: self.gas_limit,
            timestamp: self.timestamp,
            extra_data: Bytes::copy_from_slice(commitment.as_slice()),
            base_fee_per_gas: Some(self.base_fee),
            ..fixed_header()
        };
        let block = Arc::new(Block { header, transactions: vec![] });
        let changes = whole(&state);
        Ok(Executed::new(block, state, Results::default(), changes, OrdMap::new()))
    }

    fn deploy(&self, state: State) -> Result<State, LedgerError> {
        let mut db = CacheDB::new(StateView { state, hashes: OrdMap::new() });
        for (index, deployment) in self.deployments.iter().enumerate() {
            let failed = |why: String| LedgerError::Genesis(format!("deploying {}: {why}", deployment.name));
            let mut evm = Context::mainnet()
                .with_db(&mut db)
                .with_block(block_env(0, self.timestamp, Address::ZERO, DEPLOYMENT_GAS, 0))
                .modify_cfg_chained(|cfg| {
                    configure(cfg, self.chain_id);
                    cfg.disable_base_fee = true;
                })
                .build_mainnet();
            let done = evm
                .transact(TxEnv {
                    caller: SYSTEM_DEPLOYER,
                    gas_limit: DEPLOYMENT_GAS,
                    kind: TxKind::Create,
                    data: deployment.init_code.clone(),
                    nonce: index as u64,
                    chain_id: Some(self.chain_id),
                    ..Default::default()
                })
                .map_err(|e| failed(evm_error(e).to_string()))?;
            if !done.result.is_success() {
                return Err(failed(format!("the constructor failed: {:?}", done.result)));
            }
            assert_eq!(
                done.result.created_address(),
                Some(Self::deployment_address(index as u64)),
                "CREATE address"
            );
            db.commit(done.state);
        }
        let before = db.db.state.clone();
        Ok(before.apply(&collect(db)))
    }
}

/// A whole state as changes to the empty one.
fn whole(state: &State) -> Changes {
    let mut changes = Changes::default();
    for (address, account) in state.accounts() {
        let change = AccountChange {
            info: Some((account.nonce, account.balance, account.code_hash)),
            cleared: true,
            storage: account.storage.iter().map(|(k, v)| (*k, *v)).collect(),
        };
        changes.accounts.insert(*address, change);
        if let Some(code) = state.code_by_hash(&account.code_hash) {
            changes.codes.insert(account.code_hash, code);
        }
    }
    changes
}
