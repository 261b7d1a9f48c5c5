//! Every setting of the agent: its place, its default, what is allowed, and whether a reload changes it.
//!
//! **Invariant:** each section takes itself apart completely in `visit`, so that a field that nobody reads, documents,
//! overrides or compares does not compile. What is done with settings (reading, writing, comparing) is a [`Visitor`].

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::value::{Bytes, Comm, KeyPart, LogFormat, LogLevel, Megabytes, Pattern, Percent, Value, Word};
use crate::config::sampling::Frequency;

/// What a change of a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReload {
    /// SIGHUP suffices.
    Takes,
    /// A restart, for this reason.
    Restart(&'static str),
}

/// What holds for a setting's value, and for its change.
pub(super) struct Rule<T> {
    pub(super) on_reload: OnReload,
    pub(super) least: Option<T>,
    pub(super) most: Option<T>,
}

impl<T> Rule<T> {
    fn within(self, least: T, most: T) -> Self {
        Self { least: Some(least), most: Some(most), ..self }
    }
}

/// A reload changes it.
fn live<T>() -> Rule<T> {
    Rule { on_reload: OnReload::Takes, least: None, most: None }
}

/// Only a restart changes it.
fn restart<T>(why: &'static str) -> Rule<T> {
    Rule { on_reload: OnReload::Restart(why), least: None, most: None }
}

/// Goes through all settings of a section, in the order of the documented default.
pub(super) trait Section {
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
}

/// Something that is done with every setting.
pub(super) trait Visitor {
    fn field<T: Value>(&mut self, key: &str, value: &mut T, rule: Rule<T>);

    fn section<S: Section>(&mut self, key: &str, section: &mut S);
}

/// What the agent does, and how. Read by [`AgentConfig::load`].
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// The folder for everything that outlives the agent.
    pub state_dir: PathBuf,
    /// How long a window is over which samples are added up.
    pub window: Duration,
    /// The collectors.
    pub collectors: CollectorsConfig,
    /// Whom to measure.
    pub filters: FiltersConfig,
    /// The history on disk.
    pub store: StoreConfig,
    /// The page and the API.
    pub http: HttpConfig,
    /// What obs itself may cost.
    pub governor: GovernorConfig,
    /// What the agent says of its own work.
    pub log: LogConfig,
    /// What is kept out of all records.
    pub privacy: PrivacyConfig,
    /// The resource monitor.
    pub resources: ResourcesConfig,
    /// Unwinding of stacks.
    pub unwind: UnwindConfig,
    /// Names of functions.
    pub symbols: SymbolsConfig,
}

/// Collectors by name: all that this binary has, and no others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorsConfig {
    /// What is wanted of each.
    pub by_name: BTreeMap<String, CollectorConfig>,
}

/// What is wanted of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorConfig {
    /// Whether it runs (if this kernel lets it).
    pub enabled: bool,
    /// How often it samples; `None` if it does not sample.
    pub frequency: Option<Frequency>,
    /// What it measures of what it can; `None` if it has no choice.
    pub kinds: Option<KindsConfig>,
}

/// What a collector with a choice measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindsConfig {
    /// Of what: each is one of [`KnownKinds::all`](super::KnownKinds::all).
    pub kinds: Vec<Word>,
    /// What is told apart besides.
    pub by: Vec<KeyPart>,
}

/// Whom to measure. Kinds are joined by *and*, the entries of a kind by *or*; an empty kind admits everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiltersConfig {
    /// Thread or process names.
    pub comms: Vec<Comm>,
    /// Folders of the unified cgroup hierarchy; what lies below them is included.
    pub cgroups: Vec<PathBuf>,
    /// Whether obs itself is left out.
    pub exclude_self: bool,
}

/// The history on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// How long history is kept.
    pub retention_age: Duration,
    /// How long single windows are kept; of older ones the roll-up is left, in buckets of ten minutes.
    pub windows_age: Duration,
    /// Most bytes that it may take.
    pub retention_bytes: Bytes,
    /// How much time one file covers.
    pub block_length: Duration,
}

/// The page and the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where connections are accepted.
    pub listen: SocketAddr,
    /// The certificate chain, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// The file of tokens and their roles.
    pub token_file: Option<PathBuf>,
    /// What a client may cost.
    pub limits: HttpLimits,
}

/// What a client may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Most bytes of a request's body.
    pub body: Bytes,
    /// Most bytes of a request's line and headers.
    pub header: Bytes,
    /// How long a client may take to send them.
    pub header_timeout: Duration,
    /// How long a whole request may take.
    pub request_timeout: Duration,
    /// How long a connection may idle between requests.
    pub idle_timeout: Duration,
    /// Most connections at a time.
    pub connections: u32,
}

/// What obs itself may cost, and when it stands back.
#[derive(Clone, Debug, PartialEq)]
pub struct GovernorConfig {
    /// Whether work is shed above the budgets.
    pub enabled: bool,
    /// Most CPU time, in percent of the whole host (all CPUs).
    pub cpu_percent: Percent,
    /// Most memory: resident, and in the kernel's maps.
    pub memory_mb: Megabytes,
    /// How often costs are judged.
    pub interval: Duration,
    /// How many judgements in a row must be above a budget before the next step is shed.
    pub shed_after: u32,
    /// How many judgements in a row must be well below the budgets before a step is taken back.
    pub recover_after: u32,
    /// What "well below" is, in percent of a budget.
    pub recover_below: Percent,
    /// Longest wait before a step is tried again that was shed again right after it had been taken back.
    pub holdoff_max: Duration,
    /// When the host itself is in distress.
    pub breaker: BreakerConfig,
}

/// When the host itself is in distress, and obs measures nothing at all.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Whether obs pauses.
    pub enabled: bool,
    /// Load (of one minute) per CPU, above which it pauses.
    pub load_per_core: f64,
    /// Share of time in which all work waited for memory (PSI `full`, ten seconds), above which it pauses.
    pub memory_pressure: Percent,
    /// Share of memory that is available, below which it pauses.
    pub memory_available: Percent,
    /// Where it resumes, in percent of the thresholds.
    pub resume_below: Percent,
    /// How long the host must have been below that.
    pub resume_after: Duration,
}

/// What the agent says of its own work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How much.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// Into which file; `None` is standard error.
    pub file: Option<PathBuf>,
    /// Most bytes of a file before it is set aside.
    pub file_size: Bytes,
    /// How many files are kept, the current one included.
    pub files: u32,
}

/// What is kept out of all records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivacyConfig {
    /// Whether secrets are taken out of command lines.
    pub redact: bool,
    /// What else is taken out: the first group of each match, or else the whole match.
    pub redact_patterns: Vec<Pattern>,
}

/// The resource monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcesConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// How often everything is read.
    pub interval: Duration,
    /// Most processes with series of their own; the others are added up.
    pub processes: u32,
}

/// Unwinding of stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnwindConfig {
    /// Kernel memory for unwind tables.
    pub memory: Bytes,
}

/// Names of functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolsConfig {
    /// The folder for names that were found; `None` is `symbols` in the state folder.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes that it may take.
    pub cache_size: Bytes,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The defaults of a binary without collectors; [`AgentConfig::defaults`] adds those that there are.
impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/obs"),
            window: 10 * SECOND,
            collectors: CollectorsConfig::default(),
            filters: FiltersConfig { comms: Vec::new(), cgroups: Vec::new(), exclude_self: false },
            store: StoreConfig {
                retention_age: 7 * DAY,
                windows_age: 2 * DAY,
                retention_bytes: Bytes::megabytes(500),
                block_length: 2 * HOUR,
            },
            http: HttpConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 7373)),
                tls_cert: None,
                tls_key: None,
                token_file: None,
                limits: HttpLimits {
                    body: Bytes::megabytes(1),
                    header: Bytes::new(16 << 10),
                    header_timeout: 10 * SECOND,
                    request_timeout: 30 * SECOND,
                    idle_timeout: MINUTE,
                    connections: 256,
                },
            },
            governor: GovernorConfig {
                enabled: true,
                cpu_percent: Percent::new(1.0),
                memory_mb: Megabytes::new(100),
                interval: 5 * SECOND,
                shed_after: 3,
                recover_after: 12,
                recover_below: Percent::new(80.0),
                holdoff_max: HOUR,
                breaker: BreakerConfig {
                    enabled: true,
                    load_per_core: 16.0,
                    memory_pressure: Percent::new(20.0),
                    memory_available: Percent::new(2.0),
                    resume_below: Percent::new(80.0),
                    resume_after: MINUTE,
                },
            },
            log: LogConfig {
                level: LogLevel::Info,
                format: LogFormat::Auto,
                file: None,
                file_size: Bytes::megabytes(10),
                files: 5,
            },
            privacy: PrivacyConfig { redact: true, redact_patterns: Vec::new() },
            resources: ResourcesConfig { enabled: true, interval: 10 * SECOND, processes: 1_000 },
            unwind: UnwindConfig { memory: Bytes::new(16 << 20) },
            symbols: SymbolsConfig { cache_dir: None, cache_size: Bytes::megabytes(256) },
        }
    }
}

impl Section for AgentConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            state_dir,
            window,
            collectors,
            filters,
            store,
            http,
            governor,
            log,
            privacy,
            resources,
            unwind,
            symbols,
        } = self;
        visitor.field("state_dir", state_dir, restart("the folder is locked and open"));
        visitor.field("window", window, restart("windows of two lengths cannot be merged").within(SECOND, HOUR));
        visitor.section("collectors", collectors);
        visitor.section("filters", filters);
        visitor.section("store", store);
        visitor.section("http", http);
        visitor.section("governor", governor);
        visitor.section("log", log);
        visitor.section("privacy", privacy);
        visitor.section("resources", resources);
        visitor.section("unwind", unwind);
        visitor.section("symbols", symbols);
    }
}

impl Section for CollectorsConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { by_name } = self;
        for (name, collector) in by_name {
            visitor.section(name, collector);
        }
    }
}

impl Section for CollectorConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { enabled, frequency, kinds } = self;
        visitor.field("enabled", enabled, live());
        if let Some(frequency) = frequency {
            visitor.field("frequency", frequency, live());
        }
        if let Some(KindsConfig { kinds, by }) = kinds {
            visitor.field("kinds", kinds, live());
            visitor.field("by", by, live());
        }
    }
}

impl Section for FiltersConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { comms, cgroups, exclude_self } = self;
        const WHY: &str = "the kernel side is built for its filter when it is loaded";
        visitor.field("comms", comms, restart(WHY));
        visitor.field("cgroups", cgroups, restart(WHY));
        visitor.field("exclude_self", exclude_self, restart(WHY));
    }
}

impl Section for StoreConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { retention_age, windows_age, retention_bytes, block_length } = self;
        visitor.field("retention_age", retention_age, live().within(HOUR, 365 * DAY));
        visitor.field("windows_age", windows_age, live().within(HOUR, 365 * DAY));
        visitor.field("retention_bytes", retention_bytes, live().within(Bytes::megabytes(10), Bytes::new(1 << 40)));
        let rule = restart("the block that is open was begun with the old length");
        visitor.field("block_length", block_length, rule.within(MINUTE, DAY));
    }
}

impl Section for HttpConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { listen, tls_cert, tls_key, token_file, limits } = self;
        visitor.field("listen", listen, restart("the socket is open"));
        const WHY: &str = "the server keeps to its files; what is in them is taken";
        visitor.field("tls_cert", tls_cert, restart(WHY));
        visitor.field("tls_key", tls_key, restart(WHY));
        visitor.field("token_file", token_file, restart(WHY));
        visitor.section("limits", limits);
    }
}

impl Section for HttpLimits {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { body, header, header_timeout, request_timeout, idle_timeout, connections } = self;
        const WHY: &str = "the server is set up with its limits";
        visitor.field("body", body, restart(WHY).within(Bytes::new(1_000), Bytes::megabytes(64)));
        visitor.field("header", header, restart(WHY).within(Bytes::new(1 << 10), Bytes::new(1 << 20)));
        visitor.field("header_timeout", header_timeout, restart(WHY).within(SECOND / 10, 5 * MINUTE));
        visitor.field("request_timeout", request_timeout, restart(WHY).within(SECOND, HOUR));
        visitor.field("idle_timeout", idle_timeout, restart(WHY).within(SECOND, HOUR));
        visitor.field("connections", connections, restart(WHY).within(4, 10_000));
    }
}

impl Section for GovernorConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            enabled,
            cpu_percent,
            memory_mb,
            interval,
            shed_after,
            recover_after,
            recover_below,
            holdoff_max,
            breaker,
        } = self;
        visitor.field("enabled", enabled, live());
        visitor.field("cpu_percent", cpu_percent, live().within(Percent::new(0.05), Percent::new(100.0)));
        visitor.field("memory_mb", memory_mb, live().within(Megabytes::new(20), Megabytes::new(1_000_000)));
        visitor.field("interval", interval, live().within(SECOND, 5 * MINUTE));
        visitor.field("shed_after", shed_after, live().within(1, 1_000));
        visitor.field("recover_after", recover_after, live().within(1, 10_000));
        visitor.field("recover_below", recover_below, live().within(Percent::new(10.0), Percent::new(95.0)));
        visitor.field("holdoff_max", holdoff_max, live().within(MINUTE, DAY));
        visitor.section("breaker", breaker);
    }
}

impl Section for BreakerConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { enabled, load_per_core, memory_pressure, memory_available, resume_below, resume_after } = self;
        visitor.field("enabled", enabled, live());
        visitor.field("load_per_core", load_per_core, live().within(0.1, 10_000.0));
        visitor.field("memory_pressure", memory_pressure, live().within(Percent::new(0.1), Percent::new(100.0)));
        visitor.field("memory_available", memory_available, live().within(Percent::new(0.0), Percent::new(50.0)));
        visitor.field("resume_below", resume_below, live().within(Percent::new(10.0), Percent::new(95.0)));
        visitor.field("resume_after", resume_after, live().within(SECOND, DAY));
    }
}

impl Section for LogConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { level, format, file, file_size, files } = self;
        const WHY: &str = "the log is open";
        visitor.field("level", level, live());
        visitor.field("format", format, restart(WHY));
        visitor.field("file", file, restart(WHY));
        visitor.field("file_size", file_size, restart(WHY).within(Bytes::new(10_000), Bytes::megabytes(10_000)));
        visitor.field("files", files, restart(WHY).within(1, 100));
    }
}

impl Section for PrivacyConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { redact, redact_patterns } = self;
        visitor.field("redact", redact, live());
        visitor.field("redact_patterns", redact_patterns, live());
    }
}

impl Section for ResourcesConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { enabled, interval, processes } = self;
        visitor.field("enabled", enabled, live());
        visitor.field("interval", interval, live().within(SECOND, HOUR));
        visitor.field("processes", processes, live().within(0, 100_000));
    }
}

impl Section for UnwindConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { memory } = self;
        let rule = restart("the kernel's map has its size for life");
        visitor.field("memory", memory, rule.within(Bytes::new(1 << 20), Bytes::new(1 << 30)));
    }
}

impl Section for SymbolsConfig {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { cache_dir, cache_size } = self;
        const WHY: &str = "the cache is open";
        visitor.field("cache_dir", cache_dir, restart(WHY));
        visitor.field("cache_size", cache_size, restart(WHY).within(Bytes::megabytes(1), Bytes::megabytes(100_000)));
    }
}
