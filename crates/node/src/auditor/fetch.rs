//! What a node shows of an answer, and whose fault it is when that is nothing.

use super::Bench;
use client::{
    ClientError,
    contracts::{LoggedClaim, NodeRegistry},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use types::{Address, B256, Bytes, Disclosure, LogProof, Receipt, Rung, TypesError, limits, merkle, signing};

/// Longest answer of a node.
const SHOWN_BYTES_MAX: usize = 2 * (limits::REQUEST_BYTES_MAX + limits::RESPONSE_BYTES_MAX);

/// How long an answer may be kept back, with something for slow clocks and networks.
pub(crate) const KEPT_BACK_MAX: Duration = Duration::from_secs(70);

/// Why there is nothing to look at. Only [`Unreachable`](Self::Unreachable) and [`KeptBack`](Self::KeptBack) can be the node's
/// fault, and only when they last.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// This machine, or its view of the ledger, failed. It says nothing about the node.
    #[error("this auditor could not look: {0}")]
    Own(String),
    /// The answer waits for the commitments of its group. For [`KEPT_BACK_MAX`] that is no fault.
    #[error("it keeps the answer back until its group has committed")]
    Early,
    /// There was no answer at all: the node's fault, or that of the network between.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The node answered, but does not show what it must.
    #[error("it does not show it: {0}")]
    KeptBack(String),
}

impl From<ClientError> for FetchError {
    fn from(e: ClientError) -> Self {
        Self::Own(e.to_string())
    }
}

impl From<TypesError> for FetchError {
    fn from(e: TypesError) -> Self {
        Self::KeptBack(e.to_string())
    }
}

/// A receipt in a log on the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: Address,
    pub(crate) size: u64,
    pub(crate) index: u64,
    /// Root of the log at `size`, from the ledger.
    pub(crate) root: B256,
}

/// A receipt of a log, with what is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) receipt: Receipt,
    pub(crate) inclusion: LogProof,
    /// Absent when the client allowed nobody to see it, and when we did not say who we are.
    pub(crate) disclosure: Option<Disclosure>,
}

/// What a node shows over HTTP, and on the ledger.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) receipt: Bytes,
    pub(crate) disclosure: Option<Disclosure>,
    pub(crate) inclusion: Option<LogProof>,
}

impl Answer {
    /// Whether the node must show it to auditors.
    pub(crate) fn is_open(&self) -> bool {
        self.receipt.claim.rung_achieved == Rung::Audited as u8
    }

    /// What contracts take.
    pub(crate) fn logged(&self) -> Result<LoggedClaim, TypesError> {
        Ok(LoggedClaim {
            claim: alloy_rlp::encode(&self.receipt.claim).into(),
            signature: Bytes::from(self.receipt.signature()?.to_vec()),
            path: self.inclusion.path.clone(),
        })
    }

    /// What was shown, to be kept.
    pub(crate) fn shown(&self) -> Shown {
        Shown {
            receipt: self.receipt.encode().into(),
            disclosure: self.disclosure.clone(),
            inclusion: Some(self.inclusion.clone()),
        }
    }
}

/// Asks a node for a receipt; with `pass`, also for the answer, in the name of this auditor.
pub(crate) async fn answer(bench: &Bench, place: Place, pass: bool) -> Result<Answer, FetchError> {
    let Place { node, size, index, .. } = place;
    let contracts = bench.court.network.contracts;
    // Read every time: a node may have moved.
    let info = bench.court.rpc.view(contracts.node_registry, &NodeRegistry::nodeInfoCall { node }).await?;
    let url = format!("{}/og/v1/audit/{index}?size={size}", info.endpoint);
    let mut request = bench.http.get(&url);
    if pass {
        let time = crate::inference::now_ms() / 1000;
        let digest = signing::audit_request(&bench.genesis, &node, index, time);
        let own = |e: TypesError| FetchError::Own(e.to_string());
        let signature = Bytes::from(signing::sign(&bench.secret, digest).map_err(own)?.to_vec());
        request = request.header("og-auditor", format!("{} {time} {signature}", bench.me()));
    }
    let lost = |e: reqwest::Error| FetchError::Unreachable(e.to_string());
    let mut response = request.send().await.map_err(lost)?;
    if response.status() == reqwest::StatusCode::TOO_EARLY {
        return Err(FetchError::Early);
    }
    if !response.status().is_success() {
        return Err(FetchError::KeptBack(format!("it answered with status {}", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > SHOWN_BYTES_MAX {
            return Err(FetchError::KeptBack("it shows more than an answer can have".into()));
        }
        body.extend_from_slice(&chunk);
    }
    read(place, &body, pass)
}

/// Reads what a node showed, and checks that it is the receipt at that place. With `whole`, an answer that is open to audits must
/// be there too.
pub(crate) fn read(place: Place, body: &[u8], whole: bool) -> Result<Answer, FetchError> {
    let Place { node, size, index, root } = place;
    let wrong = |why: &str| Err(FetchError::KeptBack(why.into()));
    let shown: Shown = serde_json::from_slice(body)
        .map_err(|e| FetchError::KeptBack(format!("what it shows cannot be read: {e}")))?;
    let receipt = Receipt::decode(&shown.receipt)?;
    let Some(inclusion) = shown.inclusion else { return wrong("it does not show where the receipt is") };
    if receipt.claim.node != node || receipt.signer()? != node {
        return wrong("the receipt is not the node's");
    }
    if (inclusion.index, inclusion.size) != (index, size) {
        return wrong("it shows another place");
    }
    let leaf = merkle::leaf_hash(&receipt.log_leaf()?);
    if merkle::root_from_path(leaf, index, size, &inclusion.path)? != root {
        return wrong("the receipt is not in the log that the node posted");
    }
    if shown.disclosure.as_ref().is_some_and(|d| !crate::court::case::is_of(&receipt.claim, d)) {
        return wrong("it shows another answer than the receipt commits to");
    }
    let answer = Answer { receipt, inclusion, disclosure: shown.disclosure };
    if whole && answer.is_open() && answer.disclosure.is_none() {
        return wrong("it does not show an answer that is open to audits");
    }
    Ok(answer)
}
