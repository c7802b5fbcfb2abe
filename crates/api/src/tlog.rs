//! A node's log and its witness for outside tools (C2SP tlog-tiles and tlog-witness).
//!
//! The prefix of the log's URLs is `/log`, that of the witness's `/witness`. Errors are plain text, as the tools of this
//! field expect. Neither router has a fallback, so both can be merged into another one.

use crate::ports::{TransparencyLog, Witness};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{
        StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::warn;
use types::tlog::{
    tiles::TilePath,
    witness::{REQUEST_BYTES_MAX, Refusal, SIZE_MEDIA_TYPE},
};

/// Most calls of one port at once: they hold a thread each while they wait for a disk. Others wait in line.
const CALLS_MAX: usize = 16;
/// Where the log's files are.
const PREFIX: &str = "/log/";
const TEXT: &str = "text/plain; charset=utf-8";
/// A tile never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// A port, and how many calls of it are free.
struct Port<P: ?Sized> {
    calls: Arc<Semaphore>,
    port: Arc<P>,
}

impl<P: ?Sized> Clone for Port<P> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone(), port: self.port.clone() }
    }
}

impl<P: ?Sized + Send + Sync + 'static> Port<P> {
    fn new(port: Arc<P>) -> Self {
        Self { calls: Arc::new(Semaphore::new(CALLS_MAX)), port }
    }

    /// Calls the port on a thread that may wait.
    async fn call<T: Send + 'static>(self, f: impl FnOnce(&P) -> T + Send + 'static) -> Result<T, Fault> {
        let internal =
            || Fault(StatusCode::INTERNAL_SERVER_ERROR, "the log failed; see the node's messages".into());
        // The semaphore is never closed. The place is held by the thread, which goes on when a client goes away.
        let place = self.calls.acquire_owned().await.map_err(|_| internal())?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            f(&self.port)
        });
        done.await.map_err(|e| {
            warn!("a call of the log ended badly: {e}");
            internal()
        })
    }
}

/// An error in plain text.
struct Fault(StatusCode, String);

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        // An error is not for ever: the tile may come.
        (self.0, [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")], self.1 + "\n").into_response()
    }
}

/// `GET /log/checkpoint`, `GET /log/tile/<level>/<index>[.p/<width>]` and `GET /log/tile/entries/<index>[.p/<width>]`.
pub fn log_router(log: Arc<dyn TransparencyLog>) -> Router {
    Router::new()
        .route("/log/checkpoint", get(checkpoint))
        .route("/log/tile/{*path}", get(tile))
        .with_state(Port::new(log))
}

/// `POST /witness/add-checkpoint`.
pub fn witness_router(witness: Arc<dyn Witness>) -> Router {
    Router::new()
        .route("/witness/add-checkpoint", post(add_checkpoint))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Port::new(witness))
}

async fn checkpoint(State(log): State<Port<dyn TransparencyLog>>) -> Result<Response, Fault> {
    let note = log.call(|log| log.checkpoint()).await?;
    Ok(([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-cache")], note).into_response())
}

async fn tile(State(log): State<Port<dyn TransparencyLog>>, uri: Uri) -> Result<Response, Fault> {
    // The raw path, so that percent signs do not make a second name of one tile.
    let name = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let path: TilePath = name.parse().map_err(|e| Fault(StatusCode::NOT_FOUND, format!("{e}")))?;
    let bytes = log
        .call(move |log| match path {
            TilePath::Tile { level, index, width } => log.tile(level, index, width),
            TilePath::Entries { index, width } => log.entries(index, width),
        })
        .await?;
    let bytes = bytes.ok_or_else(|| {
        let text = format!("the log has no {path}; its checkpoint says how large it is");
        Fault(StatusCode::NOT_FOUND, text)
    })?;
    let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, FOREVER)];
    Ok((headers, bytes).into_response())
}

async fn add_checkpoint(
    State(witness): State<Port<dyn Witness>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body = body.map_err(|e| Fault(e.status(), e.body_text()))?;
    match witness.call(move |witness| witness.add_checkpoint(&body)).await? {
        Ok(lines) => Ok(([(CONTENT_TYPE, TEXT)], lines).into_response()),
        Err(refusal) => Ok(refused(&refusal)),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match refusal.known_size() {
        Some(size) => (status, [(CONTENT_TYPE, SIZE_MEDIA_TYPE)], format!("{size}\n")).into_response(),
        None if status.is_server_error() => {
            warn!("{refusal}");
            Fault(status, "this witness cannot use its store".into()).into_response()
        }
        None => Fault(status, refusal.to_string()).into_response(),
    }
}
