use crate::{
    TypesError, Validator, ValidatorSet,
    error::decode_exact,
    limits::VALIDATORS_MAX,
    proof::v3::{self, NETWORK_VERSION_V3},
    validators::check_order,
};
use alloy_primitives::{Address, B256, FixedBytes, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// The public keys of one validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct ValidatorKey {
    /// Ed25519 key that identifies the validator on the peer-to-peer network; validators are ordered by it.
    pub peer: B256,
    /// BLS12-381 vote key, a compressed G2 point.
    pub vote: FixedBytes<96>,
    /// Proof that the validator knows the secret of `vote` (a compressed G1 point). Without it, an aggregate
    /// signature could be forged with a rogue key.
    pub possession: FixedBytes<48>,
}

/// Addresses of the contracts that the genesis block deploys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct SystemContracts {
    /// `ModelRegistry`: which models exist.
    pub model_registry: Address,
    /// `NodeRegistry`: who serves what, for which price and stake.
    pub node_registry: Address,
    /// `ReceiptLog`: roots of the nodes' receipt logs.
    pub receipt_log: Address,
    /// `WrappedNative`: the native coin as an ERC-20 token.
    pub wrapped_native: Address,
    /// `Staking`: who may validate.
    pub staking: Address,
    /// `Beacon`: randomness of past blocks.
    pub beacon: Address,
    /// `Auditors`: who may be drawn to check answers, and for which stake.
    pub auditors: Address,
    /// `Audits`: draws, verdicts and canaries.
    pub audits: Address,
    /// `Disputes`: games about computations.
    pub disputes: Address,
    /// `Jury`: cases about texts.
    pub jury: Address,
    /// `Escrow`: what clients pay.
    pub escrow: Address,
}

impl SystemContracts {
    /// All addresses, in order of the fields.
    pub fn all(&self) -> [Address; 11] {
        [
            self.model_registry,
            self.node_registry,
            self.receipt_log,
            self.wrapped_native,
            self.staking,
            self.beacon,
            self.auditors,
            self.audits,
            self.disputes,
            self.jury,
            self.escrow,
        ]
    }

    /// Contracts that all have one address: for tests that need none.
    pub fn none() -> Self {
        let a = Address::ZERO;
        Self {
            model_registry: a,
            node_registry: a,
            receipt_log: a,
            wrapped_native: a,
            staking: a,
            beacon: a,
            auditors: a,
            audits: a,
            disputes: a,
            jury: a,
            escrow: a,
        }
    }
}

/// What everybody must agree on before the first block. Its [`commitment`](Self::commitment) is the genesis header's
/// `extraData`, so the genesis hash names chain id, rules and validators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Version of this struct; [`NETWORK_VERSION`].
    pub version: u16,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Smallest time between two blocks, in milliseconds.
    pub block_time_ms: u64,
    /// Number of blocks in an epoch, at least 2. Epoch e has the blocks from e·n to (e+1)·n - 1.
    pub epoch_blocks: u64,
    /// Time after an answer in which it can be disputed, in seconds (the rule of the contract `Disputes`).
    pub window_seconds: u64,
    /// Longest time that a dispute takes, in seconds.
    pub game_seconds: u64,
    /// Time before a validator that left gets its stake back, in seconds: for that long its votes can still be punished.
    pub unbonding_seconds: u64,
    /// Where the system contracts live.
    pub contracts: SystemContracts,
    /// First validator set, sorted by `peer`, without repetition.
    pub validators: Vec<ValidatorKey>,
}

/// The version of network configurations that this program knows.
pub const NETWORK_VERSION: u16 = 4;

/// What a genesis header commits to.
#[derive(RlpEncodable)]
struct Committed {
    version: u16,
    chain_id: u64,
    block_time_ms: u64,
    epoch_blocks: u64,
    window_seconds: u64,
    game_seconds: u64,
    unbonding_seconds: u64,
    contracts: SystemContracts,
    validators_root: B256,
}

impl NetworkConfig {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes and checks the order of the validators.
    ///
    /// # Errors
    /// [`TypesError`] when not canonical, too many, unsorted or empty.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        let config: Self = decode_exact("network configuration", bytes, VALIDATORS_MAX * 256 + 512)?;
        config.check()?;
        Ok(config)
    }

    /// Checks count and order of the validators.
    ///
    /// # Errors
    /// [`TypesError`] when there are too many or none, or they are not sorted and distinct.
    pub fn check(&self) -> Result<(), TypesError> {
        self.check_rules()?;
        check_order("network configuration", self.validators.iter().map(|v| v.peer))
    }

    /// [`check`](Self::check) without the validators.
    ///
    /// # Errors
    /// [`TypesError`].
    pub(crate) fn check_rules(&self) -> Result<(), TypesError> {
        if !matches!(self.version, NETWORK_VERSION_V3 | NETWORK_VERSION) || self.epoch_blocks < 2 {
            return Err(TypesError::Encoding {
                what: "network configuration",
                detail: format!(
                    "the version must be {NETWORK_VERSION}, and an epoch must have at least 2 blocks"
                ),
            });
        }
        Ok(())
    }

    /// keccak-256 of the RLP list of the validators.
    pub fn validators_root(&self) -> B256 {
        keccak256(alloy_rlp::encode(&self.validators))
    }

    /// keccak-256 of `"og/network/4" ‖ RLP` of the fields, with [`validators_root`](Self::validators_root) in place of the validators.
    pub fn commitment(&self) -> B256 {
        match self.version {
            NETWORK_VERSION_V3 => v3::commitment(self),
            _ => self.commitment_to(self.validators_root()),
        }
    }

    /// [`commitment`](Self::commitment) for who knows only the root of the validators, and does not need more: a reader whose trust begins
    /// at a later block.
    pub fn commitment_to(&self, validators_root: B256) -> B256 {
        let encoded = alloy_rlp::encode(Committed {
            version: self.version,
            chain_id: self.chain_id,
            block_time_ms: self.block_time_ms,
            epoch_blocks: self.epoch_blocks,
            window_seconds: self.window_seconds,
            game_seconds: self.game_seconds,
            unbonding_seconds: self.unbonding_seconds,
            contracts: self.contracts,
            validators_root,
        });
        keccak256([b"og/network/4".as_slice(), &encoded].concat())
    }

    /// Domain of consensus signatures: no vote of one network counts in another.
    pub fn namespace(genesis_hash: B256) -> Vec<u8> {
        [b"og/consensus/1/".as_slice(), genesis_hash.as_slice()].concat()
    }

    /// Domain of proofs of possession. It cannot contain the genesis hash, which contains them.
    pub fn possession_namespace(chain_id: u64) -> Vec<u8> {
        [b"og/possession/1/".as_slice(), &chain_id.to_be_bytes()].concat()
    }

    /// The validators of the first epoch.
    pub fn first_set(&self) -> ValidatorSet {
        let members = self.validators.iter().map(|v| Validator { peer: v.peer, vote: v.vote });
        ValidatorSet { epoch: 0, members: members.collect() }
    }

    /// Epoch of block `number`.
    pub fn epoch_of(&self, number: u64) -> u64 {
        number / self.epoch_blocks
    }

    /// Whether block `number` is the last of its epoch.
    pub fn ends_epoch(&self, number: u64) -> bool {
        number % self.epoch_blocks == self.epoch_blocks - 1
    }
}
