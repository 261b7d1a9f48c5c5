//! Between who logs and where it goes: a queue bounded in bytes, and a thread that empties it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::Level;

use super::{
    LogCounts,
    line::{Form, Line},
};

/// Most bytes that wait to be written.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Most of them that `DEBUG` and `TRACE` may take, so that they cannot crowd out what matters.
const WAITING_DETAILS_BYTES_MAX: usize = WAITING_BYTES_MAX / 2;

/// How often standard error is told that the log cannot be written.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The queue's end for who logs.
pub(super) struct Queue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something waits to be written.
    filled: Condvar,
    /// Nothing does.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<String>,
    /// Bytes of what waits and of what is just being written.
    waiting_bytes: usize,
    counts: LogCounts,
    /// Lines that were dropped and that the log has not told of.
    dropped_untold: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with the lock left counts behind that are right or off by one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Starts the thread. It lasts as long as the process, or as the queue.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(sink: Box<dyn Write + Send>, form: Form) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let weak = Arc::downgrade(&shared);
        let mut writer = Writer { sink, form, failed_untold: 0, complained: None };
        thread::Builder::new().name("obs-log".to_owned()).spawn(move || {
            // Ends with the queue: then only the thread itself holds what they share.
            while let Some(shared) = weak.upgrade() {
                writer.write_once(&shared);
            }
        })?;
        Ok(Self { shared })
    }

    /// Adds a line. Never waits for the writing: what does not fit is dropped.
    pub(super) fn send(&self, level: Level, text: String) {
        let bytes_max = if level <= Level::INFO { WAITING_BYTES_MAX } else { WAITING_DETAILS_BYTES_MAX };
        let mut state = self.shared.state();
        if state.waiting_bytes + text.len() > bytes_max {
            state.counts.dropped += 1;
            state.dropped_untold += 1;
            return;
        }
        state.waiting_bytes += text.len();
        state.waiting.push_back(text);
        drop(state);
        self.shared.filled.notify_one();
    }

    pub(super) fn counts(&self) -> LogCounts {
        self.shared.state().counts
    }

    /// Waits until nothing waits; returns whether that is so.
    pub(super) fn flush(&self, at_most: Duration) -> bool {
        let state = self.shared.state();
        let result = self.shared.emptied.wait_timeout_while(state, at_most, |state| state.waiting_bytes > 0);
        result.map_or_else(|error| error.into_inner().0.waiting_bytes == 0, |(state, _)| state.waiting_bytes == 0)
    }
}

struct Writer {
    sink: Box<dyn Write + Send>,
    form: Form,
    /// Lines that could not be written and that the log has not told of.
    failed_untold: u64,
    complained: Option<Instant>,
}

impl Writer {
    /// Waits for lines, for a while, and writes them.
    fn write_once(&mut self, shared: &Shared) {
        /// So that the thread notices when the queue is gone.
        const LOOK_UP: Duration = Duration::from_millis(500);
        let state = shared.state();
        let waited = shared.filled.wait_timeout_while(state, LOOK_UP, |state| state.waiting.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut state.waiting);
        let dropped = std::mem::take(&mut state.dropped_untold);
        drop(state);
        let (mut written, mut failed) = (0, 0);
        for line in &lines {
            let told = if self.write(line) { &mut written } else { &mut failed };
            *told += 1;
        }
        self.failed_untold += failed;
        let mut state_of_own = [
            (dropped, "lines were dropped because the log could not be written fast enough"),
            (self.failed_untold, "lines could not be written to the log"),
        ];
        // Told once the writing works again.
        if failed == 0 {
            for (count, message) in &mut state_of_own {
                if *count > 0 && self.write(&Line::own(Level::ERROR, message, *count).render(self.form)) {
                    *count = 0;
                }
            }
        }
        let [(dropped_untold, _), (failed_untold, _)] = state_of_own;
        self.failed_untold = failed_untold;
        let mut state = shared.state();
        state.dropped_untold += dropped_untold;
        state.counts.written += written;
        state.counts.failed += failed;
        state.waiting_bytes -= lines.iter().map(String::len).sum::<usize>();
        if state.waiting_bytes == 0 {
            shared.emptied.notify_all();
        }
    }

    fn write(&mut self, line: &str) -> bool {
        let result = self.sink.write_all(line.as_bytes()).and_then(|()| self.sink.flush());
        if let Err(error) = &result {
            let now = Instant::now();
            if self.complained.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT_INTERVAL) {
                self.complained = Some(now);
                // Where the log is standard error itself this fails too, and there is nobody left to tell.
                let _ =
                    writeln!(io::stderr(), "obs: the log cannot be written: {error}; the lines are lost and counted");
            }
        }
        result.is_ok()
    }
}
