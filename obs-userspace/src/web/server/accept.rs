//! Taking connections, and seeing each through to its end.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch as signal,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Context, StopBy, Table, Watch, request, watch::Watched};
use crate::web::stats::Ended;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Least size of hyper's buffer.
const BUFFER_BYTES_MIN: usize = 8 << 10;
/// How long accepting pauses when there are no descriptors or no memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a stopping server looks whether the last connection is gone.
const STOP_POLL: Duration = Duration::from_millis(10);

type Stopped = signal::Receiver<StopBy>;

/// Runs until it is told to stop. Returns how many connections had to be ended.
pub(super) async fn run(
    listener: TcpListener,
    context: Arc<Context>,
    table: Arc<Table>,
    mut stopped: Stopped,
) -> usize {
    let deadline = loop {
        // A stop and a connection at once: the stop comes first.
        let accepted = {
            let mut stop = pin!(stopped.wait_for(Option::is_some));
            let mut accept = pin!(listener.accept());
            poll_fn(|cx| match stop.as_mut().poll(cx) {
                Poll::Ready(told) => Poll::Ready(Err(told.ok().and_then(|told| *told).unwrap_or_else(Instant::now))),
                Poll::Pending => accept.as_mut().poll(cx).map(Ok),
            })
            .await
        };
        match accepted {
            Err(deadline) => break deadline,
            Ok(Ok((stream, peer))) => take(stream, peer, &context, &table, &stopped),
            Ok(Err(error)) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    while !table.is_empty() && Instant::now() < deadline {
        sleep(STOP_POLL).await;
    }
    table.end_all()
}

fn take(stream: TcpStream, peer: SocketAddr, context: &Arc<Context>, table: &Arc<Table>, stopped: &Stopped) {
    let stats = &context.stats;
    let acceptor = context.guard.credentials.tls().map(TlsAcceptor::from);
    if !table.make_room() {
        stats.ended(Ended::Refused);
        if acceptor.is_none() {
            // As much as fits at once: whoever is refused is not waited for.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
        return;
    }
    // Answers are written whole; what is small should not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("cannot set TCP_NODELAY: {error}");
    }
    let (id, watch) = (table.next_id(), Arc::new(Watch::new()));
    let guard = Registered { id, table: Arc::clone(table), context: Arc::clone(context) };
    stats.connections.fetch_add(1, Ordering::Relaxed);
    let task_watch = Arc::clone(&watch);
    let (context, stopped) = (Arc::clone(context), stopped.clone());
    let task = tokio::spawn(async move {
        let _guard = guard;
        let ended = match acceptor {
            None => converse(stream, peer, &context, &task_watch, stopped).await,
            Some(acceptor) => match timeout(context.limits.header_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, peer, &context, &task_watch, stopped).await,
                Ok(Err(error)) => {
                    tracing::debug!("a TLS handshake failed: {error}");
                    Some(Ended::Handshake)
                }
                Err(_) => Some(Ended::TimedOut),
            },
        };
        if let Some(why) = ended {
            context.stats.ended(why);
        }
    });
    table.add(id, watch, task.abort_handle());
}

/// A connection in the table, for as long as its task lives.
struct Registered {
    id: u64,
    table: Arc<Table>,
    context: Arc<Context>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.remove(self.id);
        self.context.stats.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the requests of a connection. Returns why it was ended, if it did not end by itself.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: SocketAddr,
    context: &Arc<Context>,
    watch: &Arc<Watch>,
    mut stopped: Stopped,
) -> Option<Ended> {
    let limits = &context.limits;
    let service = service_fn(|request: Request<Incoming>| {
        watch.begin_request();
        let (context, watch) = (Arc::clone(context), Arc::clone(watch));
        async move { Ok::<_, std::convert::Infallible>(request::answer(&context, &watch, request, peer).await) }
    });
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN)).half_close(false);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(watch)));
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut clock = pin!(sleep_until(watch.deadline(limits)));
    let mut stop = pin!(async move {
        // An error means that the server is gone, which is as good.
        let _ = stopped.wait_for(Option::is_some).await;
    });
    let mut is_stopping = false;
    poll_fn(|cx| {
        if !is_stopping && stop.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            return Poll::Ready(outcome.err().map(|error| {
                tracing::debug!("a connection broke: {error}");
                Ended::Broken
            }));
        }
        // Polling may have begun another phase.
        let deadline = watch.deadline(limits);
        if clock.deadline() != deadline {
            clock.as_mut().reset(deadline);
        }
        clock.as_mut().poll(cx).map(|()| Some(Ended::TimedOut))
    })
    .await
}
