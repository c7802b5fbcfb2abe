use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use types::signing;

/// A funded account that signs transfers.
#[derive(Clone, Debug)]
pub struct Wallet {
    secret: B256,
    chain_id: u64,
    nonce: u64,
}

impl Wallet {
    /// The wallet number `index` of a chain; the same in every run.
    pub fn new(index: u8, chain_id: u64) -> Self {
        Self { secret: B256::repeat_byte(index + 1), chain_id, nonce: 0 }
    }

    /// The wallet's address.
    ///
    /// # Panics
    /// Never: the secrets of [`Wallet::new`] are valid.
    pub fn address(&self) -> Address {
        signing::address_of(&self.secret).expect("a valid secret")
    }

    /// The next transfer of `wei` to `to`, as raw bytes for `eth_sendRawTransaction`.
    ///
    /// # Panics
    /// Never: the secrets of [`Wallet::new`] are valid.
    pub fn transfer(&mut self, to: Address, wei: u64) -> Bytes {
        self.call(to, U256::from(wei), Bytes::new(), 21_000)
    }

    /// The next call of a contract.
    ///
    /// # Panics
    /// Never: the secrets of [`Wallet::new`] are valid.
    pub fn call(&mut self, to: Address, value: U256, input: Bytes, gas_limit: u64) -> Bytes {
        let tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit,
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(to),
            value,
            input,
            ..Default::default()
        };
        self.nonce += 1;
        let raw = signing::sign(&self.secret, tx.signature_hash()).expect("a valid secret");
        let signature = Signature::from_raw_array(&raw).expect("a recoverable signature");
        TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
    }
}
