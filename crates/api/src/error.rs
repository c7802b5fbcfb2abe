use std::net::SocketAddr;
use thiserror::Error;

/// Why a server cannot be started.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Somebody else listens there.
    #[error("{address} ({purpose}) is in use; stop the other program or choose another port with {flag}")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// What it was meant for.
        purpose: &'static str,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on {address} ({purpose}): {reason}; choose another address with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it was meant for.
        purpose: &'static str,
        /// The system's reason.
        reason: String,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The JSON-RPC server could not be set up.
    #[error("cannot start the JSON-RPC server: {0}")]
    Rpc(String),
}
