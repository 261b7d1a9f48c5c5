//! The processes that were there in a range of time, and what they took.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    super::{
        KnownProcess, Range,
        block::Parts,
        error::{FileError, StoreError},
        reader::{Reader, Source, Visit},
        tables::{KeyEntry, at},
    },
    Limits, Matcher, Notes, Shared, matcher,
    profile::{kind_of, wanted_kinds},
    text_bytes,
};
use crate::model::{process::ProcessKey, profile::ValueType};

/// Processes of which at least it is kept what they took: which are the largest is known only when all files are read.
const CANDIDATES_MIN: usize = 10_000;

/// Which processes to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessQuery {
    /// When they were there.
    pub range: Range,
    /// Conditions on them; all must be met. One on threads is about what they took.
    pub matchers: Vec<Matcher>,
    /// The collector whose values are added up per process, if any.
    pub collector: Option<String>,
    /// How much the answer may hold.
    pub limits: Limits,
}

/// A process image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    /// Who it is, and what was known of it.
    pub process: Arc<KnownProcess>,
    /// The start of the machine in which it ran: its process key has a meaning there only.
    pub boot_id: [u8; 16],
    /// Since when it was seen, in nanoseconds since 1970; of blocks that the range touches.
    pub first_unix_ns: u64,
    /// Until when it was seen.
    pub last_unix_ns: u64,
    /// What it took within the range, one per value type of the answer.
    pub values: Vec<u64>,
}

/// The processes that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Processes {
    /// What values mean; empty if no collector was asked for, or had none.
    pub value_types: Vec<ValueType>,
    /// The largest by the last value first, then the one that was seen last.
    pub processes: Vec<ProcessRecord>,
    /// How complete they are.
    pub notes: Notes,
}

type Rows = IndexMap<([u8; 16], ProcessKey), ProcessRecord>;

impl Reader {
    /// Lists the processes of a range.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn processes(&self, query: &ProcessQuery) -> Result<Processes, StoreError> {
        let plan =
            Visit { range: query.range, parts: Parts::default(), newest_first: true, deadline: query.limits.deadline };
        let (mut rows, mut value_types) = (Rows::new(), Vec::new());
        let (mut notes, mut texts) = (Notes::default(), 0);
        self.visit(&plan, &mut notes, |source, notes| {
            list(source, query, &mut rows, &mut texts, notes)?;
            add_values(source, query, &mut rows, &mut value_types, notes)
        })?;
        let mut processes: Vec<ProcessRecord> = rows.into_values().collect();
        processes.iter_mut().for_each(|process| process.values.resize(value_types.len(), 0));
        processes.sort_by(|left, right| {
            (right.values.last(), right.last_unix_ns).cmp(&(left.values.last(), left.last_unix_ns))
        });
        notes.omitted += processes.len().saturating_sub(query.limits.processes) as u64;
        processes.truncate(query.limits.processes);
        Ok(Processes { value_types, processes, notes })
    }
}

/// Adds the processes of a file. Newer files come first: what they say of a process stays.
fn list(
    source: &mut Source<'_>,
    query: &ProcessQuery,
    rows: &mut Rows,
    bytes: &mut usize,
    notes: &mut Notes,
) -> Result<(), FileError> {
    let mut found = Vec::new();
    source.processes(query.range, |process, first, last| {
        found.push((process, first, last));
        Ok(())
    })?;
    let (tables, boot_id) = (source.tables(), source.boot_id());
    let damaged = |what| FileError::Damaged { offset: 0, what };
    let mut shared = Shared::default();
    for (process, first_unix_ns, last_unix_ns) in found.into_iter().rev() {
        let entry = at(&tables.processes, process).map_err(damaged)?;
        if !matcher::accepts_process(tables, entry, &query.matchers).map_err(damaged)? {
            continue;
        }
        let key = (boot_id, entry.key);
        let is_known = rows.get(&key).is_some_and(|row| !row.process.info.name.is_empty());
        if !is_known {
            let known = shared.process(tables, process).map_err(damaged)?;
            let more = text_bytes(&known.labels);
            let has_place = rows.contains_key(&key) || rows.len() < query.limits.processes.max(CANDIDATES_MIN);
            if has_place && *bytes + more <= query.limits.text_bytes {
                *bytes += more;
                let told = Arc::clone(&known);
                let new = || ProcessRecord { process: told, boot_id, first_unix_ns, last_unix_ns, values: Vec::new() };
                rows.entry(key).or_insert_with(new).process = known;
            } else {
                notes.omitted += 1;
            }
        }
        if let Some(row) = rows.get_mut(&key) {
            row.first_unix_ns = row.first_unix_ns.min(first_unix_ns);
            row.last_unix_ns = row.last_unix_ns.max(last_unix_ns);
        }
    }
    Ok(())
}

fn add_values(
    source: &mut Source<'_>,
    query: &ProcessQuery,
    rows: &mut Rows,
    value_types: &mut Vec<ValueType>,
    notes: &mut Notes,
) -> Result<(), FileError> {
    let damaged = |what| FileError::Damaged { offset: 0, what };
    let Some(collector) = &query.collector else { return Ok(()) };
    let (tables, boot_id) = (source.tables(), source.boot_id());
    let mut kinds = wanted_kinds(tables, collector).map_err(damaged)?;
    for index in (0..kinds.len()).rev().filter(|index| kinds[*index]).collect::<Vec<_>>() {
        let (types, _) = kind_of(tables, &tables.kinds[index]).map_err(damaged)?;
        if value_types.is_empty() {
            value_types.clone_from(&types);
        }
        kinds[index] = types == *value_types;
    }
    let is_wanted = |key: &KeyEntry| kinds.get(key.kind as usize).copied().unwrap_or_default();
    let wanted = matcher::wanted_keys(tables, is_wanted, &query.matchers).map_err(damaged)?;
    let process_of: Vec<u32> = tables.keys.iter().map(|key| key.process).collect();
    let mut totals = vec![0_u64; tables.processes.len() * value_types.len()];
    let types = value_types.len();
    notes.is_rounded |= source.samples(query.range, &wanted, |key, values| {
        let start = *at(&process_of, key)? as usize * types;
        let sums = totals.get_mut(start..start + types).unwrap_or_default();
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        Ok(())
    })?;
    for (entry, totals) in source.tables().processes.iter().zip(totals.chunks_exact(types.max(1))) {
        if let Some(row) = rows.get_mut(&(boot_id, entry.key)) {
            row.values.resize(types, 0);
            row.values.iter_mut().zip(totals).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        }
    }
    Ok(())
}
