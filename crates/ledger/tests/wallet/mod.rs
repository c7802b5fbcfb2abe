//! Accounts that sign every kind of transaction.
#![allow(dead_code, clippy::unwrap_used)]

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use ledger::{BlockInput, Executed, Genesis, GenesisAccount, Ledger, Turn};
use std::collections::BTreeMap;
use types::{FixedBytes, NetworkConfig, SystemContracts, ValidatorKey, signing};

pub(crate) const CHAIN_ID: u64 = 7;
const FEE_CAP: u128 = 100_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Legacy,
    AccessList,
    Dynamic,
}

#[derive(Clone, Debug)]
pub(crate) struct Wallet {
    pub(crate) secret: B256,
    pub(crate) nonce: u64,
    pub(crate) gas: u64,
    pub(crate) chain_id: Option<u64>,
    pub(crate) fee_cap: u128,
    pub(crate) tip: u128,
}

impl Wallet {
    pub(crate) fn new(i: u8) -> Self {
        Self {
            secret: B256::repeat_byte(i + 1),
            nonce: 0,
            gas: 100_000,
            chain_id: Some(CHAIN_ID),
            fee_cap: FEE_CAP,
            tip: 1,
        }
    }

    /// One of many wallets, apart from those of [`new`](Self::new).
    pub(crate) fn numbered(i: u32) -> Self {
        Self { secret: alloy_primitives::keccak256(i.to_be_bytes()), ..Self::new(0) }
    }

    pub(crate) fn address(&self) -> Address {
        signing::address_of(&self.secret).unwrap()
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    pub(crate) fn with_nonce(&self, nonce: u64) -> Self {
        Self { nonce, ..self.clone() }
    }

    pub(crate) fn with_gas(self, gas: u64) -> Self {
        Self { gas, ..self }
    }

    pub(crate) fn with_gas_mut(&mut self, gas: u64) -> &mut Self {
        self.gas = gas;
        self
    }

    pub(crate) fn transfer(&mut self, kind: Kind, to: Address, value: U256) -> Bytes {
        self.send(kind, TxKind::Call(to), value, Bytes::new())
    }

    pub(crate) fn call(&mut self, to: Address, input: Bytes) -> Bytes {
        self.send(Kind::Dynamic, TxKind::Call(to), U256::ZERO, input)
    }

    pub(crate) fn create(&mut self, init_code: Bytes) -> Bytes {
        self.send(Kind::Dynamic, TxKind::Create, U256::ZERO, init_code)
    }

    fn send(&mut self, kind: Kind, to: TxKind, value: U256, input: Bytes) -> Bytes {
        let (nonce, gas_limit) = (self.nonce, self.gas);
        let chain_id = self.chain_id.unwrap_or_default();
        self.nonce += 1;
        match kind {
            Kind::Legacy => {
                let chain_id = self.chain_id;
                self.sign(TxLegacy { chain_id, nonce, gas_price: self.fee_cap, gas_limit, to, value, input })
            }
            Kind::AccessList => self.sign(TxEip2930 {
                chain_id,
                nonce,
                gas_price: self.fee_cap,
                gas_limit,
                to,
                value,
                input,
                ..Default::default()
            }),
            Kind::Dynamic => self.sign(TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: self.fee_cap,
                max_priority_fee_per_gas: self.tip,
                to,
                value,
                input,
                ..Default::default()
            }),
        }
    }

    fn sign<T: SignableTransaction<Signature>>(&self, tx: T) -> Bytes
    where
        TxEnvelope: From<alloy_consensus::Signed<T>>,
    {
        let raw = signing::sign(&self.secret, tx.signature_hash()).unwrap();
        let signature = Signature::from_raw_array(&raw).unwrap();
        TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
    }
}

/// A network of one validator whose keys nobody has, without contracts.
pub(crate) fn network(epoch_blocks: u64) -> NetworkConfig {
    let zero = Address::ZERO;
    let key = ValidatorKey {
        peer: B256::repeat_byte(1),
        vote: FixedBytes::repeat_byte(2),
        possession: FixedBytes::repeat_byte(3),
    };
    NetworkConfig {
        version: types::NETWORK_VERSION,
        chain_id: CHAIN_ID,
        block_time_ms: 250,
        epoch_blocks,
        window_seconds: 90,
        game_seconds: 600,
        unbonding_seconds: 7 * 24 * 3600,
        contracts: SystemContracts {
            model_registry: zero,
            node_registry: zero,
            receipt_log: zero,
            wrapped_native: zero,
            staking: zero,
            ..SystemContracts::none()
        },
        validators: vec![key],
    }
}

/// A genesis in which the first four wallets have `balance` wei each.
pub(crate) fn genesis(balance: U256) -> Genesis {
    let account = GenesisAccount { balance, ..Default::default() };
    let alloc: BTreeMap<_, _> = (0..4).map(|i| (Wallet::new(i).address(), account.clone())).collect();
    Genesis {
        chain_id: CHAIN_ID,
        timestamp: 1000,
        gas_limit: 30_000_000,
        base_fee: 1_000_000_000,
        alloc,
        deployments: vec![],
    }
}

/// The ledger and the executed genesis block of such a network.
pub(crate) fn start(balance: U256) -> (Ledger, Executed) {
    let (genesis, network) = (genesis(balance), network(1_000_000));
    let executed = genesis.execute(&network).unwrap();
    (Ledger::new(genesis.params(&network), executed.hash()), executed)
}

/// The input of a block that follows `parent`.
pub(crate) fn input(parent: &Executed) -> BlockInput {
    BlockInput {
        timestamp: parent.header().timestamp + 1,
        seal: B256::repeat_byte(7),
        beneficiary: Address::repeat_byte(0xfe),
        randomness: B256::repeat_byte(8),
        turn: Turn::default(),
    }
}
