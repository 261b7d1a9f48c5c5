//! Proves once that a profile is consistent, so that the writers need not doubt each index and sum.

use std::{borrow::Cow, collections::BTreeMap};

use crate::model::{
    profile::{Profile, ProfileSample, ValueType},
    stack::StackEnd,
};

/// The largest total that every format can hold (pprof's values are signed).
const TOTAL_MAX: u64 = i64::MAX as u64;

/// How many entries a table may have, so that 32 bits number the entries of all tables together.
const ENTRIES_MAX: usize = u32::MAX as usize / 8;

/// In what a profile contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// There is nothing that the values of a sample could mean.
    #[error("it has no value type")]
    NoValueType,
    /// A table is longer than its indices can count.
    #[error("its table of {table} has {length} entries, more than {ENTRIES_MAX}")]
    TableTooLong {
        /// Which table.
        table: &'static str,
        /// How long it is.
        length: usize,
    },
    /// An index is beyond the end of its table.
    #[error("{holder} {position} points at entry {index} of the {length} {table}")]
    Dangling {
        /// What holds the index: `sample` or `frame`.
        holder: &'static str,
        /// Which one it is.
        position: usize,
        /// The table that it points into.
        table: &'static str,
        /// The index.
        index: u32,
        /// How many entries the table has.
        length: usize,
    },
    /// A sample has not one value per value type.
    #[error("sample {position} has {values} values for {types} value types")]
    ValueCount {
        /// Which sample.
        position: usize,
        /// How many values it has.
        values: usize,
        /// How many it should have.
        types: usize,
    },
    /// The values of one type add up to more than 2^63-1.
    #[error("its values of {name}/{unit} add up to more than {TOTAL_MAX}")]
    TotalTooLarge {
        /// The type's name.
        name: Cow<'static, str>,
        /// The type's unit.
        unit: Cow<'static, str>,
    },
}

/// A profile whose indices all point somewhere and whose sums all fit into 63 bits.
pub(super) struct Checked<'a> {
    pub(super) profile: &'a Profile,
    /// The sum of each value type.
    pub(super) totals: Vec<u64>,
    /// The sum of the [`counted`](Self::counted) values of the stacks that were cut, per reason.
    pub(super) cut: BTreeMap<StackEnd, u64>,
}

impl<'a> Checked<'a> {
    pub(super) fn new(profile: &'a Profile) -> Result<Self, Inconsistency> {
        let Profile { value_types, modules, frames, processes, samples, .. } = profile;
        if value_types.is_empty() {
            return Err(Inconsistency::NoValueType);
        }
        for (table, length) in [
            ("modules", modules.len()),
            ("frames", frames.len()),
            ("processes", processes.len()),
            ("samples", samples.len()),
        ] {
            if length > ENTRIES_MAX {
                return Err(Inconsistency::TableTooLong { table, length });
            }
        }
        for (position, frame) in frames.iter().enumerate() {
            if let Some(index) = frame.module {
                inside("frame", position, "modules", index, modules.len())?;
            }
        }
        let mut totals = vec![0_u64; value_types.len()];
        for (position, sample) in samples.iter().enumerate() {
            inside("sample", position, "processes", sample.process, processes.len())?;
            for index in sample.stack.iter() {
                inside("sample", position, "frames", *index, frames.len())?;
            }
            if sample.values.len() != value_types.len() {
                let (values, types) = (sample.values.len(), value_types.len());
                return Err(Inconsistency::ValueCount { position, values, types });
            }
            for ((total, value), ValueType { name, unit }) in totals.iter_mut().zip(&sample.values).zip(value_types) {
                *total = total
                    .checked_add(*value)
                    .filter(|sum| *sum <= TOTAL_MAX)
                    .ok_or_else(|| Inconsistency::TotalTooLarge { name: name.clone(), unit: unit.clone() })?;
            }
        }
        let mut checked = Self { profile, totals, cut: BTreeMap::new() };
        let counted = checked.counted();
        for sample in samples {
            if let Some(end) = cut_of(sample) {
                *checked.cut.entry(end).or_default() += sample.values[counted];
            }
        }
        Ok(checked)
    }

    /// The value type that stands for a stack where there is room for one only and people expect counts (folded, SVG):
    /// the number of samples of a profile that is made by sampling, otherwise what the profile shows by default. Ten
    /// waits say little without their length; ten samples are what a sampled stack weighs.
    pub(super) fn counted(&self) -> usize {
        if self.profile.value_types[0].name == "samples" { 0 } else { self.shown() }
    }

    /// The value type that the profile shows by default: the last one.
    pub(super) fn shown(&self) -> usize {
        self.profile.value_types.len() - 1
    }
}

/// Why the sample's stack lacks its outer part, if it does.
pub(super) fn cut_of(sample: &ProfileSample) -> Option<StackEnd> {
    sample.cut.filter(|end| *end != StackEnd::Complete)
}

fn inside(
    holder: &'static str,
    position: usize,
    table: &'static str,
    index: u32,
    length: usize,
) -> Result<(), Inconsistency> {
    if (index as usize) < length {
        Ok(())
    } else {
        Err(Inconsistency::Dangling { holder, position, table, index, length })
    }
}
