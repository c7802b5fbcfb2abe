//! What a node shows of an answer.

use super::Bench;
use anyhow::{Context as _, ensure};
use client::contracts::{LoggedClaim, NodeRegistry, ReceiptLog};
use serde::Deserialize;
use std::time::Duration;
use types::{Address, Bytes, Disclosure, LogProof, Receipt, Rung, limits, merkle, signing};

/// Longest answer of a node.
const SHOWN_BYTES_MAX: usize = 2 * (limits::REQUEST_BYTES_MAX + limits::RESPONSE_BYTES_MAX);

/// How long an answer may be kept back, with something for slow clocks and networks.
pub(crate) const KEPT_BACK_MAX: Duration = Duration::from_secs(70);

/// The answer waits for the commitments of its group. For [`KEPT_BACK_MAX`] that is no fault.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it keeps the answer back until its group has committed")]
pub(crate) struct KeptBack;

/// A receipt of a log, with what is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) receipt: Receipt,
    pub(crate) inclusion: LogProof,
    /// Absent when the client allowed nobody to see it.
    pub(crate) disclosure: Option<Disclosure>,
}

impl Answer {
    /// Whether the node must show it to auditors.
    pub(crate) fn is_open(&self) -> bool {
        self.receipt.claim.rung_achieved == Rung::Audited as u8
    }

    /// What contracts take.
    pub(crate) fn logged(&self) -> anyhow::Result<LoggedClaim> {
        Ok(LoggedClaim {
            claim: alloy_rlp::encode(&self.receipt.claim).into(),
            signature: Bytes::from(self.receipt.signature()?.to_vec()),
            path: self.inclusion.path.clone(),
        })
    }
}

#[derive(Deserialize)]
struct Shown {
    receipt: Bytes,
    disclosure: Option<Disclosure>,
    inclusion: Option<LogProof>,
}

/// Asks a node for the receipt at `index` of the batch that ends at `size`. An error means that it does not show what it must.
pub(crate) async fn answer(bench: &Bench, node: Address, size: u64, index: u64) -> anyhow::Result<Answer> {
    let contracts = bench.court.network.contracts;
    let info = bench.court.rpc.view(contracts.node_registry, &NodeRegistry::nodeInfoCall { node }).await?;
    let posted = bench.court.rpc.view(contracts.receipt_log, &ReceiptLog::batchCall { node, size }).await?;
    let time = crate::inference::now_ms() / 1000;
    let digest = signing::audit_request(&bench.genesis, &node, index, time);
    let signature = Bytes::from(signing::sign(&bench.secret, digest)?.to_vec());
    let url = format!("{}/og/v1/audit/{index}?size={size}", info.endpoint);
    let pass = format!("{} {time} {signature}", bench.me());
    let mut response = bench.http.get(&url).header("og-auditor", pass).send().await?;
    if response.status() == reqwest::StatusCode::TOO_EARLY {
        return Err(KeptBack.into());
    }
    ensure!(response.status().is_success(), "it answered with status {}", response.status());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= SHOWN_BYTES_MAX, "it shows more than an answer can have");
        body.extend_from_slice(&chunk);
    }
    let shown: Shown = serde_json::from_slice(&body).context("what it shows cannot be read")?;
    let receipt = Receipt::decode(&shown.receipt)?;
    let inclusion = shown.inclusion.context("it does not show where the receipt is")?;
    ensure!(receipt.claim.node == node && receipt.signer()? == node, "the receipt is not the node's");
    ensure!((inclusion.index, inclusion.size) == (index, size), "it shows another place");
    let leaf = merkle::leaf_hash(&receipt.log_leaf()?);
    let root = merkle::root_from_path(leaf, index, size, &inclusion.path)?;
    ensure!(root == posted.root, "the receipt is not in the log that the node posted");
    if let Some(disclosure) = &shown.disclosure {
        ensure!(
            crate::court::case::is_of(&receipt.claim, disclosure),
            "it shows another answer than the receipt commits to"
        );
    }
    let answer = Answer { receipt, inclusion, disclosure: shown.disclosure };
    ensure!(
        !answer.is_open() || answer.disclosure.is_some(),
        "it does not show an answer that is open to audits"
    );
    Ok(answer)
}
