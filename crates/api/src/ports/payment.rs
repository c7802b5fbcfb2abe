//! How a client pays: headers with signed permissions and promises.

use bytes::Bytes;
use types::{Address, U256};

/// What a client pays for one answer with: its permission, signed (EIP-712, see the contract `Escrow`). It names this node and
/// the receipt of this request, so it is worth nothing for anything else, and is used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Who pays.
    pub client: Address,
    /// Most that the answer may cost, in wei.
    pub max_price: U256,
    /// Position among the client's authorisations for this node.
    pub sequence: u64,
    /// Unix time until which the node may begin, in seconds.
    pub expiry: u64,
    /// Signature over [`types::Authorisation`].
    pub signature: [u8; 65],
}

impl std::str::FromStr for Payment {
    type Err = String;

    /// `client max-price sequence expiry signature`, separated by spaces.
    fn from_str(s: &str) -> Result<Self, String> {
        let ([client, max_price, sequence, expiry], signature) = signed(s)?;
        Ok(Self {
            client: client.parse().map_err(|_| "no address")?,
            max_price: number(max_price)?,
            sequence: number(sequence)?.try_into().map_err(|_| "the sequence is too large")?,
            expiry: number(expiry)?.try_into().map_err(|_| "the expiry is too large")?,
            signature,
        })
    }
}

/// A promise of coins: what a client owes a node in all, signed (EIP-712, see the contract `Escrow`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Who pays.
    pub client: Address,
    /// Everything that the client owes the node since ever, in wei, for answers up to `sequence`.
    pub total: U256,
    /// The newest authorisation that the total pays.
    pub sequence: u64,
    /// Signature over [`types::Voucher`].
    pub signature: [u8; 65],
}

impl std::str::FromStr for Promise {
    type Err = String;

    /// `client total sequence signature`, separated by spaces.
    fn from_str(s: &str) -> Result<Self, String> {
        let ([client, total, sequence], signature) = signed(s)?;
        Ok(Self {
            client: client.parse().map_err(|_| "no address")?,
            total: number(total)?,
            sequence: number(sequence)?.try_into().map_err(|_| "the sequence is too large")?,
            signature,
        })
    }
}

/// `N` words and a signature, separated by spaces.
pub(super) fn signed<const N: usize>(text: &str) -> Result<([&str; N], [u8; 65]), String> {
    let mut words: Vec<&str> = text.split(' ').collect();
    let signature = words.pop().unwrap_or_default();
    let words = words.try_into().map_err(|_| format!("expected {N} words and a signature"))?;
    let signature: Bytes = signature.parse::<types::Bytes>().map_err(|e| e.to_string())?.0;
    Ok((words, signature[..].try_into().map_err(|_| "a signature has 65 bytes")?))
}

/// A decimal number: digits only.
pub(super) fn number(text: &str) -> Result<U256, String> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => U256::from_str_radix(text, 10).map_err(|e| e.to_string()),
        false => Err(format!("{text:?} is no decimal number")),
    }
}
