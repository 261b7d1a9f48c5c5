//! What a connection is doing and since when, so that none of it lasts longer than it may.
//!
//! There is one clock per phase and none per byte: a client that sends or reads a byte now and then gains nothing by it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::web::options::WebLimits;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is new: the TLS handshake, or the first byte of the first request.
    New,
    /// Between requests.
    Idle,
    /// A request's line and headers are coming.
    Head,
    /// A request is being answered.
    Request,
    /// Its answer is handed on, but the kernel has not taken all of it. It still counts as the request, and since when that came.
    Sending,
}

struct State {
    phase: Phase,
    since: Instant,
    /// When the kernel last took something.
    wrote: Instant,
    /// Bytes of answers that wait in memory.
    held_bytes: usize,
}

/// A connection's state, shared by its task and those who write its answers.
pub(in crate::web) struct Watch {
    state: Mutex<State>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { state: Mutex::new(State { phase: Phase::New, since: now, wrote: now, held_bytes: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        state.since = Instant::now();
    }

    pub(in crate::web) fn begin_request(&self) {
        self.enter(Phase::Request);
    }

    /// The answer was handed on, though not yet to the kernel.
    pub(in crate::web) fn end_request(&self) {
        self.state().phase = Phase::Sending;
    }

    /// The kernel has taken all that was handed on.
    fn flushed(&self) {
        if self.phase().0 == Phase::Sending {
            self.enter(Phase::Idle);
        }
    }

    /// What it is doing, and since when.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let state = self.state();
        (state.phase, state.since)
    }

    /// When it will have taken too long.
    pub(super) fn deadline(&self, limits: &WebLimits) -> Instant {
        let (phase, since) = self.phase();
        since
            + match phase {
                Phase::New | Phase::Head => limits.header_timeout,
                Phase::Idle => limits.idle_timeout,
                Phase::Request | Phase::Sending => limits.request_timeout,
            }
    }

    pub(in crate::web) fn hold(&self, bytes: usize) {
        let mut state = self.state();
        if state.held_bytes == 0 {
            // Until now there was nothing to take.
            state.wrote = Instant::now();
        }
        state.held_bytes += bytes;
    }

    pub(in crate::web) fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.held_bytes = state.held_bytes.saturating_sub(bytes);
    }

    /// When the kernel last took something of it, if answers of it wait in memory.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.held_bytes > 0).then_some(state.wrote)
    }
}

/// A stream that tells its [`Watch`] what happens.
pub(super) struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(1..)) = outcome {
            self.watch.state().wrote = Instant::now();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            let (phase, _) = self.watch.phase();
            if matches!(phase, Phase::Idle) {
                self.watch.enter(Phase::Head);
            }
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = outcome {
            self.watch.flushed();
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::Future as _, pin::pin, task::Waker};

    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::web::body::Body;

    /// A client that has asked, and takes as many bytes as there is room for.
    struct Client {
        request: &'static [u8],
        room: Arc<Mutex<usize>>,
    }

    impl AsyncRead for Client {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match std::mem::take(&mut self.request) {
                [] => Poll::Pending,
                request => {
                    buf.put_slice(request);
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    impl AsyncWrite for Client {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let mut room = self.room.lock().unwrap();
            let taken = buf.len().min(*room);
            *room -= taken;
            if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_short_answer_belongs_to_its_request_until_the_kernel_has_it() {
        let (watch, room) = (Arc::new(Watch::new()), Arc::new(Mutex::new(0)));
        let client = Client { request: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", room: Arc::clone(&room) };
        let limits = WebLimits::default();
        let asked = Mutex::new(None);
        let service = service_fn(|_: Request<Incoming>| {
            watch.begin_request();
            *asked.lock().unwrap() = Some(watch.deadline(&limits));
            let body = Body::whole(vec![b'x'; 100_000].into()).of(Arc::clone(&watch));
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let io = TokioIo::new(Watched::new(client, Arc::clone(&watch)));
        let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
        let mut poll = || connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // Nothing of it is taken, then a part: the request's time goes on.
        for more in [0, 50_000] {
            *room.lock().unwrap() = more;
            assert!(poll().is_pending());
            assert_eq!(watch.phase().0, Phase::Sending);
            assert_eq!(Some(watch.deadline(&limits)), *asked.lock().unwrap());
        }
        *room.lock().unwrap() = 1 << 20;
        assert!(poll().is_pending());
        assert_eq!(watch.phase().0, Phase::Idle);
    }
}
