use crate::LedgerError;
use alloy_consensus::{Transaction as _, TxEnvelope, transaction::SignerRecoverable as _};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes};
use revm::{context::TxEnv, context_interface::either::Either, primitives::TxKind};

/// Largest raw transaction (128 KiB, as geth's pool).
pub const MAX_TX_BYTES: usize = 128 << 10;

/// A transaction whose signature has been checked, once.
#[derive(Clone, Debug)]
pub struct RecoveredTx {
    tx: TxEnvelope,
    sender: Address,
    hash: B256,
    raw_len: usize,
}

impl RecoveredTx {
    /// Decodes and checks what can be checked without state: size, type, chain id (EIP-155), signature (EIP-2).
    ///
    /// # Errors
    /// [`LedgerError`] with geth's wording.
    pub fn decode(raw: &[u8], chain_id: u64) -> Result<Self, LedgerError> {
        if raw.len() > MAX_TX_BYTES {
            return Err(LedgerError::Oversized { size: raw.len(), max: MAX_TX_BYTES });
        }
        let tx = TxEnvelope::decode_2718_exact(raw).map_err(|e| LedgerError::Malformed(e.to_string()))?;
        Self::recover(tx, chain_id)
    }

    /// Checks a decoded transaction as [`decode`](Self::decode) does.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn recover(tx: TxEnvelope, chain_id: u64) -> Result<Self, LedgerError> {
        if tx.is_eip4844() {
            return Err(LedgerError::UnsupportedType);
        }
        if tx.chain_id() != Some(chain_id) {
            return Err(LedgerError::WrongChain { have: tx.chain_id(), want: chain_id });
        }
        let sender = tx.recover_signer().map_err(|_| LedgerError::InvalidSender)?;
        let hash = *tx.tx_hash();
        let raw_len = tx.encode_2718_len();
        Ok(Self { tx, sender, hash, raw_len })
    }

    /// The transaction.
    pub fn tx(&self) -> &TxEnvelope {
        &self.tx
    }

    /// Who signed it.
    pub fn sender(&self) -> Address {
        self.sender
    }

    /// Its hash.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Whom it calls, and with which data; `None` when it creates a contract.
    pub fn call(&self) -> Option<(Address, &Bytes)> {
        Some((self.tx.to()?, self.tx.input()))
    }

    /// Its EIP-2718 encoding.
    pub fn raw(&self) -> Vec<u8> {
        self.tx.encoded_2718()
    }

    /// Length of its EIP-2718 encoding in bytes.
    pub fn raw_len(&self) -> usize {
        self.raw_len
    }

    /// Tip per gas in wei that the block's beneficiary gets at `base_fee`, or `None` when the fee cap is below it.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        self.tx.effective_tip_per_gas(base_fee)
    }

    /// The form in which revm takes it.
    pub(crate) fn env(&self) -> TxEnv {
        let tx = &self.tx;
        TxEnv {
            tx_type: tx.tx_type() as u8,
            caller: self.sender,
            gas_limit: tx.gas_limit(),
            gas_price: tx.max_fee_per_gas(),
            kind: tx.to().map_or(TxKind::Create, TxKind::Call),
            value: tx.value(),
            data: tx.input().clone(),
            nonce: tx.nonce(),
            chain_id: tx.chain_id(),
            access_list: tx.access_list().cloned().unwrap_or_default(),
            gas_priority_fee: tx.max_priority_fee_per_gas(),
            authorization_list: tx
                .authorization_list()
                .unwrap_or_default()
                .iter()
                .cloned()
                .map(Either::Left)
                .collect(),
            ..Default::default()
        }
    }
}
