use alloy_primitives::{B256, FixedBytes};
use alloy_rlp::{RlpDecodableWrapper, RlpEncodableWrapper};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, RlpEncodableWrapper, RlpDecodableWrapper)]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl FromStr for $name {
            type Err = alloy_primitives::hex::FromHexError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                FixedBytes::from_str(s).map(Self)
            }
        }
        impl From<B256> for $name {
            fn from(value: B256) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// Content id of a model: keccak-256 of the canonical [`ModelManifest`](crate::ModelManifest).
    ModelId
}
id! {
    /// Id of a receipt, known before the answer: see [`Claim::receipt_id`](crate::Claim::receipt_id).
    ReceiptId
}
