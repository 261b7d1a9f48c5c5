//! What the server is given: where to listen, what a client may cost, and whom to ask for what it shows.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{audit::Audit, health::HealthBoard, metrics::MetricInfo, status::AgentStatus};
use crate::{
    model::{profile::Profile, record::Record},
    store::Reader,
};

/// Where and how connections are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOptions {
    /// Where connections are accepted. Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// With what they are encrypted; needed beyond loopback.
    pub tls: Option<TlsFiles>,
    /// The file of tokens and their roles; needed beyond loopback.
    pub token_file: Option<PathBuf>,
    /// What a client may cost.
    pub limits: WebLimits,
    /// How old the pipeline's last heartbeat may be before `/live` fails.
    pub heartbeat_age_max: Duration,
}

/// Files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a client may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebLimits {
    /// Most bytes of a request's body.
    pub body_bytes_max: usize,
    /// Most bytes of a request's line and headers.
    pub header_bytes_max: usize,
    /// How long a client may take to send them, and for the TLS handshake.
    pub header_timeout: Duration,
    /// How long a whole request may take, until the last byte of the answer is handed to the kernel.
    pub request_timeout: Duration,
    /// How long a connection may idle between requests.
    pub idle_timeout: Duration,
    /// Most connections at a time.
    pub connections_max: usize,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1_000_000,
            header_bytes_max: 16 << 10,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            connections_max: 256,
        }
    }
}

/// A function that is asked each time.
pub type Ask<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Whom the server asks for what it shows. All of them are called on the server's own threads and must not wait for long.
#[derive(Clone)]
pub struct Sources {
    /// The history.
    pub reader: Reader,
    /// Everything that is measured now: counters, gauges and histograms; other records are passed over.
    pub metrics: Ask<Vec<Record>>,
    /// What the metrics are: their units and what they mean.
    pub metric_infos: Vec<MetricInfo>,
    /// What the agent says of itself.
    pub status: Ask<AgentStatus>,
    /// Whether questions to the history have cost as much as they may, and have to wait.
    pub is_spent: Ask<bool>,
    /// How its components are.
    pub health: Arc<HealthBoard>,
    /// The formats that a profile can be had in, besides the page's own.
    pub encoders: Vec<Encoder>,
    /// The level of the log.
    pub log_level: LogLevelControl,
    /// Where changes are written down.
    pub audit: Arc<dyn Audit>,
}

/// Writes a profile.
pub type EncodeFn = fn(&Profile, &mut dyn Write) -> io::Result<()>;

/// A format that a profile can be had in.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// What `format=` calls it: lower case, digits and `-`.
    pub name: &'static str,
    /// The media type.
    pub content_type: &'static str,
    /// How a file's name ends, with the dot.
    pub ending: &'static str,
    /// Writes it.
    pub encode: EncodeFn,
}

/// Sets a log level by its name; the error is a sentence that says why not.
pub type SetLogLevelFn = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// How the log's level is read and changed.
#[derive(Clone)]
pub struct LogLevelControl {
    /// The level that holds.
    pub get: Ask<String>,
    /// Changes it. It was checked that the level is one of `levels`.
    pub set: SetLogLevelFn,
    /// The levels that there are, from quiet to talkative.
    pub levels: &'static [&'static str],
}
