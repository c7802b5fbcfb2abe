//! The light client: what is final, and what a final state says.

use crate::contracts::receipt_log_slot;
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::Decodable as _;
use alloy_trie::{Nibbles, TrieAccount, proof::verify_proof};
use blst::{
    BLST_ERROR,
    min_sig::{AggregatePublicKey, PublicKey, Signature},
};
use types::{FinalityCertificate, NetworkConfig};

/// Ciphersuite of votes (draft-irtf-cfrg-bls-signature, proof-of-possession scheme, signatures in G1).
const VOTE: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";
/// Ciphersuite of proofs of possession.
const POSSESSION: &[u8] = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";

/// Longest header in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// Decodes a header, canonically, with its hash.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn header(bytes: &Bytes) -> Result<(Header, B256), String> {
    if bytes.len() > HEADER_BYTES_MAX {
        return Err(format!("a header of {} bytes; at most {HEADER_BYTES_MAX}", bytes.len()));
    }
    let mut rest = bytes.as_ref();
    let header = Header::decode(&mut rest).map_err(|e| format!("not a header: {e}"))?;
    if !rest.is_empty() || alloy_rlp::encode(&header) != bytes.as_ref() {
        return Err("not the canonical encoding of a header".into());
    }
    Ok((header, keccak256(bytes)))
}

/// Checks that `genesis` is the genesis header of the network called `name`, and that it commits to `config`, whose
/// validators all prove possession of their vote keys.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_network(config: &NetworkConfig, genesis: &Bytes, name: B256) -> Result<(), String> {
    let (header, hash) = header(genesis)?;
    if hash != name {
        return Err(format!("the genesis header hashes to {hash}, not to {name}"));
    }
    if header.number != 0 || header.extra_data.as_ref() != config.commitment().as_slice() {
        return Err("the genesis header does not commit to this configuration".into());
    }
    config.check().map_err(|e| e.to_string())?;
    let namespace = NetworkConfig::possession_namespace(config.chain_id);
    for (i, validator) in config.validators.iter().enumerate() {
        let fault = |what: &str| format!("validator {}: {what}", validator.peer);
        let key =
            PublicKey::key_validate(validator.vote.as_slice()).map_err(|_| fault("malformed vote key"))?;
        let proof = Signature::sig_validate(validator.possession.as_slice(), true)
            .map_err(|_| fault("malformed proof of possession"))?;
        let mut message = vec![namespace.len() as u8];
        message.extend_from_slice(&namespace);
        message.extend_from_slice(validator.vote.as_slice());
        assert!(namespace.len() < 0x80, "a one-byte varint");
        if proof.verify(true, &message, POSSESSION, &[], &key, true) != BLST_ERROR::BLST_SUCCESS {
            return Err(fault("wrong proof of possession"));
        }
        if config.validators[..i].iter().any(|v| v.vote == validator.vote) {
            return Err(fault("its vote key is another validator's"));
        }
    }
    Ok(())
}

/// Checks that a quorum of the network's validators finalised the block that `certificate` names. Returns how many signed.
///
/// The configuration must have passed [`check_network`]: without proofs of possession, aggregates can be forged.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_certificate(
    config: &NetworkConfig,
    genesis_hash: B256,
    certificate: &FinalityCertificate,
) -> Result<usize, String> {
    let signers = certificate.signer_indices(config.validators.len()).map_err(|e| e.to_string())?;
    if signers.len() < config.quorum() {
        return Err(format!("{} validators signed, but {} are needed", signers.len(), config.quorum()));
    }
    if certificate.epoch != 0 {
        return Err("the certificate is of another epoch".into());
    }
    let keys = signers
        .iter()
        .map(|i| PublicKey::key_validate(config.validators[*i].vote.as_slice()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "malformed vote key".to_owned())?;
    let keys: Vec<_> = keys.iter().collect();
    let aggregate = AggregatePublicKey::aggregate(&keys, false).map_err(|_| "vote keys do not aggregate")?;
    let signature = Signature::sig_validate(certificate.signature.as_slice(), true)
        .map_err(|_| "the aggregated signature is malformed".to_owned())?;
    let message = certificate.message(&NetworkConfig::namespace(genesis_hash));
    match signature.verify(true, &message, VOTE, &[], &aggregate.to_public_key(), true) {
        BLST_ERROR::BLST_SUCCESS => Ok(signers.len()),
        _ => Err("the aggregated signature is wrong".into()),
    }
}

/// Checks that in the state `state_root`, the contract `log` holds `root` as the root of the first `size` receipts of `node`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_log_root(
    state_root: B256,
    log: Address,
    node: Address,
    size: u64,
    root: B256,
    account_proof: &[Bytes],
    storage_proof: &[Bytes],
) -> Result<(), String> {
    let leaf = account_proof.last().ok_or("the account proof is empty")?;
    let account = account_in_leaf(leaf).ok_or("the account proof does not end in an account")?;
    let key = Nibbles::unpack(keccak256(log));
    verify_proof(state_root, key, Some(alloy_rlp::encode(account)), account_proof)
        .map_err(|e| format!("the account proof does not fit the state root: {e}"))?;
    let slot = Nibbles::unpack(keccak256(receipt_log_slot(node, size)));
    let value = alloy_rlp::encode(alloy_primitives::U256::from_be_bytes(root.0));
    verify_proof(account.storage_root, slot, Some(value), storage_proof)
        .map_err(|e| format!("the root of {size} receipts of {node} is not in the log contract: {e}"))
}

/// The account in a Merkle-Patricia leaf `[path, account]`; [`verify_proof`] then checks that it is the right one.
fn account_in_leaf(leaf: &Bytes) -> Option<TrieAccount> {
    let mut rest = leaf.as_ref();
    let mut payload = alloy_rlp::Header::decode_bytes(&mut rest, true).ok()?;
    alloy_rlp::Header::decode_bytes(&mut payload, false).ok()?;
    let value = alloy_rlp::Header::decode_bytes(&mut payload, false).ok()?;
    alloy_rlp::decode_exact(value).ok()
}
