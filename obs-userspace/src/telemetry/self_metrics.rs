//! What obs counts of its own work: `obs_agent_…`.
//!
//! Whoever works asks for a handle once and adds to it from then on, which is one atomic addition (two for a latency).
//! Whoever publishes takes a snapshot, in the shapes of `model::record`: own numbers go the way that measured ones go.
//!
//! Latencies are the exponential histograms that all of obs uses, and not a second kind: they merge and export as they are.
//!
//! **Invariant:** [`METRICS`] is the only list of these metrics, and a series can be of no other.

mod latency;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::latency::LatencyCells;
use crate::model::record;

/// Most series of all metrics together. Further ones are added up in one of the same metric whose labels are all
/// [`OTHER`]; there are at most as many of those as there are metrics.
const SERIES_MAX: usize = 1_024;

/// The value of the labels of a series that stands for those beyond the limit.
const OTHER: &str = "~other";

/// Longest value of a label, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// What a metric's values mean to whoever adds them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution of durations.
    Latency,
}

/// A metric of obs's own work.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name; units and `_total` are added where a format wants them.
    pub name: &'static str,
    /// By OpenTelemetry's rules (UCUM): `s`, `By`, `1`, `{line}`.
    pub unit: &'static str,
    /// What its values mean.
    pub kind: MetricKind,
    /// The names of its labels, in the order in which records carry them.
    pub labels: &'static [&'static str],
    /// What it is, in one line.
    pub summary: &'static str,
}

/// Declares metrics as constants, and the slice of all of them in the same order.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $unit:literal [$($label:literal)*] $summary:literal;)*) => {
        $(
            #[doc = $summary]
            pub static $constant: Metric = Metric {
                name: $name,
                unit: $unit,
                kind: MetricKind::$kind,
                labels: &[$($label),*],
                summary: $summary,
            };
        )*

        /// All of them.
        pub static METRICS: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    STAGE_RECEIVED: Counter "obs_agent_stage_received" "{item}" ["stage"] "What came into a stage.";
    STAGE_SENT: Counter "obs_agent_stage_sent" "{item}" ["stage"] "What a stage handed on.";
    STAGE_ERRORS: Counter "obs_agent_stage_errors" "{error}" ["stage"] "What a stage could not do.";
    STAGE_DROPPED: Counter "obs_agent_stage_dropped" "{item}" ["stage" "reason"] "What a stage gave up, by reason.";
    STAGE_LATENCY: Latency "obs_agent_stage_latency" "s" ["stage"] "How long a stage took for one piece of work.";
    QUEUE_FILL: Gauge "obs_agent_queue_fill" "1" ["queue"] "How full a queue is, 1 being full.";
    DRAIN_LAG: Gauge "obs_agent_drain_lag" "s" ["collector"] "How late the kernel's maps were read.";
    CPU_TIME: Counter "obs_agent_cpu_time" "s" ["side"] "CPU time that obs used: in user space (user), for its HTTP clients (web), and in BPF programs (bpf).";
    CPU_SHARE: Gauge "obs_agent_cpu_share" "1" ["side"] "Share of the host's CPU time that obs used since it was last judged, by side.";
    RESIDENT_MEMORY: Gauge "obs_agent_resident_memory" "By" [] "Memory of obs that is resident, without its maps.";
    MAP_MEMORY: Gauge "obs_agent_map_memory" "By" [] "Memory that obs's maps take in the kernel.";
    PROGRAM_RUNS: Counter "obs_agent_program_runs" "{run}" ["collector" "program"] "How often a BPF program ran.";
    PROGRAM_TIME: Counter "obs_agent_program_time" "s" ["collector" "program"] "How long a BPF program ran.";
    SAMPLES_LOST: Counter "obs_agent_samples_lost" "{sample}" ["collector" "reason"] "Samples that were lost, by reason.";
    SHED: Gauge "obs_agent_shed" "1" ["step"] "Whether a step is shed: 1 if it is.";
    SHED_LEVEL: Gauge "obs_agent_shed_level" "{step}" [] "How many steps are shed.";
    PAUSED: Gauge "obs_agent_paused" "1" [] "Whether all measuring is paused because the host is in distress: 1 if it is.";
    BUDGET_USED: Gauge "obs_agent_budget_used" "1" ["resource"] "Share of a budget that is used, 1 being all.";
    COLLECTOR_RUNNING: Gauge "obs_agent_collector_running" "1" ["collector"] "Whether a collector runs: 1 if it does.";
    STORE_SIZE: Gauge "obs_agent_store_size" "By" [] "Bytes of the history on disk.";
    STORE_FILES: Gauge "obs_agent_store_files" "{file}" [] "Files of the history.";
    STORE_WRITTEN: Counter "obs_agent_store_written" "By" [] "Bytes that were written to the history.";
    STORE_BLOCKS: Counter "obs_agent_store_blocks" "{block}" ["outcome"] "Blocks of the history: sealed, failed (and tried again), expired by age, evicted by size, thinned to their roll-up.";
    LOG_LINES: Counter "obs_agent_log_lines" "{line}" ["outcome"] "Lines of the log: written, repeated (held back), dropped, failed.";
    STARTED: Gauge "obs_agent_start_time" "s" [] "When the agent started, in seconds since 1970.";
    SERIES_OVER_LIMIT: Counter "obs_agent_series_over_limit" "{series}" [] "Requests for series of these metrics beyond their limit.";
}

/// What a series is: its metric's name, and its labels' values.
type Key = (&'static str, Vec<Arc<str>>);

#[derive(Clone)]
enum Cells {
    /// A sum of so many billionths: seconds are counted in nanoseconds.
    Counter(Arc<AtomicU64>),
    /// The bits of a floating-point number; no number until it is set.
    Gauge(Arc<AtomicU64>),
    Latency(Arc<LatencyCells>),
}

/// All series; cheap to share.
#[derive(Clone, Default)]
pub struct Registry {
    series: Arc<Mutex<BTreeMap<Key, (&'static Metric, Cells)>>>,
}

/// A sum that only grows.
#[derive(Clone)]
pub struct Counter {
    value: Arc<AtomicU64>,
}

impl Counter {
    /// Adds to it: a number of things, or of nanoseconds if its unit is seconds.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    /// Raises it to a sum that somebody else keeps, in the same unit; a lower one is ignored.
    pub fn raise_to(&self, sum: u64) {
        self.value.fetch_max(sum, Ordering::Relaxed);
    }
}

/// A value that goes up and down.
#[derive(Clone)]
pub struct Gauge {
    bits: Arc<AtomicU64>,
}

impl Gauge {
    /// Sets it, in its unit. Until then, and while it is no number, it is not published: unknown is not zero.
    pub fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Sets it to 1 or 0.
    pub fn set_bool(&self, value: bool) {
        self.set(f64::from(u8::from(value)));
    }
}

/// A distribution of durations.
#[derive(Clone)]
pub struct Latency {
    cells: Arc<LatencyCells>,
}

impl Latency {
    /// Adds one.
    pub fn observe(&self, duration: Duration) {
        self.cells.observe(duration);
    }
}

/// A stage's own numbers.
#[derive(Clone)]
pub struct Stage {
    registry: Registry,
    name: Arc<str>,
    /// What came in.
    pub received: Counter,
    /// What was handed on.
    pub sent: Counter,
    /// What could not be done.
    pub errors: Counter,
    /// How long one piece of work took.
    pub latency: Latency,
}

impl Stage {
    /// The counter of what is dropped for a reason. Keep it where drops are frequent: finding it takes a lock.
    #[must_use]
    pub fn dropped(&self, reason: &'static str) -> Counter {
        self.registry.counter(&STAGE_DROPPED, &[&self.name, reason])
    }
}

impl Registry {
    /// The numbers of a stage.
    #[must_use]
    pub fn stage(&self, name: &'static str) -> Stage {
        Stage {
            registry: self.clone(),
            name: Arc::from(name),
            received: self.counter(&STAGE_RECEIVED, &[name]),
            sent: self.counter(&STAGE_SENT, &[name]),
            errors: self.counter(&STAGE_ERRORS, &[name]),
            latency: self.latency(&STAGE_LATENCY, &[name]),
        }
    }

    /// A series of a counter; the same labels are the same series. A metric of another kind gives one that nobody sees.
    #[must_use]
    pub fn counter(&self, metric: &'static Metric, labels: &[&str]) -> Counter {
        match self.find(metric, labels) {
            Cells::Counter(value) => Counter { value },
            Cells::Gauge(_) | Cells::Latency(_) => Counter { value: Arc::default() },
        }
    }

    /// A series of a gauge, likewise.
    #[must_use]
    pub fn gauge(&self, metric: &'static Metric, labels: &[&str]) -> Gauge {
        match self.find(metric, labels) {
            Cells::Gauge(bits) => Gauge { bits },
            Cells::Counter(_) | Cells::Latency(_) => Gauge { bits: Arc::default() },
        }
    }

    /// A series of a latency, likewise.
    #[must_use]
    pub fn latency(&self, metric: &'static Metric, labels: &[&str]) -> Latency {
        match self.find(metric, labels) {
            Cells::Latency(cells) => Latency { cells },
            Cells::Counter(_) | Cells::Gauge(_) => Latency { cells: Arc::default() },
        }
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<Key, (&'static Metric, Cells)>> {
        // Whoever panicked with the lock left a map that is whole.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, metric: &'static Metric, labels: &[&str]) -> Cells {
        let mut series = self.series();
        let mut key = (metric.name, values(metric, labels));
        if !series.contains_key(&key) && series.len() >= SERIES_MAX {
            key.1.fill(Arc::from(OTHER));
            let over = (SERIES_OVER_LIMIT.name, Vec::new());
            let (_, cells) = series.entry(over).or_insert_with(|| (&SERIES_OVER_LIMIT, cells(&SERIES_OVER_LIMIT)));
            if let Cells::Counter(value) = cells {
                value.fetch_add(1, Ordering::Relaxed);
            }
        }
        series.entry(key).or_insert_with(|| (metric, cells(metric))).1.clone()
    }

    /// Forgets the series of a metric whose label has this value: what they were about is gone.
    pub fn forget(&self, metric: &'static Metric, label: &str, value: &str) {
        let Some(at) = metric.labels.iter().position(|name| *name == label) else { return };
        self.series()
            .retain(|(name, values), _| *name != metric.name || values.get(at).is_none_or(|it| &**it != value));
    }

    /// Everything as it stands now, ordered by name and labels.
    #[must_use]
    pub fn snapshot(&self) -> Vec<record::Record> {
        self.series().iter().filter_map(|((_, values), (metric, cells))| record(metric, values, cells)).collect()
    }
}

fn cells(metric: &Metric) -> Cells {
    match metric.kind {
        MetricKind::Counter => Cells::Counter(Arc::default()),
        MetricKind::Gauge => Cells::Gauge(Arc::new(AtomicU64::new(f64::NAN.to_bits()))),
        MetricKind::Latency => Cells::Latency(Arc::default()),
    }
}

/// As many values as the metric has labels: what is missing is empty, what is too much is left out, what is too long is cut.
fn values(metric: &Metric, labels: &[&str]) -> Vec<Arc<str>> {
    let cut = |value: &str| Arc::from(&value[..value.floor_char_boundary(LABEL_BYTES_MAX)]);
    (0..metric.labels.len()).map(|at| cut(labels.get(at).copied().unwrap_or_default())).collect()
}

fn record(metric: &'static Metric, values: &[Arc<str>], cells: &Cells) -> Option<record::Record> {
    let name = metric.name;
    let labels = metric.labels.iter().copied().zip(values.iter().cloned()).collect();
    match cells {
        Cells::Counter(value) => {
            let count = value.load(Ordering::Relaxed) as f64;
            let value = if metric.unit == "s" { count / 1e9 } else { count };
            Some(record::Record::Counter(record::Counter { name, labels, value }))
        }
        Cells::Gauge(bits) => {
            let value = f64::from_bits(bits.load(Ordering::Relaxed));
            (!value.is_nan()).then_some(record::Record::Gauge(record::Gauge { name, labels, value }))
        }
        Cells::Latency(cells) => Some(record::Record::Histogram(cells.histogram(name, labels))),
    }
}
