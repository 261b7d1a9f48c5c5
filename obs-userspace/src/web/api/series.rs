//! Series over time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::{
    store::{HistogramValue, Limits, Series, SeriesKind, SeriesPoint, SeriesQuery, SeriesValue},
    web::{refusal::Refusal, routes::Asked, server::Context, time, work::Job},
};

/// Points per series that are aimed at if no step is given.
const POINTS_AIMED_AT: u64 = 500;
/// The shortest step that is chosen for somebody.
const STEP_NS_MIN: u64 = 10_000_000_000;
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    name: String,
    step_seconds: f64,
    series: Vec<Row>,
    completeness: Completeness,
}

#[derive(Serialize)]
struct Row {
    labels: BTreeMap<String, String>,
    kind: SeriesKind,
    points: Vec<Point>,
}

/// A step: when it began, in seconds since 1970, and what the series had.
#[derive(Serialize)]
struct Point {
    time: f64,
    #[serde(flatten)]
    value: Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Counter { last: f64, increase: f64 },
    Gauge { last: f64, min: f64, max: f64, mean: f64 },
    Histogram { count: u64, sum: f64, zero_count: u64, first_bucket: i32, buckets: Vec<u64> },
}

pub(in crate::web) fn series(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let query = &asked.query;
    let (range, matchers) = (params::range(query)?, params::matchers(query)?);
    let Some(name) = query.get("name") else {
        return Err(Refusal::parameter("name", "it is missing", "name a series; /api/v1/catalog lists them"));
    };
    let name = params::name("name", name)?;
    let step_ns = match query.get("step") {
        None => chosen_step(range.to_unix_ns - range.from_unix_ns),
        Some(text) => time::parse_duration(text).filter(|step| *step > 0).ok_or_else(|| {
            Refusal::parameter("step", "it is not a duration", "write a duration such as 10s, 5m or 1h")
        })?,
    };
    let series = params::number(query, "limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        let limits = Limits { series, ..params::limits(deadline) };
        let query = SeriesQuery { name, matchers, range, step_ns, limits };
        let found = reader.series(&query).map_err(|error| store_failed(&error))?;
        Ok(super::json(Answer {
            span: range.into(),
            name: query.name,
            step_seconds: time::seconds(step_ns),
            series: found.series.into_iter().map(row).collect(),
            completeness: (&found.notes).into(),
        }))
    }))
}

/// A step that divides days, so that steps begin at round times.
fn chosen_step(range_ns: u64) -> u64 {
    const SECONDS: [u64; 13] = [10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14_400, 43_200, 86_400];
    let least = (range_ns / POINTS_AIMED_AT).max(STEP_NS_MIN);
    SECONDS.into_iter().map(|seconds| seconds * 1_000_000_000).find(|step| *step >= least).unwrap_or(86_400_000_000_000)
}

fn row(Series { name: _, labels, kind, points }: Series) -> Row {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Row { labels, kind, points: points.into_iter().map(point).collect() }
}

fn point(SeriesPoint { started_unix_ns, windows: _, value }: SeriesPoint) -> Point {
    let value = match value {
        SeriesValue::Counter { last, increase } => Value::Counter { last, increase },
        SeriesValue::Gauge { min, max, mean, last } => Value::Gauge { last, min, max, mean },
        SeriesValue::Histogram(HistogramValue { first_bucket, buckets, zero_count, sum }) => {
            let count = buckets.iter().fold(zero_count, |sum, count| sum.saturating_add(*count));
            Value::Histogram { count, sum, zero_count, first_bucket, buckets }
        }
    };
    Point { time: time::seconds(started_unix_ns), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_step_gives_some_hundred_points() {
        let second = 1_000_000_000;
        for (range, step) in [(1, 10), (900, 10), (86_400, 300), (7 * 86_400, 3600), (400 * 86_400, 86_400)] {
            assert_eq!(chosen_step(range * second), step * second, "{range}");
        }
    }
}
