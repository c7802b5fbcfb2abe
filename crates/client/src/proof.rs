//! Checks a proof file with no network.

mod finality;

use crate::{
    check::{Checks, Known, check_answer},
    contracts::{dispute_slots, posted_slot, right_slot},
    light,
    trust::Trust,
};
use serde::Serialize;
use types::{ProofFile, Rung, merkle};
use verify::Registry;

/// What a proof file says, once decoded.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Receipt id.
    pub receipt_id: String,
    /// The node that answered.
    pub node: String,
    /// Name of the model.
    pub model: String,
    /// Content id of the model.
    pub model_id: String,
    /// The rung that was reached.
    pub assurance: String,
    /// Price in wei.
    pub price_wei: String,
    /// Genesis hash of the network.
    pub network: String,
    /// Block in whose state the log's root was proved.
    pub block: u64,
}

/// The result of checking a proof file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// True when every check passed.
    pub ok: bool,
    /// Each check.
    pub checks: Checks,
    /// What the file says; absent when it cannot be read.
    pub summary: Option<Summary>,
}

/// Checks the bytes of a proof file for a reader with this trust.
pub fn check_proof(bytes: &[u8], trust: &Trust, registry: &Registry) -> Report {
    let mut checks = Checks::default();
    let file = match ProofFile::decode(bytes) {
        Ok(file) => file,
        Err(e) => {
            checks.record("file", Err(e.to_string()));
            return Report { ok: false, checks, summary: None };
        }
    };
    checks.record("file", Ok("canonical, no byte was added, removed or respelled".into()));
    let audit = match file.receipt.claim.rung_achieved == Rung::Audited as u8 {
        true => Some(audit_state(&file)),
        false => None,
    };
    let known = match &audit {
        Some(Ok(state)) => Known::audited(state),
        _ => Known::default(),
    };
    check_answer(&mut checks, registry, &file.receipt, &file.disclosure, &file.manifest, &known);
    if let Some(audit) = audit {
        let words = |state: &[u8]| match state == audited::RERUN {
            true => "the time for disputes is over, nobody refuted it, and a drawn auditor found it right"
                .to_owned(),
            false => "the time for disputes is over and nobody refuted it".to_owned(),
        };
        checks.record("audit", audit.map(words));
    }
    let block = check_ledger(&mut checks, &file, trust);
    let claim = &file.receipt.claim;
    let summary = Summary {
        receipt_id: claim.receipt_id().to_string(),
        node: claim.node.to_string(),
        model: file.manifest.name.clone(),
        model_id: claim.model.to_string(),
        assurance: claim.rung().map_or("unknown", types::Rung::name).into(),
        price_wei: claim.price.to_string(),
        network: claim.genesis.to_string(),
        block,
    };
    Report { ok: checks.ok(), checks, summary: Some(summary) }
}

/// What the proved state says of an audited answer. That the state is final is checked apart.
fn audit_state(file: &ProofFile) -> Result<&'static [u8], String> {
    let claim = &file.receipt.claim;
    let audit = file.ledger.audit.as_ref().ok_or("the file does not say what became of the answer")?;
    let (header, _) = light::header(&file.ledger.header)?;
    let contracts = file.network.contracts;
    let account = |address, proof| {
        light::check_account(header.state_root, address, proof)?
            .ok_or_else(|| "a contract is missing".to_owned())
    };
    let disputes = account(contracts.disputes, &audit.disputes_proof)?.storage_root;
    let audits = account(contracts.audits, &audit.audits_proof)?.storage_root;
    let (lost, disputed) = dispute_slots(claim.node, claim.receipt_id().0);
    light::check_slot(disputes, lost, audit.lost, &audit.lost_proof)?;
    light::check_slot(disputes, disputed, audit.disputed_at, &audit.disputed_proof)?;
    light::check_slot(audits, right_slot(claim.node, file.log.index), audit.right, &audit.right_proof)?;
    if !audit.lost.is_zero() {
        return Err("it was found wrong".into());
    }
    // From when the receipt was on the ledger: the time in the claim is the node's own word.
    let log = account(contracts.receipt_log, &file.ledger.account_proof)?.storage_root;
    light::check_slot(log, posted_slot(claim.node, file.log.size), audit.posted, &audit.posted_proof)?;
    let posted = (audit.posted >> 128usize).as_limbs()[0];
    let mut until = posted.max(claim.time_ms / 1000).saturating_add(file.network.window_seconds);
    if !audit.disputed_at.is_zero() {
        until = until.saturating_add(file.network.game_seconds);
    }
    if header.timestamp <= until {
        return Err(format!("it can still be refuted until Unix time {until}; get the proof again then"));
    }
    let rerun = audit.right.bit((file.log.index % 256) as usize);
    Ok(if rerun { audited::RERUN } else { audited::UNREFUTED })
}

fn check_ledger(checks: &mut Checks, file: &ProofFile, trust: &Trust) -> u64 {
    let claim = &file.receipt.claim;
    let root = file.receipt.log_leaf().and_then(|leaf| {
        let leaf = merkle::leaf_hash(&leaf);
        merkle::root_from_path(leaf, file.log.index, file.log.size, &file.log.path)
    });
    checks.record(
        "log",
        root.as_ref().map_err(ToString::to_string).map(|_| {
            format!("entry {} of {} in the log of node {}", file.log.index, file.log.size, claim.node)
        }),
    );
    let header = light::header(&file.ledger.header);
    let number = header.as_ref().map_or(0, |(h, _)| h.number);
    let state_root = header.as_ref().map(|(h, _)| h.state_root).unwrap_or_default();
    let on_ledger = root.map_err(|e| e.to_string()).and_then(|root| {
        light::check_log_root(
            state_root,
            file.network.contracts.receipt_log,
            claim.node,
            file.log.size,
            root,
            &file.ledger.account_proof,
            &file.ledger.storage_proof,
        )
    });
    checks.record("ledger", on_ledger.map(|()| format!("the log's root is in the state of block {number}")));
    let network =
        light::check_rules(&file.network, file.validators_root, &file.genesis_header, claim.genesis)
            .and_then(|()| match file.network.chain_id == claim.chain_id {
                true => Ok(()),
                false => Err("the receipt was signed for another chain id".into()),
            });
    let finality = network.clone().and_then(|()| finality::check(file, trust)).and_then(|words| {
        match claim.anchor_number > number {
            true => Err("the receipt names a block that is newer than the proof".into()),
            false => Ok(words),
        }
    });
    checks.record("finality", finality);
    checks.record(
        "network",
        network
            .map(|()| format!("genesis {} commits to chain {} and its rules", claim.genesis, claim.chain_id)),
    );
    if file.ledger.checkpoint.is_none() {
        checks.note("keys", finality::age_of_keys(file, trust.now));
    }
    trust.record_pin(checks, claim.genesis);
    number
}
