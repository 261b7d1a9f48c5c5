//! The processes that were there, and what they took.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::{
    model::{process::ProcessInfo, profile::ValueType},
    store::{KnownProcess, Limits, ProcessQuery, ProcessRecord, Processes},
    web::{refusal::Refusal, routes::Asked, server::Context, time, work::Job},
};

const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = 10_000;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    collector: String,
    value_types: Vec<ValueType>,
    processes: Vec<Row>,
    completeness: Completeness,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    who: Who,
    #[serde(serialize_with = "time::serialize")]
    first_seen: u64,
    #[serde(serialize_with = "time::serialize")]
    last_seen: u64,
    /// One per value type; empty if nothing was measured of it.
    values: Vec<u64>,
}

/// A process, as it stands in answers.
#[derive(Serialize)]
pub(super) struct Who {
    pid: u32,
    name: String,
    executable: Option<String>,
    container: Option<String>,
    cgroup: Option<String>,
    labels: BTreeMap<String, String>,
}

impl From<&KnownProcess> for Who {
    fn from(KnownProcess { info, labels }: &KnownProcess) -> Self {
        let ProcessInfo { key, name, executable, container_id, cgroup } = info;
        let text = |text: &Option<std::sync::Arc<str>>| text.as_ref().map(ToString::to_string);
        Self {
            pid: key.pid,
            name: name.to_string(),
            executable: text(executable),
            container: text(container_id),
            cgroup: text(cgroup),
            labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        }
    }
}

pub(in crate::web) fn processes(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let query = &asked.query;
    let (range, matchers, collector) = (params::range(query)?, params::matchers(query)?, params::collector(query)?);
    let limit = params::number(query, "limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        let limits = Limits { processes: limit, ..params::limits(deadline) };
        let query = ProcessQuery { range, matchers, collector: Some(collector.clone()), limits };
        let found = reader.processes(&query).map_err(|error| store_failed(&error))?;
        let Processes { value_types, processes, notes } = found;
        Ok(super::json(Answer {
            span: range.into(),
            collector,
            value_types,
            processes: processes.into_iter().map(row).collect(),
            completeness: (&notes).into(),
        }))
    }))
}

fn row(ProcessRecord { process, boot_id: _, first_unix_ns, last_unix_ns, values }: ProcessRecord) -> Row {
    Row { who: (&*process).into(), first_seen: first_unix_ns, last_seen: last_unix_ns, values }
}
