//! What obs says of its own work: its log, and what it costs.

pub mod cost;
pub mod governor;
pub mod host;
pub mod log;
pub mod self_metrics;

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Data was lost, or somebody has to act.
    Error,
    /// Something is not as it should be, but obs copes.
    Warn,
    /// The larger steps.
    Info,
    /// The smaller steps; also what BPF programs say with `--bpf-log`.
    Debug,
    /// Everything.
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Starts logging to standard error.
pub fn start_log(level: Level) {
    let log =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::from(level)).try_init();
    // A second call (in tests) keeps the first log.
    drop(log);
}
