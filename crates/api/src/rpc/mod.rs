//! Ethereum's JSON-RPC over HTTP and WebSocket, and the network's own `og_` methods.

mod debug;
mod errors;
mod eth;
mod fees;
mod filters;
mod format;
mod logs;
mod meter;
mod own;
mod params;
mod state;
mod subscribe;
mod txpool;
mod workers;

pub use workers::CallLimits;

use crate::{
    ApiError, ServeOptions, Server,
    http::{BrowserRules, PeerLimits, Peers},
    ports::{Chain, ChainEvent},
    serve::serve_counted,
};
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::IntoResponse as _,
};
use jsonrpsee::{
    RpcModule,
    server::{
        BatchRequestConfig, Methods, PingConfig, ServerBuilder, ServerConfig, ServerHandle, StopHandle,
        middleware::rpc::RpcServiceBuilder, stop_channel,
    },
};
use meter::{Metered, Session};
use std::{net::TcpListener, sync::Arc, time::Duration};
use tokio::sync::{
    Semaphore,
    broadcast::{self, error::RecvError},
};
use tower::{Service as _, layer::layer_fn};
use workers::Workers;

/// Pings of WebSockets, and how long one may stay silent.
const PING_EVERY: Duration = Duration::from_secs(30);
const SILENT_MAX: Duration = Duration::from_secs(75);
/// Most calls at once that read and do not compute. They take milliseconds; others wait in line.
const LIGHT_MAX: usize = 64;

/// Bounds of the server.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Longest request in bytes.
    pub request_bytes_max: u32,
    /// Longest response in bytes.
    pub response_bytes_max: u32,
    /// Most calls in one batch.
    pub batch_max: u32,
    /// Most HTTP requests and WebSockets at once.
    pub connections_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_max: u32,
    /// Serve `debug_` methods. They can keep a core and much memory busy: only for people one knows.
    pub debug: bool,
    /// Hosts and pages that are answered, besides loopback names and the listening address.
    pub browser: BrowserRules,
    /// What one peer may take.
    pub limits: PeerLimits,
    /// Bounds of calls that execute something.
    pub calls: CallLimits,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            request_bytes_max: 2 << 20,
            response_bytes_max: 32 << 20,
            batch_max: 100,
            connections_max: 2048,
            subscriptions_max: 64,
            debug: true,
            browser: BrowserRules::default(),
            limits: PeerLimits::default(),
            calls: CallLimits::default(),
        }
    }
}

/// State of all methods.
pub(crate) struct Backend {
    pub(crate) chain: Arc<dyn Chain>,
    pub(crate) filters: Arc<filters::Filters>,
    pub(crate) config: RpcConfig,
    /// Threads for calls that execute something.
    pub(crate) workers: Arc<Workers>,
    /// Places for those that only read.
    pub(crate) light: Arc<Semaphore>,
}

/// A running JSON-RPC server.
#[derive(Debug)]
pub struct RpcServer {
    server: Server,
    handle: ServerHandle,
    workers: Arc<Workers>,
    pending: tokio::task::JoinHandle<()>,
}

impl RpcServer {
    /// Stops the server.
    pub fn stop(self) {
        // An error means that it has stopped already.
        let _ = self.handle.stop();
        self.pending.abort();
        drop(self.server);
    }

    /// Calls that execute something: how many run, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        self.workers.load()
    }
}

/// Serves `chain` on `listener` until the server is stopped or dropped.
///
/// # Errors
/// [`ApiError::Rpc`] when the server cannot be set up.
pub fn serve(listener: TcpListener, chain: Arc<dyn Chain>, config: RpcConfig) -> Result<RpcServer, ApiError> {
    let failed = |e: &dyn std::fmt::Display| ApiError::Rpc(e.to_string());
    let events = chain.events();
    let filters = Arc::new(filters::Filters::default());
    let workers = Arc::new(Workers::start(config.calls).map_err(|e| failed(&e))?);
    let backend = Backend {
        chain,
        filters: filters.clone(),
        config: config.clone(),
        workers: workers.clone(),
        light: Arc::new(Semaphore::new(LIGHT_MAX)),
    };
    let mut module = RpcModule::new(backend);
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
    let peers = Peers::new(config.limits);
    let (stopped, handle) = stop_channel();
    let router = router(module.into(), &config, peers.clone(), stopped);
    let options = ServeOptions { browser: config.browser, limits: config.limits, ..ServeOptions::default() };
    let server = serve_counted(listener, router, options, peers).map_err(|e| failed(&e))?;
    let pending = tokio::spawn(remember(filters, events));
    Ok(RpcServer { server, handle, workers, pending })
}

/// Everything that is asked on any path.
fn router(methods: Methods, config: &RpcConfig, peers: Arc<Peers>, stopped: StopHandle) -> Router {
    let server_config = ServerConfig::builder()
        .max_request_body_size(config.request_bytes_max)
        .max_response_body_size(config.response_bytes_max)
        .max_connections(config.connections_max)
        .max_subscriptions_per_connection(config.subscriptions_max)
        .set_id_provider(subscribe::HexIds)
        .set_batch_request_config(BatchRequestConfig::Limit(config.batch_max))
        .enable_ws_ping(PingConfig::new().ping_interval(PING_EVERY).inactive_limit(SILENT_MAX))
        .build();
    let meter = layer_fn(move |inner| Metered { inner, peers: peers.clone() });
    let builder = ServerBuilder::new()
        .set_config(server_config)
        .set_rpc_middleware(RpcServiceBuilder::new().layer(meter))
        .to_service_builder();
    Router::new().fallback(move |mut request: Request| {
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(Session);
        }
        // Each gets a number of its own, so that nobody ends the subscriptions of another one.
        let mut service = builder.clone().build(methods.clone(), stopped.clone());
        let answer = service.call(request);
        async move {
            match answer.await {
                Ok(response) => response.map(Body::new),
                Err(e) => {
                    tracing::debug!("a request failed: {e}");
                    StatusCode::INTERNAL_SERVER_ERROR.into_response()
                }
            }
        }
    })
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
