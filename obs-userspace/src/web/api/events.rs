//! What happened.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Completeness, Span, params, processes::Who, store_failed};
use crate::{
    store::{EventQuery, EventRecord, Limits},
    web::{refusal::Refusal, routes::Asked, server::Context, time, work::Job},
};

/// Most names that can be asked for at once.
const NAMES_MAX: usize = 16;
const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = 10_000;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    events: Vec<Row>,
    completeness: Completeness,
}

#[derive(Serialize)]
struct Row {
    #[serde(serialize_with = "time::serialize")]
    time: u64,
    name: String,
    process: Option<Who>,
    labels: BTreeMap<String, String>,
}

pub(in crate::web) fn events(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let query = &asked.query;
    let (range, matchers) = (params::range(query)?, params::matchers(query)?);
    let names = query.all("name");
    if names.len() > NAMES_MAX {
        let why = format!("there are more than {NAMES_MAX}");
        return Err(Refusal::parameter("name", why, "send fewer names"));
    }
    let names: Vec<String> = names.iter().filter(|name| !name.is_empty()).cloned().collect();
    let events = params::number(query, "limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        let limits = Limits { events, ..params::limits(deadline) };
        let found =
            reader.events(&EventQuery { range, names, matchers, limits }).map_err(|error| store_failed(&error))?;
        Ok(super::json(Answer {
            span: range.into(),
            events: found.events.into_iter().map(row).collect(),
            completeness: (&found.notes).into(),
        }))
    }))
}

fn row(EventRecord { time_unix_ns, name, process, labels }: EventRecord) -> Row {
    Row {
        time: time_unix_ns,
        name: name.to_string(),
        process: process.as_deref().map(Who::from),
        labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    }
}
