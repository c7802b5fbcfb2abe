use crate::ConsensusError;
use alloy_primitives::{B256, FixedBytes};
use commonware_codec::{DecodeExt as _, Encode as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::primitives::{
        group::Private,
        ops,
        variant::{MinSig, Variant},
    },
    ed25519,
};
use commonware_math::algebra::Random as _;
use commonware_utils::{TryCollect as _, ordered::BiMap};
use types::{NetworkConfig, ValidatorKey};

/// A BLS12-381 vote key (MinSig: a G2 point of 96 bytes).
pub(crate) type VoteKey = <MinSig as Variant>::Public;

/// The secrets of one validator: an Ed25519 peer identity and a BLS12-381 vote key.
#[derive(Clone)]
pub struct ValidatorSecret {
    pub(crate) peer: ed25519::PrivateKey,
    pub(crate) vote: Private,
}

impl std::fmt::Debug for ValidatorSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ValidatorSecret({})", self.peer.public_key())
    }
}

impl ValidatorSecret {
    /// Draws fresh keys from the operating system's generator.
    pub fn generate() -> Self {
        Self::from_rng(rand::rng())
    }

    /// Draws keys from `rng`. Tests use a seeded one.
    pub fn from_rng(mut rng: impl rand::CryptoRng) -> Self {
        Self { peer: ed25519::PrivateKey::random(&mut rng), vote: Private::random(&mut rng) }
    }

    /// 64 bytes: Ed25519 seed, then BLS scalar (big-endian).
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut out = [0u8; 64];
        out[..32].copy_from_slice(&self.peer.encode());
        out[32..].copy_from_slice(&self.vote.encode());
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`ConsensusError::Key`] when the scalar is zero or not below the group order.
    pub fn from_bytes(bytes: &[u8; 64]) -> Result<Self, ConsensusError> {
        let key = |e| ConsensusError::Key(format!("{e}"));
        Ok(Self {
            peer: ed25519::PrivateKey::decode(owned(&bytes[..32])).map_err(key)?,
            vote: Private::decode(owned(&bytes[32..])).map_err(key)?,
        })
    }

    /// The public keys, with the proof that the vote key's secret is known.
    pub fn public(&self, chain_id: u64) -> ValidatorKey {
        let namespace = NetworkConfig::possession_namespace(chain_id);
        let possession = ops::sign_proof_of_possession::<MinSig>(&self.vote, &namespace);
        ValidatorKey {
            peer: B256::from_slice(&self.peer.public_key().encode()),
            vote: FixedBytes::from_slice(&ops::compute_public::<MinSig>(&self.vote).encode()),
            possession: FixedBytes::from_slice(&possession.encode()),
        }
    }
}

/// The decoder's input; keys are small, so a copy costs nothing.
fn owned(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

/// Decodes a peer key.
pub(crate) fn peer_key(bytes: &B256) -> Result<ed25519::PublicKey, ConsensusError> {
    ed25519::PublicKey::decode(owned(bytes.as_slice()))
        .map_err(|e| ConsensusError::Key(format!("peer key {bytes}: {e}")))
}

/// Decodes the validator set and verifies every proof of possession: without it an aggregate signature could
/// be forged with a rogue key.
pub(crate) fn participants(
    config: &NetworkConfig,
) -> Result<BiMap<ed25519::PublicKey, VoteKey>, ConsensusError> {
    config.check().map_err(|e| ConsensusError::Key(e.to_string()))?;
    let namespace = NetworkConfig::possession_namespace(config.chain_id);
    let mut entries = Vec::with_capacity(config.validators.len());
    for validator in &config.validators {
        let malformed = |e| ConsensusError::Key(format!("validator {}: {e}", validator.peer));
        let vote = VoteKey::decode(owned(validator.vote.as_slice())).map_err(malformed)?;
        let possession = <MinSig as Variant>::Signature::decode(owned(validator.possession.as_slice()))
            .map_err(malformed)?;
        ops::verify_proof_of_possession::<MinSig>(&vote, &namespace, &possession).map_err(|_| {
            ConsensusError::Key(format!(
                "validator {}: the proof of possession of its vote key is wrong",
                validator.peer
            ))
        })?;
        entries.push((peer_key(&validator.peer)?, vote));
    }
    entries
        .into_iter()
        .try_collect::<BiMap<_, _>>()
        .map_err(|_| ConsensusError::Key("two validators share a vote key".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use types::{Address, SystemContracts};

    fn config(n: u64) -> NetworkConfig {
        let mut validators: Vec<_> =
            (0..n).map(|i| ValidatorSecret::from_rng(StdRng::seed_from_u64(i)).public(7)).collect();
        validators.sort_by_key(|v| v.peer);
        let a = Address::ZERO;
        let contracts =
            SystemContracts { model_registry: a, node_registry: a, receipt_log: a, wrapped_native: a };
        NetworkConfig { version: 1, chain_id: 7, block_time_ms: 250, contracts, validators }
    }

    #[test]
    fn secrets_round_trip() {
        let secret = ValidatorSecret::generate();
        let again = ValidatorSecret::from_bytes(&secret.to_bytes()).unwrap();
        assert_eq!(again.public(1), secret.public(1));
        assert!(ValidatorSecret::from_bytes(&[0; 64]).is_err());
    }

    #[test]
    fn a_set_needs_every_proof_of_possession_and_distinct_keys() {
        let good = config(4);
        assert_eq!(participants(&good).unwrap().len(), 4);

        let mut stolen = good.clone();
        stolen.validators[0].possession = stolen.validators[1].possession;
        assert!(participants(&stolen).is_err());

        let mut elsewhere = good.clone();
        elsewhere.chain_id = 8;
        assert!(participants(&elsewhere).is_err());

        let mut twice = good;
        twice.validators[0].vote = twice.validators[1].vote;
        twice.validators[0].possession = twice.validators[1].possession;
        assert!(participants(&twice).is_err());
    }
}
