//! Records put together into families: one name, one kind, its series in order, each once.

use std::{collections::BTreeMap, sync::Arc};

use super::{FAMILY_SERIES_MAX, MetricInfo, SERIES_MAX, names};
use crate::model::record::{Counter, Gauge, Histogram, Label, Record};

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

pub(super) enum Value<'a> {
    Number(f64),
    Histogram(&'a Histogram),
}

pub(super) struct Series<'a> {
    /// Sorted by name; no name comes twice, and no value is empty.
    pub(super) labels: Vec<(String, &'a Arc<str>)>,
    pub(super) value: Value<'a>,
}

pub(super) struct Family<'a> {
    /// Without `_total`.
    pub(super) base: String,
    pub(super) kind: Kind,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) series: Vec<Series<'a>>,
}

impl Family<'_> {
    /// The name of its samples, for all but histograms.
    pub(super) fn name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.base),
            Kind::Gauge | Kind::Histogram => self.base.clone(),
        }
    }
}

/// All families by name. Also says how many series were left out: beyond a limit, or because another metric has their name.
pub(super) fn families<'a>(records: &'a [Record], infos: &[MetricInfo]) -> (Vec<Family<'a>>, u64) {
    let infos: BTreeMap<&str, &MetricInfo> = infos.iter().map(|info| (info.name, info)).collect();
    let mut by_source: BTreeMap<(&str, u8), Family<'a>> = BTreeMap::new();
    let (mut taken, mut omitted) = (0, 0);
    for record in records {
        let (name, labels, kind, value): (&'static str, &'a [Label], Kind, Value<'a>) = match record {
            Record::Counter(Counter { name, labels, value }) => (name, labels, Kind::Counter, Value::Number(*value)),
            Record::Gauge(Gauge { name, labels, value }) => (name, labels, Kind::Gauge, Value::Number(*value)),
            Record::Histogram(histogram) => {
                (histogram.name, &histogram.labels, Kind::Histogram, Value::Histogram(histogram))
            }
            Record::StackSample(_) | Record::Event(_) => continue,
        };
        let family = by_source.entry((name, kind as u8)).or_insert_with(|| {
            let (unit, help) = infos.get(name).map_or(("", "Not described."), |info| (info.unit, info.help));
            Family { base: names::base(name, unit, kind), kind, unit, help, series: Vec::new() }
        });
        if taken >= SERIES_MAX || family.series.len() >= FAMILY_SERIES_MAX {
            omitted += 1;
            continue;
        }
        taken += 1;
        family.series.push(Series { labels: plain_labels(labels, kind), value });
    }
    let mut families: Vec<Family<'a>> = by_source.into_values().collect();
    families.sort_by(|left, right| left.base.cmp(&right.base));
    // Two metrics whose names differ in what Prometheus does not tell apart: the first one is shown.
    families.dedup_by(|later, earlier| {
        let is_same = later.base == earlier.base;
        if is_same {
            omitted += later.series.len() as u64;
        }
        is_same
    });
    for family in &mut families {
        family.series.sort_by(|left, right| left.labels.cmp(&right.labels));
        let before = family.series.len();
        // Two values for one series would spoil the whole scrape.
        family.series.dedup_by(|later, earlier| later.labels == earlier.labels);
        omitted += (before - family.series.len()) as u64;
    }
    (families, omitted)
}

fn plain_labels(labels: &[Label], kind: Kind) -> Vec<(String, &Arc<str>)> {
    let reserved = |name: &str| kind == Kind::Histogram && matches!(name, "le" | "quantile");
    let mut plain: Vec<(String, &Arc<str>)> = labels
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| {
            let name = names::label(name);
            (if reserved(&name) { format!("key_{name}") } else { name }, value)
        })
        .collect();
    plain.sort_by(|left, right| left.0.cmp(&right.0));
    plain.dedup_by(|later, earlier| later.0 == earlier.0);
    plain
}

/// The exponents of the powers of two that bound classic buckets: always the same for a unit, so that series neither come nor
/// go. Seconds reach from a microsecond to two minutes, everything else from 1 to 2^40.
pub(super) fn classic_exponents(unit: &str) -> impl Iterator<Item = i32> + use<> {
    let (range, step) = if unit == "s" { (-20..=7, 1) } else { (0..=40, 2) };
    range.step_by(step)
}

/// Events up to and including 2^exponent. Exact, for every eighth bucket of schema 3 ends at a power of two.
pub(super) fn count_up_to(histogram: &Histogram, exponent: i32) -> u64 {
    let last = i64::from(exponent) * 8;
    let count = (last - i64::from(histogram.first_bucket) + 1).clamp(0, histogram.buckets.len() as i64) as usize;
    sum(&histogram.buckets[..count]).saturating_add(histogram.zero_count)
}

/// All events.
pub(super) fn count(histogram: &Histogram) -> u64 {
    sum(&histogram.buckets).saturating_add(histogram.zero_count)
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}
