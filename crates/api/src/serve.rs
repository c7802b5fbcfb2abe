//! Serving a router over HTTP/1.1: bounded connections, deadlines for slow clients, an orderly end.

use crate::http::{BrowserLayer, BrowserRules};
use axum::{Router, body::Body, extract::Request};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tower::ServiceExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tracing::{debug, warn};

/// Longest time for the head of a request, also of the next one on a kept connection.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Longest pause while a request's body comes.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(15);
/// Most connections at once; others wait in the system's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Pause after the system gave no connection (for want of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server; dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Takes no more connections, lets requests under way end, and waits for them at most for `limit`.
    pub async fn shut_down(mut self, limit: Duration) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(limit, &mut self.task).await.is_err() {
            debug!("connections were cut off at shutdown");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `router` on `listener`, for loopback names and the listening address, and for no web page.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn serve(listener: TcpListener, router: Router) -> io::Result<Server> {
    serve_with(listener, router, BrowserRules::default())
}

/// Serves `router` on `listener`, for what `rules` allow and the listening address.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn serve_with(listener: TcpListener, router: Router, rules: BrowserRules) -> io::Result<Server> {
    let rules = rules.listening_on(listener.local_addr()?);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // Outermost: what a page may not send is not even read.
    let router = router.layer(RequestBodyTimeoutLayer::new(BODY_PAUSE_MAX)).layer(BrowserLayer::new(rules));
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, router, stopped));
    Ok(Server { stop, task })
}

async fn accept(listener: tokio::net::TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut warned = Instant::now().checked_sub(Duration::from_secs(60));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|s| *s) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    connection(stream, router, stopped).await;
                    drop(place);
                });
            }
            Err(e) => {
                if warned.is_none_or(|w| w.elapsed() > Duration::from_secs(10)) {
                    warn!("cannot accept a connection: {e}");
                    warned = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    // With Nagle's algorithm, the second piece of a stream would wait for the client's delayed acknowledgement of the first (40 ms on
    // Linux).
    if let Err(e) = stream.set_nodelay(true) {
        debug!("cannot turn off Nagle's algorithm: {e}");
    }
    let service = router.map_request(|r: Request<hyper::body::Incoming>| r.map(Body::new));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let stopping = async move { _ = stopped.wait_for(|s| *s).await };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopping => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        debug!("a connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::{
        body::Bytes,
        routing::{get, post},
    };
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn start() -> (Server, SocketAddr) {
        let slow = get(|| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        });
        let router = Router::new().route("/slow", slow).route("/echo", post(|body: Bytes| async { body }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (serve(listener, router).unwrap(), address)
    }

    #[tokio::test]
    async fn requests_under_way_end_and_no_others_begin() {
        let (server, address) = start();
        let url = format!("http://{address}/slow");
        let under_way = tokio::spawn(reqwest::get(url.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.shut_down(Duration::from_secs(5)).await;
        assert_eq!(under_way.await.unwrap().unwrap().text().await.unwrap(), "slow");
        assert!(reqwest::get(url).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_sends_no_more_of_its_body_is_given_up() {
        let (_server, address) = start();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(began.elapsed() < BODY_PAUSE_MAX + Duration::from_secs(5));
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }
}
