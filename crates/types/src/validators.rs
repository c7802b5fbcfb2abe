use crate::{FinalityCertificate, TypesError, error::decode_exact, limits::VALIDATORS_MAX};
use alloy_primitives::{B256, Bytes, FixedBytes, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A member of a validator set. Whoever got in has proved possession of the vote key: in the genesis configuration, or to the staking contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Ed25519 key that identifies the validator on the peer-to-peer network; validators are ordered by it.
    pub peer: B256,
    /// BLS12-381 vote key, a compressed G2 point.
    pub vote: FixedBytes<96>,
}

/// The validators that vote from an epoch on, until another set takes over. All votes count the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct ValidatorSet {
    /// First epoch in which they vote.
    pub epoch: u64,
    /// The validators, sorted by `peer`, without repetition.
    pub members: Vec<Validator>,
}

/// EIP-7685 type of the request in an epoch's last block that says who votes next. Ethereum's own types are small numbers.
pub const VALIDATOR_SET_REQUEST: u8 = 0xf0;

impl ValidatorSet {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes and checks count and order.
    ///
    /// # Errors
    /// [`TypesError`] when not canonical, too many, unsorted or empty.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let set: Self = decode_exact("validator set", bytes, VALIDATORS_MAX * 160 + 64)?;
        set.check()?;
        Ok(set)
    }

    /// Checks count and order.
    ///
    /// # Errors
    /// [`TypesError`] when there are too many or none, or they are not sorted and distinct.
    pub fn check(&self) -> Result<(), TypesError> {
        check_order("validator set", self.members.iter().map(|v| v.peer))
    }

    /// What the header of every block that these validators vote for has in `parentBeaconBlockRoot`: keccak-256 of
    /// `"og/validators/1" ‖ RLP(members)`.
    pub fn commitment(&self) -> B256 {
        keccak256([b"og/validators/1".as_slice(), &alloy_rlp::encode(&self.members)].concat())
    }

    /// The EIP-7685 request that names this set in the last block of the epoch before.
    pub fn request(&self) -> Vec<u8> {
        [&[VALIDATOR_SET_REQUEST][..], &self.encode()].concat()
    }

    /// `requestsHash` of a header whose block has exactly [`request`](Self::request) (EIP-7685).
    pub fn requests_hash(&self) -> B256 {
        let one = Sha256::digest(self.request());
        B256::from_slice(&Sha256::digest(one))
    }

    /// Votes needed for a certificate: n - [`faults`](Self::faults).
    pub fn quorum(&self) -> usize {
        self.members.len() - self.faults()
    }

    /// Members that may be dishonest or away without harm: (n-1)/3.
    pub fn faults(&self) -> usize {
        self.members.len().saturating_sub(1) / 3
    }
}

/// One validator set hands over to the next: the last block of an epoch, finalised by the old set, names the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// RLP of the header.
    pub header: Bytes,
    /// Quorum of the old set.
    pub certificate: FinalityCertificate,
    /// The new set; the header's `requestsHash` commits to it.
    pub next: ValidatorSet,
}

/// One vote of the consensus engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// 0 notarize, 1 nullify, 2 finalize.
    pub kind: u8,
    /// View of the proposal's parent; 0 in a nullify vote.
    pub parent_view: u64,
    /// Hash of the proposed block; zero in a nullify vote.
    pub block_hash: B256,
    /// BLS signature, a compressed G1 point.
    pub signature: FixedBytes<48>,
}

/// Two votes of one validator in one view that no honest validator casts: two notarize votes or two finalize votes for different proposals, or
/// nullify and finalize.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Equivocation {
    /// Who voted.
    pub vote_key: FixedBytes<96>,
    /// Epoch of both votes.
    pub epoch: u64,
    /// View of both votes.
    pub view: u64,
    /// A vote.
    pub first: Vote,
    /// One that contradicts it.
    pub second: Vote,
}

impl Equivocation {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`TypesError`] when too long or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        decode_exact("evidence of equivocation", bytes, 1024)
    }

    /// Whether the two votes contradict each other, signatures aside.
    pub fn contradicts(&self) -> bool {
        let proposal = |v: &Vote| (v.parent_view, v.block_hash);
        match (self.first.kind, self.second.kind) {
            (NOTARIZE, NOTARIZE) | (FINALIZE, FINALIZE) => proposal(&self.first) != proposal(&self.second),
            (NULLIFY, FINALIZE) => proposal(&self.first) == (0, B256::ZERO),
            _ => false,
        }
    }

    /// The bytes that `vote` signs in the network with this namespace: varint(len(ns)) ‖ ns ‖ round or proposal, where ns ends in
    /// `_NOTARIZE`, `_NULLIFY` or `_FINALIZE`. `None` for an unknown kind.
    pub fn message(&self, vote: &Vote, namespace: &[u8]) -> Option<Vec<u8>> {
        let suffix: &[u8] = match vote.kind {
            NOTARIZE => b"_NOTARIZE",
            NULLIFY => b"_NULLIFY",
            FINALIZE => b"_FINALIZE",
            _ => return None,
        };
        let proposal = (vote.kind != NULLIFY).then_some((vote.parent_view, vote.block_hash));
        Some(vote_message(namespace, suffix, (self.epoch, self.view), proposal))
    }
}

/// [`Vote::kind`] of a notarize vote.
pub const NOTARIZE: u8 = 0;
/// [`Vote::kind`] of a nullify vote.
pub const NULLIFY: u8 = 1;
/// [`Vote::kind`] of a finalize vote.
pub const FINALIZE: u8 = 2;

/// What a vote in the round (epoch, view) signs: varint(len(ns)) ‖ ns ‖ varint(epoch) ‖ varint(view), and for a proposal varint(parent view) ‖ block
/// hash, with ns = `namespace ‖ suffix`.
pub(crate) fn vote_message(
    namespace: &[u8],
    suffix: &[u8],
    (epoch, view): (u64, u64),
    proposal: Option<(u64, B256)>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(namespace.len() + 64);
    varint(&mut out, (namespace.len() + suffix.len()) as u64);
    out.extend_from_slice(namespace);
    out.extend_from_slice(suffix);
    varint(&mut out, epoch);
    varint(&mut out, view);
    if let Some((parent_view, block_hash)) = proposal {
        varint(&mut out, parent_view);
        out.extend_from_slice(block_hash.as_slice());
    }
    out
}

/// Checks count and order of validators, given by their peer keys.
pub(crate) fn check_order(
    what: &'static str,
    peers: impl ExactSizeIterator<Item = B256>,
) -> Result<(), TypesError> {
    let n = peers.len();
    if n > VALIDATORS_MAX {
        return Err(TypesError::TooLarge { what: "number of validators", size: n, max: VALIDATORS_MAX });
    }
    if n == 0 || !peers.is_sorted_by(|a, b| a < b) {
        return Err(TypesError::Encoding {
            what,
            detail: "validators must be at least one, sorted by peer key and distinct".into(),
        });
    }
    Ok(())
}

/// Unsigned LEB128.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
