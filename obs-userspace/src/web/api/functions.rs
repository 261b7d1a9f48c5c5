//! The functions that a range's time went to.

use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::{
    model::profile::{FrameKind, ValueType},
    store::{Function, Grouping, Limits, ProfileQuery, TopFunctions},
    web::{refusal::Refusal, routes::Asked, server::Context, work::Job},
};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    collector: String,
    value_type: Option<ValueType>,
    total: u64,
    without_frames: u64,
    functions: Vec<Row>,
    functions_omitted: u64,
    completeness: Completeness,
}

#[derive(Serialize)]
struct Row {
    name: String,
    module: Option<String>,
    kind: FrameKind,
    own: u64,
    total: u64,
}

pub(in crate::web) fn functions(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let query = &asked.query;
    let (range, matchers, collector) = (params::range(query)?, params::matchers(query)?, params::collector(query)?);
    let value_type = query.get("type").map(str::to_owned);
    let functions = params::number(query, "limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        let limits = Limits { functions, ..params::limits(deadline) };
        let query = ProfileQuery { range, collector, matchers, grouping: Grouping::Names, limits };
        let merged = reader.profile(&query).map_err(|error| store_failed(&error))?;
        let index = super::profile::value_index(&merged.profile, value_type.as_deref())?;
        let found = TopFunctions::of(&merged.profile, index, functions);
        let TopFunctions { value_type, total, without_frames, functions, functions_omitted, notes: _ } = found;
        let omitted = merged.omitted_values.get(index).copied().unwrap_or_default();
        Ok(super::json(Answer {
            span: range.into(),
            collector: query.collector,
            value_type,
            total: total.saturating_add(omitted),
            without_frames,
            functions: functions.into_iter().map(row).collect(),
            functions_omitted,
            completeness: (&merged.notes).into(),
        }))
    }))
}

fn row(Function { name, module, kind, self_value, total_value }: Function) -> Row {
    Row { name, module: module.map(|path| path.to_string()), kind, own: self_value, total: total_value }
}
