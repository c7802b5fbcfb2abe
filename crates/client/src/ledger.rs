//! JSON-RPC servers as the ledger of a [`wallet::Wallet`].

use crate::{ClientError, RpcClient};
use alloy_primitives::{Address, B256, Bytes, U64};
use async_trait::async_trait;
use serde_json::{Value, json};
use wallet::{Draft, Fault, Head, Ledger, Receipt};

/// JSON-RPC code of a revert.
const REVERTED: i64 = 3;

/// Whose fault an error is.
fn fault(e: ClientError) -> Fault {
    match e {
        ClientError::Rpc { code: REVERTED, data, .. } => {
            Fault::Reverted(data.and_then(|d| d.parse().ok()).unwrap_or_default())
        }
        ClientError::Rpc { code, message, .. } => Fault::Refused { code, message },
        other => Fault::Unreachable(other.to_string()),
    }
}

fn number(value: &Value) -> Result<u64, Fault> {
    let number: Result<U64, _> = serde_json::from_value(value.clone());
    number.map(|n| n.to()).map_err(|e| Fault::Unreachable(format!("an unusable answer: {e}")))
}

#[async_trait]
impl Ledger for RpcClient {
    async fn head(&self) -> Result<Head, Fault> {
        let block: Value =
            self.call("eth_getBlockByNumber", json!(["latest", false])).await.map_err(fault)?;
        let base_fee = u128::from(number(&block["baseFeePerGas"])?);
        // The next block's is at most an eighth higher.
        let base_fee = base_fee + base_fee / 8 + 1;
        Ok(Head { number: number(&block["number"])?, time: number(&block["timestamp"])?, base_fee })
    }

    async fn nonces(&self, address: Address) -> Result<(u64, u64), Fault> {
        let nonce = async |at: &str| -> Result<u64, Fault> {
            let nonce: U64 =
                self.call("eth_getTransactionCount", json!([address, at])).await.map_err(fault)?;
            Ok(nonce.to())
        };
        Ok((nonce("latest").await?, nonce("pending").await?))
    }

    async fn estimate(&self, draft: &Draft) -> Result<u64, Fault> {
        let call = json!({"from": draft.from, "to": draft.to, "value": draft.value, "input": draft.data});
        let gas: U64 = self.call("eth_estimateGas", json!([call])).await.map_err(fault)?;
        Ok(gas.to())
    }

    async fn submit(&self, raw: Bytes) -> Result<(), Fault> {
        self.call_all::<B256>("eth_sendRawTransaction", json!([raw])).await.map(drop).map_err(fault)
    }

    async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, Fault> {
        let receipt: Value = self.call("eth_getTransactionReceipt", json!([hash])).await.map_err(fault)?;
        match receipt["status"].as_str() {
            None => Ok(None),
            Some(status) => {
                Ok(Some(Receipt { success: status == "0x1", block: number(&receipt["blockNumber"])? }))
            }
        }
    }
}
