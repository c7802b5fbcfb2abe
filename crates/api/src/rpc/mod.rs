//! Ethereum's JSON-RPC over HTTP and WebSocket, and the network's own `og_` methods.

mod debug;
mod errors;
mod eth;
mod fees;
mod filters;
mod format;
mod logs;
mod own;
mod params;
mod state;
mod subscribe;
mod txpool;

use crate::{
    ApiError,
    http::{BrowserLayer, BrowserRules},
    ports::{Chain, ChainEvent},
};
use jsonrpsee::{
    RpcModule,
    server::{BatchRequestConfig, ServerBuilder, ServerConfig, ServerHandle},
};
use std::{net::TcpListener, sync::Arc};
use tokio::sync::broadcast::{self, error::RecvError};

/// Bounds of the server.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Longest request in bytes.
    pub request_bytes_max: u32,
    /// Longest response in bytes.
    pub response_bytes_max: u32,
    /// Most calls in one batch.
    pub batch_max: u32,
    /// Most connections at once.
    pub connections_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_max: u32,
    /// Serve `debug_` methods. They can keep a core and much memory busy: only for people one knows.
    pub debug: bool,
    /// Hosts and pages that are answered, besides loopback names and the listening address.
    pub browser: BrowserRules,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            request_bytes_max: 2 << 20,
            response_bytes_max: 32 << 20,
            batch_max: 100,
            connections_max: 200,
            subscriptions_max: 64,
            debug: true,
            browser: BrowserRules::default(),
        }
    }
}

/// State of all methods.
pub(crate) struct Backend {
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) filters: Arc<filters::Filters>,
    pub(crate) config: RpcConfig,
}

/// A running JSON-RPC server.
#[derive(Debug)]
pub struct RpcServer {
    handle: ServerHandle,
    pending: tokio::task::JoinHandle<()>,
}

impl RpcServer {
    /// Stops the server; open requests are answered first.
    pub fn stop(self) {
        // An error means that it has stopped already.
        let _ = self.handle.stop();
        self.pending.abort();
    }
}

/// Serves `chain` on `listener` until the server is stopped or dropped.
///
/// # Errors
/// [`ApiError::Rpc`] when the server cannot be set up.
pub fn serve(listener: TcpListener, chain: Arc<dyn Chain>, config: RpcConfig) -> Result<RpcServer, ApiError> {
    let failed = |e: &dyn std::fmt::Display| ApiError::Rpc(e.to_string());
    let address = listener.local_addr().map_err(|e| failed(&e))?;
    let browser = BrowserLayer::new(config.browser.clone().listening_on(address));
    let events = chain.events();
    let filters = Arc::new(filters::Filters::default());
    let mut module = RpcModule::new(Backend { chain, filters: filters.clone(), config: config.clone() });
    for register in [
        eth::register,
        fees::register,
        state::register,
        logs::register,
        txpool::register,
        own::register,
        subscribe::register,
    ] {
        register(&mut module).map_err(|e| failed(&e))?;
    }
    if config.debug {
        debug::register(&mut module).map_err(|e| failed(&e))?;
    }
    let server_config = ServerConfig::builder()
        .max_request_body_size(config.request_bytes_max)
        .max_response_body_size(config.response_bytes_max)
        .max_connections(config.connections_max)
        .max_subscriptions_per_connection(config.subscriptions_max)
        .set_id_provider(subscribe::HexIds)
        .set_batch_request_config(BatchRequestConfig::Limit(config.batch_max))
        .build();
    let server = ServerBuilder::new()
        .set_config(server_config)
        .set_http_middleware(tower::ServiceBuilder::new().layer(browser))
        .build_from_tcp(listener)
        .map_err(|e| failed(&e))?;
    let handle = server.start(module);
    let pending = tokio::spawn(remember(filters, events));
    Ok(RpcServer { handle, pending })
}

/// Remembers new transactions for filters.
async fn remember(filters: Arc<filters::Filters>, mut events: broadcast::Receiver<ChainEvent>) {
    loop {
        match events.recv().await {
            Ok(ChainEvent::Transaction(tx)) => filters.add_pending(*tx.0.tx_hash()),
            Ok(ChainEvent::Block(..)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
