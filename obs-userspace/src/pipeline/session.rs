//! A collector at work, and what it needs around it: the ledger of processes, and supplies for the kernel's unwinder.
//!
//! One thread does it all: between two looks at the kernel it sleeps in `poll`, so there is nothing to hand over and no
//! queue that could overflow. What waits, waits in the kernel's bounded maps, which count what they refuse.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::OwnedFd,
    io::Errno,
};

use super::{
    convert::{history_event, process_event},
    unwind::Supply,
};
use crate::{
    collect::{Collector, CollectorSpec, Polled, Settings},
    enrich::{
        identity::Identities,
        process::{Ledger, Procfs},
        symbolize::KernelCode,
    },
    kernel::sideband::{Sideband, SidebandEvent, SidebandOptions},
    model::{
        process::{ProcessEvent, ProcessKey},
        record::{Event, Record},
    },
};

/// Longest time between two looks at the kernel.
const TICK: Duration = Duration::from_millis(100);

/// Shortest time between two looks for the sake of new mappings: bounds what a storm of short programs costs.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Longest time that the end waits for unwind tables that its last stacks need.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// Most events of a window that are kept; a storm of short programs has thousands a second.
const EVENTS_MAX: usize = 2_000;

/// What happened to processes since it was last taken.
#[derive(Default)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
    /// Events that found no room.
    pub(super) dropped: u64,
}

impl History {
    fn add(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }
}

/// A collector at work.
pub(super) struct Session {
    pub(super) collector: Box<dyn Collector>,
    pub(super) ledger: Ledger,
    /// Code that came into the kernel or left it meanwhile.
    pub(super) kernel_code: KernelCode,
    /// Notices of what processes do that the kernel dropped.
    pub(super) notices_lost: u64,
    /// What happened to processes, for those who keep a history: `None` if nobody does.
    pub(super) history: Option<History>,
    /// Is told of processes while they live, for those who want to know who they were.
    pub(super) identities: Option<Arc<Identities>>,
    /// What users should know of how it started.
    pub(super) notes: Vec<String>,
    sideband: Option<Sideband>,
    supply: Option<Supply>,
    /// Written by the thread that builds unwind tables, so that they are loaded at once.
    table_built: OwnedFd,
    /// Process images that were measured and have not ended.
    measured: HashSet<ProcessKey>,
    looked: Instant,
    /// Whether the collector has more to say at once.
    has_more: bool,
    /// How long at least from one look to the next.
    pub(super) look_pause: Duration,
}

impl Session {
    /// Starts a collector.
    pub(super) fn start(spec: &CollectorSpec, settings: &Settings) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
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
        Ok(Self {
            collector,
            ledger: Ledger::new(Procfs::new()),
            kernel_code: KernelCode::default(),
            notices_lost: 0,
            history: None,
            identities: None,
            notes,
            sideband,
            supply,
            table_built,
            measured: HashSet::new(),
            looked: Instant::now(),
            has_more: false,
            look_pause: LOOK_PAUSE,
        })
    }

    /// Waits until something happens here or at one of the others, at most `timeout` and never long.
    pub(super) fn sleep<'a>(
        &'a self,
        timeout: Option<Duration>,
        others: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout.map_or(TICK, |timeout| timeout.min(TICK));
        let all: Vec<_> = self.wake_fds().chain(others).collect();
        let urgent = all.iter().copied();
        // Programs map their libraries one by one: once is enough for all of them.
        let rested = self.looked + self.look_pause;
        if wait_until(urgent.clone(), rested.min(deadline))? || rested >= deadline {
            return Ok(());
        }
        wait_until(urgent.chain(self.sideband.iter().flat_map(Sideband::fds)), deadline)?;
        Ok(())
    }

    /// Become readable when something cannot wait.
    pub(super) fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.collector.wake_fd(), self.table_built.as_fd()].into_iter()
    }

    /// Takes what cannot wait: what processes do, which of them are measured, and which unwind tables are ready.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        self.looked = Instant::now();
        let Self { collector, sideband, supply, ledger, kernel_code, history, identities, measured, .. } = self;
        let notice = |pid, started_ns| {
            if let Some(identities) = &*identities {
                identities.notice(pid, started_ns);
            }
        };
        if let Some(sideband) = sideband {
            let read = sideband.read(|event| {
                if let SidebandEvent::KernelCode { start, length_bytes, name, is_loaded, .. } = &event {
                    kernel_code.add_named(*start, *length_bytes, &String::from_utf8_lossy(name), *is_loaded);
                }
                if let (Some(history), Some(event)) = (&mut *history, history_event(&event)) {
                    history.add(event);
                }
                if let SidebandEvent::Exec { pid, .. } = &event {
                    notice(*pid, None);
                }
                if let Some(event) = process_event(event) {
                    ledger.apply(event);
                }
            });
            self.notices_lost += read.lost;
        }
        let Polled { processes, snapshots, has_more } = collector.poll()?;
        self.has_more = has_more;
        for event in processes {
            if let ProcessEvent::Seen { key, .. } = event {
                notice(key.pid, Some(key.started_ns));
                measured.insert(key);
            }
            ledger.apply(event);
        }
        if let Some(supply) = supply {
            // The counter only wakes; that it may be empty is the usual case.
            let _ = rustix::io::read(&self.table_built, &mut [0; 8]);
            // Those that changed only: there may be thousands, and this happens many times a second.
            let changed = ledger.take_changed().into_iter().filter(|key| measured.contains(key));
            supply.tell(ledger, changed)?;
            supply.load_built()?;
            supply.walk(snapshots, |id, stack| collector.complete(id, stack))?;
        }
        Ok(())
    }

    /// Takes out of the kernel what was measured, and forgets the processes that have ended.
    pub(super) fn drain(&mut self, mut take: impl FnMut(&mut Ledger, &Record)) -> anyhow::Result<()> {
        let mut records = Vec::new();
        self.collector.drain(&mut records)?;
        records.iter().for_each(|record| take(&mut self.ledger, record));
        if let Some(supply) = &mut self.supply {
            let is_over = |key: &ProcessKey| self.ledger.has_ended(*key) && !supply.walks(*key);
            let ended: Vec<ProcessKey> = self.measured.extract_if(is_over).collect();
            ended.into_iter().for_each(|key| supply.forget(key));
            // Those too that found no room.
            supply.tell(&self.ledger, self.measured.iter().copied())?;
            supply.begin_epoch()?;
        }
        Ok(())
    }

    /// Whether stacks that the kernel side cannot walk are walked here.
    pub(super) fn walk_snapshots(&mut self, wanted: bool) {
        if let Some(supply) = &mut self.supply {
            supply.take_snapshots(wanted);
        }
    }

    /// Stops measuring. Returns when it had stopped: to detach programs takes a while, in which they measure on.
    pub(super) fn stop(&mut self) -> anyhow::Result<Instant> {
        self.collector.stop()?;
        Ok(Instant::now())
    }

    /// Waits, after [`Self::stop`], for the unwind tables of the stacks that still lack them, and takes what there is.
    pub(super) fn finish(&mut self, mut take: impl FnMut(&mut Ledger, &Record)) -> anyhow::Result<()> {
        self.drain(&mut take)?;
        self.look()?;
        let since = Instant::now();
        let is_settled = |supply: &Supply| !supply.has_unfinished() || since.elapsed() >= SETTLE_MAX;
        while self.has_more || !self.supply.as_ref().is_none_or(is_settled) {
            wait_until(std::iter::once(self.table_built.as_fd()), Instant::now() + LOOK_PAUSE)?;
            self.look()?;
        }
        let Self { collector, supply, .. } = self;
        if let Some(supply) = supply {
            supply.finish(|id, stack| collector.complete(id, stack));
        }
        self.drain(take)
    }

    /// What users should know of it all.
    pub(super) fn all_notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        if self.notices_lost > 0 {
            notes.push(format!("{} notices of processes were lost: some frames may lack names", self.notices_lost));
        }
        notes.extend(self.supply.iter().flat_map(Supply::notes));
        notes
    }
}

/// Waits until one of these is ready or a signal came, at most until then. Whether that was before then.
pub(super) fn wait_until<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, deadline: Instant) -> anyhow::Result<bool> {
    let timeout = deadline.saturating_duration_since(Instant::now());
    if timeout.is_zero() {
        return Ok(false);
    }
    let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error).context("cannot wait for samples"),
    }
}
