//! The second half of the agent: reads resources, finds names, and keeps each window on disk.
//!
//! It has a thread of its own, so that nobody waits for DWARF or for a disk while the kernel has something to say. Between the two
//! is a bounded queue; while it is full, the window that is being measured goes on.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    collect::resources::{Resources, Roots},
    config::agent::{AgentConfig, StoreConfig},
    enrich::{
        build::{BuiltProfile, Gathered},
        identity::IdentityCounts,
        symbolize::{KernelCode, Symbolizer},
    },
    kernel::{heap, sys::jited::jited_functions},
    model::record::{Event, Record},
    store::{Reader, Store, StoreError, StoreOptions, StoreStats, Window},
    telemetry::self_metrics::{Registry, SAMPLES_LOST, STORE_BLOCKS, STORE_FILES, STORE_SIZE, STORE_WRITTEN, Stage},
};

use super::{super::window_histograms::WindowHistograms, options, progress::Progress, who::Who};

/// Most windows that wait for their names. One is being named meanwhile.
const WAITING_MAX: usize = 2;

/// For how long the thread may do nothing in one step of naming and writing a window before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);

/// What was measured in a window, before it has names.
pub(super) struct Measured {
    /// When the window began, in nanoseconds since 1970.
    pub(super) started_unix_ns: u64,
    /// How long it was, in nanoseconds.
    pub(super) duration_ns: u64,
    /// Samples of each collector.
    pub(super) samples: Vec<Gathered>,
    /// Code that came into the kernel or left it.
    pub(super) kernel_code: KernelCode,
    /// What happened.
    pub(super) events: Vec<Event>,
    /// Sums of latencies since they began to be measured; `None` if they could not be read, and will be with the next window.
    pub(super) latencies: Option<Vec<Record>>,
    /// Whether they began anew with this window.
    pub(super) latencies_are_new: bool,
}

/// Settings by which the thread is to work from the next window on, if they are others than before. Not in the queue, which may have no
/// room for them: what was read from a file has to come into force.
type NewSettings = Mutex<Option<(Box<AgentConfig>, Who)>>;

/// What may change while the agent runs, and what others may want to know.
#[derive(Default)]
pub(super) struct Shared {
    /// Whether DWARF is left alone.
    pub(super) plain_names: AtomicBool,
    /// Whether only the host and its containers are read, not each process.
    pub(super) no_processes: AtomicBool,
    /// Whether questions to the history have cost as much as they may.
    pub(super) is_web_spent: AtomicBool,
    /// Resources and latencies, as they were at the end of the last window.
    pub(super) measured: Mutex<Arc<Vec<Record>>>,
    /// Why the last window could not be written, if it could not.
    pub(super) trouble: Mutex<Option<String>>,
    /// Windows that were measured and are not in the history.
    windows_lost: AtomicU64,
    /// What the thread is at.
    progress: Progress,
}

/// The thread, and the queue to it.
pub(super) struct Keeper {
    queue: Option<SyncSender<Measured>>,
    /// Windows in the queue.
    waiting: Arc<AtomicUsize>,
    settings: Arc<NewSettings>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
    reader: Reader,
    stage: Stage,
    shared: Arc<Shared>,
}

impl Keeper {
    /// Opens the state folder and starts the thread.
    pub(super) fn start(
        config: &AgentConfig,
        registry: &Registry,
        shared: Arc<Shared>,
        who: Who,
    ) -> anyhow::Result<Self> {
        let store = open(config)?;
        let reader = store.reader();
        let (queue, measured) = sync_channel(WAITING_MAX);
        let stage = registry.stage("keep");
        let work = Work {
            store,
            symbolizer: Symbolizer::new(options::symbolizer(config)),
            resources: resources(config),
            registry: registry.clone(),
            stage: stage.clone(),
            identify: registry.stage("identify"),
            shared: Arc::clone(&shared),
            who,
            histograms: WindowHistograms::default(),
            latencies: WindowHistograms::default(),
            latencies_told: Vec::new(),
        };
        let (waiting, settings) = (Arc::new(AtomicUsize::new(0)), Arc::<NewSettings>::default());
        let (taken, new_settings) = (Arc::clone(&waiting), Arc::clone(&settings));
        let thread = std::thread::Builder::new().name("obs-keeper".to_owned());
        let thread =
            thread.spawn(move || work.run(&measured, &taken, &new_settings)).context("cannot start a thread")?;
        Ok(Self { queue: Some(queue), waiting, settings, thread: Some(thread), reader, stage, shared })
    }

    /// Reads what was kept.
    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Whether there is no room for a window now.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= WAITING_MAX
    }

    /// Hands a window on; what finds no room is lost, and counted.
    pub(super) fn keep(&self, measured: Measured) {
        self.stage.received.add(1);
        if let Err(why) = self.send(measured) {
            self.stage.dropped(why).add(1);
            self.shared.windows_lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(cause = why, "a window was lost: it could not be handed on to be named and written");
        }
    }

    /// Works by other settings from the next window on that the thread takes up; those that wait are among them.
    pub(super) fn reconfigure(&self, config: &AgentConfig, who: Who) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Some((Box::new(config.clone()), who));
    }

    fn send(&self, measured: Measured) -> Result<(), &'static str> {
        let queue = self.queue.as_ref().ok_or("stopped")?;
        // Before it can be taken out.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        queue.try_send(measured).map_err(|error| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => "queue-full",
                TrySendError::Disconnected(_) => "stopped",
            }
        })
    }

    /// Why the last window could not be written, if it could not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the thread hangs in, if it does: a disk or a file system that does not answer is no error, and ends nothing.
    pub(super) fn stuck(&self) -> Option<String> {
        self.shared.progress.stuck(STUCK_AFTER)
    }

    /// Whether the thread still works.
    pub(super) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Lets the thread finish what waits, until then at most.
    ///
    /// # Errors
    /// If not all that was measured since the start is on disk: what is missing.
    pub(super) fn stop(&mut self, by: Instant) -> Result<(), String> {
        self.queue = None;
        while self.is_alive() {
            if Instant::now() >= by {
                return Err("the last windows could not be written in time and are lost".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Err(_)) => return Err("the thread that writes windows ended before its time".to_owned()),
            Some(Ok(Err(error))) => return Err(format!("the last windows may not be on disk: {error}")),
            Some(Ok(Ok(()))) => {}
        }
        match self.shared.windows_lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(format!("{lost} windows that were measured since the start are not in the history")),
        }
    }
}

fn resources(config: &AgentConfig) -> Option<Resources> {
    config.resources.enabled.then(|| Resources::new(&Roots::default(), options::resources(config)))
}

fn open(config: &AgentConfig) -> anyhow::Result<Store> {
    let options = StoreOptions {
        retention_seconds: config.store.retention_age.as_secs(),
        windows_seconds: config.store.windows_age.as_secs(),
        retention_bytes: config.store.retention_bytes.bytes(),
        block_seconds: u32::try_from(config.store.block_length.as_secs()).unwrap_or(u32::MAX),
        boot_id: boot_id(),
    };
    let store = Store::open(&config.state_dir, options)?;
    let recovery = store.recovery();
    if recovery.torn_files > 0 {
        tracing::warn!(bytes = recovery.torn_bytes, "cut off a window that an earlier run had not finished writing");
    }
    for (path, why) in &recovery.unreadable {
        tracing::error!(path = %path.display(), why, "cannot use a file of the history; it is left as it is");
    }
    Ok(store)
}

/// Which start of the machine this is; zeroes if the kernel does not say.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

/// What the thread works with.
struct Work {
    store: Store,
    symbolizer: Symbolizer,
    resources: Option<Resources>,
    registry: Registry,
    stage: Stage,
    identify: Stage,
    shared: Arc<Shared>,
    who: Who,
    histograms: WindowHistograms,
    latencies: WindowHistograms,
    /// Latencies as they were read last.
    latencies_told: Vec<Record>,
}

impl Work {
    /// Until the other side hangs up.
    fn run(
        mut self,
        queue: &Receiver<Measured>,
        waiting: &AtomicUsize,
        settings: &NewSettings,
    ) -> Result<(), StoreError> {
        while let Ok(measured) = queue.recv() {
            waiting.fetch_sub(1, Ordering::Relaxed);
            let settings = settings.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((config, who)) = settings {
                self.who = who;
                self.reconfigure(&config);
            }
            let since = Instant::now();
            self.keep(measured);
            heap::give_back();
            self.shared.progress.rest();
            self.stage.latency.observe(since.elapsed());
        }
        self.store.flush()
    }

    fn reconfigure(&mut self, config: &AgentConfig) {
        let StoreConfig { retention_age, windows_age, retention_bytes, .. } = &config.store;
        self.store.set_retention(retention_age.as_secs(), windows_age.as_secs(), retention_bytes.bytes());
        self.resources = resources(config);
    }

    fn keep(&mut self, measured: Measured) {
        let Measured { started_unix_ns, duration_ns, samples, mut kernel_code, events, latencies, latencies_are_new } =
            measured;
        self.shared.progress.begin("reading resources");
        let mut records = Vec::new();
        if let Some(resources) = &mut self.resources {
            let report = if self.shared.no_processes.load(Ordering::Relaxed) {
                resources.read_host(&mut records)
            } else {
                resources.read_all(&mut records)
            };
            for (what, count) in report.read_errors {
                tracing::debug!(what, count, "resources could not be read");
            }
        }
        self.shared.progress.begin("finding names");
        self.symbolizer.set_reads_dwarf(!self.shared.plain_names.load(Ordering::Relaxed));
        if let Ok(functions) = jited_functions() {
            kernel_code.set_loaded(functions);
        }
        self.symbolizer.set_kernel_code(kernel_code);

        let mut window =
            Window { started_unix_ns, duration_ns, boot_unix_ns: boot_unix_ns(), events, ..Window::default() };
        for gathered in samples {
            let BuiltProfile { profile, samples_dropped, .. } =
                gathered.name(&mut self.symbolizer, started_unix_ns, duration_ns);
            self.registry
                .counter(&SAMPLES_LOST, &[&profile.collector, "too many different stacks"])
                .add(samples_dropped);
            window.profiles.push(profile);
        }
        window.processes = self.who.known(&window.profiles);
        self.count_identities();
        if latencies_are_new {
            self.latencies = WindowHistograms::default();
        }
        if let Some(latencies) = latencies {
            put(&mut window, &mut self.latencies, latencies.iter().cloned());
            self.latencies_told = latencies;
        }
        put(&mut window, &mut self.histograms, records.iter().cloned().chain(self.registry.snapshot()));
        records.extend(self.latencies_told.iter().cloned());
        self.shared.progress.begin("writing a window");
        let appended = self.store.append(&window);
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
            appended.as_ref().err().map(ToString::to_string);
        match appended {
            Ok(appended) => {
                self.stage.sent.add(1);
                self.stage.dropped("too-many-events").add(appended.events_dropped);
                for (collector, samples) in appended.samples_dropped {
                    tracing::warn!(%collector, samples, "a window was too large for a block: its lightest samples are lost");
                    self.registry.counter(&SAMPLES_LOST, &[&collector, "window too large"]).add(samples);
                }
            }
            Err(error) => {
                self.stage.errors.add(1);
                self.shared.windows_lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a window was lost: it cannot be written");
            }
        }
        *self.shared.measured.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
        self.count_files();
    }

    fn count_files(&self) {
        let StoreStats { bytes_written, blocks_sealed, seals_failed, removals_failed, .. } = self.store.stats();
        let StoreStats { blocks_expired, blocks_evicted, blocks_thinned, bytes, files, .. } = self.store.stats();
        self.registry.counter(&STORE_WRITTEN, &[]).raise_to(bytes_written);
        self.registry.gauge(&STORE_SIZE, &[]).set(bytes as f64);
        self.registry.gauge(&STORE_FILES, &[]).set(files as f64);
        for (outcome, count) in [
            ("sealed", blocks_sealed),
            ("failed", seals_failed + removals_failed),
            ("expired", blocks_expired),
            ("evicted", blocks_evicted),
            ("thinned", blocks_thinned),
        ] {
            self.registry.counter(&STORE_BLOCKS, &[outcome]).raise_to(count);
        }
    }

    fn count_identities(&self) {
        let counts = self.who.counts();
        let IdentityCounts { processes_read, processes_missed, processes_failed, .. } = counts;
        let IdentityCounts { questions_dropped, notices_skipped, containers_failed, .. } = counts;
        let missed = processes_missed + questions_dropped + notices_skipped;
        self.identify.received.raise_to(processes_read + processes_failed + missed);
        self.identify.sent.raise_to(processes_read);
        self.identify.errors.raise_to(processes_failed + containers_failed);
        for (reason, count) in
            [("ended", processes_missed), ("queue-full", questions_dropped), ("too-many-at-once", notices_skipped)]
        {
            self.identify.dropped(reason).raise_to(count);
        }
    }
}

/// Puts records into a window: of histograms, which grow, what was added in it.
fn put(window: &mut Window, histograms: &mut WindowHistograms, records: impl Iterator<Item = Record>) {
    for record in records {
        match record {
            Record::Counter(counter) => window.counters.push(counter),
            Record::Gauge(gauge) => window.gauges.push(gauge),
            Record::Histogram(histogram) => window.histograms.extend(histograms.added(histogram)),
            Record::Event(event) => window.events.push(event),
            // Profiles were made of these.
            Record::StackSample(_) => {}
        }
    }
    histograms.end_window();
}

/// When the boot-time clock was 0, in nanoseconds since 1970.
fn boot_unix_ns() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let ns = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    };
    ns(ClockId::Realtime).saturating_sub(ns(ClockId::Boottime))
}

#[cfg(test)]
mod tests;
