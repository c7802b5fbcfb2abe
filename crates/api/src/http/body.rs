//! Bodies that do not wait for ever, and bodies that hold a place until they are sent.

use axum::body::HttpBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// The body of a request, with an end to waiting for it.
pub(crate) struct TimedBody<B> {
    inner: B,
    /// Made when it is waited for first: most bodies are there with the head.
    pause: Option<Pin<Box<Sleep>>>,
    longest_pause: Duration,
    end: Instant,
    stalled: Arc<AtomicBool>,
}

impl<B> TimedBody<B> {
    /// The body, waited for at most for `longest_pause` at once and `longest` in all; and whether its sender stopped sending.
    pub(crate) fn new(inner: B, longest_pause: Duration, longest: Duration) -> (Self, Arc<AtomicBool>) {
        let stalled = Arc::new(AtomicBool::new(false));
        let end = Instant::now() + longest;
        (Self { inner, pause: None, longest_pause, end, stalled: stalled.clone() }, stalled)
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for TimedBody<B>
where
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.pause = None;
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        let until = (Instant::now() + self.longest_pause).min(self.end);
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match pause.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.stalled.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer, with what must live until it is sent.
pub(crate) struct Held<B, T> {
    inner: B,
    _held: T,
}

impl<B, T> Held<B, T> {
    pub(crate) fn new(inner: B, held: T) -> Self {
        Self { inner, _held: held }
    }
}

impl<B: HttpBody + Unpin, T: Unpin> HttpBody for Held<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
