//! The samples of a run of keys, by columns: how many each key has, in which slots, with which values.
//!
//! A slot is a window, or a bucket of windows in the roll-up.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_bytes, put_varint, unzigzag, zigzag},
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
        let mut columns = vec![Vec::new(); 3 + values.len()];
        let (mut start, mut first_before) = (0, 0);
        let mut starts = Vec::with_capacity(counts.len());
        for count in counts {
            starts.push(start);
            put_varint(&mut columns[0], (*count).into());
            if let Some(first) = slots[start..start + *count as usize].first() {
                // Keys of one process begin with it.
                put_varint(&mut columns[1], zigzag(i64::from(*first) - first_before));
                first_before = (*first).into();
            }
            start += *count as usize;
        }
        for index in by_count(counts) {
            let key = first_key.saturating_add(index);
            let (start, count) = (starts[index as usize], counts[index as usize]);
            let end = start + count as usize;
            slots[start..end].windows(2).for_each(|pair| put_varint(&mut columns[2], u64::from(pair[1] - pair[0] - 1)));
            let kind = at(&tables.keys, key)?.kind;
            let kind_factors = factors.get(kind as usize).map_or(&[][..], |factors| factors);
            for (index, value_column) in values.iter().enumerate() {
                if is_written(kind_factors, index) {
                    value_column[start..end].iter().for_each(|value| put_varint(&mut columns[3 + index], *value));
                }
            }
        }
        let mut out = Vec::new();
        put_varint(&mut out, (*first_key).into());
        put_varint(&mut out, counts.len() as u64);
        columns.iter().for_each(|column| put_bytes(&mut out, column));
        Ok(out)
    }
}

/// The keys with many samples first: how often a key has samples tells how far they lie apart and how large they are, and
/// what is alike compresses best side by side.
fn by_count(counts: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..counts.len() as u32).collect();
    order.sort_by_key(|index| std::cmp::Reverse(counts[*index as usize]));
    order
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
    let (mut count_column, mut firsts, mut gaps) = (cursor.part()?, cursor.part()?, cursor.part()?);
    let mut columns = Vec::new();
    while !cursor.is_empty() {
        if columns.len() == VALUE_TYPES_MAX {
            return Err(Malformed("a sample has more values than it may have"));
        }
        columns.push(cursor.part()?);
    }
    let mut values: Vec<u64> = Vec::with_capacity(VALUE_TYPES_MAX);
    let counts =
        (0..keys).map(|_| count_column.number(slots_max).map(|count| count as u32)).collect::<Parsed<Vec<u32>>>()?;
    let mut before = 0_i64;
    let mut first_of = |count: &u32| match count {
        0 => Ok(0),
        _ => {
            before = before.wrapping_add(unzigzag(firsts.varint()?));
            usize::try_from(before).map_err(|_| Malformed("a sample is of no window"))
        }
    };
    let first_slots = counts.iter().map(&mut first_of).collect::<Parsed<Vec<usize>>>()?;
    for index in by_count(&counts) {
        let key = first_key.checked_add(index).ok_or(Malformed("a position is beyond what numbers can be"))?;
        let kind = at(&tables.keys, key)?.kind;
        let factors = at(factors, kind)?;
        let is_wanted = wanted(key);
        let mut slot = first_slots[index as usize];
        for position in 0..counts[index as usize] {
            if position > 0 {
                slot += 1 + gaps.number(slots_max)?;
            }
            if slot >= slots_max {
                return Err(Malformed("a sample is of no window"));
            }
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
    count_column.end()?;
    firsts.end()?;
    gaps.end()?;
    columns.iter().try_for_each(Cursor::end)
}
