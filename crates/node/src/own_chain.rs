//! The validator of this process as the ledger of a [`wallet::Wallet`].

use crate::chain_port::ChainPort;
use alloy_rpc_types_eth::TransactionRequest;
use api::ports::{BlockRef, CallOverrides, Chain as _, ChainFault, Stop};
use async_trait::async_trait;
use std::sync::Arc;
use types::{Address, B256, Bytes};
use wallet::{Draft, Fault, Head, Ledger, Receipt};

/// geth's code for what the pool or the EVM refuses.
const REFUSED: i64 = -32000;

/// A validator's own chain.
pub(crate) struct OwnChain(pub(crate) Arc<ChainPort>);

fn fault(e: ChainFault) -> Fault {
    match e {
        ChainFault::Reverted(data) => Fault::Reverted(data),
        ChainFault::Internal(reason) => Fault::Unreachable(reason),
        ChainFault::Coded { code, message } => Fault::Refused { code: code.into(), message },
        other => Fault::Refused { code: REFUSED, message: other.to_string() },
    }
}

impl OwnChain {
    /// Asks the chain on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&ChainPort) -> Result<T, ChainFault> + Send + 'static,
    ) -> Result<T, Fault> {
        let port = self.0.clone();
        let answer = tokio::task::spawn_blocking(move || question(&port)).await;
        answer.map_err(|e| Fault::Unreachable(e.to_string()))?.map_err(fault)
    }
}

#[async_trait]
impl Ledger for OwnChain {
    async fn head(&self) -> Result<Head, Fault> {
        self.ask(|chain| {
            let number = chain.head();
            let (_, header) = chain.header(number)?.ok_or(ChainFault::UnknownBlock)?;
            let base_fee = u128::from(chain.next_base_fee());
            Ok(Head { number, time: header.timestamp, base_fee })
        })
        .await
    }

    async fn nonces(&self, address: Address) -> Result<(u64, u64), Fault> {
        self.ask(move |chain| {
            let mined = chain.nonce(Some(BlockRef::Number(chain.head())), address)?;
            Ok((mined, chain.nonce(None, address)?))
        })
        .await
    }

    async fn estimate(&self, draft: &Draft) -> Result<u64, Fault> {
        let Draft { from, to, value, data } = draft.clone();
        let call = TransactionRequest::default().from(from).to(to).value(value).input(data.into());
        self.ask(move |chain| {
            // Its own transactions; their gas is bounded.
            let never = Stop::default();
            chain.estimate_gas(BlockRef::Number(chain.head()), call, CallOverrides::default(), &never)
        })
        .await
    }

    async fn submit(&self, raw: Bytes) -> Result<(), Fault> {
        self.ask(move |chain| chain.submit(raw).map(drop)).await
    }

    async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, Fault> {
        self.ask(move |chain| {
            let Some((block, index)) = chain.transaction(hash)? else { return Ok(None) };
            let receipts = chain.receipts(block)?.ok_or(ChainFault::UnknownBlock)?;
            let receipt = receipts.get(index as usize).ok_or(ChainFault::UnknownTransaction)?;
            Ok(Some(Receipt { success: receipt.status(), block }))
        })
        .await
    }
}
