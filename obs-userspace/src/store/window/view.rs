//! Reads windows.

use super::{EventRow, Kept, event_time};
use crate::store::{
    bytes::{Cursor, Malformed, Parsed},
    codes::SeriesKind,
    limits::{KEYS_MAX, KINDS_MAX, LABELS_MAX, VALUE_TYPES_MAX, WINDOW_EVENTS_MAX},
    tables::{Maybe, Tables, at},
    values::{self, Cell},
};

/// Of which kind entries are: what is needed of the tables to read samples and points.
pub(in crate::store) trait Kinds {
    /// How many value types a kind of profile has; at least one.
    fn types_of_kind(&self, kind: u32) -> Parsed<usize>;
    fn kind_of_key(&self, key: u32) -> Parsed<u32>;
    fn kind_of_series(&self, series: u32) -> Parsed<SeriesKind>;
}

impl Kinds for Tables {
    fn types_of_kind(&self, kind: u32) -> Parsed<usize> {
        at(&self.kinds, kind).map(|kind| kind.value_types.len())
    }

    fn kind_of_key(&self, key: u32) -> Parsed<u32> {
        at(&self.keys, key).map(|key| key.kind)
    }

    fn kind_of_series(&self, series: u32) -> Parsed<SeriesKind> {
        at(&self.series, series).map(|series| series.kind)
    }
}

/// A window as read: its parts are parsed when they are asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct WindowView<'a> {
    pub(in crate::store) started_unix_ns: u64,
    pub(in crate::store) duration_ns: u64,
    added: Cursor<'a>,
    samples: Cursor<'a>,
    processes: Cursor<'a>,
    points: Cursor<'a>,
    events: Cursor<'a>,
}

impl<'a> WindowView<'a> {
    pub(in crate::store) fn parse(raw: &'a [u8]) -> Parsed<Self> {
        let mut cursor = Cursor::new(raw);
        let (started_unix_ns, duration_ns) = (cursor.varint()?, cursor.varint()?);
        let mut part = || cursor.part();
        let (added, samples, processes, points, events) = (part()?, part()?, part()?, part()?, part()?);
        cursor.end()?;
        Ok(Self { started_unix_ns, duration_ns, added, samples, processes, points, events })
    }

    /// Adds the window's new entries to the tables.
    pub(in crate::store) fn add_to(&self, tables: &mut Tables) -> Parsed<()> {
        let mut cursor = self.added;
        tables.read_strings(&mut cursor)?;
        tables.read_code(&mut cursor)?;
        tables.read_stacks(&mut cursor)?;
        tables.read_who(&mut cursor)?;
        tables.read_series(&mut cursor)?;
        cursor.end()
    }

    /// Visits the samples: their key and values.
    pub(in crate::store) fn samples(
        &self,
        kinds: &impl Kinds,
        mut visit: impl FnMut(u32, &[u64]) -> Parsed<()>,
    ) -> Parsed<()> {
        let mut cursor = self.samples;
        let mut values = Vec::with_capacity(VALUE_TYPES_MAX);
        let mut kinds_before: Vec<u32> = Vec::new();
        for _ in 0..cursor.count(KINDS_MAX)? {
            let kind = cursor.u32()?;
            if kinds_before.contains(&kind) {
                return Err(Malformed("a window has two profiles of a kind"));
            }
            kinds_before.push(kind);
            let types = kinds.types_of_kind(kind)?;
            let rows = cursor.number(KEYS_MAX)?;
            let factors = (1..types).map(|_| Ok(cursor.varint()?.checked_sub(1))).collect::<Parsed<Vec<_>>>()?;
            let mut next = 0_u32;
            for row in 0..rows {
                next = ascending(next, row > 0, &mut cursor)?;
                if kinds.kind_of_key(next)? != kind {
                    return Err(Malformed("a sample is of another kind than its profile"));
                }
                values.clear();
                let first = cursor.varint()?;
                values.push(first);
                for factor in &factors {
                    values.push(match factor {
                        Some(factor) => first.saturating_mul(*factor),
                        None => cursor.varint()?,
                    });
                }
                visit(next, &values)?;
            }
        }
        cursor.end()
    }

    /// Visits the processes that were known to be there.
    pub(in crate::store) fn processes(&self, mut visit: impl FnMut(u32) -> Parsed<()>) -> Parsed<()> {
        let mut cursor = self.processes;
        let mut next = 0_u32;
        for row in 0..cursor.count(usize::MAX)? {
            next = ascending(next, row > 0, &mut cursor)?;
            visit(next)?;
        }
        cursor.end()
    }

    /// Visits the points of series.
    pub(in crate::store) fn points(
        &self,
        kinds: &impl Kinds,
        mut visit: impl FnMut(u32, Cell) -> Parsed<()>,
    ) -> Parsed<()> {
        let mut cursor = self.points;
        let mut next = 0_u32;
        for row in 0..cursor.count(usize::MAX)? {
            next = ascending(next, row > 0, &mut cursor)?;
            let cell = match kinds.kind_of_series(next)? {
                SeriesKind::Counter => Cell::counter(values::number(&mut cursor)?),
                SeriesKind::Gauge => Cell::gauge(values::number(&mut cursor)?),
                SeriesKind::Histogram => Cell::Histogram(values::histogram(&mut cursor)?),
            };
            visit(next, cell)?;
        }
        cursor.end()
    }

    /// Follows every reference, and says how much there is. What passes is visited without an error afterwards, so that whoever
    /// adds a window up does not stop in its middle.
    pub(in crate::store) fn check(&self, tables: &Tables) -> Parsed<Kept> {
        let mut kept = Kept::default();
        self.samples(tables, |_, _| {
            kept.samples += 1;
            Ok(())
        })?;
        self.processes(|process| at(&tables.processes, process).map(drop))?;
        self.points(tables, |_, cell| {
            kept.points += 1;
            kept.buckets += cell.buckets();
            Ok(())
        })?;
        self.events(|event| {
            kept.events += 1;
            event.check(tables)
        })?;
        Ok(kept)
    }

    /// Visits the events.
    pub(in crate::store) fn events(&self, mut visit: impl FnMut(EventRow) -> Parsed<()>) -> Parsed<()> {
        let mut cursor = self.events;
        for _ in 0..cursor.count(WINDOW_EVENTS_MAX)? {
            visit(read_event(&mut cursor, self.started_unix_ns)?)?;
        }
        cursor.end()
    }
}

/// The next position of a list that ascends; each is told as the difference from the one before.
fn ascending(before: u32, is_later: bool, cursor: &mut Cursor<'_>) -> Parsed<u32> {
    let difference = cursor.u32()?;
    if is_later && difference == 0 {
        return Err(Malformed("a position comes twice where it may come once"));
    }
    before.checked_add(difference).ok_or(Malformed("a position is beyond what numbers can be"))
}

fn read_event(cursor: &mut Cursor<'_>, before_ns: u64) -> Parsed<EventRow> {
    let time_unix_ns = event_time(before_ns, cursor.varint()?)?;
    let (name, process) = (cursor.u32()?, Maybe(cursor.u32()?));
    let count = cursor.count(LABELS_MAX)?;
    let labels = (0..count).map(|_| Ok((cursor.u32()?, cursor.u32()?))).collect::<Parsed<_>>()?;
    Ok(EventRow { time_unix_ns, name, process, labels })
}
