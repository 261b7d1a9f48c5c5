//! A recording: one collector, for a while, into one profile.
//!
//! One thread does it all: between two looks at the kernel it sleeps in `poll`, so there is nothing to hand over and no
//! queue that could overflow. What waits, waits in the kernel's bounded maps, which count what they refuse.

use std::{
    collections::HashSet,
    ffi::OsString,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::{
    convert::process_event,
    signals::EndRequests,
    targets::{Targets, check_threads},
    unwind::Supply,
};
use crate::{
    collect::{Collector, CollectorSpec, Polled, Settings},
    config::symbol_cache::{self, SymbolCache},
    enrich::{
        build::{BuildOptions, BuiltProfile, ProfileBuilder, ValueSource},
        process::{Ledger, Procfs},
        symbolize::{CacheOptions, KernelCode, Symbolizer, SymbolizerOptions},
    },
    kernel::{
        launch::{Held, Running},
        read::{RunTimeStats, map_memory_bytes},
        sideband::{Sideband, SidebandEvent, SidebandOptions},
        sys::jited::jited_functions,
    },
    model::{
        process::{ProcessEvent, ProcessKey},
        profile::{FrameDetail, Profile},
        record::Record,
        summary::{Cost, ProgramCost, Summary},
    },
    telemetry::cost,
};

/// Longest time between two looks at the kernel.
const TICK: Duration = Duration::from_millis(100);

/// Shortest time between two looks for the sake of new mappings: bounds what a storm of short programs costs.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Longest time that the end of a recording waits for unwind tables that its last stacks need.
const SETTLE_MAX: Duration = Duration::from_secs(3);

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
    let mut session = Session::start(spec, &settings, detail)?;
    let started = Instant::now();
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let running = held.map(Held::release).transpose();
    let running = running.with_context(|| format!("cannot run {}", command[0].display()))?;

    let deadline = duration.map(|duration| started + duration);
    session.measure(started, deadline, &signals, &mut targets, show)?;
    session.collector.stop();
    let elapsed = started.elapsed();
    session.drain()?;
    session.settle()?;

    show(&Phase::Symbolizing);
    let (profile, mut summary) = session.finish(symbol_cache, nanoseconds(started_unix), nanoseconds(elapsed))?;
    summary.collector = spec.name.to_owned();
    summary.duration_seconds = elapsed.as_secs_f64();
    if spec.samples {
        summary.event = Some(settings.event.name().to_owned());
        summary.frequency_hertz = Some(u64::from(settings.frequency.hertz()));
    }
    Ok(Recorded { profile, command: running, summary, cpu_before })
}

/// A recording under way.
struct Session {
    collector: Box<dyn Collector>,
    sideband: Option<Sideband>,
    supply: Option<Supply>,
    /// Written by the thread that builds unwind tables, so that they are loaded at once.
    table_built: rustix::fd::OwnedFd,
    stats: Option<RunTimeStats>,
    ledger: Ledger,
    kernel_code: KernelCode,
    builder: ProfileBuilder,
    /// Process images that were measured and have not ended.
    measured: HashSet<ProcessKey>,
    looked: Instant,
    drained: Instant,
    side_band_lost: u64,
    notes: Vec<String>,
}

impl Session {
    fn start(spec: &CollectorSpec, settings: &Settings, detail: FrameDetail) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        let stats = RunTimeStats::enable();
        let stats =
            stats.inspect_err(|error| notes.push(format!("the cost inside the kernel is not known: {error}"))).ok();
        // Inodes, not build ids: /proc tells inodes too, so that both sources mean the same file.
        // Before the collector: a process that it measures must not have begun unseen.
        let options = SidebandOptions { build_ids: false, wakeup_bytes: 1, ..SidebandOptions::default() };
        let sideband = Sideband::open(options);
        let sideband = sideband
            .inspect_err(|error| notes.push(format!("processes that end quickly may lack names: {error}")))
            .ok();
        let mut collector = (spec.start)(settings)?;

        let table_built = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an event")?;
        let waker = table_built.try_clone().context("cannot share an event")?;
        // A counter that is full has woken this thread already.
        let wake = move || {
            let _ = rustix::io::write(&waker, &1_u64.to_ne_bytes());
        };
        let maps = collector.take_unwind_maps()?;
        let supply = maps.map(|maps| Supply::start(maps, wake)).transpose()?;

        let values = collector.value_types();
        let weighted = values
            .iter()
            .enumerate()
            .map(|(index, value)| (value.clone(), if index == 0 { ValueSource::Count } else { ValueSource::Weight }));
        let options = BuildOptions {
            collector: spec.name,
            values: weighted.collect(),
            period: collector.period().zip(values.last()).map(|(period, kind)| (kind.clone(), period)),
            detail,
        };
        Ok(Self {
            collector,
            sideband,
            supply,
            table_built,
            stats,
            ledger: Ledger::new(Procfs::new()),
            kernel_code: KernelCode::default(),
            builder: ProfileBuilder::new(options),
            measured: HashSet::new(),
            looked: Instant::now(),
            drained: Instant::now(),
            side_band_lost: 0,
            notes,
        })
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
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            self.sleep(left.map_or(TICK, |left| left.min(TICK)), signals.as_fd(), targets.wake_fd())?;
            let ended = targets.all_ended();
            self.look()?;
            if self.drained.elapsed() >= DRAIN_EVERY {
                self.drain()?;
            }
            if ended || signals.received() {
                return Ok(());
            }
            show(&Phase::Recording { elapsed: started.elapsed(), samples: self.collector.sample_counts()?.taken });
        }
    }

    /// Waits until something happens, at most `timeout`.
    fn sleep(&self, timeout: Duration, signals: BorrowedFd<'_>, targets: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        let own = [signals, self.collector.wake_fd(), self.table_built.as_fd()];
        // Programs map their libraries one by one: once is enough for all of them.
        let is_rested = self.looked.elapsed() >= LOOK_PAUSE;
        let sideband = self.sideband.iter().filter(|_| is_rested).flat_map(Sideband::fds);
        let others = sideband.chain(targets);
        let timeout = if is_rested { timeout } else { timeout.min(LOOK_PAUSE) };
        let mut fds: Vec<_> =
            own.into_iter().chain(others).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for samples"),
        }
    }

    /// Takes what cannot wait: what processes do, which of them are measured, and which unwind tables are ready.
    fn look(&mut self) -> anyhow::Result<()> {
        self.looked = Instant::now();
        let Self { collector, sideband, supply, ledger, measured, kernel_code, .. } = self;
        if let Some(sideband) = sideband {
            let read = sideband.read(|event| {
                if let SidebandEvent::KernelCode { start, length_bytes, name, .. } = &event {
                    kernel_code.add_named(*start, *length_bytes, &String::from_utf8_lossy(name));
                }
                if let Some(event) = process_event(event) {
                    ledger.apply(event);
                }
            });
            self.side_band_lost += read.lost;
        }
        let Polled { processes, snapshots } = collector.poll()?;
        for event in processes {
            if let ProcessEvent::Seen { key, .. } = event {
                measured.insert(key);
            }
            ledger.apply(event);
        }
        if let Some(supply) = supply {
            // The counter only wakes; that it may be empty is the usual case.
            let _ = rustix::io::read(&self.table_built, &mut [0; 8]);
            supply.tell(ledger, measured)?;
            supply.load_built()?;
            supply.walk(snapshots, |id, stack| collector.complete(id, stack))?;
        }
        Ok(())
    }

    /// Waits, after the end, for the unwind tables of the stacks that still lack them; then takes what there is.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.look()?;
        let since = Instant::now();
        while self.supply.as_ref().is_some_and(Supply::has_unfinished) && since.elapsed() < SETTLE_MAX {
            let mut fds = [PollFd::new(&self.table_built, PollFlags::IN)];
            let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_PAUSE.subsec_nanos().into() };
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for unwind tables"),
            }
            self.look()?;
        }
        let Self { collector, supply, .. } = self;
        if let Some(supply) = supply {
            supply.finish(|id, stack| collector.complete(id, stack));
        }
        self.drain()
    }

    /// Takes the counts out of the kernel.
    fn drain(&mut self) -> anyhow::Result<()> {
        let mut records = Vec::new();
        self.collector.drain(&mut records)?;
        for record in &records {
            match record {
                Record::StackSample(sample) => self.builder.add(&mut self.ledger, sample),
                // Recordings are made of stacks; the agent takes the other shapes.
                Record::Counter(_) | Record::Gauge(_) | Record::Histogram(_) | Record::Event(_) => {}
            }
        }
        if let Some(supply) = &mut self.supply {
            let is_over = |key: &ProcessKey| self.ledger.has_ended(*key) && !supply.walks(*key);
            let ended: Vec<ProcessKey> = self.measured.extract_if(is_over).collect();
            ended.into_iter().for_each(|key| supply.forget(key));
            supply.begin_epoch()?;
        }
        self.drained = Instant::now();
        Ok(())
    }

    /// Finds names, and adds everything up.
    fn finish(
        self,
        symbol_cache: SymbolCache,
        started_unix_ns: u64,
        duration_ns: u64,
    ) -> anyhow::Result<(Profile, Summary)> {
        let Self { collector, supply, stats, mut ledger, mut kernel_code, builder, side_band_lost, mut notes, .. } =
            self;
        let cache = match symbol_cache {
            SymbolCache::Off => None,
            SymbolCache::Folder(folder) => Some(CacheOptions { folder, bytes_max: symbol_cache::BYTES_MAX_DEFAULT }),
        };
        let mut symbolizer = Symbolizer::new(SymbolizerOptions { cache, ..SymbolizerOptions::default() });
        match jited_functions() {
            Ok(functions) => kernel_code.set_loaded(functions),
            Err(error) => notes.push(format!("BPF programs that ran before have no names: {error}")),
        }
        symbolizer.set_kernel_code(kernel_code);
        let mut samples = collector.sample_counts()?;
        let programs: Vec<_> = collector.program_stats();
        let map_bytes = map_memory_bytes().context("cannot read the size of the BPF maps")?;
        let BuiltProfile { profile, user_stacks, frames, processes, samples: _, samples_dropped, problems } =
            builder.finish(&mut ledger, &mut symbolizer, started_unix_ns, duration_ns);
        if samples_dropped > 0 {
            samples.taken -= samples_dropped;
            samples.lost.insert("too many different stacks".to_owned(), samples_dropped);
        }
        if side_band_lost > 0 {
            notes.push(format!("{side_band_lost} notices of processes were lost: some frames may lack names"));
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
        if let Some(supply) = &supply {
            notes.extend(supply.notes());
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

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
