//! A recording: one collector, for a while, into one profile.

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
pub struct Recording {
    /// By which collector.
    pub spec: &'static CollectorSpec,
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
pub struct Recorded {
    /// The profile.
    pub profile: Profile,
    /// The command that was started, which may still run.
    pub command: Option<Running>,
    summary: Summary,
    cpu_before: Duration,
}

impl Recorded {
    /// The closing summary; what obs itself cost is counted up to this call.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        summary.cost.process_cpu_seconds = cost::cpu_time().saturating_sub(self.cpu_before).as_secs_f64();
        summary.cost.rss_peak_bytes = cost::rss_peak_bytes();
        summary
    }
}

/// Makes a recording.
///
/// # Errors
/// If what was asked for does not exist, or the kernel refuses.
pub fn run(recording: Recording, show: &mut dyn FnMut(&Phase)) -> anyhow::Result<Recorded> {
    let Recording { spec, mut settings, duration, command, detail, symbol_cache } = recording;
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
    let mut measuring = Measuring::start(spec, &settings, detail)?;
    let started = Instant::now();
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let running = held.map(Held::release).transpose();
    let running = running.with_context(|| format!("cannot run {}", command[0].display()))?;

    let deadline = duration.map(|duration| started + duration);
    measuring.measure(started, deadline, &signals, &mut targets, show)?;
    let elapsed = started.elapsed();
    measuring.stop()?;

    show(&Phase::Symbolizing);
    let (profile, mut summary) = measuring.finish(symbol_cache, nanoseconds(started_unix), nanoseconds(elapsed))?;
    summary.collector = spec.name.to_owned();
    summary.duration_seconds = elapsed.as_secs_f64();
    if spec.samples {
        summary.event = Some(settings.event.name().to_owned());
        summary.frequency_hertz = Some(u64::from(settings.frequency.hertz()));
    }
    Ok(Recorded { profile, command: running, summary, cpu_before })
}

/// A recording under way.
struct Measuring {
    session: Session,
    stats: Option<RunTimeStats>,
    builder: ProfileBuilder,
    drained: Instant,
}

impl Measuring {
    fn start(spec: &CollectorSpec, settings: &Settings, detail: FrameDetail) -> anyhow::Result<Self> {
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
        Ok(Self { session, stats, builder: ProfileBuilder::new(options), drained: Instant::now() })
    }

    /// Measures until the deadline, a signal, or the end of everything that was chosen.
    fn measure(
        &mut self,
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
            self.session.sleep(left, std::iter::once(signals.as_fd()).chain(targets.wake_fd()))?;
            let ended = targets.all_ended();
            self.session.look()?;
            if self.drained.elapsed() >= DRAIN_EVERY {
                let Self { session, builder, .. } = self;
                session.drain(|ledger, record| add(builder, ledger, record))?;
                self.drained = Instant::now();
                let samples = self.session.collector.sample_counts()?.taken;
                show(&Phase::Recording { elapsed: started.elapsed(), samples });
            }
            if ended || signals.received() {
                return Ok(());
            }
        }
    }

    /// Stops measuring and takes what there is.
    fn stop(&mut self) -> anyhow::Result<()> {
        let Self { session, builder, .. } = self;
        session.finish(|ledger, record| add(builder, ledger, record))
    }

    /// Finds names, and adds everything up.
    fn finish(
        self,
        symbol_cache: SymbolCache,
        started_unix_ns: u64,
        duration_ns: u64,
    ) -> anyhow::Result<(Profile, Summary)> {
        let Self { mut session, stats, builder, drained: _ } = self;
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
        Ok((profile, Summary { samples, user_stacks, frames, processes, cost, notes, ..Summary::default() }))
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
