//! Accounts, and calls that are not transactions.

use super::{
    Backend,
    errors::{fault, invalid_params},
    eth::{Registered, heavy, method},
    format, params,
};
use alloy_primitives::{B256, U64, U256};
use alloy_rpc_types_eth::{
    AccessListResult, EIP1186AccountProofResponse, EIP1186StorageProof,
    simulate::{SimulatePayload, SimulatedBlock},
};
use jsonrpsee::RpcModule;

/// Most slots of one `eth_getProof`.
const PROOF_SLOTS_MAX: usize = 256;

pub(crate) fn register(m: &mut RpcModule<Backend>) -> Registered {
    method(m, "eth_getBalance", |b, v| {
        b.chain.balance(params::block(&v, 1)?, params::required(&v, 0, "address")?).map_err(fault)
    })?;
    method(m, "eth_getTransactionCount", |b, v| {
        let pending = v.get(1).is_some_and(|t| t == "pending");
        let at = if pending { None } else { Some(params::block(&v, 1)?) };
        b.chain.nonce(at, params::required(&v, 0, "address")?).map(U64::from).map_err(fault)
    })?;
    method(m, "eth_getCode", |b, v| {
        b.chain.code(params::block(&v, 1)?, params::required(&v, 0, "address")?).map_err(fault)
    })?;
    method(m, "eth_getStorageAt", |b, v| {
        let slot: U256 = params::required(&v, 1, "slot")?;
        let value = b.chain.storage(params::block(&v, 2)?, params::required(&v, 0, "address")?, slot);
        value.map(B256::from).map_err(fault)
    })?;
    heavy(m, "eth_call", |b, v, stop| {
        b.chain.call(params::block(&v, 1)?, params::call(&v)?, params::overrides(&v, 2)?, stop).map_err(fault)
    })?;
    heavy(m, "eth_estimateGas", |b, v, stop| {
        let gas =
            b.chain.estimate_gas(params::block(&v, 1)?, params::call(&v)?, params::overrides(&v, 2)?, stop);
        gas.map(U64::from).map_err(fault)
    })?;
    heavy(m, "eth_createAccessList", |b, v, stop| {
        let made = b.chain.create_access_list(
            params::block(&v, 1)?,
            params::call(&v)?,
            params::overrides(&v, 2)?,
            stop,
        );
        let made = made.map_err(fault)?;
        Ok(AccessListResult {
            access_list: made.list,
            gas_used: U256::from(made.gas_used),
            error: made.error,
        })
    })?;
    heavy(m, "eth_simulateV1", |b, v, stop| {
        let payload: SimulatePayload = params::object(&v, 0, "simulation")?;
        let full = payload.return_full_transactions;
        let blocks = b.chain.simulate(params::block(&v, 1)?, payload, stop).map_err(fault)?;
        Ok(blocks
            .into_iter()
            .map(|s| SimulatedBlock { inner: format::block(&s.block, full), calls: s.calls })
            .collect::<Vec<_>>())
    })?;
    method(m, "eth_getProof", |b, v| {
        let address = params::required(&v, 0, "address")?;
        let slots: Vec<U256> = params::required(&v, 1, "storage keys")?;
        if slots.len() > PROOF_SLOTS_MAX {
            return Err(invalid_params(format!("at most {PROOF_SLOTS_MAX} storage keys")));
        }
        let p = b.chain.proof(params::block(&v, 2)?, address, &slots).map_err(fault)?;
        Ok(EIP1186AccountProofResponse {
            address,
            balance: p.balance,
            code_hash: p.code_hash,
            nonce: p.nonce,
            storage_hash: p.storage_root,
            account_proof: p.account_proof,
            storage_proof: p
                .storage
                .into_iter()
                .map(|(slot, value, proof)| EIP1186StorageProof {
                    key: B256::from(slot).into(),
                    value,
                    proof,
                })
                .collect(),
        })
    })
}
