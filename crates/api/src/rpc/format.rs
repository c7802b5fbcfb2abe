//! JSON shapes of blocks, transactions, receipts and logs.

use super::errors::{RpcResult, refused};
use crate::ports::BlockData;
use alloy_consensus::{
    Header as ConsensusHeader, ReceiptEnvelope, Transaction as _, TxEnvelope, transaction::Recovered,
};
use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_eth::{Block, BlockTransactions, Header, Log, Transaction, TransactionReceipt};

/// A block with whole transactions or their hashes.
pub(crate) fn block(data: &BlockData, full: bool) -> Block {
    let header = Header {
        hash: data.hash,
        inner: data.header.clone(),
        total_difficulty: Some(U256::ZERO),
        size: Some(U256::from(data.size)),
    };
    let transactions = if full {
        BlockTransactions::Full((0..data.transactions.len()).map(|i| transaction(data, i)).collect())
    } else {
        BlockTransactions::Hashes(data.transactions.iter().map(|(tx, _)| *tx.tx_hash()).collect())
    };
    Block { header, uncles: vec![], transactions, withdrawals: Some(data.withdrawals.clone().into()) }
}

/// Transaction `index` of a block.
pub(crate) fn transaction(data: &BlockData, index: usize) -> Transaction {
    let (tx, sender) = &data.transactions[index];
    Transaction {
        inner: Recovered::new_unchecked(tx.clone(), *sender),
        block_hash: Some(data.hash),
        block_number: Some(data.header.number),
        transaction_index: Some(index as u64),
        effective_gas_price: Some(tx.effective_gas_price(data.header.base_fee_per_gas)),
        block_timestamp: Some(data.header.timestamp),
    }
}

/// A transaction that waits for a block.
pub(crate) fn pending(tx: TxEnvelope, sender: Address) -> Transaction {
    let effective_gas_price = Some(tx.max_fee_per_gas());
    Transaction {
        inner: Recovered::new_unchecked(tx, sender),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price,
        block_timestamp: None,
    }
}

/// All receipts of a block.
pub(crate) fn receipts(data: &BlockData, receipts: &[ReceiptEnvelope]) -> RpcResult<Vec<TransactionReceipt>> {
    if receipts.len() != data.transactions.len() {
        return Err(refused("the stored receipts do not fit the block"));
    }
    let mut out = Vec::with_capacity(receipts.len());
    let (mut gas_before, mut logs_before) = (0, 0);
    for (index, (receipt, (tx, sender))) in receipts.iter().zip(&data.transactions).enumerate() {
        let place = Place { data, hash: *tx.tx_hash(), index: index as u64 };
        let inner = receipt.clone().map_logs({
            let mut at = logs_before;
            move |log| {
                at += 1;
                place.log(log, at - 1)
            }
        });
        logs_before += receipt.logs().len() as u64;
        let gas_used = receipt.cumulative_gas_used() - gas_before;
        gas_before = receipt.cumulative_gas_used();
        let created = tx.kind().is_create().then(|| sender.create(tx.nonce()));
        out.push(TransactionReceipt {
            inner,
            transaction_hash: *tx.tx_hash(),
            transaction_index: Some(index as u64),
            block_hash: Some(data.hash),
            block_number: Some(data.header.number),
            gas_used,
            effective_gas_price: tx.effective_gas_price(data.header.base_fee_per_gas),
            from: *sender,
            to: tx.to(),
            contract_address: created,
            blob_gas_used: None,
            blob_gas_price: None,
        });
    }
    Ok(out)
}

/// Where a log was emitted.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) data: &'a BlockData,
    pub(crate) hash: B256,
    pub(crate) index: u64,
}

impl Place<'_> {
    pub(crate) fn log(&self, inner: alloy_primitives::Log, log_index: u64) -> Log {
        let header: &ConsensusHeader = &self.data.header;
        Log {
            inner,
            block_hash: Some(self.data.hash),
            block_number: Some(header.number),
            block_timestamp: Some(header.timestamp),
            transaction_hash: Some(self.hash),
            transaction_index: Some(self.index),
            log_index: Some(log_index),
            removed: false,
        }
    }
}
