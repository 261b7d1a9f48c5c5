//! From the configuration to what each part of the agent is started with.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use crate::{
    collect::{
        COLLECTORS, CollectorSpec, Settings,
        latency::{self, By, LATENCY_KINDS, LatencyOptions, Room},
        resources::ResourceOptions,
    },
    config::{
        agent::{
            AgentConfig, BreakerConfig, GovernorConfig, KeyPart, KnownCollector, KnownKinds, LogConfig, LogFormat,
            LogLevel, Word,
        },
        filter::Filter,
        sampling::SamplingEvent,
    },
    enrich::symbolize::{CacheOptions, Indexing, SymbolizerOptions},
    telemetry::{
        Level,
        governor::{BreakerPolicy, Policy},
        host,
        log::{LogForm, LogOptions, LogTarget},
    },
};

/// In which window with samples of a file the file's inlined functions are looked for: in a build, most programs are gone by
/// then.
const INDEXED_FROM_WINDOW: u32 = 3;

/// How much of the budget of CPU time may go into indexes of names.
const INDEX_BUDGET_SHARE: f64 = 0.5;

/// The collectors that the configuration may name.
#[must_use]
pub fn known_collectors() -> Vec<KnownCollector<'static>> {
    let known = |spec: &'static CollectorSpec| KnownCollector {
        name: spec.name,
        summary: spec.summary,
        samples: spec.samples,
        enabled: true,
        kinds: (spec.name == latency::SPEC.name)
            .then_some(KnownKinds { all: &LATENCY_NAMES, default: &LATENCY_NAMES_DEFAULT }),
    };
    // Those that the agent runs: what samples, and latencies. Stacks of waits would need unwind tables of their own.
    COLLECTORS.iter().filter(|spec| spec.samples || spec.name == latency::SPEC.name).map(known).collect()
}

/// What can be measured of latencies.
static LATENCY_NAMES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| LATENCY_KINDS.iter().map(|kind| kind.name).collect());

/// What is measured of latencies by default: what tells most for what it costs.
const LATENCY_NAMES_DEFAULT: [&str; 4] = ["runqueue", "block", "connect", "retransmit"];

/// Histograms that are kept apart by default: of a handful of states, disks and outcomes there are not more.
const LATENCY_KEYS: u32 = 256;

/// Threads of which it is known at a time since when they wait.
const LATENCY_STARTS: u32 = 16_384;

/// What latencies are measured of, and of whom.
pub(super) fn latencies(config: &AgentConfig) -> LatencyOptions {
    let chosen = config.collectors.by_name.get(latency::SPEC.name).and_then(|collector| collector.kinds.as_ref());
    let filter = settings(config, &latency::SPEC).filter;
    let names = chosen.into_iter().flat_map(|chosen| chosen.kinds.iter().map(Word::name));
    let by = |part| chosen.is_some_and(|chosen| chosen.by.contains(&part));
    let by = By { cgroup: by(KeyPart::Cgroup), process: by(KeyPart::Process) };
    let keys = if by == By::default() { LATENCY_KEYS } else { Room::default().keys };
    LatencyOptions {
        kinds: names.filter_map(latency::find_kind).collect(),
        filter,
        by,
        system_calls: None,
        room: Room { keys, counts: keys, starts: LATENCY_STARTS, ..Room::default() },
    }
}

pub(super) fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
        LogLevel::Trace => Level::Trace,
    }
}

pub(super) fn log(config: &LogConfig) -> LogOptions {
    let LogConfig { level: wanted, format, file, file_size, files } = config;
    LogOptions {
        level: level(*wanted),
        form: match format {
            LogFormat::Auto => LogForm::Auto,
            LogFormat::Human => LogForm::Human,
            LogFormat::Json => LogForm::Json,
        },
        target: match file {
            None => LogTarget::StandardError,
            Some(path) => LogTarget::File { path: path.clone(), bytes_max: file_size.bytes(), files_max: *files },
        },
    }
}

/// How many judgements a time is.
fn ticks(duration: Duration, interval: Duration) -> u32 {
    let ticks = duration.as_secs_f64() / interval.as_secs_f64().max(1e-3);
    // A float that is too large becomes the largest number.
    ticks.ceil() as u32
}

pub(super) fn policy(config: &GovernorConfig) -> Policy {
    let GovernorConfig {
        enabled,
        cpu_percent,
        memory_mb,
        interval,
        shed_after,
        recover_after,
        recover_below,
        holdoff_max,
        breaker,
    } = config;
    let BreakerConfig { enabled: breaks, load_per_core, memory_pressure, memory_available, resume_below, resume_after } =
        breaker;
    Policy {
        enabled: *enabled,
        cpu_share_max: cpu_percent.share(),
        memory_bytes_max: memory_mb.bytes(),
        shed_after_ticks: *shed_after,
        recover_after_ticks: *recover_after,
        recover_below: recover_below.share(),
        holdoff_ticks_max: ticks(*holdoff_max, *interval),
        breaker: breaks.then(|| BreakerPolicy {
            load_per_core_max: *load_per_core,
            memory_pressure_max: memory_pressure.share(),
            memory_available_min: memory_available.share(),
            resume_below: resume_below.share(),
            resume_after_ticks: ticks(*resume_after, *interval),
        }),
    }
}

/// What a collector is started with.
pub(super) fn settings(config: &AgentConfig, spec: &CollectorSpec) -> Settings {
    let wanted = config.collectors.by_name.get(spec.name);
    Settings {
        filter: Filter {
            comms: config.filters.comms.iter().map(|comm| comm.name().to_owned()).collect(),
            cgroups: config.filters.cgroups.clone(),
            exclude_self: config.filters.exclude_self,
            ..Filter::default()
        },
        event: SamplingEvent::default(),
        frequency: wanted.and_then(|wanted| wanted.frequency).unwrap_or_default(),
        bpf_log: false,
        unwind_bytes: u32::try_from(config.unwind.memory.bytes()).unwrap_or(u32::MAX),
        ..Settings::default()
    }
}

pub(super) fn symbolizer(config: &AgentConfig) -> SymbolizerOptions {
    let folder: PathBuf = config.symbols.cache_dir.clone().unwrap_or_else(|| config.state_dir.join("symbols"));
    let cache = Some(CacheOptions { folder, bytes_max: config.symbols.cache_size.bytes() });
    let cpu_share_max = config.governor.cpu_percent.share() * host::cpus() as f64 * INDEX_BUDGET_SHARE;
    let indexing = Indexing::Aside { from_batch: INDEXED_FROM_WINDOW, cpu_share_max };
    SymbolizerOptions { indexing, cache, ..SymbolizerOptions::default() }
}

pub(super) fn resources(config: &AgentConfig) -> ResourceOptions {
    ResourceOptions {
        host_interval: config.resources.interval,
        process_interval: config.resources.interval,
        processes_max: config.resources.processes as usize,
    }
}
