use crate::{ClientError, RpcClient};
use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U64, U256};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use types::{TypesError, signing};

/// How long a transaction may take to become final.
const INCLUSION_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// A key that sends transactions.
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

    /// Sends `data` and `value` to `to` and waits until the transaction is final and successful.
    ///
    /// # Errors
    /// [`ClientError::Transaction`] when it reverts or is not included in time, else what the server says.
    pub async fn send(
        &self,
        rpc: &RpcClient,
        chain_id: u64,
        to: Address,
        value: U256,
        data: Bytes,
    ) -> Result<B256, ClientError> {
        let hash = self.submit(rpc, chain_id, to, value, data).await?;
        self.wait(rpc, hash).await.map(|()| hash)
    }

    /// Sends a transaction without waiting for it. Calls of one account must come one after the other, since each takes the next nonce.
    ///
    /// # Errors
    /// What the server says.
    pub async fn submit(
        &self,
        rpc: &RpcClient,
        chain_id: u64,
        to: Address,
        value: U256,
        data: Bytes,
    ) -> Result<B256, ClientError> {
        let call = json!({"from": self.address, "to": to, "value": value, "input": data});
        let gas: U64 = rpc.call("eth_estimateGas", json!([call])).await?;
        let nonce: U64 = rpc.call("eth_getTransactionCount", json!([self.address, "pending"])).await?;
        let price: U64 = rpc.call("eth_gasPrice", json!([])).await?;
        let tip: U64 = rpc.call("eth_maxPriorityFeePerGas", json!([])).await?;
        let raw = self.sign(TxEip1559 {
            chain_id,
            nonce: nonce.to(),
            gas_limit: gas.to::<u64>() * 12 / 10,
            max_fee_per_gas: price.to::<u128>() * 2,
            max_priority_fee_per_gas: tip.to(),
            to: TxKind::Call(to),
            value,
            input: data,
            ..Default::default()
        })?;
        rpc.call("eth_sendRawTransaction", json!([raw])).await
    }

    /// Waits until a transaction is final and successful.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn wait(&self, rpc: &RpcClient, hash: B256) -> Result<(), ClientError> {
        let failed =
            |reason: &str| ClientError::Transaction { hash: hash.to_string(), reason: reason.into() };
        let deadline = Instant::now() + INCLUSION_MAX;
        while Instant::now() < deadline {
            let receipt: Value = rpc.call("eth_getTransactionReceipt", json!([hash])).await?;
            match receipt["status"].as_str() {
                Some("0x1") => return Ok(()),
                Some(_) => return Err(failed("it reverted")),
                None => tokio::time::sleep(POLL).await,
            }
        }
        Err(failed("it was not included within 30 s"))
    }
}
