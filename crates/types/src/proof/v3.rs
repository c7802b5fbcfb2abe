//! The format before, `og-proof/3`: read, never written. Whoever kept such a file can still check it.
//!
//! Nothing here changes any more. A file is read in its own spelling and turned into what [`ProofFile`] is now; its network's version, 3,
//! says how its commitments are computed.

use super::{AuditProof, Disclosure, LedgerProof, LogProof, ProofFile};
use crate::{
    FinalityCertificate, Handover, ModelManifest, NetworkConfig, Receipt, SystemContracts, TypesError,
    Validator, ValidatorKey, ValidatorSet,
};
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, keccak256};
use alloy_rlp::RlpEncodable;
use serde::{Deserialize, Serialize};

/// The `format` of these files.
pub const PROOF_FORMAT_V3: &str = "og-proof/3";

/// The version of the networks of that time.
pub(crate) const NETWORK_VERSION_V3: u16 = 3;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV3 {
    format: String,
    receipt: Receipt,
    disclosure: Disclosure,
    manifest: ModelManifest,
    log: LogProof,
    ledger: LedgerV3,
    network: NetworkV3,
    genesis_header: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerV3 {
    header: Bytes,
    handovers: Vec<HandoverV3>,
    certificate: FinalityCertificate,
    account_proof: Vec<Bytes>,
    storage_proof: Vec<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audit: Option<AuditV3>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandoverV3 {
    header: Bytes,
    certificate: FinalityCertificate,
    next: SetV3,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetV3 {
    epoch: u64,
    members: Vec<MemberV3>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberV3 {
    peer: B256,
    vote: FixedBytes<96>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditV3 {
    lost: U256,
    disputed_at: U256,
    right: U256,
    posted: U256,
    posted_proof: Vec<Bytes>,
    disputes_proof: Vec<Bytes>,
    lost_proof: Vec<Bytes>,
    disputed_proof: Vec<Bytes>,
    audits_proof: Vec<Bytes>,
    right_proof: Vec<Bytes>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkV3 {
    version: u16,
    chain_id: u64,
    block_time_ms: u64,
    epoch_blocks: u64,
    window_seconds: u64,
    game_seconds: u64,
    contracts: ContractsV3,
    validators: Vec<ValidatorKey>,
}

#[derive(Clone, Copy, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
struct ContractsV3 {
    model_registry: Address,
    node_registry: Address,
    receipt_log: Address,
    wrapped_native: Address,
    staking: Address,
    beacon: Address,
    auditors: Address,
    audits: Address,
    disputes: Address,
    jury: Address,
    escrow: Address,
}

/// What a genesis header of version 3 commits to.
#[derive(RlpEncodable)]
struct CommittedV3 {
    version: u16,
    chain_id: u64,
    block_time_ms: u64,
    epoch_blocks: u64,
    window_seconds: u64,
    game_seconds: u64,
    contracts: ContractsV3,
    validators: Vec<ValidatorKey>,
}

impl From<&SystemContracts> for ContractsV3 {
    fn from(c: &SystemContracts) -> Self {
        Self {
            model_registry: c.model_registry,
            node_registry: c.node_registry,
            receipt_log: c.receipt_log,
            wrapped_native: c.wrapped_native,
            staking: c.staking,
            beacon: c.beacon,
            auditors: c.auditors,
            audits: c.audits,
            disputes: c.disputes,
            jury: c.jury,
            escrow: c.escrow,
        }
    }
}

impl ContractsV3 {
    /// Contracts that did not exist have no address.
    fn now(self) -> SystemContracts {
        SystemContracts {
            model_registry: self.model_registry,
            node_registry: self.node_registry,
            receipt_log: self.receipt_log,
            wrapped_native: self.wrapped_native,
            staking: self.staking,
            beacon: self.beacon,
            auditors: self.auditors,
            audits: self.audits,
            disputes: self.disputes,
            jury: self.jury,
            escrow: self.escrow,
        }
    }
}

/// keccak-256 of `"og/network/3" ‖ RLP` of all fields.
pub(crate) fn commitment(config: &NetworkConfig) -> B256 {
    let encoded = alloy_rlp::encode(CommittedV3 {
        version: config.version,
        chain_id: config.chain_id,
        block_time_ms: config.block_time_ms,
        epoch_blocks: config.epoch_blocks,
        window_seconds: config.window_seconds,
        game_seconds: config.game_seconds,
        contracts: (&config.contracts).into(),
        validators: config.validators.clone(),
    });
    keccak256([b"og/network/3".as_slice(), &encoded].concat())
}

/// Reads a file and turns it into today's form, in which `format` and the network's version still say where it comes from.
pub(super) fn decode(bytes: &[u8]) -> Result<ProofFile, TypesError> {
    let encoding = |detail: String| TypesError::Encoding { what: "proof file", detail };
    let file: FileV3 = serde_json::from_slice(bytes).map_err(|e| encoding(e.to_string()))?;
    let mut canonical = serde_json::to_vec_pretty(&file).map_err(|e| encoding(e.to_string()))?;
    canonical.push(b'\n');
    super::same_spelling(&canonical, bytes)?;
    if file.network.version != NETWORK_VERSION_V3 {
        return Err(encoding(format!(
            "a file of format 3 about a network of version {}",
            file.network.version
        )));
    }
    let member = |m: MemberV3| Validator { peer: m.peer, vote: m.vote };
    let handover = |h: HandoverV3| Handover {
        header: h.header,
        certificate: h.certificate,
        next: ValidatorSet { epoch: h.next.epoch, members: h.next.members.into_iter().map(member).collect() },
    };
    let audit = |a: AuditV3| AuditProof {
        lost: a.lost,
        disputed_at: a.disputed_at,
        right: a.right,
        posted: a.posted,
        posted_proof: a.posted_proof,
        disputes_proof: a.disputes_proof,
        lost_proof: a.lost_proof,
        disputed_proof: a.disputed_proof,
        audits_proof: a.audits_proof,
        right_proof: a.right_proof,
    };
    Ok(ProofFile {
        format: file.format,
        receipt: file.receipt,
        disclosure: file.disclosure,
        manifest: file.manifest,
        log: file.log,
        ledger: LedgerProof {
            header: file.ledger.header,
            checkpoint: None,
            handovers: file.ledger.handovers.into_iter().map(handover).collect(),
            certificate: Some(file.ledger.certificate),
            account_proof: file.ledger.account_proof,
            storage_proof: file.ledger.storage_proof,
            audit: file.ledger.audit.map(audit),
        },
        network: NetworkConfig {
            version: file.network.version,
            chain_id: file.network.chain_id,
            block_time_ms: file.network.block_time_ms,
            epoch_blocks: file.network.epoch_blocks,
            window_seconds: file.network.window_seconds,
            game_seconds: file.network.game_seconds,
            unbonding_seconds: UNBONDING_SECONDS,
            contracts: file.network.contracts.now(),
            validators: file.network.validators,
        },
        validators_root: None,
        genesis_header: file.genesis_header,
    })
}

/// Every network of version 3 had the same unbonding delay, a week; its configuration did not say so.
const UNBONDING_SECONDS: u64 = 7 * 24 * 3600;
