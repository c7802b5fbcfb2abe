use crate::{BlockInput, LedgerError};
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header, TxEnvelope};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::B256;
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};

/// Largest encoded block (2 MiB).
pub const MAX_BLOCK_BYTES: usize = 2 << 20;

/// Most bytes in the header's `extraData`.
pub(crate) const EXTRA_DATA_BYTES: usize = 32;

/// Whose turn it was to propose: what consensus knows about a block and the ledger counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Turn {
    /// Index of the proposer in the validator set.
    pub proposer: u64,
    /// Indices of those whose turn came after the parent block and passed, in order.
    pub missed: Vec<u64>,
}

/// Most missed turns that are counted for one block.
pub const MISSED_MAX: usize = 256;

/// An Ethereum block without ommers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Header; its keccak-256 is the block hash.
    pub header: Header,
    /// Transactions in order of execution.
    pub transactions: Vec<TxEnvelope>,
    /// Rewards of validators, in the last block of an epoch (EIP-4895).
    pub withdrawals: Vec<Withdrawal>,
}

impl Block {
    /// The block hash.
    pub fn hash(&self) -> B256 {
        self.header.hash_slow()
    }

    /// What its proposer decided besides the transactions.
    pub(crate) fn input(&self, turn: &Turn) -> BlockInput {
        let h = &self.header;
        BlockInput {
            timestamp: h.timestamp,
            seal: B256::try_from(h.extra_data.as_ref()).unwrap_or_default(),
            beneficiary: h.beneficiary,
            randomness: h.mix_hash,
            turn: turn.clone(),
        }
    }

    /// RLP as on Ethereum's wire: `[header, transactions, ommers, withdrawals]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        alloy_rlp::Header { list: true, payload_length: self.payload_len() }.encode(&mut out);
        self.header.encode(&mut out);
        self.transactions.encode(&mut out);
        out.push(alloy_rlp::EMPTY_LIST_CODE);
        self.withdrawals.encode(&mut out);
        out
    }

    /// Length of [`encode`](Self::encode) in bytes.
    pub fn encoded_len(&self) -> usize {
        let payload_length = self.payload_len();
        alloy_rlp::Header { list: true, payload_length }.length() + payload_length
    }

    fn payload_len(&self) -> usize {
        self.header.length() + self.transactions.length() + 1 + self.withdrawals.length()
    }

    /// Decodes a block; nothing may be left over.
    ///
    /// # Errors
    /// [`LedgerError::InvalidBlock`] when it is too long or malformed.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, LedgerError> {
        let invalid = |reason: String| LedgerError::InvalidBlock { number: 0, reason };
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(invalid(format!("{} bytes, more than the allowed {MAX_BLOCK_BYTES}", bytes.len())));
        }
        let rlp = |e: alloy_rlp::Error| invalid(e.to_string());
        let mut payload = alloy_rlp::Header::decode_bytes(&mut bytes, true).map_err(rlp)?;
        let header = Header::decode(&mut payload).map_err(rlp)?;
        let transactions = Vec::<TxEnvelope>::decode(&mut payload).map_err(rlp)?;
        if payload.split_off_first() != Some(&alloy_rlp::EMPTY_LIST_CODE) {
            return Err(invalid("there are no ommers here".into()));
        }
        let withdrawals = Vec::<Withdrawal>::decode(&mut payload).map_err(rlp)?;
        if !payload.is_empty() || !bytes.is_empty() {
            return Err(invalid("bytes left over".into()));
        }
        if header.ommers_hash != EMPTY_OMMER_ROOT_HASH || header.extra_data.len() > EXTRA_DATA_BYTES {
            return Err(invalid("wrong ommers hash or extra data too long".into()));
        }
        Ok(Self { header, transactions, withdrawals })
    }
}
