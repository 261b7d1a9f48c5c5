//! The samples of a run of keys, by columns: how many each key has, in which slots, with which values.
//!
//! A slot is a window, or a bucket of windows in the roll-up.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_bytes, put_varint},
    limits::VALUE_TYPES_MAX,
    tables::{Tables, at},
};

/// Per value type of a kind but the first: with what the first value is multiplied to give it, or nothing if it is written.
pub(super) type Factors = Vec<Option<u64>>;

/// The samples of consecutive keys in the order of their keys, then of their slots.
#[derive(Debug, Default)]
pub(super) struct SampleChunk {
    pub(super) first_key: u32,
    /// Per key, how many samples it has.
    pub(super) counts: Vec<u32>,
    /// Per sample, its slot.
    pub(super) slots: Vec<u32>,
    /// Per value type, per sample, its value. Those that have a factor are not looked at.
    pub(super) values: Vec<Vec<u64>>,
}

impl SampleChunk {
    pub(super) fn encode(&self, tables: &Tables, factors: &[Factors]) -> Parsed<Vec<u8>> {
        let Self { first_key, counts, slots, values } = self;
        let mut columns = vec![Vec::new(); 2 + values.len()];
        let mut start = 0;
        for (key, count) in (*first_key..).zip(counts) {
            let end = start + *count as usize;
            put_varint(&mut columns[0], (*count).into());
            let mut next = 0;
            for slot in &slots[start..end] {
                put_varint(&mut columns[1], u64::from(slot - next));
                next = slot + 1;
            }
            let kind = at(&tables.keys, key)?.kind;
            let kind_factors = factors.get(kind as usize).map_or(&[][..], |factors| factors);
            for (index, value_column) in values.iter().enumerate() {
                if is_written(kind_factors, index) {
                    value_column[start..end].iter().for_each(|value| put_varint(&mut columns[2 + index], *value));
                }
            }
            start = end;
        }
        let mut out = Vec::new();
        put_varint(&mut out, (*first_key).into());
        put_varint(&mut out, counts.len() as u64);
        columns.iter().for_each(|column| put_bytes(&mut out, column));
        Ok(out)
    }
}

/// Whether values of that type are written for a kind: the first always, others if nothing tells them.
fn is_written(factors: &[Option<u64>], index: usize) -> bool {
    match index.checked_sub(1) {
        None => true,
        Some(before) => matches!(factors.get(before), Some(None)),
    }
}

/// Visits the samples of a chunk that have wanted keys: key, slot, values.
pub(super) fn read(
    raw: &[u8],
    tables: &Tables,
    factors: &[Factors],
    slots_max: usize,
    wanted: impl Fn(u32) -> bool,
    mut visit: impl FnMut(u32, usize, &[u64]) -> Parsed<()>,
) -> Parsed<()> {
    let mut cursor = Cursor::new(raw);
    let first_key = cursor.u32()?;
    let keys = cursor.count(tables.keys.len())?;
    let (mut counts, mut slots) = (cursor.part()?, cursor.part()?);
    let mut columns = Vec::new();
    while !cursor.is_empty() {
        if columns.len() == VALUE_TYPES_MAX {
            return Err(Malformed("a sample has more values than it may have"));
        }
        columns.push(cursor.part()?);
    }
    let mut values: Vec<u64> = Vec::with_capacity(VALUE_TYPES_MAX);
    for offset in 0..keys as u32 {
        let key = first_key.checked_add(offset).ok_or(Malformed("a position is beyond what numbers can be"))?;
        let kind = at(&tables.keys, key)?.kind;
        let factors = at(factors, kind)?;
        let is_wanted = wanted(key);
        let mut next = 0_usize;
        for _ in 0..counts.number(slots_max)? {
            let slot = next + slots.number(slots_max)?;
            if slot >= slots_max {
                return Err(Malformed("a sample is of no window"));
            }
            next = slot + 1;
            values.clear();
            for index in 0..=factors.len() {
                let factor = index.checked_sub(1).and_then(|before| factors[before]);
                values.push(match factor {
                    Some(factor) => values[0].saturating_mul(factor),
                    None => columns.get_mut(index).ok_or(Malformed("a column of values is missing"))?.varint()?,
                });
            }
            if is_wanted {
                visit(key, slot, &values)?;
            }
        }
    }
    counts.end()?;
    slots.end()?;
    columns.iter().try_for_each(Cursor::end)
}
