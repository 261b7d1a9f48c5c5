//! The points of a run of series: each series by itself, so that a reader skips those that it does not want.
//!
//! A slot is a window, or a bucket of windows in the roll-up.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_bytes, put_varint},
    codes::SeriesKind,
    number_column::{put_floats, put_whole, read_floats, read_whole},
    tables::{Tables, at},
    values::{self, Cell, HistogramValue},
};

/// Writes the slots of a series: runs of what is missing and what is there.
fn put_slots(out: &mut Vec<u8>, slots: &[u32]) {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut next = 0;
    for slot in slots {
        match runs.last_mut() {
            Some((_, length)) if *slot == next => *length += 1,
            _ => runs.push((slot - next, 1)),
        }
        next = slot + 1;
    }
    put_varint(out, runs.len() as u64);
    for (gap, length) in runs {
        put_varint(out, gap.into());
        put_varint(out, length.into());
    }
}

fn read_slots(cursor: &mut Cursor<'_>, slots_max: usize) -> Parsed<Vec<u32>> {
    let mut slots = Vec::new();
    let mut next = 0_usize;
    for _ in 0..cursor.count(slots_max)? {
        let start = next + cursor.number(slots_max)?;
        next = start + cursor.number(slots_max)?;
        if next > slots_max {
            return Err(Malformed("a point is of no window"));
        }
        slots.extend(start as u32..next as u32);
    }
    Ok(slots)
}

/// Appends a series as it came: one number, or one histogram, per window.
pub(super) fn put_fine(out: &mut Vec<u8>, slots: &[u32], column: &FineColumn) {
    let mut row = Vec::new();
    put_slots(&mut row, slots);
    match column {
        FineColumn::Counter(values) | FineColumn::Gauge(values) => put_floats(&mut row, values),
        FineColumn::Histogram(values) => values::put_histograms(&mut row, values.iter()),
    }
    put_bytes(out, &row);
}

/// What a series had, per window.
#[derive(Debug)]
pub(super) enum FineColumn {
    Counter(Vec<f64>),
    Gauge(Vec<f64>),
    Histogram(Vec<HistogramValue>),
}

impl FineColumn {
    pub(super) fn new(kind: SeriesKind) -> Self {
        match kind {
            SeriesKind::Counter => Self::Counter(Vec::new()),
            SeriesKind::Gauge => Self::Gauge(Vec::new()),
            SeriesKind::Histogram => Self::Histogram(Vec::new()),
        }
    }

    /// Appends what a window had. A cell of another kind is not possible: the series' kind made both.
    pub(super) fn push(&mut self, cell: Cell) {
        match (self, cell) {
            (Self::Counter(values), Cell::Counter { last, .. }) => values.push(last),
            (Self::Gauge(values), Cell::Gauge { last, .. }) => values.push(last),
            (Self::Histogram(values), Cell::Histogram(value)) => values.push(value),
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => {}
        }
    }

    fn cell(&self, index: usize) -> Option<Cell> {
        match self {
            Self::Counter(values) => values.get(index).map(|value| Cell::counter(*value)),
            Self::Gauge(values) => values.get(index).map(|value| Cell::gauge(*value)),
            Self::Histogram(values) => values.get(index).map(|value| Cell::Histogram(value.clone())),
        }
    }

    /// Adds the windows of each bucket up: bucket, how many windows, their cell.
    pub(super) fn roll_up(&self, slots: &[u32], bucket_of: impl Fn(u32) -> u32) -> Vec<(u32, u32, Cell)> {
        let mut rows: Vec<(u32, u32, Cell)> = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            let Some(cell) = self.cell(index) else { break };
            let bucket = bucket_of(*slot);
            match rows.last_mut() {
                Some((last, windows, sum)) if *last == bucket => {
                    *windows += 1;
                    sum.add(&cell);
                }
                _ => rows.push((bucket, 1, cell)),
            }
        }
        rows
    }
}

/// Appends a series of the roll-up.
pub(super) fn put_coarse(out: &mut Vec<u8>, kind: SeriesKind, rows: &[(u32, u32, Cell)]) {
    let mut row = Vec::new();
    put_slots(&mut row, &rows.iter().map(|(slot, ..)| *slot).collect::<Vec<_>>());
    put_whole(&mut row, &rows.iter().map(|(_, windows, _)| u64::from(*windows)).collect::<Vec<_>>());
    match kind {
        SeriesKind::Counter => {
            let mut columns = [Vec::new(), Vec::new(), Vec::new()];
            for (.., cell) in rows {
                if let Cell::Counter { first, last, lost } = cell {
                    columns.iter_mut().zip([first, last, lost]).for_each(|(column, value)| column.push(*value));
                }
            }
            columns.iter().for_each(|column| put_floats(&mut row, column));
        }
        SeriesKind::Gauge => {
            let mut columns = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
            for (.., cell) in rows {
                if let Cell::Gauge { min, max, sum, last } = cell {
                    columns.iter_mut().zip([min, max, sum, last]).for_each(|(column, value)| column.push(*value));
                }
            }
            columns.iter().for_each(|column| put_floats(&mut row, column));
        }
        SeriesKind::Histogram => {
            values::put_histograms(&mut row, rows.iter().filter_map(histogram_of));
        }
    }
    put_bytes(out, &row);
}

fn histogram_of((.., cell): &(u32, u32, Cell)) -> Option<&HistogramValue> {
    match cell {
        Cell::Histogram(value) => Some(value),
        Cell::Counter { .. } | Cell::Gauge { .. } => None,
    }
}

/// Visits the points of the wanted series of a chunk: series, slot, how many windows, cell.
pub(super) fn read(
    raw: &[u8],
    tables: &Tables,
    is_coarse: bool,
    slots_max: usize,
    wanted: impl Fn(u32) -> bool,
    mut visit: impl FnMut(u32, usize, u32, Cell) -> Parsed<()>,
) -> Parsed<()> {
    let mut cursor = Cursor::new(raw);
    let first = cursor.u32()?;
    let count = cursor.count(tables.series.len())?;
    for offset in 0..count as u32 {
        let index = first.checked_add(offset).ok_or(Malformed("a position is beyond what numbers can be"))?;
        let kind = at(&tables.series, index)?.kind;
        let mut row = cursor.part()?;
        if !wanted(index) {
            continue;
        }
        let slots = read_slots(&mut row, slots_max)?;
        if is_coarse {
            read_coarse(&mut row, kind, &slots, |slot, windows, cell| visit(index, slot, windows, cell))?;
        } else {
            read_fine(&mut row, kind, &slots, |slot, cell| visit(index, slot, 1, cell))?;
        }
        row.end()?;
    }
    cursor.end()
}

fn read_fine(
    row: &mut Cursor<'_>,
    kind: SeriesKind,
    slots: &[u32],
    mut visit: impl FnMut(usize, Cell) -> Parsed<()>,
) -> Parsed<()> {
    let slots_of = slots.iter().map(|slot| *slot as usize);
    match kind {
        SeriesKind::Counter => {
            slots_of.zip(read_floats(row, slots.len())?).try_for_each(|(slot, value)| visit(slot, Cell::counter(value)))
        }
        SeriesKind::Gauge => {
            slots_of.zip(read_floats(row, slots.len())?).try_for_each(|(slot, value)| visit(slot, Cell::gauge(value)))
        }
        SeriesKind::Histogram => {
            let values = values::histograms(row, slots.len())?;
            slots_of.zip(values).try_for_each(|(slot, value)| visit(slot, Cell::Histogram(value)))
        }
    }
}

fn read_coarse(
    row: &mut Cursor<'_>,
    kind: SeriesKind,
    slots: &[u32],
    mut visit: impl FnMut(usize, u32, Cell) -> Parsed<()>,
) -> Parsed<()> {
    let windows: Vec<u32> = read_whole(row, slots.len())?
        .into_iter()
        .map(|windows| u32::try_from(windows).map_err(|_| Malformed("a bucket has too many windows")))
        .collect::<Parsed<_>>()?;
    let slots_of = slots.iter().map(|slot| *slot as usize).zip(windows);
    match kind {
        SeriesKind::Counter => {
            let firsts = read_floats(row, slots.len())?;
            let lasts = read_floats(row, slots.len())?;
            let losses = read_floats(row, slots.len())?;
            for ((((slot, windows), first), last), lost) in slots_of.zip(firsts).zip(lasts).zip(losses) {
                visit(slot, windows, Cell::Counter { first, last, lost })?;
            }
        }
        SeriesKind::Gauge => {
            let mins = read_floats(row, slots.len())?;
            let maxs = read_floats(row, slots.len())?;
            let sums = read_floats(row, slots.len())?;
            let lasts = read_floats(row, slots.len())?;
            for (((((slot, windows), min), max), sum), last) in slots_of.zip(mins).zip(maxs).zip(sums).zip(lasts) {
                visit(slot, windows, Cell::Gauge { min, max, sum, last })?;
            }
        }
        SeriesKind::Histogram => {
            for ((slot, windows), value) in slots_of.zip(values::histograms(row, slots.len())?) {
                visit(slot, windows, Cell::Histogram(value))?;
            }
        }
    }
    Ok(())
}
