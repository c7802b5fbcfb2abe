//! What the state says about answers, for their proofs.

use super::{ChainPort, internal, rejected};
use api::ports::ChainFault;
use client::contracts::{dispute_slots, posted_slot, right_slot, withheld_slot};
use types::{Address, AuditProof, B256, U256};

/// How far a claim's time may be ahead of its log's (`Disputes.MAX_AHEAD_SECONDS`).
const CLAIM_AHEAD_SECONDS: u64 = 600;

impl ChainPort {
    /// What the state says about one answer.
    pub(super) fn audit_proof(
        &self,
        executed: &ledger::Executed,
        (node, size): (Address, u64),
        (receipt, model): (B256, B256),
        index: u64,
    ) -> Result<AuditProof, ChainFault> {
        let contracts = self.chain.network().contracts;
        let number = |slot: B256| U256::from_be_bytes(slot.0);
        let (lost, disputed) = dispute_slots(node, receipt);
        let slots = [number(lost), number(disputed), number(withheld_slot(node, index))];
        let mut disputes = executed.state().proof(contracts.disputes, &slots).map_err(rejected)?;
        let mut audits = executed
            .state()
            .proof(contracts.audits, &[number(right_slot(node, model, index))])
            .map_err(rejected)?;
        let slot = number(posted_slot(node, size));
        let mut log = executed.state().proof(contracts.receipt_log, &[slot]).map_err(rejected)?;
        let missing = || ChainFault::Internal("a proof without its slots".into());
        let withheld = disputes.storage.pop().ok_or_else(missing)?;
        let disputed = disputes.storage.pop().ok_or_else(missing)?;
        let lost = disputes.storage.pop().ok_or_else(missing)?;
        let right = audits.storage.pop().ok_or_else(missing)?;
        let posted = log.storage.pop().ok_or_else(missing)?;
        Ok(AuditProof {
            posted: posted.value,
            posted_proof: posted.proof,
            lost: lost.value,
            disputed_at: disputed.value,
            withheld: withheld.value,
            right: right.value,
            disputes_proof: disputes.proof,
            lost_proof: lost.proof,
            disputed_proof: disputed.proof,
            withheld_proof: withheld.proof,
            audits_proof: audits.proof,
            right_proof: right.proof,
        })
    }

    /// The state after block `number`, when it is kept here and says all that the proof of an answer needs: the root of the log, and that
    /// the time for disputes about `answer` is over.
    pub(super) fn settled_at(
        &self,
        number: u64,
        (node, size): (Address, u64),
        answer: Option<(B256, B256, u64)>,
    ) -> Result<Option<ledger::Executed>, ChainFault> {
        let network = self.chain.network();
        let Some(executed) = self.chain.with_state(number).map_err(internal)? else { return Ok(None) };
        let slot = U256::from_be_bytes(posted_slot(node, size).0);
        let posted = executed.state().storage(network.contracts.receipt_log, slot).map_err(rejected)?;
        let time = (posted >> 128usize).as_limbs()[0];
        let needed = match answer {
            Some(_) => time + network.window_seconds + network.game_seconds + CLAIM_AHEAD_SECONDS,
            None => 0,
        };
        Ok((time > 0 && executed.header().timestamp > needed).then_some(executed))
    }
}
