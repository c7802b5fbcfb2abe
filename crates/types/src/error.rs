use thiserror::Error;

/// What can be wrong with bytes, a signature or a proof.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TypesError {
    /// The bytes are not the canonical encoding of the named type.
    #[error("not a canonical {what}: {detail}")]
    Encoding {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder stumbled over.
        detail: String,
    },
    /// A length or count is over its bound.
    #[error("{what} is {size}, more than the allowed {max}")]
    TooLarge {
        /// The thing that is too large.
        what: &'static str,
        /// Its size in bytes or items.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// A signature does not recover to any key.
    #[error("the signature is malformed or was not made over these bytes")]
    BadSignature,
    /// A secret key is not a valid secp256k1 scalar.
    #[error(
        "the secret key is not a valid secp256k1 scalar; expected 32 bytes between 1 and the group order"
    )]
    BadSecretKey,
    /// A sampling parameter is out of range.
    #[error("{name} must be {expected}")]
    BadSampling {
        /// Name of the parameter, as in the API.
        name: &'static str,
        /// Accepted range in words.
        expected: &'static str,
    },
    /// The proof file is JSON, but not in its one canonical spelling.
    #[error(
        "the proof file is not in canonical form: some byte was added, removed or changed at offset {offset}"
    )]
    NotCanonical {
        /// First differing byte.
        offset: usize,
    },
}

impl TypesError {
    pub(crate) fn rlp(what: &'static str) -> impl Fn(alloy_rlp::Error) -> Self {
        move |e| Self::Encoding { what, detail: e.to_string() }
    }
}

/// Decodes exactly one canonical RLP item of type `T`, leaving no byte over.
pub(crate) fn decode_exact<T: alloy_rlp::Decodable>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, TypesError> {
    if bytes.len() > max {
        return Err(TypesError::TooLarge { what, size: bytes.len(), max });
    }
    alloy_rlp::decode_exact(bytes).map_err(TypesError::rlp(what))
}
