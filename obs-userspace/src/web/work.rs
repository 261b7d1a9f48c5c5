//! Work that reads files or makes much text: on threads of its own, a few at a time, its answers in pieces of bounded memory.
//!
//! A short answer is made whole before it is sent, so that a mistake is still told by the status. A long one goes out while it
//! is made. Whoever reads slowly holds one of the places for long answers, and its memory, until the request's time is over, or
//! until somebody else needs them: then those who take nothing are ended first.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::{
    StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_ENCODING, HeaderValue},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    answer::Answer,
    body::{self, Body, Pieces},
    refusal::Refusal,
    server::{Table, Watch},
};

/// Questions to the history at a time.
const QUERIES_MAX: usize = 2;
/// Scrapes of metrics at a time.
const SCRAPES_MAX: usize = 1;
/// Long answers on their way at a time.
const LONG_ANSWERS_MAX: usize = 4;
/// Threads that all of these can need.
pub(super) const THREADS_MAX: usize = QUERIES_MAX + SCRAPES_MAX + LONG_ANSWERS_MAX;
/// Bytes of an answer that is made whole before it is sent.
const SHORT_ANSWER_BYTES_MAX: usize = 256 << 10;
/// Bytes of a piece of a long answer.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of an answer that wait for their client.
const PIECES_WAITING_MAX: usize = 32;
/// Bytes of all answers that wait for their clients, in KiB.
const WAITING_KIB_MAX: usize = 16 << 10;
/// How long a request waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// How long a long answer waits for its place. Short, for others wait for the place that it still has; it can be asked for again.
const LONG_ANSWER_WAIT: Duration = Duration::from_millis(300);
/// How long it waits before somebody who stalls is ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Which places work needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Query,
    Scrape,
}

/// Writes the content of an answer.
pub(super) type WriteFn = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// An answer whose content is yet to be written.
pub(super) struct Prepared {
    pub(super) content_type: &'static str,
    /// The name of the file to save it as, if it is not to be shown.
    pub(super) file_name: Option<String>,
    /// Whether compressing it is worth while.
    pub(super) is_compressible: bool,
    pub(super) write: WriteFn,
}

/// Does the work up to where it is known whether there is an answer.
pub(super) type Job = Box<dyn FnOnce(std::time::Instant) -> Result<Prepared, Refusal> + Send>;

/// The places that there are.
pub(super) struct Workshop {
    queries: Arc<Semaphore>,
    scrapes: Arc<Semaphore>,
    long_answers: Arc<Semaphore>,
    waiting_kib: Arc<Semaphore>,
    table: Arc<Table>,
    /// CPU time of work for queries that is done, in nanoseconds.
    query_time_ns: AtomicU64,
}

/// Whose request it is, and what it may take.
pub(super) struct Order {
    pub(super) watch: Arc<Watch>,
    /// When the whole request must be over.
    pub(super) deadline: Instant,
    /// When the answer must be known.
    pub(super) answer_by: Instant,
    /// When the history stops reading; what it did not read by then is missing from the answer, which says so.
    pub(super) read_by: Instant,
    pub(super) wants_gzip: bool,
}

/// What is known when the first bytes are.
struct Start {
    content_type: &'static str,
    file_name: Option<String>,
    is_compressed: bool,
    content: Content,
}

enum Content {
    Whole(Bytes),
    Pieces(Pieces),
}

impl Workshop {
    pub(super) fn new(table: Arc<Table>) -> Arc<Self> {
        Arc::new(Self {
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
            long_answers: Arc::new(Semaphore::new(LONG_ANSWERS_MAX)),
            waiting_kib: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
            table,
            query_time_ns: AtomicU64::new(0),
        })
    }

    /// CPU time of queries that are answered.
    pub(super) fn query_time(&self) -> Duration {
        Duration::from_nanos(self.query_time_ns.load(Ordering::Relaxed))
    }

    /// Nobody waits for places or memory any more: the server ends.
    pub(super) fn close(&self) {
        for places in [&self.queries, &self.scrapes, &self.long_answers, &self.waiting_kib] {
            places.close();
        }
    }

    /// Does the work and returns its answer, which may still be growing.
    pub(super) async fn answer(self: &Arc<Self>, kind: Kind, job: Job, order: Order) -> Result<Answer, Refusal> {
        let places = match kind {
            Kind::Query => &self.queries,
            Kind::Scrape => &self.scrapes,
        };
        let turn = Instant::now() + TURN_WAIT;
        let Some(place) = self.acquire(places, 1, turn.min(order.answer_by)).await else {
            return Err(Refusal::busy("cannot answer now"));
        };
        let (sender, receiver) = oneshot::channel();
        let workshop = Arc::clone(self);
        let runtime = Handle::current();
        let answer_by = order.answer_by;
        tokio::task::spawn_blocking(move || {
            let begun = thread_time();
            Arc::clone(&workshop).work(job, order, place, sender, &runtime);
            if kind == Kind::Query {
                let used_ns = u64::try_from(thread_time().saturating_sub(begun).as_nanos()).unwrap_or(u64::MAX);
                workshop.query_time_ns.fetch_add(used_ns, Ordering::Relaxed);
            }
        });
        match timeout_at(answer_by, receiver).await {
            Ok(Ok(start)) => Ok(answer_of(start?)),
            Ok(Err(_)) => Err(Refusal::internal("cannot answer", &"the work ended without an answer")),
            Err(_) => {
                let why = "it takes longer than a request may (http.limits.request_timeout)";
                let hint = "ask for a shorter range";
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "cannot answer in time", why, hint))
            }
        }
    }

    /// Waits for places or memory. While there is none, connections that take nothing of their answers are ended.
    async fn acquire(&self, places: &Arc<Semaphore>, count: u32, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        loop {
            match timeout(PATIENCE, Arc::clone(places).acquire_many_owned(count)).await {
                Ok(permit) => return permit.ok(),
                Err(_) if Instant::now() >= deadline => return None,
                Err(_) => self.table.end_stalled(),
            }
        }
    }

    fn work(
        self: Arc<Self>,
        job: Job,
        order: Order,
        place: OwnedSemaphorePermit,
        sender: oneshot::Sender<Result<Start, Refusal>>,
        runtime: &Handle,
    ) {
        let prepared = match job(order.read_by.into_std()) {
            Ok(prepared) => prepared,
            Err(refusal) => {
                // Nobody waits any more if this fails.
                let _ = sender.send(Err(refusal));
                return;
            }
        };
        let Prepared { content_type, file_name, is_compressible, write } = prepared;
        let is_compressed = is_compressible && order.wants_gzip;
        let start = Start { content_type, file_name, is_compressed, content: Content::Whole(Bytes::new()) };
        let mut out = Outlet {
            workshop: self,
            order,
            runtime: runtime.clone(),
            place: Some(place),
            start: Some((start, sender)),
            buffer: Vec::new(),
            pieces: None,
        };
        let written = if is_compressed {
            let mut encoder = GzEncoder::new(&mut out, Compression::fast());
            write(&mut encoder).and_then(|()| encoder.finish().map(drop))
        } else {
            write(&mut out)
        };
        out.end(written);
    }
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn answer_of(start: Start) -> Answer {
    let Start { content_type, file_name, is_compressed, content } = start;
    let body = match content {
        Content::Whole(bytes) => Body::whole(bytes),
        Content::Pieces(pieces) => Body::pieces(pieces),
    };
    let mut answer = Answer::new(StatusCode::OK, content_type, body);
    if is_compressed {
        answer = answer.with(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(name) = file_name
        && let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\""))
    {
        answer = answer.with(CONTENT_DISPOSITION, value);
    }
    answer
}

/// Where an answer's content is written to.
struct Outlet {
    workshop: Arc<Workshop>,
    order: Order,
    runtime: Handle,
    /// Given back when the answer turns out to be a long one.
    place: Option<OwnedSemaphorePermit>,
    /// Until the first bytes are sent.
    start: Option<(Start, oneshot::Sender<Result<Start, Refusal>>)>,
    buffer: Vec<u8>,
    pieces: Option<(mpsc::Sender<io::Result<Bytes>>, OwnedSemaphorePermit)>,
}

impl Outlet {
    /// Bytes that are accounted for, once there is memory for them.
    fn piece(&self, bytes: Vec<u8>) -> io::Result<Bytes> {
        let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX).min(WAITING_KIB_MAX as u32);
        let permit = self
            .runtime
            .block_on(self.workshop.acquire(&self.workshop.waiting_kib, kib, self.order.deadline))
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "too many answers wait for their clients"))?;
        Ok(body::piece(bytes, &self.order.watch, permit))
    }

    /// Sends what is there as a piece of a long answer.
    fn send(&mut self) -> io::Result<()> {
        let pieces = match self.pieces.take() {
            Some((pieces, _)) if pieces.is_closed() => return Err(io::ErrorKind::BrokenPipe.into()),
            Some(pieces) => pieces,
            None => self.begin()?,
        };
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        let sent = self.piece(bytes).and_then(|piece| self.hand_over(&pieces.0, piece));
        self.pieces = Some(pieces);
        sent
    }

    /// Says that the answer is whole.
    fn send_last(&mut self) -> io::Result<()> {
        let Some((pieces, _)) = &self.pieces else { return Ok(()) };
        self.hand_over(pieces, Bytes::new())
    }

    fn hand_over(&self, pieces: &mpsc::Sender<io::Result<Bytes>>, piece: Bytes) -> io::Result<()> {
        match self.runtime.block_on(timeout_at(self.order.deadline, pieces.send(Ok(piece)))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")),
        }
    }

    /// The answer is a long one: makes way for other questions, and tells the client that it begins.
    fn begin(&mut self) -> io::Result<(mpsc::Sender<io::Result<Bytes>>, OwnedSemaphorePermit)> {
        let turn = Instant::now() + LONG_ANSWER_WAIT;
        let place = self
            .runtime
            .block_on(self.workshop.acquire(&self.workshop.long_answers, 1, turn))
            .ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
        self.place = None;
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        if let Some((mut start, waiting)) = self.start.take() {
            start.content = Content::Pieces(receiver);
            waiting.send(Ok(start)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok((sender, place))
    }

    /// Sends what is left, or the mistake.
    fn end(mut self, written: io::Result<()>) {
        let outcome = match (written, &self.pieces) {
            (Ok(()), Some(_)) if self.buffer.is_empty() => self.send_last(),
            (Ok(()), Some(_)) => self.send().and_then(|()| self.send_last()),
            (Ok(()), None) => return self.end_whole(),
            (Err(error), _) => Err(error),
        };
        let Err(error) = outcome else { return };
        match (self.start.take(), self.pieces.take()) {
            (Some((_, waiting)), _) if error.kind() == io::ErrorKind::ResourceBusy => {
                let _ = waiting.send(Err(Refusal::busy("cannot send a long answer now")));
            }
            (Some((_, waiting)), _) => {
                let _ = waiting.send(Err(Refusal::internal("cannot write the answer", &error)));
            }
            // The connection ends for want of the last piece.
            (None, _) => tracing::debug!("a long answer was cut: {error}"),
        }
    }

    fn end_whole(mut self) {
        let Some((mut start, waiting)) = self.start.take() else { return };
        // The connection is gone, perhaps with the whole server.
        if waiting.is_closed() {
            return;
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.shrink_to_fit();
        let outcome = self.piece(bytes).map_err(|error| Refusal::internal("cannot send the answer", &error));
        let _ = waiting.send(outcome.map(|bytes| {
            start.content = Content::Whole(bytes);
            start
        }));
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit = if self.pieces.is_some() { PIECE_BYTES } else { SHORT_ANSWER_BYTES_MAX };
        if !self.buffer.is_empty() && self.buffer.len() + bytes.len() > limit {
            self.send()?;
        }
        let taken = bytes.len().min(limit);
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Whole pieces cost less; the last one is sent at the end.
        Ok(())
    }
}
