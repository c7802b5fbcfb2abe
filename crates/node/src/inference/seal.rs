//! From finished answers to a signed receipt in the log.

use super::{Anchor, UnderWay, convert::join, internal};
use crate::{payments::Tab, receipt_log::Kept};
use anyhow::Context as _;
use api::ports::{InferenceFault, Sealer};
use async_trait::async_trait;
use bytes::Bytes;
use engine::Completion;
use tokio::sync::oneshot;
use types::{
    ARITHMETIC_EXACT, Address, B256, Claim, Disclose, Disclosure, Options, Receipt, Rung, Sampling, Seal,
    Tokens, commit_bytes, commit_tokens, merkle,
};
use verify::Producer as _;

/// What was computed.
pub(super) enum Work {
    /// Answers, one after the other.
    Generated(Vec<oneshot::Receiver<Completion>>),
    /// Embeddings: the leaf of each.
    Embedded(Vec<B256>),
}

/// All that a claim needs once the work is complete.
pub(super) struct AnswerSealer {
    pub(super) under_way: UnderWay,
    pub(super) work: Work,
    pub(super) raw_request: Bytes,
    pub(super) nonce: B256,
    /// Prompt tokens; texts for embeddings with separators between them.
    pub(super) prompt: Vec<u32>,
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: u32,
    /// Number of answers; 0 for embeddings.
    pub(super) choices: u32,
    pub(super) options: Option<Options>,
    pub(super) sampling: Sampling,
    pub(super) anchor: Anchor,
    pub(super) time_ms: u64,
    pub(super) model: B256,
    pub(super) arithmetic_version: u16,
    pub(super) rung: Rung,
    pub(super) disclose: Disclose,
    /// Who pays, and the coins that are set aside for it.
    pub(super) tab: Option<Tab>,
}

/// Output tokens (with separators), their number and the trace root of some answers.
struct Outcome {
    output: Vec<u32>,
    count: u32,
    trace_root: B256,
}

/// The trace root of several answers: RFC 6962 over theirs; that of a single one is its own.
pub(crate) fn trace_root_of(roots: &[B256]) -> B256 {
    match roots {
        [one] => *one,
        many => {
            let leaves: Vec<B256> = many.iter().map(|r| merkle::leaf_hash(r.as_slice())).collect();
            merkle::root(&leaves)
        }
    }
}

/// The leaf of one embedding: its f32 in little-endian order.
pub(crate) fn embedding_leaf(vector: &[f32]) -> B256 {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    merkle::leaf_hash(&bytes)
}

#[async_trait]
impl Sealer for AnswerSealer {
    async fn seal(mut self: Box<Self>, response: Bytes) -> Result<Seal, InferenceFault> {
        let outcome = match &mut self.work {
            Work::Embedded(leaves) => Outcome { output: vec![], count: 0, trace_root: merkle::root(leaves) },
            Work::Generated(receivers) => {
                let (mut outputs, mut roots) = (Vec::new(), Vec::new());
                for receiver in receivers {
                    let completion = receiver.await.map_err(internal)?;
                    outputs.push(completion.tokens);
                    roots.push(completion.trace_root);
                }
                let count = outputs.iter().map(Vec::len).sum::<usize>() as u32;
                Outcome { output: join(&outputs), count, trace_root: trace_root_of(&roots) }
            }
        };
        // Signing is quick, but the log waits for the disk.
        let sealed = tokio::task::spawn_blocking(move || self.seal_now(outcome, &response)).await;
        sealed.map_err(internal)?.map_err(|e| InferenceFault::Internal(format!("{e:#}")))
    }
}

impl AnswerSealer {
    fn seal_now(&self, outcome: Outcome, response: &[u8]) -> anyhow::Result<Seal> {
        let identity = &self.under_way.shared.identity;
        let (request_hash, response_hash) = commit_bytes(&self.nonce, &self.raw_request, response);
        let mut claim = Claim {
            chain_id: identity.chain_id,
            genesis: identity.genesis,
            node: identity.producer.address(),
            model: self.model,
            request_hash,
            response_hash,
            prompt_hash: commit_tokens(&self.nonce, Tokens::Prompt, &self.prompt),
            output_hash: commit_tokens(&self.nonce, Tokens::Output, &outcome.output),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: outcome.count,
            max_tokens: self.max_tokens,
            choices: self.choices,
            options: Options::commitment(self.options.as_ref()),
            sampling: self.sampling,
            trace_root: outcome.trace_root,
            price_input: identity.price_input,
            price_output: identity.price_output,
            price: 0,
            payer: self.tab.as_ref().map_or(Address::ZERO, Tab::client),
            anchor_number: self.anchor.0,
            anchor_hash: self.anchor.1,
            time_ms: self.time_ms,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: self.arithmetic_version,
            rung_requested: self.rung as u8,
            // The evidence of a group is added by whoever asked it.
            rung_achieved: self.rung as u8,
        };
        claim.price = claim.computed_price().context("the price does not fit in 128 bits")?;
        let mut evidence = vec![identity.producer.produce(&claim, &())?];
        if self.rung == Rung::Audited {
            evidence.push(audited::pending(&claim));
        }
        let price = claim.price;
        let receipt = Receipt { claim, evidence };
        let disclosure = Disclosure {
            nonce: self.nonce,
            request: String::from_utf8(self.raw_request.to_vec())?,
            response: String::from_utf8(response.to_vec())?,
            prompt_tokens: self.prompt.clone(),
            output_tokens: outcome.output.clone(),
        };
        let kept = Kept { time_ms: self.time_ms, disclose: self.disclose, disclosure };
        let slip = self.tab.as_ref().map(Tab::slip);
        self.under_way.shared.log.append(&receipt, &kept, slip)?;
        self.under_way.shared.reveals.logged(receipt.claim.receipt_id());
        if let Some(tab) = &self.tab {
            tab.owe(price);
        }
        Ok(Seal {
            receipt: receipt.encode().into(),
            prompt_tokens: self.prompt.clone(),
            output_tokens: outcome.output,
        })
    }
}
