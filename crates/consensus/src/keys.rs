use crate::{ConsensusError, epochs::participants};
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
use types::{Address, NetworkConfig, ValidatorKey};
use verify::finality;

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

    /// What the owner of these keys sends to the staking contract as proof of possession: it binds the vote key to the peer key and to the
    /// account `operator`, so that nobody can register them in another name.
    pub fn registration(&self, chain_id: u64, operator: Address) -> (ValidatorKey, FixedBytes<48>) {
        let key = self.public(chain_id);
        let message = finality::registration_message(&key.vote, &key.peer, operator);
        let namespace = finality::registration_namespace(chain_id);
        let signature = ops::sign_message::<MinSig>(&self.vote, &namespace, &message);
        (key, FixedBytes::from_slice(&signature.encode()))
    }

    /// The reveal of the proposer of a view: see [`finality::reveal_message`].
    pub(crate) fn reveal(&self, genesis: B256, epoch: u64, view: u64) -> FixedBytes<48> {
        let namespace = finality::reveal_namespace(genesis);
        let message = finality::reveal_message(epoch, view);
        FixedBytes::from_slice(&ops::sign_message::<MinSig>(&self.vote, &namespace, &message).encode())
    }

    /// The peer key.
    pub fn peer(&self) -> B256 {
        B256::from_slice(&self.peer.public_key().encode())
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

/// Decodes a vote key.
pub(crate) fn vote_key(bytes: &FixedBytes<96>) -> Result<VoteKey, ConsensusError> {
    VoteKey::decode(owned(bytes.as_slice()))
        .map_err(|e| ConsensusError::Key(format!("vote key {bytes}: {e}")))
}

/// Checks the first validator set: order, keys and every proof of possession. Without these an aggregate signature could be forged with a
/// rogue key.
pub(crate) fn check_genesis(config: &NetworkConfig) -> Result<(), ConsensusError> {
    config.check().map_err(|e| ConsensusError::Key(e.to_string()))?;
    for validator in &config.validators {
        finality::check_possession(config.chain_id, &validator.vote, &validator.possession)
            .map_err(|e| ConsensusError::Key(format!("validator {}: {e}", validator.peer)))?;
    }
    participants(&config.first_set()).map(|_| ())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use types::SystemContracts;

    pub(crate) fn config(n: u64) -> NetworkConfig {
        let mut validators: Vec<_> =
            (0..n).map(|i| ValidatorSecret::from_rng(StdRng::seed_from_u64(i)).public(7)).collect();
        validators.sort_by_key(|v| v.peer);
        let a = Address::ZERO;
        let contracts = SystemContracts {
            model_registry: a,
            node_registry: a,
            receipt_log: a,
            wrapped_native: a,
            staking: a,
            ..SystemContracts::none()
        };
        NetworkConfig {
            version: types::NETWORK_VERSION,
            chain_id: 7,
            block_time_ms: 250,
            epoch_blocks: 100,
            window_seconds: 90,
            game_seconds: 600,
            unbonding_seconds: 7 * 24 * 3600,
            contracts,
            validators,
        }
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
        check_genesis(&good).unwrap();

        let mut stolen = good.clone();
        stolen.validators[0].possession = stolen.validators[1].possession;
        assert!(check_genesis(&stolen).is_err());

        let mut elsewhere = good.clone();
        elsewhere.chain_id = 8;
        assert!(check_genesis(&elsewhere).is_err());

        let mut twice = good;
        twice.validators[0].vote = twice.validators[1].vote;
        twice.validators[0].possession = twice.validators[1].possession;
        assert!(check_genesis(&twice).is_err());
    }
}
