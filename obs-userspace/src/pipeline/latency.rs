//! Watching latencies: what was measured, interval by interval, and all of it at the end.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    signals::EndRequests,
    targets::{Targets, check_threads},
    window_histograms::WindowHistograms,
};
use crate::{
    collect::latency::{Latency, LatencyLosses, LatencyOptions},
    kernel::{
        launch::{Held, Running},
        read::RunTimeStats,
    },
    model::record::{Counter, Label, Record},
};

/// What to watch.
#[derive(Debug)]
pub struct Watch {
    /// What, and of whom.
    pub options: LatencyOptions,
    /// How often to tell.
    pub interval: Duration,
    /// How long; without it until a signal comes or every chosen process has ended.
    pub duration: Option<Duration>,
    /// A command to start and to measure; empty for none.
    pub command: Vec<OsString>,
}

/// What was measured in a time.
#[derive(Debug)]
pub struct Measured {
    /// Whether this is all since the start; else it is an interval.
    pub is_total: bool,
    /// When it ended, in seconds since 1970.
    pub end_unix_seconds: f64,
    /// How long it was.
    pub length: Duration,
    /// What was counted in it: [`Record::Histogram`] and [`Record::Counter`], one for each key under which something was.
    pub records: Vec<Record>,
    /// What is missing, since the start.
    pub losses: LatencyLosses,
    /// CPU time of the programs in the kernel since the start, if the kernel says.
    pub kernel_cpu: Option<Duration>,
}

/// Watches, and has each interval and at last the total shown. Returns the command that was started, which may still run.
///
/// # Errors
/// If what was asked for does not exist, the kernel refuses, or `show` fails.
pub fn run(watch: Watch, show: &mut dyn FnMut(&Measured) -> anyhow::Result<()>) -> anyhow::Result<Option<Running>> {
    let Watch { mut options, interval, duration, command } = watch;
    let mut targets = Targets::open(&options.filter.pids)?;
    check_threads(&options.filter.tids)?;
    let signals = EndRequests::listen().context("cannot listen for signals")?;
    let held = if command.is_empty() {
        None
    } else {
        Some(Held::start(&command).with_context(|| format!("cannot start {}", command[0].display()))?)
    };
    if let Some(held) = &held {
        options.filter.pids_at_exec.push(held.pid());
        targets = Targets::open(&[held.pid()])?;
    }
    // Without it the cost is not told, and nothing else is missing.
    let stats = RunTimeStats::enable().ok();
    let names: Vec<_> = options.kinds.iter().map(|kind| kind.name).collect();
    let mut latency = Latency::start(&options).with_context(|| format!("cannot measure {}", names.join(", ")))?;
    let started = Instant::now();
    let running = held.map(Held::release).transpose();
    let running = running.with_context(|| format!("cannot run {}", command[0].display()))?;
    let deadline = duration.map(|duration| started + duration);
    let (mut begun, mut before) = (started, Before::default());
    loop {
        let now = Instant::now();
        let end = deadline.map_or(begun + interval, |deadline| deadline.min(begun + interval));
        let is_woken = sleep(end.saturating_duration_since(now), &signals, &targets)?;
        let is_over =
            is_woken && (signals.received() || targets.all_ended()) || deadline.is_some_and(|it| Instant::now() >= it);
        if !is_over && Instant::now() < end {
            continue;
        }
        latency.read()?;
        let now = Instant::now();
        let mut records = Vec::new();
        latency.records(&mut records);
        let measured = |is_total, length, records| -> anyhow::Result<Measured> {
            let kernel_ns: u64 = latency.program_stats().iter().map(|program| program.run_time_ns).sum();
            Ok(Measured {
                is_total,
                end_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
                length,
                records,
                losses: latency.losses()?,
                kernel_cpu: stats.as_ref().map(|_| Duration::from_nanos(kernel_ns)),
            })
        };
        show(&measured(false, now - begun, before.added(&records))?)?;
        if is_over {
            latency.ended_records(&mut records);
            show(&measured(true, now - started, records)?)?;
            return Ok(running);
        }
        begun = now;
    }
}

/// Sleeps so long, or until something happens; whether something did.
fn sleep(length: Duration, signals: &EndRequests, targets: &Targets) -> anyhow::Result<bool> {
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(signals.as_fd()).chain(targets.wake_fd()).collect();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let time = Timespec {
        tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(length.subsec_nanos()),
    };
    match poll(&mut fds, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error).context("cannot wait for the end of an interval"),
    }
}

/// The sums at the end of the last interval.
#[derive(Default)]
struct Before {
    histograms: WindowHistograms,
    counters: HashMap<(&'static str, Vec<Label>), f64>,
}

impl Before {
    /// What was added since, of what anything was added to.
    fn added(&mut self, records: &[Record]) -> Vec<Record> {
        let Self { histograms, counters } = self;
        // What is not told is gone: should it come again, then from zero.
        let counters_before = std::mem::take(counters);
        let added = records.iter().filter_map(|record| match record {
            Record::Histogram(histogram) => histograms.added(histogram.clone()).map(Record::Histogram),
            Record::Counter(counter) => {
                let key = (counter.name, counter.labels.clone());
                let before = counters_before.get(&key).copied().unwrap_or(0.0);
                counters.insert(key, counter.value);
                let added = Counter { value: counter.value - before, ..counter.clone() };
                (added.value > 0.0).then_some(Record::Counter(added))
            }
            Record::StackSample(_) | Record::Gauge(_) | Record::Event(_) => None,
        });
        let added = added.collect();
        histograms.end_window();
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interval_has_its_own() {
        let counter = |value| Record::Counter(Counter { name: "c", labels: vec![("kind", "minor".into())], value });
        let mut before = Before::default();
        assert_eq!(before.added(&[counter(5.0)]), [counter(5.0)]);
        assert_eq!(before.added(&[counter(5.0)]), []);
        assert_eq!(before.added(&[counter(7.0)]), [counter(2.0)]);
        assert_eq!(before.added(&[]), [], "its key is gone");
        assert_eq!(before.added(&[counter(3.0)]), [counter(3.0)], "it is there again");
    }
}
