//! The agent's log: people's form on a terminal, one JSON object per line elsewhere, into standard error or a file.
//!
//! What the levels mean, for whoever writes a line:
//!
//! | level | meaning |
//! |---|---|
//! | `ERROR` | data was lost, or an operator has to act |
//! | `WARN` | not as it should be, but obs copes: something was skipped, shed, or tried again |
//! | `INFO` | lifecycle: started, attached, reloaded, stopped |
//! | `DEBUG`, `TRACE` | single steps, for whoever looks for a mistake in obs |
//!
//! A repeated cause is told once a minute. Of `WARN` and `ERROR`, all lines of one place in the source have one cause,
//! unless they name it in a field `cause`; of `INFO`, only equal lines have. Do not name what varies without end (a pid,
//! a path) in `cause`. See `repeats`.
//!
//! **Invariant:** a line never waits. Between who writes it and where it goes is a queue bounded in bytes; what does not
//! fit is dropped and counted.

mod file;
mod line;
mod queue;
mod repeats;
#[cfg(test)]
pub(crate) mod sink;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    layer::{Context, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

use self::{
    file::RotatingFile,
    line::{Form, Line},
    queue::Queue,
    repeats::{Repeats, Verdict},
};
use super::Level;

/// How long the end of the agent waits for the log's last lines.
const FLUSH_AT_END: Duration = Duration::from_millis(500);

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    StandardError,
    /// A file, which is set aside when it is full: as `FILE.1`, the one before as `FILE.2`, and so on.
    File {
        /// The file.
        path: PathBuf,
        /// Most bytes of it.
        bytes_max: u64,
        /// How many files are kept, the current one included; at least one.
        files_max: u32,
    },
}

/// How the agent logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How much.
    pub level: Level,
    /// How it looks.
    pub form: LogForm,
    /// Where it goes.
    pub target: LogTarget,
}

/// What became of the lines since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Lines that were written.
    pub written: u64,
    /// Lines that told what had been told within the minute.
    pub repeated: u64,
    /// Lines that found the queue full.
    pub dropped: u64,
    /// Lines that could not be written.
    pub failed: u64,
}

/// The log at work. Dropping it waits a moment for the last lines.
pub struct Log {
    level: Mutex<Level>,
    filter: reload::Handle<LevelFilter, Registry>,
    shared: Arc<Shared>,
}

/// What the layer and the handle share.
struct Shared {
    form: Form,
    queue: Queue,
    repeats: Mutex<Repeats>,
}

/// Starts the agent's log, for the whole process and for good.
///
/// # Errors
/// If the file cannot be opened, its thread not started, or if the process logs already.
pub fn start(options: &LogOptions) -> io::Result<Log> {
    let is_terminal = matches!(options.target, LogTarget::StandardError) && io::stderr().is_terminal();
    let form = match options.form {
        LogForm::Human => Form::human(is_terminal),
        LogForm::Auto if is_terminal => Form::human(true),
        LogForm::Auto | LogForm::Json => Form::Json,
    };
    let sink: Box<dyn Write + Send> = match &options.target {
        LogTarget::StandardError => Box::new(io::stderr()),
        LogTarget::File { path, bytes_max, files_max } => {
            Box::new(RotatingFile::open(path.clone(), *bytes_max, *files_max)?)
        }
    };
    let (subscriber, log) = build(options.level, form, sink)?;
    subscriber.try_init().map_err(io::Error::other)?;
    Ok(log)
}

/// The log without its installation.
fn build(level: Level, form: Form, sink: Box<dyn Write + Send>) -> io::Result<(impl Subscriber, Log)> {
    let queue = Queue::start(sink, form)?;
    let shared = Arc::new(Shared { form, queue, repeats: Mutex::default() });
    let (layer, filter) = reload::Layer::new(LevelFilter::from(level));
    let subscriber = Registry::default().with(layer).with(LogLayer { shared: Arc::clone(&shared) });
    Ok((subscriber, Log { level: Mutex::new(level), filter, shared }))
}

impl Log {
    /// Changes how much is logged, from now on.
    pub fn set_level(&self, level: Level) {
        // Held to the end: of two who change it at once, one has all of it.
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        *current = level;
        let filter = LevelFilter::from(level);
        // Fails only when the subscriber is gone, and then nothing is logged at all.
        let _ = self.filter.modify(|old| *old = filter);
        // Libraries that use the crate `log` ask it first.
        log::set_max_level(match level {
            Level::Error => log::LevelFilter::Error,
            Level::Warn => log::LevelFilter::Warn,
            Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
            Level::Trace => log::LevelFilter::Trace,
        });
    }

    /// How much is logged now.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log whose lines nobody gets, for tests of what changes its level.
    #[cfg(test)]
    pub(crate) fn unread(level: Level) -> Self {
        build(level, Form::Json, Box::new(io::sink())).map(|(_, log)| log).unwrap()
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        let repeated = self.shared.repeats.lock().unwrap_or_else(PoisonError::into_inner).held_total();
        LogCounts { repeated, ..self.shared.queue.counts() }
    }

    /// Waits until everything logged so far is written; returns whether it is.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.shared.queue.flush(at_most)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let held = self.shared.repeats.lock().unwrap_or_else(PoisonError::into_inner).take_untold();
        if held > 0 {
            let line = Line::own(tracing::Level::INFO, "lines were held back because they repeated others", held);
            self.shared.queue.send(tracing::Level::INFO, line.render(self.shared.form));
        }
        self.flush(FLUSH_AT_END);
    }
}

struct LogLayer {
    shared: Arc<Shared>,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::of(event);
        if line.level <= tracing::Level::INFO {
            let mut repeats = self.shared.repeats.lock().unwrap_or_else(PoisonError::into_inner);
            let place = std::ptr::from_ref(event.metadata()).addr();
            match repeats.judge(place, line.cause(), Instant::now()) {
                Verdict::Held => return,
                Verdict::Told { repeated } => line.repeated = repeated,
            }
        }
        self.shared.queue.send(line.level, line.render(self.shared.form));
    }
}
