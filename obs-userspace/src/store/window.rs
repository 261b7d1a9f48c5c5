//! One window of a journal: what it adds to the tables, and what was measured, by positions in them.

mod encode;
mod view;

pub(super) use self::{
    encode::{encode, is_plain},
    view::{Kinds, WindowView},
};
use super::{
    bytes::{Malformed, Parsed, unzigzag},
    tables::{Maybe, Tables, at},
};

/// What became of a window's contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) samples: u64,
    pub(super) points: u64,
    /// Of all histograms.
    pub(super) buckets: u64,
    pub(super) events: u64,
    pub(super) events_dropped: u64,
}

/// Events' times are whole microseconds. What is finer is noise: when the boot-time clock was 0 is not known better, as it takes
/// two clocks that cannot be read at once.
pub(super) const EVENT_UNIT_NS: u64 = 1000;

/// An event by positions in the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRow {
    pub(super) time_unix_ns: u64,
    pub(super) name: u32,
    pub(super) process: Maybe,
    pub(super) labels: Vec<(u32, u32)>,
}

impl EventRow {
    /// Follows its references.
    pub(super) fn check(&self, tables: &Tables) -> Parsed<()> {
        tables.strings.get(self.name)?;
        for (name, value) in &self.labels {
            tables.strings.get(*name)?;
            tables.strings.get(*value)?;
        }
        self.process.get().map_or(Ok(()), |process| at(&tables.processes, process).map(drop))
    }
}

/// The time that lies so many microseconds, as a signed number, from another one.
pub(super) fn event_time(before_ns: u64, distance: u64) -> Parsed<u64> {
    let time = (before_ns / EVENT_UNIT_NS).checked_add_signed(unzigzag(distance));
    time.and_then(|time| time.checked_mul(EVENT_UNIT_NS)).ok_or(Malformed("a time is beyond what numbers can be"))
}
