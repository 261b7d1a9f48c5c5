//! The server: one thread with connections, a few for work. Of it nothing outlives [`Server::stop`] but work that waits for a disk that
//! does not answer, for which nobody waits.
//!
//! hyper reads and writes HTTP/1.1; there is no framework above it, because what matters here lies below one: how long and how
//! large everything about a connection may be, and who gives way when there are too many.

mod accept;
mod request;
mod table;
mod watch;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{sync::watch as signal, time::Instant};

pub(in crate::web) use self::{table::Table, watch::Watch};
use super::{
    credentials::{CredentialChange, Credentials, Reread},
    guard::Guard,
    options::{Sources, WebLimits, WebOptions},
    stats::Stats,
    tls::TlsError,
    tokens::TokenError,
    work::{THREADS_MAX, Workshop},
};
use crate::model::record::Record;

/// How long threads for work are kept when there is none.
const WORKER_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The stack of a thread for work: merging and encoding do not recurse.
const WORKER_STACK_BYTES: usize = 1 << 20;

/// How much later than it should the server may end, before nobody waits for it any more, and how often that is looked at.
const END_PATIENCE: Duration = Duration::from_millis(500);
const END_POLL: Duration = Duration::from_millis(2);

/// Until when connections that are open may go on; `None` while the server is not to stop.
type StopBy = Option<Instant>;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// It would be open to the network.
    #[error(
        "will not listen on {listen}, which other machines can reach, without {missing}; set {missing}, or listen on 127.0.0.1"
    )]
    Exposed {
        /// The address.
        listen: SocketAddr,
        /// The settings that are missing.
        missing: &'static str,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The address cannot be had.
    #[error("cannot listen on {listen}: {source}{}", advice(source))]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread or its reactor cannot be had.
    #[error("cannot start the thread of the HTTP server: {0}")]
    Thread(#[source] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: stop it, or choose another port (http.listen)",
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// What all requests share.
pub(in crate::web) struct Context {
    pub(in crate::web) sources: Sources,
    pub(in crate::web) guard: Guard,
    pub(in crate::web) limits: WebLimits,
    pub(in crate::web) heartbeat_age_max: Duration,
    pub(in crate::web) stats: Arc<Stats>,
    pub(in crate::web) workshop: Arc<Workshop>,
}

/// A server that runs. Dropping it stops it at once.
pub struct Server {
    address: SocketAddr,
    is_encrypted: bool,
    context: Arc<Context>,
    stop: signal::Sender<StopBy>,
    /// Whether questions to the history are to end.
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
    /// What writes the latest changes of tokens and certificate into the audit log.
    auditing: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Starts to listen and to answer.
    ///
    /// # Errors
    /// When the address, the certificate, the token file or a thread cannot be had, and beyond loopback when the server would be
    /// open to everybody. Nothing runs then.
    pub fn start(options: WebOptions, mut sources: Sources) -> Result<Self, WebError> {
        let WebOptions { listen, tls, token_file, limits, heartbeat_age_max } = options;
        if !listen.ip().is_loopback() {
            let missing = match (&tls, &token_file) {
                (None, None) => Some("a certificate (http.tls_cert, http.tls_key) and a token file (http.token_file)"),
                (None, Some(_)) => Some("a certificate (http.tls_cert, http.tls_key)"),
                (Some(_), None) => Some("a token file (http.token_file)"),
                (Some(_), Some(_)) => None,
            };
            if let Some(missing) = missing {
                return Err(WebError::Exposed { listen, missing });
            }
        }
        let is_encrypted = tls.is_some();
        let credentials = Arc::new(Credentials::read(tls, token_file)?);
        let listener = listen_on(listen).map_err(|source| WebError::Listen { listen, source })?;
        let address = listener.local_addr().map_err(|source| WebError::Listen { listen, source })?;
        let stats = Arc::new(Stats::default());
        let table = Arc::new(Table::new(limits.connections_max, Arc::clone(&stats)));
        let is_stopping = Arc::new(AtomicBool::new(false));
        sources.reader = sources.reader.ended_by(Arc::clone(&is_stopping));
        let context = Arc::new(Context {
            sources,
            guard: Guard { address, credentials },
            limits,
            heartbeat_age_max,
            stats,
            workshop: Workshop::new(Arc::clone(&table)),
        });
        let (stop, stopped) = signal::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(THREADS_MAX)
            .thread_keep_alive(WORKER_KEEP_ALIVE)
            .thread_stack_size(WORKER_STACK_BYTES)
            .thread_name("obs-web-work")
            .build()
            .map_err(WebError::Thread)?;
        let served = Arc::clone(&context);
        let run = move || serve(runtime, listener, served, table, stopped);
        let thread = std::thread::Builder::new().name("obs-web".to_owned()).spawn(run).map_err(WebError::Thread)?;
        Ok(Self { address, is_encrypted, context, stop, is_stopping, thread: Some(thread), auditing: Mutex::default() })
    }

    /// Where it listens; with the port that the kernel chose, if it was to choose one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to write into a browser.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.is_encrypted { "https" } else { "http" }, self.address)
    }

    /// The server's own metrics, described by [`super::METRICS`]. They are in `/metrics` already; this is for the history.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.context.stats.records()
    }

    /// CPU time of questions to the history that were answered.
    #[must_use]
    pub fn question_time(&self) -> Duration {
        self.context.workshop.query_time()
    }

    /// Reads the certificate and the tokens again. Every request from now on is judged by the new tokens, also on connections that
    /// are open; connections from now on are encrypted with the new certificate. What cannot be used is refused, and the old one
    /// holds.
    ///
    /// Changes are made before the audit log has them, other than those that clients ask for: a token that was revoked must not
    /// work on because a disk is full. Nor is the log waited for, whose disk may not answer.
    #[must_use]
    pub fn reread(&self) -> Reread {
        let outcome = self.context.guard.credentials.reread();
        if !outcome.changes.is_empty() {
            self.write_down(&outcome.changes);
        }
        outcome
    }

    /// Has a thread write changes into the audit log, behind those that are being written.
    fn write_down(&self, changes: &[CredentialChange]) {
        let audit = Arc::clone(&self.context.sources.audit);
        let entries: Vec<_> = changes.iter().map(|change| (change.what, change.audit_entry())).collect();
        let mut auditing = self.auditing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = auditing.take();
        let record = move || {
            let _ = before.map(JoinHandle::join);
            for (what, entry) in entries {
                if let Err(error) = audit.record(&entry) {
                    tracing::error!("a change of the {what} is missing from the audit log: {error}");
                }
            }
        };
        match std::thread::Builder::new().name("obs-audit".to_owned()).spawn(record) {
            Ok(thread) => *auditing = Some(thread),
            Err(error) => {
                tracing::error!("changes are missing from the audit log: cannot start a thread: {error}");
            }
        }
    }

    /// Whether it still runs. It does until it is stopped, unless there is a mistake in it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Takes no more connections from now on, lets those that are open finish their requests, and ends those that need longer than
    /// `at_most`. Questions to the history are answered with what was read of it so far. Waits for nothing: [`stop`](Self::stop) does.
    pub fn begin_stop(&self, at_most: Duration) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.stop.send_if_modified(|stop_by| {
            let is_first = stop_by.is_none();
            // Who was told once has no more time for being told again.
            stop_by.get_or_insert_with(|| Instant::now() + at_most);
            is_first
        });
    }

    /// [Begins to stop](Self::begin_stop), unless it has begun, and waits for its end, but not for long where that does not come: a change
    /// may wait for the disk of the audit log. Returns how many connections were ended, as far as that is known.
    #[must_use]
    pub fn stop(mut self, at_most: Duration) -> usize {
        self.end(at_most)
    }

    fn end(&mut self, at_most: Duration) -> usize {
        self.begin_stop(at_most);
        let by = std::time::Instant::now() + at_most + END_PATIENCE;
        let ended = self.thread.take().and_then(|thread| join_by(thread, by)).unwrap_or_default();
        let auditing = self.auditing.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if auditing.is_some_and(|thread| join_by(thread, by).is_none()) {
            tracing::error!(
                "a change of the tokens or the certificate may be missing from the audit log: its disk does not answer"
            );
        }
        ended
    }
}

/// What a thread returns, if it ends by then, and not by a panic.
fn join_by<T>(thread: JoinHandle<T>, by: std::time::Instant) -> Option<T> {
    while !thread.is_finished() {
        if std::time::Instant::now() >= by {
            return None;
        }
        std::thread::sleep(END_POLL);
    }
    let ended = thread.join();
    if ended.is_err() {
        tracing::error!("a thread of the HTTP server ended by a panic; please report it");
    }
    ended.ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for connections of the last one.
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn serve(
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    context: Arc<Context>,
    table: Arc<Table>,
    stopped: signal::Receiver<StopBy>,
) -> usize {
    let workshop = Arc::clone(&context.workshop);
    let stop_by = stopped.clone();
    let ended = runtime.block_on(async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => accept::run(listener, context, table, stopped).await,
            Err(error) => {
                tracing::error!("the HTTP server cannot watch its socket: {error}");
                0
            }
        }
    });
    workshop.close();
    // Without a bound it would wait for work that reads, which may take as long as a disk likes.
    let time_left = stop_by.borrow().map_or(Duration::ZERO, |stop_by| stop_by.duration_since(Instant::now()));
    runtime.shutdown_timeout(time_left);
    ended
}
