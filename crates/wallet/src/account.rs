use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature};
use types::{TypesError, signing};

/// A key that signs transactions.
#[derive(Clone)]
pub struct Account {
    secret: B256,
    address: Address,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.address)
    }
}

impl Account {
    /// The account of `secret`.
    ///
    /// # Errors
    /// [`TypesError::BadSecretKey`].
    pub fn new(secret: B256) -> Result<Self, TypesError> {
        Ok(Self { address: signing::address_of(&secret)?, secret })
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs an EIP-1559 transaction.
    ///
    /// # Errors
    /// [`TypesError::BadSecretKey`].
    pub fn sign(&self, tx: TxEip1559) -> Result<Bytes, TypesError> {
        let raw = signing::sign(&self.secret, tx.signature_hash())?;
        let signature = Signature::from_raw_array(&raw).map_err(|_| TypesError::BadSignature)?;
        Ok(TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into())
    }
}
