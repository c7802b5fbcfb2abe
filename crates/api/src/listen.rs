use crate::ApiError;
use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

/// Binds a listening socket, or says which port is taken and which flag changes it.
///
/// # Errors
/// [`ApiError::AddressInUse`] or [`ApiError::Listen`].
pub fn bind(address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, ApiError> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::AddrInUse => ApiError::AddressInUse { address, purpose, flag },
        _ => ApiError::Listen { address, purpose, reason: e.to_string(), flag },
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
