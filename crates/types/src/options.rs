use crate::{TypesError, error::decode_exact};
use alloy_primitives::{B256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};

/// Longest encoding of options: biases of 64 Ki tokens.
const OPTIONS_BYTES_MAX: usize = 1 << 20;

/// A value added to the logit of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Bias {
    /// The token's id.
    pub token: u32,
    /// IEEE-754 bits of what is added.
    pub bits: u32,
}

/// What decides tokens besides model, prompt and sampling parameters. A claim commits to it with a salt; most claims have none.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Options {
    /// Keeps others from guessing.
    pub salt: B256,
    /// Biases in order of application.
    pub biases: Vec<Bias>,
    /// Whether the answer had to follow a grammar.
    pub grammar: bool,
}

impl Options {
    /// Options of a request under the client's nonce; `None` when nothing is out of the ordinary.
    pub fn new(nonce: &B256, biases: &[(u32, f32)], grammar: bool) -> Option<Self> {
        if biases.is_empty() && !grammar {
            return None;
        }
        let salt = keccak256([b"og/options-salt/2".as_slice(), nonce.as_slice()].concat());
        let biases =
            biases.iter().map(|(token, bias)| Bias { token: *token, bits: bias.to_bits() }).collect();
        Some(Self { salt, biases, grammar })
    }

    /// What a claim says of `options`.
    pub fn commitment(options: Option<&Self>) -> B256 {
        options
            .map_or(B256::ZERO, |o| keccak256([b"og/options/2".as_slice(), &alloy_rlp::encode(o)].concat()))
    }

    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`TypesError`] when too long or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, TypesError> {
        decode_exact("options", bytes, OPTIONS_BYTES_MAX)
    }
}
