//! The client proxy as a server.

use api::{ServeOptions, Server};
use client::proxy::{Proxy, ProxyConfig};
use std::{net::TcpListener, sync::Arc};

/// A running proxy; it stops when this is dropped.
pub(crate) struct RunningProxy {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) server: Server,
}

/// Connects to the network and serves on `listener`.
pub(crate) async fn start(
    config: ProxyConfig,
    listener: TcpListener,
    options: ServeOptions,
) -> anyhow::Result<RunningProxy> {
    let proxy = Proxy::connect(config).await?;
    let server = api::serve_with(listener, proxy.router(), options)?;
    Ok(RunningProxy { proxy, server })
}
