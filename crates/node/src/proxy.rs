//! The client proxy as a server.

use axum::serve::{Listener, ListenerExt as _};
use client::proxy::{Proxy, ProxyConfig};
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};
use tokio::{net::TcpStream, task::JoinHandle};
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

/// A listener whose connections send small pieces at once: with Nagle's algorithm, the second piece of a stream would wait for
/// the client's delayed acknowledgement of the first (40 ms on Linux).
pub(crate) fn prompt(
    listener: TcpListener,
) -> anyhow::Result<impl Listener<Io = TcpStream, Addr = SocketAddr>> {
    Ok(tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        if let Err(e) = stream.set_nodelay(true) {
            warn!("cannot turn off Nagle's algorithm: {e}");
        }
    }))
}

/// Connects to the network and serves on `listener`.
pub(crate) async fn start(config: ProxyConfig, listener: TcpListener) -> anyhow::Result<RunningProxy> {
    let proxy = Proxy::connect(config).await?;
    let listener = prompt(listener)?;
    let router = proxy.router();
    let task = tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            warn!("the proxy's server ended: {e}");
        }
    });
    Ok(RunningProxy { proxy, task })
}
