//! Questions and answers. Every answer has bounds and says what was left out.

mod catalog;
mod events;
mod matcher;
mod merge;
mod processes;
mod profile;
mod series;
mod top;

use std::{collections::HashMap, sync::Arc, time::Instant};

pub use self::{
    catalog::{Catalog, CollectorInfo, SeriesInfo},
    events::{EventQuery, EventRecord, Events},
    matcher::{MatchOp, Matcher},
    processes::{ProcessQuery, ProcessRecord, Processes},
    profile::{Grouping, MergedProfile, ProfileQuery},
    series::{Series, SeriesPoint, SeriesQuery, SeriesResult, SeriesValue},
    top::{Function, TopFunctions},
};
use super::{
    KnownProcess, attributes,
    bytes::Parsed,
    limits::DAMAGE_MAX,
    tables::{Tables, at},
};

/// How much an answer may hold. What is beyond is left out, the smallest or oldest first, and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Different (process, thread, stack) of a profile. The largest ones are kept.
    pub stacks: usize,
    /// Functions of a list.
    pub functions: usize,
    /// Series.
    pub series: usize,
    /// Points of all series together.
    pub points: usize,
    /// Buckets of all histograms of these together.
    pub buckets: usize,
    /// Events. The newest ones are kept.
    pub events: usize,
    /// Processes. The largest ones are kept.
    pub processes: usize,
    /// Bytes of the texts of all events or processes together, as if none were shared.
    pub text_bytes: usize,
    /// Names and values of a list.
    pub names: usize,
    /// When to stop reading; what was not read by then is left out.
    pub deadline: Option<Instant>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stacks: 20_000,
            functions: 1000,
            series: 1000,
            points: 200_000,
            buckets: 2_000_000,
            events: 10_000,
            processes: 10_000,
            text_bytes: 32 << 20,
            names: 10_000,
            deadline: None,
        }
    }
}

/// How complete an answer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Notes {
    /// Files that were read.
    pub files_read: u64,
    /// Files that could not be read wholly, and why; what they hold is missing from the answer.
    pub damaged: Vec<(String, String)>,
    /// Such files that are not named.
    pub damaged_more: u64,
    /// Stacks, series, points, events, processes or names (whatever was asked for) beyond the limits.
    pub omitted: u64,
    /// The deadline passed before everything was read.
    pub is_timed_out: bool,
    /// Windows at the range's edges are gone: the edges are those of the roll-up's buckets.
    pub is_rounded: bool,
}

impl Notes {
    /// Names a file that cannot be read wholly, if so many are not named yet.
    pub(super) fn damage(&mut self, file: String, why: String) {
        if self.damaged.len() < DAMAGE_MAX {
            self.damaged.push((file, why));
        } else {
            self.damaged_more += 1;
        }
    }

    /// Whether everything that was asked for is in the answer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let Self { files_read: _, damaged, damaged_more, omitted, is_timed_out, is_rounded } = self;
        damaged.is_empty() && *damaged_more == 0 && *omitted == 0 && !is_timed_out && !is_rounded
    }
}

/// A label's name and value.
pub(super) type Label = (Arc<str>, Arc<str>);

/// What entries of an answer have in common within a file: each text and each process once, however many have it.
#[derive(Default)]
struct Shared {
    texts: HashMap<u32, Arc<str>>,
    processes: HashMap<u32, Arc<KnownProcess>>,
}

impl Shared {
    fn text(&mut self, tables: &Tables, index: u32) -> Parsed<Arc<str>> {
        if let Some(text) = self.texts.get(&index) {
            return Ok(Arc::clone(text));
        }
        let text: Arc<str> = tables.strings.get(index)?.into();
        self.texts.insert(index, Arc::clone(&text));
        Ok(text)
    }

    fn labels(&mut self, tables: &Tables, pairs: &[(u32, u32)]) -> Parsed<Vec<Label>> {
        pairs.iter().map(|(name, value)| Ok((self.text(tables, *name)?, self.text(tables, *value)?))).collect()
    }

    /// A process with everything that is known of it.
    fn process(&mut self, tables: &Tables, index: u32) -> Parsed<Arc<KnownProcess>> {
        if let Some(process) = self.processes.get(&index) {
            return Ok(Arc::clone(process));
        }
        let entry = at(&tables.processes, index)?;
        let labels = self.labels(tables, &entry.attributes)?;
        let process = Arc::new(KnownProcess { info: attributes::info(entry.key, labels.iter().cloned()), labels });
        self.processes.insert(index, Arc::clone(&process));
        Ok(process)
    }
}

/// Bytes of labels' texts.
fn text_bytes(labels: &[Label]) -> usize {
    labels.iter().map(|(name, value)| name.len() + value.len()).sum()
}
