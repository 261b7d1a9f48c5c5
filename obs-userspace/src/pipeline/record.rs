//! A recording: one or more collectors, for a while, each into one profile.

use std::{
    ffi::OsString,
    os::fd::AsFd as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;

use super::{
    session::Session,
    signals::EndRequests,
    targets::{Targets, check_threads},
};
use crate::{
    collect::{CollectorSpec, Settings},
    config::symbol_cache::{self, SymbolCache},
    enrich::{
        build::{BuildOptions, BuiltProfile, ProfileBuilder, ValueSource},
        process::Ledger,
        symbolize::{CacheOptions, Symbolizer, SymbolizerOptions},
    },
    kernel::{
        launch::{Held, Running},
        read::{RunTimeStats, map_memory_bytes},
        sys::jited::jited_functions,
    },
    model::{
        profile::{FrameDetail, Profile},
        record::Record,
        summary::{Cost, ProgramCost, Summary},
    },
    telemetry::cost,
};

/// How often counts are taken out of the kernel: often enough that its maps do not fill, seldom enough to cost little.
const DRAIN_EVERY: Duration = Duration::from_secs(1);

/// Most files whose addresses lack names that a summary speaks of.
const PROBLEMS_SHOWN_MAX: usize = 5;

/// What to record.
#[derive(Debug)]
pub struct Recording<const N: usize> {
    /// By which collectors, at the same time.
    pub specs: [&'static CollectorSpec; N],
    /// Whom, and how.
    pub settings: Settings,
    /// How long; without it until a signal comes or everything that was chosen has ended.
    pub duration: Option<Duration>,
    /// A command to start and to measure; empty for none.
    pub command: Vec<OsString>,
    /// What distinguishes frames.
    pub detail: FrameDetail,
    /// Whether names are kept for the next recording, and where.
    pub symbol_cache: SymbolCache,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// Measuring.
    Recording {
        /// Since when.
        elapsed: Duration,
        /// Samples taken so far.
        samples: u64,
    },
    /// Done measuring, looking up names.
    Symbolizing,
}

/// What a recording brought.
#[derive(Debug)]
pub struct Recorded<const N: usize> {
    /// What each collector brought, in the order of [`Recording::specs`].
    pub parts: [RecordedPart; N],
    /// The command that was started, which may still run.
    pub command: Option<Running>,
    cpu_before: Duration,
}

/// What one collector of a recording brought.
#[derive(Debug)]
pub struct RecordedPart {
    /// The profile.
    pub profile: Profile,
    /// How long the threads that were measured lived together, in nanoseconds, if the collector counts all that they did.
    pub thread_time_ns: Option<u64>,
    summary: Summary,
}

impl<const N: usize> Recorded<N> {
    /// The closing summary of each part; what obs itself cost is counted for all together, up to this call.
    #[must_use]
    pub fn summaries(&self) -> [Summary; N] {
        let process_cpu_seconds = cost::cpu_time().saturating_sub(self.cpu_before).as_secs_f64();
        let rss_peak_bytes = cost::rss_peak_bytes();
        self.parts.each_ref().map(|part| {
            let cost = Cost { process_cpu_seconds, rss_peak_bytes, ..part.summary.cost.clone() };
            Summary { cost, ..part.summary.clone() }
        })
    }
}

/// Makes a recording.
///
/// # Errors
/// If what was asked for does not exist, or the kernel refuses.
pub fn run<const N: usize>(recording: Recording<N>, show: &mut dyn FnMut(&Phase)) -> anyhow::Result<Recorded<N>> {
    let Recording { specs, mut settings, duration, command, detail, symbol_cache } = recording;
    let cpu_before = cost::cpu_time();
    let mut targets = Targets::open(&settings.filter.pids)?;
    check_threads(&settings.filter.tids)?;
    let signals = EndRequests::listen().context("cannot listen for signals")?;

    let held = if command.is_empty() {
        None
    } else {
        Some(Held::start(&command).with_context(|| format!("cannot start {}", command[0].display()))?)
    };
    if let Some(held) = &held {
        settings.filter.pids_at_exec.push(held.pid());
        targets = Targets::open(&[held.pid()])?;
    }
    let mut all = all(specs.map(|spec| Measuring::start(spec, &settings, detail)))?;
    let started = Instant::now();
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let running = held.map(Held::release).transpose();
    let running = running.with_context(|| format!("cannot run {}", command[0].display()))?;

    let deadline = duration.map(|duration| started + duration);
    measure(&mut all, started, deadline, &signals, &mut targets, show)?;
    // The last one first: those that began earlier see all that it saw.
    let mut stopped = started;
    for measuring in all.iter_mut().rev() {
        stopped = measuring.session.stop()?;
    }
    let elapsed = stopped.saturating_duration_since(started);
    all.iter_mut().try_for_each(Measuring::take_rest)?;

    show(&Phase::Symbolizing);
    let parts = all.map(|measuring| {
        let spec = measuring.spec;
        let mut part = measuring.finish(symbol_cache.clone(), nanoseconds(started_unix), nanoseconds(elapsed))?;
        part.summary.collector = spec.name.to_owned();
        part.summary.duration_seconds = elapsed.as_secs_f64();
        if spec.samples {
            part.summary.event = Some(settings.event.name().to_owned());
            part.summary.frequency_hertz = Some(u64::from(settings.frequency.hertz()));
        }
        Ok(part)
    });
    Ok(Recorded { parts: self::all(parts)?, command: running, cpu_before })
}

/// All of them, or the first error.
fn all<T, const N: usize>(results: [anyhow::Result<T>; N]) -> anyhow::Result<[T; N]> {
    let items: Vec<T> = results.into_iter().collect::<anyhow::Result<_>>()?;
    items.try_into().map_err(|_| anyhow::anyhow!("an array changed its length"))
}

/// Measures until the deadline, a signal, or the end of everything that was chosen.
fn measure(
    all: &mut [Measuring],
    started: Instant,
    deadline: Option<Instant>,
    signals: &EndRequests,
    targets: &mut Targets,
    show: &mut dyn FnMut(&Phase),
) -> anyhow::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        if let [first, others @ ..] = &*all {
            let others = others.iter().flat_map(|other| other.session.wake_fds());
            first.session.sleep(left, others.chain([signals.as_fd()]).chain(targets.wake_fd()))?;
        }
        let ended = targets.all_ended();
        let mut samples = 0;
        for measuring in &mut *all {
            measuring.look()?;
            samples += measuring.samples;
        }
        show(&Phase::Recording { elapsed: started.elapsed(), samples });
        if ended || signals.received() {
            return Ok(());
        }
    }
}

/// A collector of a recording under way.
struct Measuring {
    spec: &'static CollectorSpec,
    session: Session,
    stats: Option<RunTimeStats>,
    builder: ProfileBuilder,
    drained: Instant,
    /// Samples so far, when they were last counted.
    samples: u64,
}

impl Measuring {
    fn start(spec: &'static CollectorSpec, settings: &Settings, detail: FrameDetail) -> anyhow::Result<Self> {
        let stats = RunTimeStats::enable();
        let mut session = Session::start(spec, settings)?;
        let stats = stats
            .inspect_err(|error| session.notes.push(format!("the cost inside the kernel is not known: {error}")))
            .ok();
        let values = session.collector.value_types();
        let weighted = values
            .iter()
            .enumerate()
            .map(|(index, value)| (value.clone(), if index == 0 { ValueSource::Count } else { ValueSource::Weight }));
        let options = BuildOptions {
            collector: spec.name,
            values: weighted.collect(),
            period: session.collector.period().zip(values.last()).map(|(period, kind)| (kind.clone(), period)),
            detail,
        };
        Ok(Self { spec, session, stats, builder: ProfileBuilder::new(options), drained: Instant::now(), samples: 0 })
    }

    /// Takes what cannot wait, and now and then what was counted.
    fn look(&mut self) -> anyhow::Result<()> {
        self.session.look()?;
        if self.drained.elapsed() >= DRAIN_EVERY {
            let Self { session, builder, .. } = self;
            session.drain(|ledger, record| add(builder, ledger, record))?;
            self.drained = Instant::now();
            self.samples = self.session.collector.sample_counts()?.taken;
        }
        Ok(())
    }

    /// Takes what there is, after all have stopped.
    fn take_rest(&mut self) -> anyhow::Result<()> {
        let Self { session, builder, .. } = self;
        session.finish(|ledger, record| add(builder, ledger, record))
    }

    /// Finds names, and adds everything up.
    fn finish(self, symbol_cache: SymbolCache, started_unix_ns: u64, duration_ns: u64) -> anyhow::Result<RecordedPart> {
        let Self { spec: _, mut session, stats, builder, drained: _, samples: _ } = self;
        let mut notes = session.all_notes();
        let mut symbolizer = symbolizer(symbol_cache);
        match jited_functions() {
            Ok(functions) => session.kernel_code.set_loaded(functions),
            Err(error) => notes.push(format!("BPF programs that ran before have no names: {error}")),
        }
        symbolizer.set_kernel_code(std::mem::take(&mut session.kernel_code));
        let mut samples = session.collector.sample_counts()?;
        let programs: Vec<_> = session.collector.program_stats();
        let map_bytes = map_memory_bytes().context("cannot read the size of the BPF maps")?;
        let BuiltProfile { profile, user_stacks, frames, processes, samples: _, samples_dropped, problems } =
            builder.gather(&session.ledger).name(&mut symbolizer, started_unix_ns, duration_ns);
        samples.lost.retain(|_, count| *count > 0);
        if samples_dropped > 0 {
            samples.taken -= samples_dropped;
            samples.lost.insert("too many different stacks".to_owned(), samples_dropped);
        }
        for problem in problems.iter().take(PROBLEMS_SHOWN_MAX) {
            let detail = problem.detail.as_deref().map_or(String::new(), |detail| format!(" ({detail})"));
            let path = if problem.path.is_empty() { "unknown file" } else { &*problem.path };
            notes.push(format!(
                "{path}: {} addresses without a name: {}{detail}",
                problem.addresses,
                problem.reason.phrase()
            ));
        }
        let run_time_ns: u64 = programs.iter().map(|program| program.run_time_ns).sum();
        let cost = Cost {
            bpf_cpu_seconds: stats.map(|_| Duration::from_nanos(run_time_ns).as_secs_f64()),
            map_bytes,
            programs: programs
                .into_iter()
                .map(|program| ProgramCost {
                    name: program.name,
                    run_count: program.run_count,
                    run_time_ns: program.run_time_ns,
                })
                .collect(),
            ..Cost::default()
        };
        let summary = Summary { samples, user_stacks, frames, processes, cost, notes, ..Summary::default() };
        Ok(RecordedPart { profile, thread_time_ns: session.collector.thread_time_ns()?, summary })
    }
}

/// Recordings are made of stacks; the agent takes the other shapes.
fn add(builder: &mut ProfileBuilder, ledger: &mut Ledger, record: &Record) {
    match record {
        Record::StackSample(sample) => builder.add(ledger, sample),
        Record::Counter(_) | Record::Gauge(_) | Record::Histogram(_) | Record::Event(_) => {}
    }
}

/// Finds names, with what it knows on disk.
fn symbolizer(cache: SymbolCache) -> Symbolizer {
    let cache = match cache {
        SymbolCache::Off => None,
        SymbolCache::Folder(folder) => Some(CacheOptions { folder, bytes_max: symbol_cache::BYTES_MAX_DEFAULT }),
    };
    Symbolizer::new(SymbolizerOptions { cache, ..SymbolizerOptions::default() })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
