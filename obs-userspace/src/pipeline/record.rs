//! A recording: one collector, for a while, into one profile.
//!
//! One thread does it all: between two looks at the kernel it sleeps in `poll`, so there is nothing to hand over and no
//! queue that could overflow. What waits, waits in the kernel's bounded maps, which count what they refuse.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::fd::BorrowedFd,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    signals::EndRequests,
    targets::{Targets, check_threads},
};
use crate::{
    collect::{Collector, CollectorSpec, Settings},
    enrich::{ProfileBuilder, ProfileHeader, process::Ledger},
    kernel::{
        launch::{Held, Running},
        read::{RunTimeStats, map_memory_bytes},
        sideband::Sideband,
    },
    model::{
        profile::Profile,
        summary::{Cost, ProgramCost, SampleCounts, Summary},
    },
    telemetry::cost,
};

/// Longest time between two looks at the kernel.
const TICK: Duration = Duration::from_millis(100);

/// How often counts are taken out of the kernel: often enough that its maps do not fill, seldom enough to cost little.
const DRAIN_EVERY: Duration = Duration::from_secs(1);

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
    let Recording { spec, mut settings, duration, command } = recording;
    let mut notes = Vec::new();
    let cpu_before = cost::cpu_time();
    let mut targets = Targets::open(&settings.filter.pids)?;
    check_threads(&settings.filter.tids)?;
    let signals = EndRequests::listen().context("cannot listen for signals")?;

    let held = if command.is_empty() { None } else { Some(hold(&command)?) };
    if let Some(held) = &held {
        settings.filter.pids.push(held.pid());
        targets = Targets::open(&[held.pid()])?;
    }
    let stats = RunTimeStats::enable();
    if let Err(error) = &stats {
        notes.push(format!("the cost inside the kernel is not known: {error}"));
    }
    let mut session = Session {
        // Before the collector: a process that it measures must not have begun unseen.
        sideband: Sideband::open().inspect_err(|error| notes.push(without_sideband(error))).ok(),
        collector: (spec.start)(&settings)?,
        ledger: Ledger::new(),
        builder: ProfileBuilder::new(),
    };
    let started = Instant::now();
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let running = held.map(|held| held.release().with_context(|| format!("cannot run {}", quoted(&command)))).transpose()?;

    let deadline = duration.map(|duration| started + duration);
    session.measure(started, deadline, &signals, &mut targets, show)?;
    session.collector.stop();
    let elapsed = started.elapsed();
    session.look()?;
    session.drain()?;

    show(&Phase::Symbolizing);
    let Session { sideband, collector, ledger, builder } = session;
    let side_band_lost = sideband.map_or(0, |sideband| sideband.lost_count());
    if side_band_lost > 0 {
        notes.push(format!("{side_band_lost} notices of new mappings were lost: some frames may lack names"));
    }
    let header = ProfileHeader {
        collector: spec.name,
        value_types: collector.value_types().to_vec(),
        period: collector.period().zip(collector.value_types().last()).map(|(period, kind)| (*kind, period)),
        started_unix_ns: nanoseconds(started_unix),
        duration_ns: nanoseconds(elapsed),
    };
    let samples = collector.sample_counts()?;
    let costs = costs(&*collector, stats.is_ok());
    let built = builder.finish(header, &ledger);
    let samples = SampleCounts { lost: with_unjoined(samples.lost.clone(), samples.taken, built.samples_count), ..samples };
    let summary = Summary {
        collector: spec.name.to_owned(),
        duration_seconds: elapsed.as_secs_f64(),
        event: Some(settings.event.name().to_owned()),
        frequency_hertz: Some(u64::from(settings.frequency.hertz())),
        samples,
        user_stacks: built.user_stacks,
        frames: built.frames,
        processes: built.processes,
        cost: costs,
        notes,
    };
    Ok(Recorded { profile: built.profile, command: running, summary, cpu_before })
}
