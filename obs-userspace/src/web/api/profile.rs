//! Profiles: the page's flame graph, or a file in one of the formats that other tools read.

use hyper::StatusCode;
use serde::Serialize;

use super::{Completeness, Span, params, store_failed};
use crate::{
    model::profile::{Profile, ValueType},
    store::{Grouping, MatchOp, Matcher, MergedProfile, ProfileQuery, Range, Reader, SeriesQuery, SeriesValue},
    web::{
        flame::{self, Flame, Quality},
        options::Encoder,
        query,
        refusal::{Refusal, echo},
        routes::Asked,
        server::Context,
        time,
        work::{Job, Prepared},
    },
};

/// The format that the page reads.
const FLAME: &str = "flame";
/// Nodes of a flame graph if nothing is said, and at most.
const NODES_DEFAULT: usize = 5_000;
const NODES_MAX: usize = 100_000;
/// The series that tell of lost samples.
const LOST_SERIES: &str = "obs_agent_samples_lost";

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    span: Span,
    collector: String,
    value_type: Option<ValueType>,
    value_types: Vec<ValueType>,
    /// How much of the range was measured.
    covered_seconds: f64,
    /// The sum over all stacks: that of the processes in the tree.
    total: u64,
    quality: Quality,
    /// Samples that were lost meanwhile; absent if nothing is known.
    lost_samples: Option<f64>,
    kinds: [&'static str; flame::KINDS.len()],
    flame: Flame,
    nodes_omitted: u64,
    completeness: Completeness,
}

pub(in crate::web) fn profile(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let query = &asked.query;
    let (range, matchers, collector) = (params::range(query)?, params::matchers(query)?, params::collector(query)?);
    let value_type = query.get("type").map(str::to_owned);
    let nodes_max = params::number(query, "nodes_max", NODES_DEFAULT, NODES_MAX)?;
    let encoder = encoder(&context.sources.encoders, query.get("format").unwrap_or(FLAME))?;
    let reader = context.sources.reader.clone();
    Ok(Box::new(move |deadline| {
        // The page's tree begins with names of processes; a file's reader may want more.
        let grouping = if encoder.is_none() { Grouping::Names } else { Grouping::Threads };
        let query = ProfileQuery { range, collector, matchers, grouping, limits: params::limits(deadline) };
        let merged = reader.profile(&query).map_err(|error| store_failed(&error))?;
        let value_index = value_index(&merged.profile, value_type.as_deref())?;
        match encoder {
            None => {
                let lost = lost_samples(&reader, range, &query.collector, deadline);
                Ok(super::json(flame_answer(range, merged, value_index, nodes_max, lost)))
            }
            Some(encoder) => file(merged, encoder, range),
        }
    }))
}

/// The encoder of that name; `None` for the page's own format.
fn encoder(encoders: &[Encoder], name: &str) -> Result<Option<Encoder>, Refusal> {
    if name == FLAME {
        return Ok(None);
    }
    let found = encoders.iter().find(|encoder| encoder.name == name);
    found.copied().map(Some).ok_or_else(|| {
        let names: Vec<&str> = std::iter::once(FLAME).chain(encoders.iter().map(|encoder| encoder.name)).collect();
        Refusal::parameter(
            "format",
            format!("there is no format `{}`", echo(name)),
            format!("one of {}", names.join(", ")),
        )
    })
}

/// Which of a profile's values are meant: those of that name, or the last ones.
pub(super) fn value_index(profile: &Profile, name: Option<&str>) -> Result<usize, Refusal> {
    let types = &profile.value_types;
    match name {
        None => Ok(types.len().saturating_sub(1)),
        // Of nothing there are no types, and every name is as good.
        Some(_) if types.is_empty() => Ok(0),
        Some(name) => types.iter().position(|of| of.name == name).ok_or_else(|| {
            let known: Vec<&str> = types.iter().map(|of| &*of.name).collect();
            Refusal::parameter("type", "the collector does not measure that", format!("one of {}", known.join(", ")))
        }),
    }
}

fn flame_answer(
    range: Range,
    merged: MergedProfile,
    value_index: usize,
    nodes_max: usize,
    lost_samples: Option<f64>,
) -> Answer {
    let MergedProfile { profile, covered_ns, omitted_values, other_types: _, notes } = merged;
    let quality = flame::quality(&profile, value_index);
    let (mut flame, nodes_omitted) = Flame::of(&profile, value_index, nodes_max);
    let omitted = omitted_values.get(value_index).copied().unwrap_or_default();
    flame.add_omitted(omitted);
    Answer {
        span: range.into(),
        collector: profile.collector.into_owned(),
        value_type: profile.value_types.get(value_index).cloned(),
        value_types: profile.value_types,
        covered_seconds: time::seconds(covered_ns),
        total: quality.total.saturating_add(omitted),
        quality,
        lost_samples,
        kinds: flame::KINDS,
        flame,
        nodes_omitted,
        completeness: (&notes).into(),
    }
}

/// How many samples were lost in a range, where the agent keeps that in the history.
fn lost_samples(reader: &Reader, range: Range, collector: &str, deadline: std::time::Instant) -> Option<f64> {
    let query = SeriesQuery {
        name: LOST_SERIES.to_owned(),
        matchers: vec![Matcher::new("collector", MatchOp::Equal, collector)],
        range,
        step_ns: 0,
        limits: params::limits(deadline),
    };
    let found = reader.series(&query).ok()?;
    let points = found.series.iter().flat_map(|series| &series.points);
    let lost = points.map(|point| match &point.value {
        SeriesValue::Counter { increase, .. } => *increase,
        SeriesValue::Gauge { .. } | SeriesValue::Histogram(_) => 0.0,
    });
    (!found.series.is_empty()).then(|| lost.sum())
}

fn file(merged: MergedProfile, encoder: Encoder, range: Range) -> Result<Prepared, Refusal> {
    let MergedProfile { profile, .. } = merged;
    if profile.value_types.is_empty() {
        let why = "there is no profile of that in the range";
        let hint = "choose another range or collector; /api/v1/catalog lists what there is";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "cannot make the file", why, hint));
    }
    let from = time::rfc3339(range.from_unix_ns);
    // To the second, without what does not belong in a file's name.
    let stamp: String = from.chars().take(19).map(|c| if c == ':' { '-' } else { c }).collect();
    let name = format!("obs-{}-{stamp}{}", query::encoded(&profile.collector), encoder.ending);
    Ok(Prepared {
        content_type: encoder.content_type,
        file_name: Some(name),
        is_compressible: !encoder.ending.ends_with(".gz"),
        write: Box::new(move |out| (encoder.encode)(&profile, out)),
    })
}
