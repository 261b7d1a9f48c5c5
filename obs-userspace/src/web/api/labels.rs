//! The values that a label has.

use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::web::{refusal::Refusal, routes::Asked, server::Context, work::Job};

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    label: String,
    values: Vec<String>,
    completeness: Completeness,
}

pub(in crate::web) fn values(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let range = params::range(&asked.query)?;
    let label = params::name("name", asked.name.as_deref().unwrap_or_default())?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        let found = reader.label_values(range, &label, &params::limits(deadline));
        let (values, notes) = found.map_err(|error| store_failed(&error))?;
        let values = values.iter().map(ToString::to_string).collect();
        Ok(super::json(Answer { span: range.into(), label, values, completeness: (&notes).into() }))
    }))
}
