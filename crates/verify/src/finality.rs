//! What validators voted for: certificates, proofs of possession and equivocation (BLS12-381, MinSig variant).

use blst::{
    BLST_ERROR,
    min_sig::{AggregatePublicKey, PublicKey, Signature},
};
use types::{Address, B256, Equivocation, FinalityCertificate, FixedBytes, NetworkConfig, ValidatorSet};

/// Ciphersuite of votes (draft-irtf-cfrg-bls-signature, proof-of-possession scheme, signatures in G1).
const VOTE: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";
/// Ciphersuite of proofs of possession.
const POSSESSION: &[u8] = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";

fn key(bytes: &FixedBytes<96>) -> Option<PublicKey> {
    PublicKey::key_validate(bytes.as_slice()).ok()
}

fn signature(bytes: &FixedBytes<48>) -> Option<Signature> {
    Signature::sig_validate(bytes.as_slice(), true).ok()
}

/// Checks a proof that the holder of `vote` knows its secret, in the network with this chain id.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_possession(
    chain_id: u64,
    vote: &FixedBytes<96>,
    possession: &FixedBytes<48>,
) -> Result<(), String> {
    let key = key(vote).ok_or("malformed vote key")?;
    let proof = signature(possession).ok_or("malformed proof of possession")?;
    let namespace = NetworkConfig::possession_namespace(chain_id);
    let message = namespaced(&namespace, vote.as_slice());
    match proof.verify(true, &message, POSSESSION, &[], &key, true) {
        BLST_ERROR::BLST_SUCCESS => Ok(()),
        _ => Err("wrong proof of possession".into()),
    }
}

/// Checks that a quorum of `set` finalised the block that `certificate` names. Returns how many signed.
///
/// Every member of the set must have proved possession of its vote key: otherwise aggregates can be forged.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_certificate(
    set: &ValidatorSet,
    genesis: B256,
    certificate: &FinalityCertificate,
) -> Result<usize, String> {
    let signers = certificate.signer_indices(set.members.len()).map_err(|e| e.to_string())?;
    if signers.len() < set.quorum() {
        return Err(format!("{} validators signed, but {} are needed", signers.len(), set.quorum()));
    }
    if certificate.epoch < set.epoch {
        return Err(format!(
            "the certificate is of epoch {}, but these validators vote from epoch {} on",
            certificate.epoch, set.epoch
        ));
    }
    let keys: Option<Vec<_>> = signers.iter().map(|i| key(&set.members[*i].vote)).collect();
    let keys = keys.ok_or("malformed vote key")?;
    let keys: Vec<_> = keys.iter().collect();
    let aggregate = AggregatePublicKey::aggregate(&keys, false).map_err(|_| "vote keys do not aggregate")?;
    let signature = signature(&certificate.signature).ok_or("the aggregated signature is malformed")?;
    let message = certificate.message(&NetworkConfig::namespace(genesis));
    match signature.verify(true, &message, VOTE, &[], &aggregate.to_public_key(), true) {
        BLST_ERROR::BLST_SUCCESS => Ok(signers.len()),
        _ => Err("the aggregated signature is wrong".into()),
    }
}

/// Checks that one validator cast both votes in the network with this genesis block, and that they contradict each other.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_equivocation(genesis: B256, evidence: &Equivocation) -> Result<(), String> {
    if !evidence.contradicts() {
        return Err("the two votes do not contradict each other".into());
    }
    let key = key(&evidence.vote_key).ok_or("malformed vote key")?;
    let namespace = NetworkConfig::namespace(genesis);
    for vote in [&evidence.first, &evidence.second] {
        let message = evidence.message(vote, &namespace).ok_or("unknown kind of vote")?;
        check_signature(&key, &message, &vote.signature)?;
    }
    Ok(())
}

/// Domain of registrations with the staking contract.
pub fn registration_namespace(chain_id: u64) -> Vec<u8> {
    [b"og/register/1/".as_slice(), &chain_id.to_be_bytes()].concat()
}

/// What a validator signs to register: vote key ‖ peer key ‖ account.
pub fn registration_message(vote: &FixedBytes<96>, peer: &B256, operator: Address) -> Vec<u8> {
    [vote.as_slice(), peer.as_slice(), operator.as_slice()].concat()
}

/// Checks that the holder of `vote` wants to be registered with `peer` by `operator`, in the network with this chain id. It is a proof of
/// possession too: the message contains the vote key.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_registration(
    chain_id: u64,
    vote: &FixedBytes<96>,
    possession: &FixedBytes<48>,
    peer: &B256,
    operator: Address,
) -> Result<(), String> {
    let key = key(vote).ok_or("malformed vote key")?;
    let namespace = registration_namespace(chain_id);
    let message = namespaced(&namespace, &registration_message(vote, peer, operator));
    check_signature(&key, &message, possession)
}

/// varint(len(ns)) ‖ ns ‖ message, as the consensus engine signs.
fn namespaced(namespace: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(namespace.len() < 0x80, "a one-byte varint");
    [&[namespace.len() as u8], namespace, message].concat()
}

fn check_signature(key: &PublicKey, message: &[u8], bytes: &FixedBytes<48>) -> Result<(), String> {
    let signature = signature(bytes).ok_or("malformed signature")?;
    match signature.verify(true, message, VOTE, &[], key, true) {
        BLST_ERROR::BLST_SUCCESS => Ok(()),
        _ => Err("a signature is wrong".into()),
    }
}

/// Checks the reveal of the proposer of `view` in `epoch`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_reveal(
    genesis: B256,
    vote: &FixedBytes<96>,
    epoch: u64,
    view: u64,
    reveal: &FixedBytes<48>,
) -> Result<(), String> {
    let key = key(vote).ok_or("malformed vote key")?;
    check_signature(&key, &namespaced(&reveal_namespace(genesis), &reveal_message(epoch, view)), reveal)
}

/// The randomness of a block: keccak-256 of the parent's and the proposer's reveal (RANDAO).
pub fn randomness(parent: B256, reveal: &FixedBytes<48>) -> B256 {
    types::keccak256([parent.as_slice(), reveal.as_slice()].concat())
}

/// Domain of the reveals that make the chain's randomness.
pub fn reveal_namespace(genesis: B256) -> Vec<u8> {
    [b"og/reveal/1/".as_slice(), genesis.as_slice()].concat()
}

/// What the proposer of `view` in `epoch` signs as its reveal: varint(len(ns)) ‖ ns ‖ epoch ‖ view, big-endian. BLS signatures are unique, so a
/// proposer has no choice but to reveal or to stay silent.
pub fn reveal_message(epoch: u64, view: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&epoch.to_be_bytes());
    out[8..].copy_from_slice(&view.to_be_bytes());
    out
}
