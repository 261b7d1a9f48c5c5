//! Latencies: how long what the kernel does for programs takes, as histograms that are kept in the kernel.
//!
//! [`LATENCY_KINDS`] is the one list of what can be measured. [`Latency`] measures some of it and hands on sums since its start, one
//! record per key; whoever wants an interval takes differences.

mod gone;
mod kinds;
mod labels;
mod sums;
pub mod system_calls;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use obs_common::{
    counters::KernelCounter,
    histogram::LatencyHistogram,
    latency::{BY_CGROUP, BY_PROCESS, DETAIL_OTHER, LatencyKey},
    limits::{LATENCY_COUNTS_MAX, LATENCY_KEYS_MAX, LATENCY_OWNERS_MAX, LATENCY_STARTS_MAX},
};
use rustix::event::{EventfdFlags, eventfd};

use self::{
    gone::Gone,
    kinds::{Hook, OUTPUTS, kind_of},
    labels::Labels,
    sums::Sums,
};
pub use self::{
    kinds::{LATENCY_KINDS, LatencyKind, find_kind},
    labels::{ENDED, OTHER},
};
use super::{Collector, CollectorSpec, KernelVersion, Polled, Settings, follow, load_with};
use crate::{
    config::{filter::Filter, sampling::Frequency},
    kernel::{
        attach::KernelTypes,
        features::Feature,
        latency::{LatencyMaps, choose_system_calls},
        load::{KernelError, Object},
        read::{KernelCounters, ProgramStats},
        unwind::UnwindMaps,
    },
    model::{
        profile::ValueType,
        record::{Counter, Label, Record},
        stack::Stack,
        summary::SampleCounts,
    },
};

/// How long nothing must be counted under a key before it gives its room to others.
const IDLE: Duration = Duration::from_secs(60);

/// The declaration of this collector.
pub const SPEC: CollectorSpec = CollectorSpec {
    name: "latency",
    summary: "how long waits for CPUs, disks and the network, system calls and interrupts take, as histograms",
    object: "latency",
    kernel_min: KernelVersion { major: 5, minor: 15 },
    features: &[
        Feature::Bpf,
        Feature::KernelTypes,
        Feature::TypedTracepoints,
        Feature::SamplingPrograms,
        Feature::LruHash,
        Feature::TaskRegisters,
        Feature::CgroupIds,
        Feature::RunTimeStats,
    ],
    outputs: &OUTPUTS,
    samples: false,
    start,
};

/// By what histograms are kept apart, besides what each kind tells apart itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// By cgroup.
    pub cgroup: bool,
    /// By process.
    pub process: bool,
}

/// For how much there is room in the kernel at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Histograms.
    pub keys: u32,
    /// Counts of what has no duration.
    pub counts: u32,
    /// What has begun and not ended; each thread, if threads are followed.
    pub starts: u32,
    /// Requests and sockets whose process is known.
    pub owners: u32,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            keys: LATENCY_KEYS_MAX,
            counts: LATENCY_COUNTS_MAX,
            starts: LATENCY_STARTS_MAX,
            owners: LATENCY_OWNERS_MAX,
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct LatencyOptions {
    /// Of what.
    pub kinds: Vec<&'static LatencyKind>,
    /// Of whom.
    pub filter: Filter,
    /// What to tell apart.
    pub by: By,
    /// Which system calls, by number; `None` for all.
    pub system_calls: Option<Vec<u32>>,
    /// For how much there is to be room.
    pub room: Room,
}

/// What is missing in the sums, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyLosses {
    /// Events that are not counted at all, because the table of what is under way was full when they began.
    pub not_followed: u64,
    /// Beginnings or ends of events that no program saw: it was running already on that CPU and was interrupted, or the kernel did not
    /// have it run.
    pub not_seen: u64,
    /// Events that are not counted at all, because there was no room for their key, not even under `~other`.
    pub not_counted: u64,
    /// Events that are counted under `~other`, because there was no room for their key.
    pub other: u64,
    /// Events that are longer than the last bucket reaches, in which they are counted.
    pub over: u64,
    /// Children that are not measured because the filter was full.
    pub children: u64,
}

/// What was counted under a key.
#[derive(Clone)]
enum Value {
    Durations(Box<Sums>),
    Events { last: u64, count: u64 },
}

impl Value {
    /// Adds what was counted under another key of the same source.
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Durations(sums), Self::Durations(others)) => sums.merge(others),
            (Self::Events { count, .. }, Self::Events { count: others, .. }) => *count += others,
            // A source has one or the other.
            (Self::Durations(_), Self::Events { .. }) | (Self::Events { .. }, Self::Durations(_)) => {}
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Durations(sums) => sums.count(),
            Self::Events { count, .. } => *count,
        }
    }

    /// Events that are longer than the last bucket reaches.
    fn over_count(&self) -> u64 {
        match self {
            Self::Durations(sums) => sums.over_count(),
            Self::Events { .. } => 0,
        }
    }

    fn record(&self, kind: &LatencyKind, labels: Vec<Label>) -> Record {
        match self {
            Self::Durations(sums) => Record::Histogram(sums.histogram(kind.metric(), labels)),
            // Whole numbers are exact up to 2^53.
            Self::Events { count, .. } => {
                Record::Counter(Counter { name: kind.metric(), labels, value: *count as f64 })
            }
        }
    }
}

struct Series {
    value: Value,
    /// What it is called, once something was counted. A name that is gone later, or another's then, changes nothing.
    labels: Option<Vec<Label>>,
    /// When something was counted last.
    changed: Instant,
    /// Whether the kernel still has the key.
    is_kept: bool,
}

/// Measurements under way. Dropping it removes everything from the kernel.
pub struct Latency {
    object: Object,
    maps: LatencyMaps,
    counters: KernelCounters,
    by: By,
    room: Room,
    series: BTreeMap<LatencyKey, Series>,
    gone: Gone,
    labels: Labels,
    /// Never readable: nothing that is measured needs anybody at once.
    wake: OwnedFd,
}

fn start(settings: &Settings) -> Result<Box<dyn Collector>, KernelError> {
    let options = LatencyOptions {
        kinds: LATENCY_KINDS.iter().collect(),
        filter: settings.filter.clone(),
        by: By::default(),
        system_calls: None,
        room: Room::default(),
    };
    Ok(Box::new(Latency::start(&options)?))
}

impl Latency {
    /// Begins to measure.
    ///
    /// # Errors
    /// If the kernel lacks what one of the kinds needs, or refuses.
    pub fn start(options: &LatencyOptions) -> Result<Self, KernelError> {
        let LatencyOptions { kinds, filter, by, system_calls, room } = options;
        let needs_owner = *by != By::default() || *filter != Filter::default();
        let settings = Settings { filter: filter.clone(), ..Settings::default() };
        let mut object = load_with(&SPEC, &settings, &constants(options), &entries(*room, needs_owner))?;
        if let Some(numbers) = system_calls {
            choose_system_calls(&mut object, numbers)?;
        }
        let mut maps = LatencyMaps::take(&mut object)?;
        for kind in kinds {
            if kind.has_duration() {
                maps.make_other_histogram(kind.source)
            } else {
                maps.make_other_count(kind.source)
            }?;
        }
        let counters = KernelCounters::take(&mut object)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|error| KernelError::System { what: "make an event descriptor".to_owned(), why: error.into() })?;

        let followed = follow(&mut object, &settings, ["latency_fork", "latency_exec", "latency_exit"])?;
        let mut attached: BTreeSet<_> = followed.then_some("latency_exit").into_iter().collect();
        let types = KernelTypes::read()?;
        // Whose something is comes first, for all kinds: it must be known when it begins.
        let owner_hooks = kinds.iter().filter(|_| needs_owner).flat_map(|kind| kind.owner_hooks);
        for hook in owner_hooks.chain(kinds.iter().flat_map(|kind| kind.hooks)) {
            if attached.insert(hook.program()) {
                attach(&mut object, *hook, &types)?;
            }
        }
        let (series, gone, labels) = (BTreeMap::new(), Gone::default(), Labels::default());
        Ok(Self { object, maps, counters, by: *by, room: *room, series, gone, labels, wake })
    }

    /// Takes what was counted since the last call.
    ///
    /// # Errors
    /// If the kernel side cannot be read; nothing is lost then.
    pub fn read(&mut self) -> Result<(), KernelError> {
        let now = Instant::now();
        let Self { maps, series, .. } = self;
        maps.each_histogram(|key, histogram| {
            let series = series.entry(*key).or_insert_with(|| Series::new(Value::Durations(Box::default()), now));
            series.take_histogram(histogram, now);
        })?;
        maps.each_count(|key, count| {
            let series = series.entry(*key).or_insert_with(|| Series::new(Value::Events { last: 0, count: 0 }, now));
            series.take_count(count, now);
        })?;
        self.make_room(now);
        Ok(())
    }

    /// Removes keys that nobody needs any more, when room becomes scarce.
    fn make_room(&mut self, now: Instant) {
        let Self { maps, series, gone, room, .. } = self;
        let kept = |is: fn(&Value) -> bool| series.values().filter(|it| it.is_kept && is(&it.value)).count();
        let is_scarce = |kept: usize, room: u32| kept > room as usize / 4 * 3;
        let histograms = is_scarce(kept(|value| matches!(value, Value::Durations(_))), room.keys);
        let counts = is_scarce(kept(|value| matches!(value, Value::Events { .. })), room.counts);
        if !histograms && !counts {
            return;
        }
        for (key, series) in series.iter_mut() {
            if key.detail == DETAIL_OTHER || !series.is_kept || now.duration_since(series.changed) < IDLE {
                continue;
            }
            match &series.value {
                Value::Durations(_) if histograms => {
                    if let Some(last) = maps.remove_histogram(key) {
                        series.take_histogram(&last, now);
                    }
                }
                Value::Events { .. } if counts => {
                    if let Some(last) = maps.remove_count(key) {
                        series.take_count(last, now);
                    }
                }
                Value::Durations(_) | Value::Events { .. } => continue,
            }
            series.is_kept = false;
            match &mut series.value {
                Value::Durations(sums) => sums.begin_again(),
                Value::Events { last, .. } => *last = 0,
            }
        }
        gone.take_from(series, now);
    }

    /// Everything that was counted since the start.
    fn values(&self) -> impl Iterator<Item = &Value> {
        self.series.values().map(|series| &series.value).chain(self.gone.values())
    }

    /// What is missing.
    ///
    /// # Errors
    /// If the kernel side cannot be read.
    pub fn losses(&self) -> Result<LatencyLosses, KernelError> {
        let counters = self.counters.read()?;
        let of = |counter: KernelCounter| counters[counter as usize];
        let other = self.series.iter().filter(|(key, _)| key.detail == DETAIL_OTHER);
        Ok(LatencyLosses {
            not_followed: of(KernelCounter::LostWaitsFull),
            not_seen: self.object.runs_missed() + of(KernelCounter::LostEnd),
            not_counted: of(KernelCounter::LostCountsFull),
            other: other.map(|(_, series)| series.value.count()).sum(),
            over: self.values().map(Value::over_count).sum(),
            children: of(KernelCounter::LostFilterFull),
        })
    }

    /// What the BPF programs cost so far.
    #[must_use]
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        self.object.program_stats()
    }

    /// Hands on the sums since the start, one record for each key under which something was counted, of those that there are.
    pub fn records(&mut self, records: &mut Vec<Record>) {
        self.labels.refresh();
        // Keys may have the same labels: of cgroups of one path, of processes of one name and number.
        let mut told: BTreeMap<(u32, &[Label]), Cow<'_, Value>> = BTreeMap::new();
        let Self { series, gone, labels, by, .. } = self;
        for (key, series) in series.iter_mut().filter(|(_, it)| it.value.count() > 0 && it.labels.is_none()) {
            series.labels = kind_of(key.source).map(|kind| labels.of(kind, key, *by));
        }
        let current = series.iter().filter(|(_, series)| series.value.count() > 0);
        let current = current.filter_map(|(key, series)| Some((key.source, series.labels.as_deref()?, &series.value)));
        for (source, labels, value) in current.chain(gone.retired()) {
            match told.entry((source, labels)) {
                Entry::Occupied(mut told) => told.get_mut().to_mut().merge(value),
                Entry::Vacant(place) => drop(place.insert(Cow::Borrowed(value))),
            }
        }
        let told = told.into_iter().filter_map(|((source, labels), value)| Some((kind_of(source)?, labels, value)));
        records.extend(told.map(|(kind, labels, value)| value.record(kind, labels.to_vec())));
    }

    /// Hands on what was counted under keys that gave their room to others, one record for each kind. [`Self::records`] handed it on as
    /// long as the keys were there: it belongs in a total, and not in a difference.
    pub fn ended_records(&self, records: &mut Vec<Record>) {
        let ended = self.gone.ended().filter_map(|(source, value)| Some((kind_of(source)?, value)));
        records.extend(ended.map(|(kind, value)| value.record(kind, vec![("key", ENDED.into())])));
    }
}

impl Series {
    fn new(value: Value, now: Instant) -> Self {
        Self { value, labels: None, changed: now, is_kept: true }
    }

    fn take_histogram(&mut self, now_counted: &LatencyHistogram, now: Instant) {
        self.is_kept = true;
        if let Value::Durations(sums) = &mut self.value
            && sums.add(now_counted)
        {
            self.changed = now;
        }
    }

    fn take_count(&mut self, now_counted: u64, now: Instant) {
        self.is_kept = true;
        if let Value::Events { last, count } = &mut self.value
            && now_counted != *last
        {
            *count += now_counted.wrapping_sub(*last);
            *last = now_counted;
            self.changed = now;
        }
    }
}

/// What is fixed at load.
fn constants(options: &LatencyOptions) -> [(&'static str, u32); 3] {
    let LatencyOptions { kinds, filter: _, by: By { cgroup, process }, system_calls, room: _ } = options;
    let by = if *cgroup { BY_CGROUP } else { 0 } | if *process { BY_PROCESS } else { 0 };
    [
        ("LATENCY_SOURCES", kinds.iter().fold(0, |sources, kind| sources | kind.source.bit())),
        ("LATENCY_BY", by),
        ("LATENCY_CALLS_CHOSEN", u32::from(system_calls.is_some())),
    ]
}

/// The room of the maps.
fn entries(room: Room, needs_owner: bool) -> [(&'static str, u32); 4] {
    let Room { keys, counts, starts, owners } = room;
    [
        ("LATENCIES", keys),
        ("LATENCY_COUNTS", counts),
        ("LATENCY_STARTS", starts),
        ("LATENCY_OWNERS", if needs_owner { owners } else { 1 }),
    ]
}

fn attach(object: &mut Object, hook: Hook, types: &KernelTypes) -> Result<(), KernelError> {
    match hook {
        Hook::Tracepoint { program, tracepoint } => object.attach_btf_tracepoint(program, tracepoint, types),
        Hook::PageFault { program, kind } => object.attach_page_faults(program, kind),
    }
}

impl Collector for Latency {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn poll(&mut self) -> Result<Polled, KernelError> {
        Ok(Polled::default())
    }

    fn complete(&mut self, _snapshot: u64, _stack: Option<Stack>) {}

    /// Hands on sums since the start, of what nothing was added to as well.
    fn drain(&mut self, records: &mut Vec<Record>) -> Result<(), KernelError> {
        self.read()?;
        self.records(records);
        Ok(())
    }

    fn sample_counts(&self) -> Result<SampleCounts, KernelError> {
        let LatencyLosses { not_followed, not_seen, not_counted, other: _, over: _, children } = self.losses()?;
        let losses = [
            ("table of what is under way full", not_followed),
            ("program was running already", not_seen),
            ("map of counts full", not_counted),
            ("children not followed: filter full", children),
        ];
        Ok(SampleCounts {
            taken: self.values().map(Value::count).sum(),
            lost: losses.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
            filtered: 0,
            idle: 0,
        })
    }

    fn value_types(&self) -> &'static [ValueType] {
        &[]
    }

    fn period(&self) -> Option<u64> {
        None
    }

    fn program_stats(&self) -> Vec<ProgramStats> {
        self.object.program_stats()
    }

    fn take_unwind_maps(&mut self) -> Result<Option<UnwindMaps>, KernelError> {
        Ok(None)
    }

    fn set_frequency(&mut self, _frequency: Option<Frequency>) -> Result<(), KernelError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), KernelError> {
        self.object.detach();
        Ok(())
    }
}
