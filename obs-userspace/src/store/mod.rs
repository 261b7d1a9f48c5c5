//! The history of this host on disk: what was measured, window by window, and how to ask for it.
//!
//! [`Store`] is the one writer of a state folder: each window is appended to a journal, and each journal becomes a block with
//! a roll-up every two hours. [`Reader`] answers questions, from any thread and also without the writer. The format is
//! described byte by byte in `docs/store.md`.
//!
//! **Boundary:** this module knows `model` only. It asks no clock: all times come with the windows.

mod attributes;
mod block;
mod bytes;
mod check;
mod codes;
mod error;
mod event_chunk;
mod folder;
mod frame;
pub mod fuzz;
mod interner;
mod journal;
pub mod limits;
mod number_column;
mod point_chunk;
mod query;
mod reader;
mod reorder;
mod sample_chunk;
mod seal;
mod tables;
#[cfg(test)]
mod tests;
mod too_large;
mod values;
mod window;
mod writer;

pub use self::{
    attributes::{label, unit_of},
    bytes::Malformed,
    check::{
        CheckReport, Contents, FileReport, FileState, StatReport, check, check_block_bytes, check_journal_bytes, stat,
    },
    codes::SeriesKind,
    error::{FileError, StoreError, WindowError},
    frame::ReadAt,
    query::{
        Catalog, CollectorInfo, EventQuery, EventRecord, Events, Function, Grouping, Limits, MatchOp, Matcher,
        MergedProfile, Notes, ProcessQuery, ProcessRecord, Processes, ProfileQuery, Series, SeriesInfo, SeriesPoint,
        SeriesQuery, SeriesResult, SeriesValue, TopFunctions,
    },
    reader::Reader,
    too_large::SamplesDropped,
    values::HistogramValue,
    writer::{Appended, Recovery, Store, StoreOptions, StoreStats},
};

use std::sync::Arc;

use crate::model::{
    process::ProcessInfo,
    profile::Profile,
    record::{Counter, Event, Gauge, Histogram},
};

/// What was measured in one window, of ten seconds as a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// When it began, in nanoseconds since 1970 (UTC).
    pub started_unix_ns: u64,
    /// How long it was, in nanoseconds.
    pub duration_ns: u64,
    /// When the boot-time clock was 0, in nanoseconds since 1970; it gives events their time of day.
    pub boot_unix_ns: u64,
    /// Symbolized profiles, one per collector.
    pub profiles: Vec<Profile>,
    /// Processes that were there, with all that is known of them. Those of the profiles need not be repeated; where they
    /// are, their labels hold for the profiles too.
    pub processes: Vec<KnownProcess>,
    /// Growing sums, as they stood at the window's end.
    pub counters: Vec<Counter>,
    /// Values, as they were at the window's end.
    pub gauges: Vec<Gauge>,
    /// Distributions of what happened within the window.
    pub histograms: Vec<Histogram>,
    /// What happened within the window. Times are kept in whole microseconds.
    pub events: Vec<Event>,
}

/// A process, and what is known of it beyond [`ProcessInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownProcess {
    /// Who it is.
    pub info: ProcessInfo,
    /// Everything else, by names of the caller's choice (`user`, `image`, `pod`, …): what processes can be chosen by. At most
    /// 64 are kept, those of [`label`] that `info` tells included.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// A span of time. A window belongs to it if it begins in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first nanosecond since 1970 (UTC).
    pub from_unix_ns: u64,
    /// The first nanosecond behind it.
    pub to_unix_ns: u64,
}

impl Range {
    /// Everything.
    pub const ALL: Self = Self { from_unix_ns: 0, to_unix_ns: u64::MAX };

    /// Whether a time lies in it.
    #[must_use]
    pub fn contains(&self, unix_ns: u64) -> bool {
        (self.from_unix_ns..self.to_unix_ns).contains(&unix_ns)
    }

    /// Whether any of the windows between these two times can lie in it.
    fn touches(&self, first_unix_ns: u64, last_unix_ns: u64) -> bool {
        first_unix_ns < self.to_unix_ns && last_unix_ns >= self.from_unix_ns
    }
}
