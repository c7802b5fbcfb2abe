//! [`api::ports::Chain`] over a validator's [`consensus::Chain`].

use alloy_consensus::{ReceiptEnvelope, TxEnvelope, transaction::SignerRecoverable as _};
use api::ports::{AccountProofData, BlockData, BlockRef, Call, Chain, ChainFault};
use client::contracts::receipt_log_slot;
use consensus::ConsensusError;
use ledger::{Block, CallOutcome, CallRequest, Executed, LedgerError};
use serde_json::{Value, json};
use std::sync::Arc;
use types::{Address, B256, Bytes, LedgerProof, U256};

/// A validator's chain as the JSON-RPC server sees it.
pub(crate) struct ChainPort(pub(crate) Arc<consensus::Chain>);

fn internal(e: impl std::fmt::Display) -> ChainFault {
    ChainFault::Internal(e.to_string())
}

impl ChainPort {
    /// The block with its state; only the newest blocks have one.
    fn state(&self, at: BlockRef) -> Result<Executed, ChainFault> {
        let number = match at {
            BlockRef::Latest => return Ok(self.0.head()),
            BlockRef::Number(n) => n,
            BlockRef::Hash(hash) => {
                self.0.store().number(&hash).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?
            }
        };
        if number > self.0.head().number() {
            return Err(ChainFault::UnknownBlock);
        }
        self.0.recent(number).ok_or(ChainFault::StateUnavailable(number))
    }
}

fn with_senders(block: &Block) -> Result<BlockData, ChainFault> {
    let transactions = block
        .transactions
        .iter()
        .map(|tx| Ok((tx.clone(), tx.recover_signer().map_err(internal)?)))
        .collect::<Result<Vec<_>, ChainFault>>()?;
    Ok(BlockData {
        hash: block.hash(),
        header: block.header.clone(),
        transactions,
        size: block.encoded_len(),
    })
}

fn request(call: Call) -> CallRequest {
    CallRequest {
        from: call.from,
        to: call.to,
        gas: call.gas,
        gas_price: call.gas_price,
        value: call.value,
        data: call.data,
        access_list: call.access_list,
    }
}

fn output(outcome: CallOutcome) -> Result<Bytes, ChainFault> {
    match outcome {
        CallOutcome::Success { output, .. } => Ok(output),
        CallOutcome::Revert { output, .. } => Err(ChainFault::Reverted(output)),
        CallOutcome::Halt { reason, .. } => Err(ChainFault::Rejected(reason)),
    }
}

fn rejected(e: LedgerError) -> ChainFault {
    ChainFault::Rejected(e.to_string())
}

impl Chain for ChainPort {
    fn chain_id(&self) -> u64 {
        self.0.network().chain_id
    }

    fn head(&self) -> u64 {
        self.0.head().number()
    }

    fn peers(&self) -> usize {
        self.0.network().validators.len() - 1
    }

    fn block(&self, at: BlockRef) -> Result<Option<BlockData>, ChainFault> {
        let number = match at {
            BlockRef::Latest => self.0.head().number(),
            BlockRef::Number(n) => n,
            BlockRef::Hash(hash) => match self.0.store().number(&hash).map_err(internal)? {
                Some(n) => n,
                None => return Ok(None),
            },
        };
        match self.0.recent(number) {
            Some(executed) => with_senders(executed.block()).map(Some),
            None => self.0.store().block(number).map_err(internal)?.map(|b| with_senders(&b)).transpose(),
        }
    }

    fn receipts(&self, number: u64) -> Result<Option<Vec<ReceiptEnvelope>>, ChainFault> {
        match self.0.recent(number) {
            Some(executed) => Ok(Some(executed.receipts().to_vec())),
            None => self.0.store().receipts(number).map_err(internal),
        }
    }

    fn transaction(&self, hash: B256) -> Result<Option<(u64, u32)>, ChainFault> {
        self.0.store().transaction(&hash).map_err(internal)
    }

    fn pooled(&self, hash: B256) -> Option<(TxEnvelope, Address)> {
        self.0.pooled(&hash).map(|tx| (tx.tx().clone(), tx.sender()))
    }

    fn balance(&self, at: BlockRef, address: Address) -> Result<U256, ChainFault> {
        Ok(self.state(at)?.state().balance(address))
    }

    fn nonce(&self, at: Option<BlockRef>, address: Address) -> Result<u64, ChainFault> {
        match at {
            None => Ok(self.0.pending_nonce(address)),
            Some(at) => Ok(self.state(at)?.state().nonce(address)),
        }
    }

    fn code(&self, at: BlockRef, address: Address) -> Result<Bytes, ChainFault> {
        Ok(self.state(at)?.state().code(address))
    }

    fn storage(&self, at: BlockRef, address: Address, slot: U256) -> Result<U256, ChainFault> {
        Ok(self.state(at)?.state().storage(address, slot))
    }

    fn proof(&self, at: BlockRef, address: Address, slots: &[U256]) -> Result<AccountProofData, ChainFault> {
        let proof = self.state(at)?.state().proof(address, slots);
        Ok(AccountProofData {
            nonce: proof.account.nonce,
            balance: proof.account.balance,
            code_hash: proof.account.code_hash,
            storage_root: proof.account.storage_root,
            account_proof: proof.proof,
            storage: proof.storage.into_iter().map(|s| (s.slot, s.value, s.proof)).collect(),
        })
    }

    fn call(&self, at: BlockRef, call: Call) -> Result<Bytes, ChainFault> {
        output(self.0.ledger().call(&self.state(at)?, &request(call)).map_err(rejected)?)
    }

    fn estimate_gas(&self, at: BlockRef, call: Call) -> Result<u64, ChainFault> {
        match self.0.ledger().estimate_gas(&self.state(at)?, &request(call)).map_err(rejected)? {
            Ok(gas) => Ok(gas),
            Err(outcome) => output(outcome).map(|_| 0),
        }
    }

    fn submit(&self, raw: Bytes) -> Result<B256, ChainFault> {
        self.0.submit(raw).map_err(|e| match e {
            ConsensusError::Transaction(message) => ChainFault::Rejected(message),
            other => internal(other),
        })
    }

    fn next_base_fee(&self) -> u64 {
        self.0.head().next_base_fee()
    }

    fn network(&self) -> Value {
        let header = Bytes::from(alloy_rlp::encode(self.0.genesis().header()));
        json!({"network": self.0.network(), "genesisHeader": header})
    }

    fn finalized(&self) -> Result<Value, ChainFault> {
        let certified = self.0.certified().map_err(internal)?;
        let (executed, certificate) =
            certified.ok_or_else(|| ChainFault::NotFinalised("no block has a certificate yet".into()))?;
        let header = Bytes::from(alloy_rlp::encode(executed.header()));
        Ok(
            json!({"number": executed.number(), "hash": executed.hash(), "certificate": certificate, "header": header}),
        )
    }

    fn receipt_log_proof(&self, node: Address, size: u64) -> Result<Value, ChainFault> {
        let certified = self.0.certified().map_err(internal)?;
        let not_yet = || ChainFault::NotFinalised(format!("no root of {size} receipts of {node}"));
        let (executed, certificate) = certified.ok_or_else(not_yet)?;
        let contract = self.0.network().contracts.receipt_log;
        let slot = U256::from_be_bytes(receipt_log_slot(node, size).0);
        if executed.state().storage(contract, slot).is_zero() {
            return Err(not_yet());
        }
        let proof = executed.state().proof(contract, &[slot]);
        let storage_proof = proof.storage.into_iter().next().map(|s| s.proof).unwrap_or_default();
        serde_json::to_value(LedgerProof {
            header: alloy_rlp::encode(executed.header()).into(),
            certificate,
            account_proof: proof.proof,
            storage_proof,
        })
        .map_err(internal)
    }
}
