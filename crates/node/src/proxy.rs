//! The client proxy as a server.

use client::proxy::{Proxy, ProxyConfig};
use std::{net::TcpListener, sync::Arc};
use tokio::task::JoinHandle;
use tracing::warn;

/// A running proxy; it stops when this is dropped.
pub(crate) struct RunningProxy {
    pub(crate) proxy: Arc<Proxy>,
    task: JoinHandle<()>,
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to the network and serves on `listener`.
pub(crate) async fn start(config: ProxyConfig, listener: TcpListener) -> anyhow::Result<RunningProxy> {
    let proxy = Proxy::connect(config).await?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = proxy.router();
    let task = tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            warn!("the proxy's server ended: {e}");
        }
    });
    Ok(RunningProxy { proxy, task })
}
