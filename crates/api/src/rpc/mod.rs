//! Ethereum's JSON-RPC over HTTP, and the network's own `og_` methods.

mod errors;
mod eth;
mod filters;
mod format;
mod logs;
mod own;
mod params;

use crate::{ApiError, ports::Chain};
use jsonrpsee::{
    RpcModule,
    server::{BatchRequestConfig, ServerBuilder, ServerConfig, ServerHandle},
};
use std::{net::TcpListener, sync::Arc};
use tower_http::cors::CorsLayer;

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct RpcConfig {
    /// Longest request in bytes.
    pub request_bytes_max: u32,
    /// Longest response in bytes.
    pub response_bytes_max: u32,
    /// Most calls in one batch.
    pub batch_max: u32,
    /// Most connections at once.
    pub connections_max: u32,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            request_bytes_max: 2 << 20,
            response_bytes_max: 32 << 20,
            batch_max: 100,
            connections_max: 200,
        }
    }
}

/// State of all methods.
pub(crate) struct Backend {
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) filters: filters::Filters,
}

/// A running JSON-RPC server.
#[derive(Debug)]
pub struct RpcServer(ServerHandle);

impl RpcServer {
    /// Stops the server; open requests are answered first.
    pub fn stop(self) {
        // An error means that it has stopped already.
        let _ = self.0.stop();
    }
}

/// Serves `chain` on `listener` until the server is stopped or dropped.
///
/// # Errors
/// [`ApiError::Rpc`] when the server cannot be set up.
pub fn serve(listener: TcpListener, chain: Arc<dyn Chain>, config: RpcConfig) -> Result<RpcServer, ApiError> {
    let failed = |e: &dyn std::fmt::Display| ApiError::Rpc(e.to_string());
    let mut module = RpcModule::new(Backend { chain, filters: filters::Filters::default() });
    eth::register(&mut module).map_err(|e| failed(&e))?;
    logs::register(&mut module).map_err(|e| failed(&e))?;
    own::register(&mut module).map_err(|e| failed(&e))?;
    let server_config = ServerConfig::builder()
        .max_request_body_size(config.request_bytes_max)
        .max_response_body_size(config.response_bytes_max)
        .max_connections(config.connections_max)
        .set_batch_request_config(BatchRequestConfig::Limit(config.batch_max))
        .build();
    let server = ServerBuilder::new()
        .set_config(server_config)
        .set_http_middleware(tower::ServiceBuilder::new().layer(CorsLayer::permissive()))
        .build_from_tcp(listener)
        .map_err(|e| failed(&e))?;
    Ok(RpcServer(server.start(module)))
}
