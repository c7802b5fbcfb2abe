//! The light client: who votes, what is final, and what a final state says.
//!
//! Trust starts at a genesis hash, or at a checkpoint somebody trusts, and follows the validator sets from there: each set names the next one
//! in a header that it finalised. No step needs a network.

use crate::contracts::receipt_log_slot;
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::Decodable as _;
use alloy_trie::{Nibbles, TrieAccount, proof::verify_proof};
use std::{fmt, str::FromStr};
use types::{
    FinalityCertificate, Handover, NetworkConfig, Validator, ValidatorSet, limits::HEADER_BYTES_MAX,
};
use verify::finality;

/// A final block that somebody trusts, for instance because they followed the chain to it or read its hash in several places. Spelled
/// `NUMBER:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Checkpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(n, h)| Some((n.parse().ok()?, h.parse().ok()?)));
        parts
            .map(|(number, hash)| Self { number, hash })
            .ok_or_else(|| format!("{text:?} is not NUMBER:HASH of a block"))
    }
}

/// Checks the genesis header of the network called `name`, and that it commits to the rules in `config` and to its validators, of whom the
/// root is enough.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_rules(
    config: &NetworkConfig,
    validators_root: Option<B256>,
    genesis: &Bytes,
    name: B256,
) -> Result<(), String> {
    let (header, hash) = header(genesis)?;
    if hash != name {
        return Err(format!("the genesis header hashes to {hash}, not to {name}"));
    }
    let commitment = validators_root.map_or_else(|| config.commitment(), |root| config.commitment_to(root));
    if header.number != 0 || header.extra_data.as_ref() != commitment.as_slice() {
        return Err("the genesis header does not commit to this configuration".into());
    }
    Ok(())
}

/// Checks that the header of the trusted block `checkpoint` is `bytes`. Gives the header.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn checkpoint_header(checkpoint: Checkpoint, bytes: &Bytes) -> Result<Header, String> {
    let (header, hash) = header(bytes)?;
    if hash != checkpoint.hash || header.number != checkpoint.number {
        return Err(format!(
            "it starts at block {}:{hash}, your checkpoint is {checkpoint}: get it again for your checkpoint",
            header.number
        ));
    }
    Ok(header)
}

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
    check_rules(config, None, genesis, name)?;
    config.check().map_err(|e| e.to_string())?;
    for (i, validator) in config.validators.iter().enumerate() {
        let fault = |what: String| format!("validator {}: {what}", validator.peer);
        finality::check_possession(config.chain_id, &validator.vote, &validator.possession).map_err(fault)?;
        if config.validators[..i].iter().any(|v| v.vote == validator.vote) {
            return Err(fault("its vote key is another validator's".into()));
        }
    }
    Ok(())
}

/// Who votes, as far as the light client has followed the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    genesis: B256,
    epoch_blocks: u64,
    set: ValidatorSet,
}

impl Trusted {
    /// Starts at the genesis block called `name`: see [`check_network`].
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn genesis(config: &NetworkConfig, genesis: &Bytes, name: B256) -> Result<Self, String> {
        check_network(config, genesis, name)?;
        Ok(Self { genesis: name, epoch_blocks: config.epoch_blocks, set: config.first_set() })
    }

    /// Starts at a checkpoint, whose header names the validators that voted for it. Old validators who took their stake out long ago could
    /// forge a history from their time on; a recent checkpoint leaves them behind.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn checkpoint(
        config: &NetworkConfig,
        name: B256,
        header: &Header,
        members: &[Validator],
    ) -> Result<Self, String> {
        let set = ValidatorSet { epoch: config.epoch_of(header.number), members: members.to_vec() };
        set.check().map_err(|e| e.to_string())?;
        if header.parent_beacon_block_root != Some(set.commitment()) {
            return Err("these are not the validators that the checkpoint's header names".into());
        }
        Ok(Self { genesis: name, epoch_blocks: config.epoch_blocks, set })
    }

    /// Goes on with a set that this light client has followed the chain to before, in a network that was checked then.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn resume(config: &NetworkConfig, name: B256, set: ValidatorSet) -> Result<Self, String> {
        set.check().map_err(|e| e.to_string())?;
        Ok(Self { genesis: name, epoch_blocks: config.epoch_blocks, set })
    }

    /// The newest set.
    pub fn set(&self) -> &ValidatorSet {
        &self.set
    }

    /// Name of the network.
    pub fn network(&self) -> B256 {
        self.genesis
    }

    /// Follows one change of the validator set.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn follow(&mut self, handover: &Handover) -> Result<(), String> {
        let next = &handover.next;
        next.check().map_err(|e| e.to_string())?;
        if next.epoch <= self.set.epoch {
            return Err(format!("a handover to epoch {} after epoch {}", next.epoch, self.set.epoch));
        }
        let (header, _) = self.final_header(&handover.header, &handover.certificate)?;
        if Some(header.number) != next.epoch.checked_mul(self.epoch_blocks).and_then(|n| n.checked_sub(1)) {
            return Err(format!("block {} does not end the epoch before {}", header.number, next.epoch));
        }
        if header.requests_hash != Some(next.requests_hash()) {
            return Err("the header does not name the next validators".into());
        }
        self.set = next.clone();
        Ok(())
    }

    /// Checks that `certificate` finalises the header, and that the header names the validators who signed. Gives the header and how
    /// many signed.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn final_header(
        &self,
        bytes: &Bytes,
        certificate: &FinalityCertificate,
    ) -> Result<(Header, usize), String> {
        let (header, hash) = header(bytes)?;
        if hash != certificate.block_hash {
            return Err("the certificate is about another block".into());
        }
        if certificate.epoch != header.number / self.epoch_blocks {
            return Err(format!("the certificate is of epoch {}, the block is not", certificate.epoch));
        }
        if header.parent_beacon_block_root != Some(self.set.commitment()) {
            return Err("the header names other validators".into());
        }
        let signers = finality::check_certificate(&self.set, self.genesis, certificate)?;
        Ok((header, signers))
    }
}

/// Checks that the account `address` is in the state, or that it is not. Gives the account.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_account(
    state_root: B256,
    address: Address,
    proof: &[Bytes],
) -> Result<Option<TrieAccount>, String> {
    let key = Nibbles::unpack(keccak256(address));
    let found = proof.last().and_then(account_in_leaf);
    if let Some(account) = found
        && verify_proof(state_root, key, Some(alloy_rlp::encode(account)), proof).is_ok()
    {
        return Ok(Some(account));
    }
    verify_proof(state_root, key, None, proof)
        .map(|()| None)
        .map_err(|e| format!("the account proof does not fit the state root: {e}"))
}

/// Checks that an account with this storage root has `value` in `slot`; zero means that there is nothing.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_slot(storage_root: B256, slot: B256, value: U256, proof: &[Bytes]) -> Result<(), String> {
    let value = (!value.is_zero()).then(|| alloy_rlp::encode(value));
    // The empty trie needs no proof.
    if storage_root == alloy_trie::EMPTY_ROOT_HASH {
        return match value.is_none() && proof.is_empty() {
            true => Ok(()),
            false => Err("the account stores nothing, and that needs no proof".into()),
        };
    }
    verify_proof(storage_root, Nibbles::unpack(keccak256(slot)), value, proof).map_err(|e| e.to_string())
}

/// Checks that item `index` of a block's list (transactions under `transactionsRoot`, receipts under `receiptsRoot`) has the bytes `item`
/// (EIP-2718).
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_item(root: B256, index: u64, item: &[u8], proof: &[Bytes]) -> Result<(), String> {
    let key = Nibbles::unpack(alloy_rlp::encode(index));
    verify_proof(root, key, Some(item.to_vec()), proof)
        .map_err(|e| format!("item {index} is not in the block: {e}"))
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
    let account = check_account(state_root, log, account_proof)?.ok_or("the log contract does not exist")?;
    check_slot(account.storage_root, receipt_log_slot(node, size), U256::from_be_bytes(root.0), storage_proof)
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
