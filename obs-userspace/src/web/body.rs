//! The bytes of answers: at hand, or coming in pieces from a thread that makes them.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::server::Watch;

/// A piece of an answer. It counts as memory of its connection and of the server until the kernel has taken it.
struct Piece {
    bytes: Vec<u8>,
    watch: Arc<Watch>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.watch.release(self.bytes.len());
    }
}

/// Bytes that are accounted for.
pub(super) fn piece(bytes: Vec<u8>, watch: &Arc<Watch>, permit: OwnedSemaphorePermit) -> Bytes {
    watch.hold(bytes.len());
    Bytes::from_owner(Piece { bytes, watch: Arc::clone(watch), _permit: permit })
}

/// Pieces on their way. The last one is empty. An error, or an end without that one, ends the connection: nobody shall take half
/// an answer for a whole one.
pub(super) type Pieces = mpsc::Receiver<io::Result<Bytes>>;

enum Content {
    Whole(Option<Bytes>),
    Pieces(Pieces),
}

/// The body of an answer. The request is over when it is dropped.
pub(super) struct Body {
    content: Content,
    watch: Option<Arc<Watch>>,
}

impl Body {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole((!bytes.is_empty()).then_some(bytes)), watch: None }
    }

    pub(super) fn pieces(pieces: Pieces) -> Self {
        Self { content: Content::Pieces(pieces), watch: None }
    }

    /// Tells the connection when the body was handed on.
    pub(super) fn of(mut self, watch: Arc<Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// How long it is, if that is known.
    pub(super) fn length(&self) -> Option<usize> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len)),
            Content::Pieces(_) => None,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.end_request();
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Ok(last)) if last.is_empty() => None,
                Some(piece) => Some(piece.map(Frame::data)),
                None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, |length| SizeHint::with_exact(length as u64))
    }
}
