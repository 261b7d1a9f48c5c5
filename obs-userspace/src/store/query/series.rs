//! Series over a range of time, in steps.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    super::{
        Range,
        block::Parts,
        bytes::Parsed,
        codes::SeriesKind,
        error::{FileError, StoreError},
        limits::BUCKET_NS,
        reader::{Reader, Source, Visit},
        tables::{SeriesEntry, Tables},
        values::{Cell, HistogramValue, grown},
    },
    Label, Limits, Matcher, Notes, Shared,
};

/// How far back a counter's reading before the range is looked for, so that its first step has an increase.
const LOOK_BACK_NS: u64 = 60_000_000_000;

/// Which series to read, and how densely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesQuery {
    /// The series' name.
    pub name: String,
    /// Conditions on their labels; all must be met.
    pub matchers: Vec<Matcher>,
    /// When.
    pub range: Range,
    /// How long a step is, in nanoseconds; steps begin at multiples of it since 1970. 0 is one point per window. Multiples of
    /// ten minutes are read from the roll-up, and the range's edges are then those of its buckets.
    pub step_ns: u64,
    /// How much the answer may hold.
    pub limits: Limits,
}

/// What a series had in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesValue {
    /// A growing sum: how it stood last, and by how much it grew since the step before.
    Counter {
        /// The last reading.
        last: f64,
        /// The growth; a counter that became smaller had begun again from 0.
        increase: f64,
    },
    /// A value that goes up and down.
    Gauge {
        /// The smallest reading.
        min: f64,
        /// The largest one.
        max: f64,
        /// Their mean.
        mean: f64,
        /// The last one.
        last: f64,
    },
    /// Everything that happened in the step.
    Histogram(HistogramValue),
}

/// One step of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesPoint {
    /// When the step, or without steps the window, begins: nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// How many windows it is made from.
    pub windows: u64,
    /// What it had.
    pub value: SeriesValue,
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: Arc<str>,
    /// What tells it from its siblings, sorted by name.
    pub labels: Vec<Label>,
    /// What it holds.
    pub kind: SeriesKind,
    /// In ascending order of time; steps without windows are missing.
    pub points: Vec<SeriesPoint>,
}

/// The series that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesResult {
    /// In the order in which they were found.
    pub series: Vec<Series>,
    /// How complete they are.
    pub notes: Notes,
}

/// A series while it is read.
struct Growing {
    kind: SeriesKind,
    /// A counter's reading before.
    before: Option<f64>,
    steps: Vec<(u64, u64, Cell, f64)>,
}

/// How much more an answer may hold.
struct Room {
    points: usize,
    buckets: u64,
}

impl Reader {
    /// Reads series over a range.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn series(&self, query: &SeriesQuery) -> Result<SeriesResult, StoreError> {
        let from_unix_ns = query.range.from_unix_ns.saturating_sub(LOOK_BACK_NS.max(query.step_ns));
        let range = Range { from_unix_ns, ..query.range };
        let parts = Parts { code: false, series: true };
        let plan = Visit { range, parts, newest_first: false, deadline: query.limits.deadline };
        let mut growing: IndexMap<(SeriesKind, Vec<Label>), Growing> = IndexMap::new();
        let mut notes = Notes::default();
        let mut room = Room { points: query.limits.points, buckets: query.limits.buckets as u64 };
        self.visit(&plan, &mut notes, |source, notes| {
            read_source(source, range, query, &mut growing, &mut room, notes)
        })?;
        let name: Arc<str> = query.name.as_str().into();
        let series = growing
            .into_iter()
            .filter(|(_, growing)| !growing.steps.is_empty())
            .map(|((kind, labels), growing)| Series {
                name: Arc::clone(&name),
                labels,
                kind,
                points: growing.steps.into_iter().map(point).collect(),
            })
            .collect();
        Ok(SeriesResult { series, notes })
    }
}

fn point((started_unix_ns, windows, cell, increase): (u64, u64, Cell, f64)) -> SeriesPoint {
    let value = match cell {
        Cell::Counter { last, .. } => SeriesValue::Counter { last, increase },
        Cell::Gauge { min, max, sum, last } => SeriesValue::Gauge { min, max, mean: sum / windows.max(1) as f64, last },
        Cell::Histogram(value) => SeriesValue::Histogram(value),
    };
    SeriesPoint { started_unix_ns, windows, value }
}

fn read_source(
    source: &mut Source<'_>,
    range: Range,
    query: &SeriesQuery,
    growing: &mut IndexMap<(SeriesKind, Vec<Label>), Growing>,
    room: &mut Room,
    notes: &mut Notes,
) -> Result<(), FileError> {
    let damaged = |what| FileError::Damaged { offset: 0, what };
    let tables = source.tables();
    let mut shared = Shared::default();
    let mut wanted = vec![false; tables.series.len()];
    let mut place = vec![usize::MAX; tables.series.len()];
    for (index, entry) in tables.series.iter().enumerate() {
        if !accepts(tables, entry, &query.name, &query.matchers).map_err(damaged)? {
            continue;
        }
        let key = (entry.kind, shared.labels(tables, &entry.labels).map_err(damaged)?);
        place[index] = match growing.get_index_of(&key) {
            Some(known) => known,
            None if growing.len() >= query.limits.series => {
                notes.omitted += 1;
                continue;
            }
            None => growing.insert_full(key, Growing { kind: entry.kind, before: None, steps: Vec::new() }).0,
        };
        wanted[index] = true;
    }
    let is_coarse = query.step_ns > 0 && query.step_ns.is_multiple_of(BUCKET_NS);
    source.points(range, is_coarse, &wanted, |series, started_unix_ns, windows, cell| {
        let Some((_, series)) = growing.get_index_mut(place[series as usize]) else { return Ok(()) };
        let increase = series.increase(&cell);
        if started_unix_ns < query.range.from_unix_ns {
            return Ok(());
        }
        let step = started_unix_ns.checked_div(query.step_ns).map_or(started_unix_ns, |number| number * query.step_ns);
        if !series.add(step, windows.into(), &cell, increase, room) {
            notes.omitted += 1;
        }
        Ok(())
    })
}

impl Growing {
    /// By how much a counter grew up to and in what is added now.
    fn increase(&mut self, cell: &Cell) -> f64 {
        match (self.kind, cell) {
            (SeriesKind::Counter, Cell::Counter { first, last, lost }) => {
                let since = self.before.map_or(0.0, |before| grown(before, *first));
                self.before = Some(*last);
                last - first + lost + since
            }
            _ => 0.0,
        }
    }

    /// Adds to a step. `false`, and nothing is added, if there is no room for a new point or for its buckets.
    fn add(&mut self, step: u64, windows: u64, cell: &Cell, increase: f64, room: &mut Room) -> bool {
        // Steps ascend, except where the clock was set back between two blocks.
        let found = self.steps.binary_search_by_key(&step, |(start, ..)| *start);
        let (points, buckets) = match found {
            Ok(index) => (0, self.steps[index].2.buckets_added(cell)),
            Err(_) => (1, cell.buckets()),
        };
        if points > room.points || buckets > room.buckets {
            return false;
        }
        room.points -= points;
        room.buckets -= buckets;
        match found {
            Ok(index) => {
                let (_, sum_windows, sum, sum_increase) = &mut self.steps[index];
                *sum_windows += windows;
                sum.add(cell);
                *sum_increase += increase;
            }
            Err(index) => self.steps.insert(index, (step, windows, cell.clone(), increase)),
        }
        true
    }
}

/// Whether a series has a name and meets every condition.
fn accepts(tables: &Tables, entry: &SeriesEntry, name: &str, matchers: &[Matcher]) -> Parsed<bool> {
    if tables.strings.get(entry.name)? != name {
        return Ok(false);
    }
    for matcher in matchers {
        let mut value = "";
        for (label, of_label) in &entry.labels {
            if tables.strings.get(*label)? == matcher.label {
                value = tables.strings.get(*of_label)?;
            }
        }
        if !matcher.accepts(value) {
            return Ok(false);
        }
    }
    Ok(true)
}
