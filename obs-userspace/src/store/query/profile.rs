//! One profile out of a range of time.

use std::borrow::Cow;

use super::{
    super::{
        Range,
        block::Parts,
        bytes::{Malformed, Parsed},
        error::{FileError, StoreError},
        reader::{Reader, Source, Visit},
        tables::{KeyEntry, KindEntry, Tables, at},
        window::is_plain,
    },
    Limits, Matcher, Notes, matcher,
    merge::{Merged, Merger},
};
use crate::model::profile::{Profile, ValueType};

/// Which samples to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileQuery {
    /// When.
    pub range: Range,
    /// Of which collector.
    pub collector: String,
    /// Of which processes and threads: those that meet every condition.
    pub matchers: Vec<Matcher>,
    /// What is kept apart.
    pub grouping: Grouping,
    /// How much the answer may hold.
    pub limits: Limits,
}

/// What a merged profile keeps apart, besides stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// Process images and names of threads, as they were measured.
    #[default]
    Threads,
    /// Process images. Thread names are empty.
    Processes,
    /// Names of processes: each name is one process, the newest that had it. What a flame graph of a day shows, at a fraction
    /// of the cost: thousands of short-lived processes are one.
    Names,
}

/// The samples of a range, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedProfile {
    /// The profile; without value types if there was nothing. It begins with the range's first window and lasts to the end
    /// of the last one.
    pub profile: Profile,
    /// How much of that time windows cover, in nanoseconds.
    pub covered_ns: u64,
    /// The summed values of the stacks that were left out, one per value type.
    pub omitted_values: Vec<u64>,
    /// Samples of the same collector with other value types than the newest ones', which are not in the profile.
    pub other_types: u64,
    /// How complete it is.
    pub notes: Notes,
}

/// What is known after the newest samples were found.
struct Progress {
    value_types: Vec<ValueType>,
    /// `None` once two differ.
    period: Option<(ValueType, u64)>,
    merger: Merger,
}

impl Reader {
    /// Merges the profiles of a collector in a range of time.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn profile(&self, query: &ProfileQuery) -> Result<MergedProfile, StoreError> {
        let ProfileQuery { range, collector, matchers: _, grouping: _, limits } = query;
        let plan = Visit {
            range: *range,
            parts: Parts { code: true, series: false },
            newest_first: true,
            deadline: limits.deadline,
        };
        let mut progress: Option<Progress> = None;
        let mut notes = Notes::default();
        let (mut first_ns, mut last_ns, mut covered_ns, mut other_types) = (u64::MAX, 0, 0_u64, 0_u64);
        self.visit(&plan, &mut notes, |source, notes| {
            for (start, duration) in source.windows(*range) {
                first_ns = first_ns.min(start);
                last_ns = last_ns.max(start.saturating_add(duration));
                covered_ns = covered_ns.saturating_add(duration);
            }
            merge_source(source, query, &mut progress, &mut other_types, notes).map(drop)
        })?;
        let started_unix_ns = if first_ns == u64::MAX { range.from_unix_ns } else { first_ns };
        let mut profile = Profile {
            collector: Cow::Owned(collector.clone()),
            value_types: Vec::new(),
            period: None,
            started_unix_ns,
            duration_ns: last_ns.saturating_sub(started_unix_ns),
            modules: Vec::new(),
            frames: Vec::new(),
            processes: Vec::new(),
            samples: Vec::new(),
        };
        let mut omitted_values = Vec::new();
        if let Some(Progress { value_types, period, merger }) = progress {
            // Only codes that were checked when they were read are in it.
            if let Ok((merged, omitted, values)) = merger.finish() {
                let Merged { modules, frames, processes, samples } = merged;
                profile = Profile { value_types, period, modules, frames, processes, samples, ..profile };
                notes.omitted += omitted;
                omitted_values = values;
            }
        }
        Ok(MergedProfile { profile, covered_ns, omitted_values, other_types, notes })
    }
}

/// Adds one file's samples.
fn merge_source(
    source: &mut Source<'_>,
    query: &ProfileQuery,
    progress: &mut Option<Progress>,
    other_types: &mut u64,
    notes: &mut Notes,
) -> Result<(), FileError> {
    let damaged = |what: Malformed| FileError::Damaged { offset: 0, what };
    let kinds = wanted_kinds(source.tables(), &query.collector).map_err(damaged)?;
    let Some(newest) = kinds.iter().rposition(|is_wanted| *is_wanted) else { return Ok(()) };
    let (value_types, period) = kind_of(source.tables(), &source.tables().kinds[newest]).map_err(damaged)?;
    let progress = progress.get_or_insert_with(|| {
        let merger = Merger::new(query.grouping, value_types.len(), query.limits.stacks);
        Progress { value_types, period, merger }
    });
    let tables = source.tables();
    let mut same = vec![false; kinds.len()];
    for (index, kind) in tables.kinds.iter().enumerate().filter(|(index, _)| kinds[*index]) {
        let (value_types, period) = kind_of(tables, kind).map_err(damaged)?;
        same[index] = value_types == progress.value_types;
        if same[index] && period != progress.period {
            progress.period = None;
        }
    }
    let is_wanted = |key: &KeyEntry| kinds.get(key.kind as usize).copied().unwrap_or_default();
    let wanted = matcher::wanted_keys(tables, is_wanted, &query.matchers).map_err(damaged)?;
    let kind_of_key: Vec<u32> = tables.keys.iter().map(|key| key.kind).collect();
    let types = progress.value_types.len();
    let mut totals = vec![0_u64; tables.keys.len() * types];
    notes.is_rounded |= source.samples(query.range, &wanted, |key, values| {
        if *at(&same, *at(&kind_of_key, key)?)? {
            let start = key as usize * types;
            let sums = totals.get_mut(start..start + types).unwrap_or_default();
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        } else {
            *other_types += 1;
        }
        Ok(())
    })?;
    progress.merger.add(source.boot_id(), source.tables(), &totals).map_err(damaged)
}

/// Per kind of profile, whether it is of a collector.
pub(super) fn wanted_kinds(tables: &Tables, collector: &str) -> Parsed<Vec<bool>> {
    tables.kinds.iter().map(|kind| Ok(tables.strings.get(kind.collector)? == collector)).collect()
}

/// What the values of a kind of profile mean, and how far apart its samples are.
type Meaning = (Vec<ValueType>, Option<(ValueType, u64)>);

/// Reads what a kind means.
pub(super) fn kind_of(tables: &Tables, kind: &KindEntry) -> Parsed<Meaning> {
    let word = |index: u32| {
        let text = tables.strings.get(index)?;
        // Formats count on it.
        if is_plain(text) { Ok(Cow::Owned(text.to_owned())) } else { Err(Malformed("a name is not plain")) }
    };
    let value_type = |(name, unit): &(u32, u32)| Ok(ValueType { name: word(*name)?, unit: word(*unit)? });
    let value_types = kind.value_types.iter().map(value_type).collect::<Parsed<_>>()?;
    let period = match &kind.period {
        Some((of, value)) => Some((value_type(of)?, *value)),
        None => None,
    };
    word(kind.collector)?;
    Ok((value_types, period))
}
