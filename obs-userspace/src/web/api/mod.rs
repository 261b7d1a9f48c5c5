//! `/api/v1`: questions to the history and to the agent, answered as JSON. Described by `docs/openapi.yaml`.

pub(super) mod events;
pub(super) mod functions;
pub(super) mod labels;
pub(super) mod log_level;
mod params;
pub(super) mod processes;
pub(super) mod profile;
pub(super) mod series;
pub(super) mod state;

use serde::Serialize;

use super::{refusal::Refusal, time, work::Prepared};
use crate::store::{Notes, Range, StoreError};

/// An answer in JSON.
fn json<T: Serialize + Send + 'static>(value: T) -> Prepared {
    Prepared {
        content_type: "application/json",
        file_name: None,
        is_compressible: true,
        write: Box::new(move |out| Ok(serde_json::to_writer(out, &value)?)),
    }
}

/// The history could not be asked at all.
fn store_failed(error: &StoreError) -> Refusal {
    Refusal::internal("cannot read the history", &error)
}

/// The span of time that was asked for, as it was understood.
#[derive(Clone, Copy, Debug, Serialize)]
struct Span {
    #[serde(serialize_with = "time::serialize")]
    from: u64,
    #[serde(serialize_with = "time::serialize")]
    to: u64,
}

impl From<Range> for Span {
    fn from(Range { from_unix_ns, to_unix_ns }: Range) -> Self {
        Self { from: from_unix_ns, to: to_unix_ns }
    }
}

/// How complete an answer is.
#[derive(Clone, Debug, Serialize)]
struct Completeness {
    is_complete: bool,
    /// Entries beyond the limits.
    omitted: u64,
    /// Time ran out before everything was read.
    is_timed_out: bool,
    /// The range's edges were moved to where the history still tells windows apart.
    is_rounded: bool,
    /// Files that could not be read wholly.
    damaged_files: u64,
    /// The first of them, and why.
    damage: Option<String>,
}

impl From<&Notes> for Completeness {
    fn from(notes: &Notes) -> Self {
        let is_complete = notes.is_complete();
        let Notes { files_read: _, damaged, damaged_more, omitted, is_timed_out, is_rounded } = notes;
        Self {
            is_complete,
            omitted: *omitted,
            is_timed_out: *is_timed_out,
            is_rounded: *is_rounded,
            damaged_files: damaged.len() as u64 + damaged_more,
            damage: damaged.first().map(|(file, why)| format!("{file}: {why}")),
        }
    }
}
