//! What there is, and how the agent is.

use hyper::StatusCode;
use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::{
    model::profile::ValueType,
    store::{Catalog, CollectorInfo, SeriesInfo, SeriesKind},
    web::{answer::Answer, refusal::Refusal, routes::Asked, server::Context, time, work::Job},
};

#[derive(Serialize)]
struct CatalogAnswer {
    #[serde(flatten)]
    span: Span,
    first_window: Option<String>,
    last_window_end: Option<String>,
    collectors: Vec<Collector>,
    series: Vec<Series>,
    events: Vec<String>,
    process_labels: Vec<String>,
    formats: Vec<&'static str>,
    completeness: Completeness,
}

#[derive(Serialize)]
struct Collector {
    name: String,
    value_types: Vec<ValueType>,
}

#[derive(Serialize)]
struct Series {
    name: String,
    kind: SeriesKind,
    labels: Vec<String>,
    series_max: u64,
}

/// The agent's own state.
pub(in crate::web) fn status(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let status = (context.sources.status)();
    match serde_json::to_vec(&status) {
        Ok(body) => Ok(Answer::json(StatusCode::OK, body)),
        Err(error) => Err(Refusal::internal("cannot write the status", &error)),
    }
}

/// What the history has in a range.
pub(in crate::web) fn catalog(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let range = params::range(&asked.query)?;
    let reader = context.sources.reader.clone();
    let formats = std::iter::once("flame").chain(context.sources.encoders.iter().map(|encoder| encoder.name)).collect();
    Ok(Box::new(move |deadline| {
        let found = reader.catalog(range, &params::limits(deadline)).map_err(|error| store_failed(&error))?;
        let Catalog { windows, collectors, series, events, process_labels, notes } = found;
        let texts =
            |set: std::collections::BTreeSet<std::sync::Arc<str>>| set.iter().map(ToString::to_string).collect();
        Ok(super::json(CatalogAnswer {
            span: range.into(),
            first_window: windows.map(|(first, _)| time::rfc3339(first)),
            last_window_end: windows.map(|(_, last)| time::rfc3339(last)),
            collectors: collectors
                .into_iter()
                .map(|CollectorInfo { name, value_types }| Collector { name: name.to_string(), value_types })
                .collect(),
            series: series
                .into_iter()
                .map(|SeriesInfo { name, kind, labels, series_max }| Series {
                    name: name.to_string(),
                    kind,
                    labels: texts(labels),
                    series_max,
                })
                .collect(),
            events: texts(events),
            process_labels: texts(process_labels),
            formats,
            completeness: (&notes).into(),
        }))
    }))
}
