use crate::LedgerError;
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header, TxEnvelope};
use alloy_primitives::B256;
use alloy_rlp::{Decodable as _, Encodable as _};

/// Largest encoded block (2 MiB).
pub const MAX_BLOCK_BYTES: usize = 2 << 20;

/// Most bytes in the header's `extraData`.
pub(crate) const EXTRA_DATA_BYTES: usize = 32;

/// An Ethereum block without ommers and withdrawals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Header; its keccak-256 is the block hash.
    pub header: Header,
    /// Transactions in order of execution.
    pub transactions: Vec<TxEnvelope>,
}

/// Two empty RLP lists: no ommers, no withdrawals.
const NO_OMMERS_NO_WITHDRAWALS: [u8; 2] = [0xc0, 0xc0];

impl Block {
    /// The block hash.
    pub fn hash(&self) -> B256 {
        self.header.hash_slow()
    }

    /// RLP as on Ethereum's wire: `[header, transactions, ommers, withdrawals]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        alloy_rlp::Header { list: true, payload_length: self.payload_len() }.encode(&mut out);
        self.header.encode(&mut out);
        self.transactions.encode(&mut out);
        out.extend_from_slice(&NO_OMMERS_NO_WITHDRAWALS);
        out
    }

    /// Length of [`encode`](Self::encode) in bytes.
    pub fn encoded_len(&self) -> usize {
        let payload_length = self.payload_len();
        alloy_rlp::Header { list: true, payload_length }.length() + payload_length
    }

    fn payload_len(&self) -> usize {
        self.header.length() + self.transactions.length() + NO_OMMERS_NO_WITHDRAWALS.len()
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
        if payload != NO_OMMERS_NO_WITHDRAWALS || !bytes.is_empty() {
            return Err(invalid("ommers, withdrawals or bytes left over".into()));
        }
        if header.ommers_hash != EMPTY_OMMER_ROOT_HASH || header.extra_data.len() > EXTRA_DATA_BYTES {
            return Err(invalid("wrong ommers hash or extra data too long".into()));
        }
        Ok(Self { header, transactions })
    }
}
