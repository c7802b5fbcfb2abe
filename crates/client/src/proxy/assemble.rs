use super::{Answered, Proxy};
use crate::{
    ClientError,
    check::{Check, Checks},
    contracts::ReceiptLog,
    light::Checkpoint,
    proof::check_proof,
    rpc::{read_bounded, unreachable_at},
    trust::Trust,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::time::{Duration, Instant};
use types::{Address, Bytes, LogProof, ModelManifest, PROOF_FORMAT, ProofFile, Receipt, ReceiptId, Rung};

const POLL: Duration = Duration::from_millis(200);
/// Most batches of a log that are searched.
const BATCHES_MAX: usize = 10_000;
/// Longest answer of a node's log.
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Deserialize)]
struct LoggedReceipt {
    receipt: Bytes,
    index: u64,
}

#[derive(Deserialize)]
struct PostedLog {
    posted_size: u64,
}

fn audit_detail(checks: &Checks) -> String {
    let audit = checks.0.iter().find(|c| c.name == "audit");
    audit.map(|c| c.detail.clone()).unwrap_or_default()
}

/// False when all that fails is that the answer can still be refuted.
fn is_settled(checks: &Checks) -> bool {
    !audit_detail(checks).contains("can still be refuted")
}

impl Proxy {
    /// The proof file of a kept answer, for readers whose trust begins at `checkpoint`, or at genesis; waits up to `wait` for the ledger.
    pub(super) async fn proof(
        &self,
        id: ReceiptId,
        wait: Duration,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Vec<u8>, ClientError> {
        let answered = self.store.get(id)?;
        let deadline = Instant::now() + wait;
        loop {
            match self.assemble(id, &answered, checkpoint).await {
                Err(ClientError::NotFinalised) if Instant::now() + POLL < deadline => {
                    tokio::time::sleep(POLL).await
                }
                other => return other,
            }
        }
    }

    async fn assemble(
        &self,
        id: ReceiptId,
        answered: &Answered,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Vec<u8>, ClientError> {
        let receipt = Receipt::decode(&answered.receipt)?;
        // A node may have moved since it answered.
        let base = &self.directory.endpoint(receipt.claim.node).unwrap_or_else(|| answered.endpoint.clone());
        let logged: LoggedReceipt = self.get(&format!("{base}/og/v1/receipts/{id}")).await?;
        // Evidence may have been added since; the log is about the claim and its signature.
        if Receipt::decode(&logged.receipt)?.log_leaf()? != receipt.log_leaf()? {
            // Two receipts under one id: the node equivocated. The one we hold is signed and proves it.
            let check = "its log holds another receipt under this id".to_owned();
            return Err(ClientError::Verification { node: base.clone(), check });
        }
        let posted: PostedLog = self.get(&format!("{base}/og/v1/log/checkpoint")).await?;
        if posted.posted_size <= logged.index {
            return Err(ClientError::NotFinalised);
        }
        let mut size = posted.posted_size;
        let answer = (receipt.claim.rung_achieved == Rung::Audited as u8).then_some((id.0, logged.index));
        if answer.is_some() {
            // The first log on the ledger that has the receipt: time counts from then.
            size = self.batch_of(receipt.claim.node, size, logged.index).await?;
        }
        let url = format!("{base}/og/v1/log/inclusion?index={}&size={size}", logged.index);
        let log: LogProof = self.get(&url).await?;
        let ledger =
            self.ledger.rpc().receipt_log_proof(receipt.claim.node, size, answer, checkpoint).await?;
        let mut network = self.network().network.clone();
        // Who trusts a checkpoint does not need the first validators.
        let validators_root = ledger.checkpoint.is_some().then(|| network.validators_root());
        if validators_root.is_some() {
            network.validators.clear();
        }
        let bytes = ProofFile {
            format: PROOF_FORMAT.into(),
            receipt,
            disclosure: answered.disclosure.clone(),
            manifest: ModelManifest::decode(&answered.manifest)?,
            log,
            ledger,
            network,
            validators_root,
            genesis_header: self.network().genesis_header.clone(),
        }
        .encode()?;
        // Never hand out a proof that does not check.
        let trust = Trust { checkpoint, ..Trust::from_genesis(self.genesis()) };
        let report = check_proof(&bytes, &trust, &self.registry);
        match report.checks.first_failure() {
            None => Ok(bytes),
            // Only time is missing.
            Some(Check { name: "signature" | "audit", .. }) if !is_settled(&report.checks) => {
                Err(ClientError::NotSettled(audit_detail(&report.checks)))
            }
            Some(Check { name, detail, .. }) => {
                Err(ClientError::Verification { node: base.clone(), check: format!("{name}: {detail}") })
            }
        }
    }

    /// Size of the first posted log of `node` that has `index`, searched back from `size`.
    async fn batch_of(&self, node: Address, mut size: u64, index: u64) -> Result<u64, ClientError> {
        let log = self.network().network.contracts.receipt_log;
        for _ in 0..BATCHES_MAX {
            let batch = self.ledger.rpc().view(log, &ReceiptLog::batchCall { node, size }).await?;
            if batch.previousSize <= index {
                break;
            }
            size = batch.previousSize;
        }
        Ok(size)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, ClientError> {
        let response = self.http.get(url).send().await.map_err(|e| unreachable_at(url, &e))?;
        let status = response.status();
        let body = read_bounded(url, response, ANSWER_BYTES_MAX).await?;
        let malformed = |reason| ClientError::Malformed { url: url.into(), reason };
        if !status.is_success() {
            return Err(malformed(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))
    }
}
