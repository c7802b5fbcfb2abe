//! Serving a router over HTTP/1.1: a share for each peer, deadlines for slow clients, an orderly end.

use crate::http::{BrowserLayer, BrowserRules, Busy, Held, Peer, PeerLimits, Peers, Place, TimedBody};
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;
use tracing::{debug, warn};

/// How long a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Longest time for the head of a request, also of the next one on a kept connection.
    pub head: Duration,
    /// Longest pause while a request's body comes.
    pub body_pause: Duration,
    /// Longest time for all of a request's body.
    pub body: Duration,
    /// Longest time that a client may take none of an answer that is ready.
    pub write_pause: Duration,
}

impl Default for Deadlines {
    /// 120 s are what the largest body takes at 140 kbit/s.
    fn default() -> Self {
        let [head, body_pause, body, write_pause] = [30, 15, 120, 30].map(Duration::from_secs);
        Self { head, body_pause, body, write_pause }
    }
}

/// Most connections at once; others wait in the system's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Pause after the system gave no connection (for want of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What somebody with too many connections hears.
const TOO_MANY_CONNECTIONS: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

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

/// Who is answered, and how much of a server one peer may take.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Hosts and pages that are answered, besides loopback names and the listening address.
    pub browser: BrowserRules,
    /// What one peer may take.
    pub limits: PeerLimits,
    /// How long a client is waited for.
    pub deadlines: Deadlines,
}

/// Serves `router` on `listener`, for loopback names and the listening address, and for no web page.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn serve(listener: TcpListener, router: Router) -> io::Result<Server> {
    serve_with(listener, router, ServeOptions::default())
}

/// Serves `router` on `listener`. Handlers find the [`Peer`] among a request's extensions.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn serve_with(listener: TcpListener, router: Router, options: ServeOptions) -> io::Result<Server> {
    let peers = Peers::new(options.limits);
    serve_counted(listener, router, options, peers)
}

/// As [`serve_with`], with a table of peers that something else uses, too.
pub(crate) fn serve_counted(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    peers: Arc<Peers>,
) -> io::Result<Server> {
    let rules = options.browser.listening_on(listener.local_addr()?);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // Outermost: what a page may not send is not even read.
    let router = router.layer(BrowserLayer::new(rules));
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, router, peers, options.deadlines, stopped));
    Ok(Server { stop, task })
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    peers: Arc<Peers>,
    deadlines: Deadlines,
    mut stopped: watch::Receiver<bool>,
) {
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
            Ok((stream, address)) => {
                let peer = Peer::of(address.ip());
                match peers.connect(peer) {
                    Some(counted) => {
                        // Whoever keeps the stream after an upgrade keeps both.
                        let held = Arc::new((place, counted));
                        let (peers, router) = (peers.clone(), router.clone());
                        let client = Client { peer, held, peers, router, deadlines };
                        connections.spawn(connection(stream, client, stopped.clone()));
                    }
                    // As much as the system's buffer takes at once, which is all of it.
                    None => _ = stream.try_write(TOO_MANY_CONNECTIONS),
                }
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

/// Who is at the other end of a connection, and what serves it.
#[derive(Clone)]
struct Client {
    peer: Peer,
    held: Arc<(tokio::sync::OwnedSemaphorePermit, Place)>,
    peers: Arc<Peers>,
    router: Router,
    deadlines: Deadlines,
}

impl Client {
    async fn answer(self, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
        let permit = match self.peers.request(self.peer) {
            Ok(permit) => permit,
            Err(busy) => return Ok(too_many(busy)),
        };
        let (parts, body) = request.into_parts();
        let (body, stalled) = TimedBody::new(body, self.deadlines.body_pause, self.deadlines.body);
        let mut request = axum::extract::Request::from_parts(parts, Body::new(body));
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.held);
        let mut response = self.router.oneshot(request).await?;
        if stalled.load(Ordering::Relaxed) {
            response = error(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the request's body did not come in time",
            );
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Body::new(Held::new(body, permit))))
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    (status, axum::Json(json!({"error": error}))).into_response()
}

fn too_many(busy: Busy) -> Response {
    let message = "too many requests from your address; wait as long as the header retry-after says";
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
    let seconds = HeaderValue::from(busy.retry_after.as_secs().saturating_add(1));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

async fn connection(stream: TcpStream, client: Client, mut stopped: watch::Receiver<bool>) {
    // With Nagle's algorithm, the second piece of a stream would wait for the client's delayed acknowledgement of the first (40 ms on
    // Linux).
    if let Err(e) = stream.set_nodelay(true) {
        debug!("cannot turn off Nagle's algorithm: {e}");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(client.deadlines.write_pause));
    let deadlines = client.deadlines;
    let service = service_fn(move |request| client.clone().answer(request));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(deadlines.head);
    let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service).with_upgrades();
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

    fn start_with(limits: PeerLimits, deadlines: Deadlines) -> (Server, SocketAddr) {
        let slow = get(|| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        });
        let large = get(|| async { Body::from(vec![0; 64 << 20]) });
        let router = Router::new()
            .route("/", get(|| async { "quick" }))
            .route("/slow", slow)
            .route("/large", large)
            .route("/echo", post(|body: Bytes| async { body }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServeOptions { limits, deadlines, ..ServeOptions::default() };
        (serve_with(listener, router, options).unwrap(), address)
    }

    fn start() -> (Server, SocketAddr) {
        start_with(PeerLimits::default(), Deadlines::default())
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

    const POST_THREE_OF_TEN: &[u8] =
        b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\nabc";

    async fn all(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        // A connection that is reset has said what it had to say.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn who_sends_no_more_of_a_body_hears_it_and_is_given_up() {
        let body_pause = Duration::from_millis(100);
        let deadlines = Deadlines { body_pause, ..Deadlines::default() };
        let (_server, address) = start_with(PeerLimits::default(), deadlines);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(POST_THREE_OF_TEN).await.unwrap();
        let answer = all(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }

    #[tokio::test]
    async fn a_byte_now_and_then_does_not_hold_a_place_for_ever() {
        let deadlines = Deadlines { body: Duration::from_millis(300), ..Deadlines::default() };
        let (_server, address) = start_with(PeerLimits::default(), deadlines);
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
        write.write_all(head).await.unwrap();
        let dripping = tokio::spawn(async move {
            while write.write_all(b"1").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = String::new();
        let _ = read.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        dripping.abort();
    }

    #[tokio::test]
    async fn idle_connections_and_unread_answers_are_given_up() {
        let (head, write_pause) = (Duration::from_millis(100), Duration::from_millis(100));
        let deadlines = Deadlines { head, write_pause, ..Deadlines::default() };
        let (server, address) = start_with(PeerLimits::default(), deadlines);
        let silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(all(silent).await, "");
        // It reads nothing of 64 MiB; the server would wait for it when it stops.
        let mut lazy = TcpStream::connect(address).await.unwrap();
        lazy.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut byte = [0];
        lazy.read_exact(&mut byte).await.unwrap();
        let began = Instant::now();
        server.shut_down(Duration::from_secs(3600)).await;
        assert!(began.elapsed() < Duration::from_secs(3000));
    }

    #[tokio::test]
    async fn one_peer_does_not_get_every_connection() {
        // This machine may have 16 times as many.
        let (_server, address) =
            start_with(PeerLimits { connections: 2, ..PeerLimits::default() }, Deadlines::default());
        let mut idle = vec![];
        for _ in 0..32 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            idle.push(stream);
        }
        for _ in 0..100 {
            let answer = all(TcpStream::connect(address).await.unwrap()).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 429 "), "{answer}");
        }
        drop(idle);
        let url = format!("http://{address}/");
        loop {
            if let Ok(answer) = reqwest::get(&url).await
                && answer.status() == 200
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn who_asks_too_much_hears_when_to_come_back() {
        let (_server, address) =
            start_with(PeerLimits { requests: 1, ..PeerLimits::default() }, Deadlines::default());
        let client = reqwest::Client::new();
        let slow = || client.get(format!("http://{address}/slow")).send();
        let answers = futures::future::join_all((0..40).map(|_| slow())).await;
        let statuses: Vec<_> = answers.iter().map(|a| a.as_ref().unwrap().status().as_u16()).collect();
        assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 16, "{statuses:?}");
        assert!(statuses.iter().all(|s| [200, 429].contains(s)));
        let refused = answers.into_iter().flatten().find(|a| a.status() == 429).unwrap();
        assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert!(refused.text().await.unwrap().contains("rate_limit_exceeded"));

        let (_server, address) =
            start_with(PeerLimits { rate: 1, burst: 1, ..PeerLimits::default() }, Deadlines::default());
        let quick = || client.get(format!("http://{address}/")).send();
        let answers = futures::future::join_all((0..400).map(|_| quick())).await;
        let good = answers.iter().filter(|a| a.as_ref().is_ok_and(|a| a.status() == 200)).count();
        assert!((100..400).contains(&good), "{good}");
    }
}
