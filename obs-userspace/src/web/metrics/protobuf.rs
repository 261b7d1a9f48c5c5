//! The messages of Prometheus's `io.prometheus.client`, by field number, and how families become those.

use std::io::{self, Write};

use prost::Message as _;

use super::family::{self, Family, Kind, Series, Value};
use crate::model::record;

/// Buckets of schema 3 are 2^(1/8) wide.
const SCHEMA: i32 = 3;
/// Below it, values count as zero. Ours are exactly zero; a threshold above zero is what tells readers of all versions that the
/// histogram is a native one, also while it is empty. It is the one that Prometheus's own library has: 2^-128.
const ZERO_THRESHOLD: f64 = f64::from_bits((1023 - 128) << 52);
/// Empty buckets in a row that are written rather than skipped: a new span costs more than that.
const GAP_MAX: usize = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetricFamily {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) help: String,
    #[prost(enumeration = "MetricType", tag = "3")]
    pub(super) kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) metric: Vec<Metric>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// A gauge or a counter; both have their value in the same field. It is a proto2 message: 0 is written too.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(super) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub(super) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

pub(super) fn write(families: &[Family<'_>], out: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    for family in families {
        bytes.clear();
        message(family).encode_length_delimited(&mut bytes).map_err(io::Error::other)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn message(family: &Family<'_>) -> MetricFamily {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    MetricFamily {
        name: family.name(),
        help: family.help.to_owned(),
        kind: kind.into(),
        metric: family.series.iter().map(|series| metric(family, series)).collect(),
    }
}

fn metric(family: &Family<'_>, series: &Series<'_>) -> Metric {
    let label =
        series.labels.iter().map(|(name, value)| LabelPair { name: name.clone(), value: value.to_string() }).collect();
    let mut metric = Metric { label, ..Metric::default() };
    match (&series.value, family.kind) {
        (Value::Histogram(of), _) => metric.histogram = Some(histogram(of, family.unit)),
        (Value::Number(value), Kind::Counter) => metric.counter = Some(Number { value: Some(*value) }),
        (Value::Number(value), Kind::Gauge | Kind::Histogram) => metric.gauge = Some(Number { value: Some(*value) }),
    }
    metric
}

fn histogram(of: &record::Histogram, unit: &str) -> Histogram {
    let bucket = family::classic_exponents(unit).map(|exponent| Bucket {
        cumulative_count: Some(family::count_up_to(of, exponent)),
        upper_bound: Some(f64::from(exponent).exp2()),
    });
    let (positive_span, positive_delta) = spans(of.first_bucket, &of.buckets);
    Histogram {
        sample_count: Some(family::count(of)),
        sample_sum: Some(of.sum),
        bucket: bucket.collect(),
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(of.zero_count),
        positive_span,
        positive_delta,
    }
}

/// Runs of buckets, and each bucket's difference to the one before. Bucket `i` of both sides ends at 2^(i/8).
pub(super) fn spans(first_bucket: i32, buckets: &[u64]) -> (Vec<BucketSpan>, Vec<i64>) {
    let mut spans: Vec<BucketSpan> = Vec::new();
    let mut deltas = Vec::new();
    let mut before = 0_i64;
    // Where the last span ended: the index behind its last bucket.
    let mut end: Option<i64> = None;
    let mut push = |count: u64, deltas: &mut Vec<i64>| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        deltas.push(count - before);
        before = count;
    };
    for (at, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let index = i64::from(first_bucket) + at as i64;
        let gap = end.map(|end| (index - end) as usize);
        match (gap, spans.last_mut()) {
            (Some(gap), Some(span)) if gap <= GAP_MAX => {
                (0..gap).for_each(|_| push(0, &mut deltas));
                span.length = span.length.map(|length| length + gap as u32 + 1);
            }
            _ => {
                let offset = index - end.unwrap_or(0);
                let offset = offset.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                spans.push(BucketSpan { offset: Some(offset), length: Some(1) });
            }
        }
        push(*count, &mut deltas);
        end = Some(index + 1);
    }
    (spans, deltas)
}
