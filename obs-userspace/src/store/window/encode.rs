//! Writes windows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{EVENT_UNIT_NS, EventRow, Kept};
use crate::{
    model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, Module, Profile, ProfileSample, ValueType},
        record::{Counter, Event, Gauge, Histogram, Label},
        stack::StackEnd,
    },
    store::{
        Window, attributes,
        bytes::{put_bytes, put_varint, zigzag},
        codes::{self, SeriesKind},
        error::WindowError,
        interner::Interner,
        limits::{HISTOGRAM_BUCKETS_MAX, LABELS_MAX, STACK_FRAMES_MAX, VALUE_TYPES_MAX, WINDOW_EVENTS_MAX},
        tables::{FrameEntry, KeyEntry, KindEntry, Maybe, ModuleEntry, NodeEntry, ProcessEntry, SeriesEntry},
        values::{self, HistogramValue},
    },
};

/// Writes a window, and adds to the tables what it needs. On failure the tables are as before.
pub(in crate::store) fn encode(window: &Window, tables: &mut Interner) -> Result<(Vec<u8>, Kept), WindowError> {
    let mark = tables.mark();
    let mut kept = Kept::default();
    let parts = Parts::of(window, tables, &mut kept).and_then(|parts| tables.check().map(|()| parts));
    match parts {
        Ok(parts) => {
            let mut added = Vec::new();
            tables.put_added(&mut added, &mark);
            Ok((parts.put(window, &added), kept))
        }
        Err(error) => {
            tables.roll_back(&mark);
            Err(error)
        }
    }
}

struct Parts {
    samples: Vec<u8>,
    processes: Vec<u8>,
    points: Vec<u8>,
    events: Vec<u8>,
}

impl Parts {
    fn of(window: &Window, tables: &mut Interner, kept: &mut Kept) -> Result<Self, WindowError> {
        let Window {
            started_unix_ns,
            duration_ns: _,
            boot_unix_ns,
            profiles,
            processes,
            counters,
            gauges,
            histograms,
            events,
        } = window;
        // First, so that the profiles' processes are found with everything that is known of them.
        let mut known = HashMap::with_capacity(processes.len());
        for process in processes {
            known.insert(process.info.key, put_process(&process.info, &process.labels, tables));
        }
        // Profiles of one kind become one: a key stands once in a window.
        let mut kinds: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
        for profile in profiles {
            let (kind, rows) = profile_rows(profile, &known, tables)?;
            kinds.entry(kind).or_default().extend(rows);
        }
        let mut samples = Vec::new();
        put_varint(&mut samples, kinds.len() as u64);
        for (kind, rows) in kinds {
            kept.samples += put_rows(&mut samples, kind, tables.types_of_kind(kind), rows);
        }
        let mut points: Vec<(u32, Point<'_>)> = Vec::with_capacity(counters.len() + gauges.len() + histograms.len());
        for Counter { name, labels, value } in counters {
            points.push((series(tables, SeriesKind::Counter, name, labels)?, Point::Counter(*value)));
        }
        for Gauge { name, labels, value } in gauges {
            points.push((series(tables, SeriesKind::Gauge, name, labels)?, Point::Gauge(*value)));
        }
        for histogram in histograms {
            if histogram.buckets.len() > HISTOGRAM_BUCKETS_MAX {
                return Err(WindowError::TooLarge { what: "buckets of a histogram", max: HISTOGRAM_BUCKETS_MAX });
            }
            kept.buckets += histogram.buckets.len() as u64;
            let index = series(tables, SeriesKind::Histogram, histogram.name, &histogram.labels)?;
            points.push((index, Point::Histogram(histogram)));
        }
        let (points, count) = put_points(points);
        kept.points = count;
        let kept_events = &events[..events.len().min(WINDOW_EVENTS_MAX)];
        kept.events = kept_events.len() as u64;
        kept.events_dropped = (events.len() - kept_events.len()) as u64;
        Ok(Self {
            samples,
            processes: put_processes(known.into_values().collect()),
            points,
            events: put_events(kept_events, *started_unix_ns, *boot_unix_ns, tables)?,
        })
    }

    fn put(&self, window: &Window, added: &[u8]) -> Vec<u8> {
        let Self { samples, processes, points, events } = self;
        let mut out = Vec::with_capacity(64 + added.len() + samples.len() + points.len() + events.len());
        put_varint(&mut out, window.started_unix_ns);
        put_varint(&mut out, window.duration_ns);
        for part in [added, samples, processes, points, events] {
            put_bytes(&mut out, part);
        }
        out
    }
}

/// A key and its values.
type Row = (u32, Vec<u64>);

/// The kind of a profile, and its samples.
fn profile_rows(
    profile: &Profile,
    known: &HashMap<ProcessKey, u32>,
    tables: &mut Interner,
) -> Result<(u32, Vec<Row>), WindowError> {
    let Profile {
        collector,
        value_types,
        period,
        started_unix_ns: _,
        duration_ns: _,
        modules,
        frames,
        processes,
        samples,
    } = profile;
    let inconsistent = |what| WindowError::Inconsistent { collector: collector.to_string(), what };
    let names = value_types.iter().chain(period.as_ref().map(|(of, _)| of));
    let mut words = names.flat_map(|ValueType { name, unit }| [name, unit]).chain([collector]);
    if !words.all(|word| is_plain(word)) {
        return Err(inconsistent("a name is not plain: letters, digits, '_', '-' and '.'"));
    }
    if value_types.is_empty() || value_types.len() > VALUE_TYPES_MAX {
        return Err(inconsistent("it has no value types, or too many"));
    }
    let kind = put_kind(profile, tables);
    let position = |process: &ProcessInfo| match known.get(&process.key) {
        Some(position) => *position,
        None => put_process(process, &[], tables),
    };
    let processes: Vec<u32> = processes.iter().map(position).collect();
    let mut frames = Frames { modules, frames, known: vec![Maybe::NONE; frames.len()] };
    let mut rows: Vec<Row> = Vec::with_capacity(samples.len());
    for ProfileSample { process, thread_name, stack, cut, values } in samples {
        let process =
            processes.get(*process as usize).ok_or_else(|| inconsistent("a sample's process is not there"))?;
        if values.len() != value_types.len() {
            return Err(inconsistent("a sample has not one value per value type"));
        }
        let (kept, cut) = match stack.get(..STACK_FRAMES_MAX) {
            Some(innermost) if stack.len() > STACK_FRAMES_MAX => (innermost, Some(StackEnd::TooDeep)),
            _ => (&stack[..], *cut),
        };
        let mut node = Maybe::NONE;
        for frame in kept.iter().rev() {
            let frame = frames.get(*frame, tables).map_err(inconsistent)?;
            node = Maybe::some(tables.node(NodeEntry { parent: node, frame }));
        }
        let thread = tables.string(thread_name);
        let cut = codes::of_cut(cut);
        rows.push((tables.key(KeyEntry { kind, process: *process, thread, stack: node, cut }), values.clone()));
    }
    Ok((kind, rows))
}

/// Rows in ascending order of their keys; those of one key are added up. A value type that is a multiple of the first in every
/// row is written once. Returns how many there are.
fn put_rows(out: &mut Vec<u8>, kind: u32, types: usize, mut rows: Vec<Row>) -> u64 {
    rows.sort_by_key(|(key, _)| *key);
    rows.dedup_by(|(key, values), (kept_key, kept)| {
        let is_same = key == kept_key;
        if is_same {
            kept.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        }
        is_same
    });
    put_varint(out, kind.into());
    put_varint(out, rows.len() as u64);
    let factors: Vec<Option<u64>> = (1..types).map(|index| factor(&rows, index)).collect();
    for factor in &factors {
        put_varint(out, factor.map_or(0, |factor| factor + 1));
    }
    let mut before = 0;
    for (key, values) in &rows {
        put_varint(out, u64::from(key - before));
        before = *key;
        put_varint(out, values[0]);
        for (value, _) in values[1..].iter().zip(&factors).filter(|(_, factor)| factor.is_none()) {
            put_varint(out, *value);
        }
    }
    rows.len() as u64
}

/// With what the first value has to be multiplied to give another one, if it is the same in all rows.
fn factor(rows: &[Row], index: usize) -> Option<u64> {
    let (_, first) = rows.iter().find(|(_, values)| values[0] > 0)?;
    let factor = (first[index] / first[0]).min(u64::MAX - 1);
    rows.iter().all(|(_, values)| values[0].checked_mul(factor) == Some(values[index])).then_some(factor)
}

/// Whether a name needs no escape in any format.
pub(in crate::store) fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn put_kind(profile: &Profile, tables: &mut Interner) -> u32 {
    let mut pair = |of: &ValueType| (tables.string(&of.name), tables.string(&of.unit));
    let value_types = profile.value_types.iter().map(&mut pair).collect();
    let period = profile.period.as_ref().map(|(of, value)| (pair(of), *value));
    let collector = tables.string(&profile.collector);
    tables.kind(KindEntry { collector, value_types, period })
}

fn put_module(module: &Module, tables: &mut Interner) -> u32 {
    let Module { path, build_id } = module;
    let path = tables.string(path);
    let build_id = build_id.as_ref().map_or(Maybe::NONE, |id| Maybe::some(tables.string(id)));
    tables.module(ModuleEntry { path, build_id })
}

/// A profile's frames, and where those that were needed so far are in the tables.
struct Frames<'a> {
    modules: &'a [Module],
    frames: &'a [Frame],
    known: Vec<Maybe>,
}

impl Frames<'_> {
    fn get(&mut self, index: u32, tables: &mut Interner) -> Result<u32, &'static str> {
        let at = index as usize;
        let frame = self.frames.get(at).ok_or("a stack's frame is not there")?;
        if let Some(position) = self.known[at].get() {
            return Ok(position);
        }
        let Frame { function, kind, module, address, source } = frame;
        let module = match module {
            Some(index) => {
                let module = self.modules.get(*index as usize).ok_or("a frame's module is not there")?;
                Maybe::some(put_module(module, tables))
            }
            None => Maybe::NONE,
        };
        let function = function.as_ref().map_or(Maybe::NONE, |name| Maybe::some(tables.string(name)));
        let (file, line) = match source {
            Some((file, line)) => (Maybe::some(tables.string(file)), *line),
            None => (Maybe::NONE, 0),
        };
        let position = tables.frame(FrameEntry { function, kind: *kind, module, address: *address, file, line });
        self.known[at] = Maybe::some(position);
        Ok(position)
    }
}

/// What is told twice of a process is taken from its [`ProcessInfo`].
fn put_process(process: &ProcessInfo, labels: &[(Arc<str>, Arc<str>)], tables: &mut Interner) -> u32 {
    let mut pairs: Vec<(u32, u32)> =
        attributes::of(process).map(|(name, value)| (tables.string(name), tables.string(value))).collect();
    for (name, value) in labels {
        let name = tables.string(name);
        if pairs.len() < LABELS_MAX && pairs.iter().all(|(known, _)| *known != name) {
            pairs.push((name, tables.string(value)));
        }
    }
    tables.process(ProcessEntry { key: process.key, attributes: pairs.into() })
}

fn put_processes(mut positions: Vec<u32>) -> Vec<u8> {
    positions.sort_unstable();
    let mut out = Vec::new();
    put_varint(&mut out, positions.len() as u64);
    let mut before = 0;
    for position in positions {
        put_varint(&mut out, u64::from(position - before));
        before = position;
    }
    out
}

fn pairs(labels: &[Label], tables: &mut Interner) -> Result<Vec<(u32, u32)>, WindowError> {
    if labels.len() > LABELS_MAX {
        return Err(WindowError::TooLarge { what: "labels of one series or event", max: LABELS_MAX });
    }
    Ok(labels.iter().map(|(name, value)| (tables.string(name), tables.string(value))).collect())
}

fn series(tables: &mut Interner, kind: SeriesKind, name: &str, labels: &[Label]) -> Result<u32, WindowError> {
    // The order of labels does not tell series apart.
    let mut sorted: Vec<&Label> = labels.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let sorted: Vec<Label> = sorted.into_iter().cloned().collect();
    let labels = pairs(&sorted, tables)?.into();
    let name = tables.string(name);
    Ok(tables.series(SeriesEntry { kind, name, labels }))
}

enum Point<'a> {
    Counter(f64),
    Gauge(f64),
    Histogram(&'a Histogram),
}

/// Points in ascending order of their series; of two of the same, the later one.
fn put_points(mut points: Vec<(u32, Point<'_>)>) -> (Vec<u8>, u64) {
    points.reverse();
    points.sort_by_key(|(index, _)| *index);
    points.dedup_by_key(|(index, _)| *index);
    let mut out = Vec::new();
    put_varint(&mut out, points.len() as u64);
    let mut before = 0;
    for (index, point) in &points {
        put_varint(&mut out, u64::from(index - before));
        before = *index;
        match point {
            Point::Counter(value) | Point::Gauge(value) => values::put_number(&mut out, *value),
            Point::Histogram(histogram) => {
                let Histogram { name: _, labels: _, first_bucket, buckets, zero_count, sum } = histogram;
                let (first_bucket, zero_count, sum) = (*first_bucket, *zero_count, *sum);
                let value = HistogramValue { first_bucket, buckets: buckets.clone(), zero_count, sum };
                values::put_histogram(&mut out, &value);
            }
        }
    }
    (out, points.len() as u64)
}

fn put_events(
    events: &[Event],
    started_unix_ns: u64,
    boot_unix_ns: u64,
    tables: &mut Interner,
) -> Result<Vec<u8>, WindowError> {
    let mut out = Vec::new();
    put_varint(&mut out, events.len() as u64);
    for Event { name, time_ns, process, labels } in events {
        let time_unix_ns = boot_unix_ns.saturating_add(*time_ns) / EVENT_UNIT_NS * EVENT_UNIT_NS;
        let process = process.map_or(Maybe::NONE, |key| Maybe::some(tables.process_of(key)));
        let name = tables.string(name);
        put_event(&mut out, started_unix_ns, &EventRow { time_unix_ns, name, process, labels: pairs(labels, tables)? });
    }
    Ok(out)
}

/// Writes an event; its time as the distance from another one, in microseconds.
fn put_event(out: &mut Vec<u8>, before_ns: u64, event: &EventRow) {
    let EventRow { time_unix_ns, name, process, labels } = event;
    put_varint(out, zigzag((time_unix_ns / EVENT_UNIT_NS).wrapping_sub(before_ns / EVENT_UNIT_NS) as i64));
    put_varint(out, (*name).into());
    put_varint(out, process.0.into());
    put_varint(out, labels.len() as u64);
    for (name, value) in labels {
        put_varint(out, (*name).into());
        put_varint(out, (*value).into());
    }
}
