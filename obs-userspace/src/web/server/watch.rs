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
    /// Between requests. The last answer may still be on its way.
    Idle,
    /// A request's line and headers are coming.
    Head,
    /// A request is being answered.
    Request,
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

    pub(in crate::web) fn end_request(&self) {
        self.enter(Phase::Idle);
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
                Phase::Request => limits.request_timeout,
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
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
