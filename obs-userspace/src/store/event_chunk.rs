//! Events of a block, by columns: when, of which shape, of which process; then the values of each shape's labels.
//!
//! Events of one shape have the same name and the same labels, and their values resemble each other: process ids grow by one,
//! parents stay. Side by side they take a third of what they take one event after another.

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::{
    bytes::{Cursor, Malformed, Parsed, put_bytes, put_varint, unzigzag, zigzag},
    limits::{EVENTS_MAX, LABELS_MAX},
    tables::Maybe,
    window::{EVENT_UNIT_NS, EventRow, event_time},
};

/// What events have in common: references to strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    name: u32,
    labels: Box<[u32]>,
}

/// References, each as the difference from the one before.
#[derive(Clone, Debug, Default)]
struct Column {
    bytes: Vec<u8>,
    before: i64,
}

impl Column {
    fn put(&mut self, reference: u32) {
        put_varint(&mut self.bytes, zigzag(i64::from(reference) - self.before));
        self.before = reference.into();
    }
}

/// The same, to be read.
struct ColumnReader<'a> {
    cursor: Cursor<'a>,
    before: i64,
}

impl<'a> ColumnReader<'a> {
    fn new(cursor: &mut Cursor<'a>) -> Parsed<Self> {
        Ok(Self { cursor: cursor.part()?, before: 0 })
    }

    fn next(&mut self) -> Parsed<u32> {
        self.before = self.before.wrapping_add(unzigzag(self.cursor.varint()?));
        u32::try_from(self.before).map_err(|_| Malformed("a number has more than 32 bits"))
    }
}

/// Writes events in their order; `base_ns` is the beginning of the block's first window.
pub(super) fn encode(base_ns: u64, events: &[EventRow]) -> Vec<u8> {
    let mut shapes: IndexMap<Shape, Vec<Column>, RandomState> = IndexMap::default();
    let (mut times, mut shape_of, mut processes) = (Vec::new(), Vec::new(), Column::default());
    let mut before = base_ns / EVENT_UNIT_NS;
    for EventRow { time_unix_ns, name, process, labels } in events {
        let time = time_unix_ns / EVENT_UNIT_NS;
        put_varint(&mut times, zigzag(time.wrapping_sub(before) as i64));
        before = time;
        let shape = Shape { name: *name, labels: labels.iter().map(|(label, _)| *label).collect() };
        let entry = shapes.entry(shape);
        put_varint(&mut shape_of, entry.index() as u64);
        processes.put(process.0);
        let columns = entry.or_insert_with(|| vec![Column::default(); labels.len()]);
        columns.iter_mut().zip(labels).for_each(|(column, (_, value))| column.put(*value));
    }
    let mut out = Vec::new();
    put_varint(&mut out, events.len() as u64);
    put_varint(&mut out, shapes.len() as u64);
    for Shape { name, labels } in shapes.keys() {
        put_varint(&mut out, (*name).into());
        put_varint(&mut out, labels.len() as u64);
        labels.iter().for_each(|label| put_varint(&mut out, (*label).into()));
    }
    [&times, &shape_of, &processes.bytes].into_iter().for_each(|column| put_bytes(&mut out, column));
    shapes.values().flatten().for_each(|column| put_bytes(&mut out, &column.bytes));
    out
}

/// Visits the events of a chunk, in their order.
pub(super) fn read(raw: &[u8], base_ns: u64, visit: &mut impl FnMut(EventRow) -> Parsed<()>) -> Parsed<()> {
    let mut cursor = Cursor::new(raw);
    let count = cursor.count(EVENTS_MAX as usize)?;
    let mut shapes = Vec::new();
    for _ in 0..cursor.count(count)? {
        let name = cursor.u32()?;
        let labels = (0..cursor.count(LABELS_MAX)?).map(|_| cursor.u32()).collect::<Parsed<Box<[u32]>>>()?;
        shapes.push(Shape { name, labels });
    }
    let (mut times, mut shape_of, mut processes) = (cursor.part()?, cursor.part()?, ColumnReader::new(&mut cursor)?);
    let mut columns: Vec<Vec<ColumnReader<'_>>> = Vec::with_capacity(shapes.len());
    for Shape { name: _, labels } in &shapes {
        columns.push(labels.iter().map(|_| ColumnReader::new(&mut cursor)).collect::<Parsed<_>>()?);
    }
    cursor.end()?;
    let mut before = base_ns;
    for _ in 0..count {
        let time_unix_ns = event_time(before, times.varint()?)?;
        before = time_unix_ns;
        let index = shape_of.varint()? as usize;
        let (Some(shape), Some(columns)) = (shapes.get(index), columns.get_mut(index)) else {
            return Err(Malformed("an event is of no known shape"));
        };
        let labels = shape.labels.iter().zip(columns).map(|(label, column)| Ok((*label, column.next()?)));
        let labels = labels.collect::<Parsed<_>>()?;
        visit(EventRow { time_unix_ns, name: shape.name, process: Maybe(processes.next()?), labels })?;
    }
    times.end()?;
    shape_of.end()?;
    processes.cursor.end()?;
    columns.iter().flatten().try_for_each(|column| column.cursor.end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE_NS: u64 = 1_700_000_000_123_456_789;

    fn read_all(raw: &[u8]) -> Parsed<Vec<EventRow>> {
        let mut rows = Vec::new();
        read(raw, BASE_NS, &mut |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn a_life_of_a_process_takes_few_bytes() {
        let event = |at: u64, name, labels: &[(u32, u32)]| EventRow {
            time_unix_ns: (BASE_NS / EVENT_UNIT_NS + at) * EVENT_UNIT_NS,
            name,
            process: Maybe::NONE,
            labels: labels.to_vec(),
        };
        // fork (pid, parent), exec (pid, name), exit (pid): of processes one after another.
        let life = |number: u32| {
            let (at, pid) = (u64::from(number) * 3000, (1, 1000 + number));
            [event(at, 5, &[pid, (2, 40)]), event(at + 500, 6, &[pid, (3, 41)]), event(at + 2500, 7, &[pid])]
        };
        let rows: Vec<EventRow> = (0..1000).flat_map(life).collect();
        let raw = encode(BASE_NS, &rows);
        assert_eq!(read_all(&raw).unwrap(), rows);
        assert!(raw.len() < 3000 * 7, "{}", raw.len());
        assert!(read_all(&raw[..raw.len() - 1]).is_err());
        assert!(read_all(&[&raw[..], &[0]].concat()).is_err());
        assert_eq!(read_all(&encode(BASE_NS, &[])), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(
            events: Vec<(u64, u32, u32, u8)>,
            values in prop::collection::vec(any::<u32>(), 4..5),
        ) {
            let rows: Vec<EventRow> = events
                .into_iter()
                .map(|(time, name, process, labels)| EventRow {
                    time_unix_ns: time / EVENT_UNIT_NS * EVENT_UNIT_NS,
                    name: name % 3,
                    process: Maybe(process),
                    labels: values.iter().take(usize::from(labels % 4)).map(|value| (name % 2, value ^ name)).collect(),
                })
                .collect();
            prop_assert_eq!(read_all(&encode(BASE_NS, &rows)), Ok(rows));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = read_all(&bytes);
        }
    }
}
