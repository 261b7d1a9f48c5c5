//! Latencies for programs: one JSON object for each key and interval.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::TAIL_EVENTS_MIN;
use crate::{
    collect::latency::{LatencyKind, LatencyLosses},
    model::{
        quantile::BUCKET_ERROR,
        record::{Counter, Histogram, Label, Record},
    },
    pipeline::latency::Measured,
};

#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    metric: &'a str,
    /// Whether this is all since the start.
    total: bool,
    /// When the time ended, in seconds since 1970, and how long it was.
    time: f64,
    seconds: f64,
    labels: BTreeMap<&'a str, &'a str>,
    count: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    durations: Option<Durations<'a>>,
    /// Since the start.
    losses: Losses,
}

#[derive(Serialize)]
struct Durations<'a> {
    sum_seconds: f64,
    mean_seconds: Option<f64>,
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Not told of fewer events than a thousand.
    p999_seconds: Option<f64>,
    /// How far quantiles may be from the true ones, as a share of them.
    quantile_error: f64,
    zero_count: u64,
    /// Bucket `i` holds `(2^((i-1)/8), 2^(i/8)]` seconds.
    first_bucket: i32,
    buckets: &'a [u64],
}

#[derive(Clone, Copy, Serialize)]
struct Losses {
    not_followed: u64,
    not_seen: u64,
    not_counted: u64,
    other: u64,
    over: u64,
    children: u64,
}

/// Writes the objects. A time in which nothing happened has none.
pub(super) fn write(kind: &LatencyKind, measured: &Measured, out: &mut dyn Write) -> anyhow::Result<()> {
    let LatencyLosses { not_followed, not_seen, not_counted, other, over, children } = measured.losses;
    let line = |labels, count, durations| Line {
        what: kind.name,
        metric: kind.metric(),
        total: measured.is_total,
        time: measured.end_unix_seconds,
        seconds: measured.length.as_secs_f64(),
        labels,
        count,
        durations,
        losses: Losses { not_followed, not_seen, not_counted, other, over, children },
    };
    for record in &measured.records {
        let line = match record {
            Record::Histogram(histogram) => {
                line(by_name(&histogram.labels), histogram.count(), Some(durations(histogram)))
            }
            Record::Counter(Counter { labels, value, .. }) => line(by_name(labels), *value as u64, None),
            Record::StackSample(_) | Record::Gauge(_) | Record::Event(_) => continue,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    // Who reads it live waits for it.
    out.flush().map_err(|error: io::Error| error.into())
}

fn by_name(labels: &[Label]) -> BTreeMap<&str, &str> {
    labels.iter().map(|(name, value)| (*name, &**value)).collect()
}

fn durations(histogram: &Histogram) -> Durations<'_> {
    Durations {
        sum_seconds: histogram.sum,
        mean_seconds: histogram.mean(),
        p50_seconds: histogram.quantile(0.5),
        p90_seconds: histogram.quantile(0.9),
        p99_seconds: histogram.quantile(0.99),
        p999_seconds: histogram.quantile(0.999).filter(|_| histogram.count() >= TAIL_EVENTS_MIN),
        quantile_error: BUCKET_ERROR,
        zero_count: histogram.zero_count,
        first_bucket: histogram.first_bucket,
        buckets: &histogram.buckets,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collect::latency::find_kind;

    fn written(what: &str, records: Vec<Record>) -> Vec<serde_json::Value> {
        let measured = Measured {
            is_total: true,
            end_unix_seconds: 12.5,
            length: Duration::from_secs(2),
            records,
            losses: LatencyLosses { other: 3, ..LatencyLosses::default() },
            kernel_cpu: None,
        };
        let mut out = Vec::new();
        write(find_kind(what).unwrap(), &measured, &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn durations_have_quantiles_and_buckets() {
        let labels = vec![("state", "woken".into())];
        let few = Histogram { name: "h", labels, first_bucket: -7, buckets: vec![1, 2], zero_count: 0, sum: 1.5 };
        let many = Histogram { buckets: vec![998, 2], ..few.clone() };
        let lines = written("runqueue", vec![Record::Histogram(few), Record::Histogram(many)]);
        assert_eq!((&lines[0]["count"], &lines[0]["mean_seconds"]), (&3.into(), &0.5.into()));
        assert_eq!((&lines[0]["labels"]["state"], &lines[0]["first_bucket"]), (&"woken".into(), &(-7).into()));
        assert_eq!((&lines[0]["losses"]["other"], &lines[0]["total"]), (&3.into(), &true.into()));
        assert!(lines[0]["p999_seconds"].is_null() && lines[0]["p99_seconds"].is_f64());
        assert!(lines[1]["p999_seconds"].is_f64());
    }

    #[test]
    fn counts_have_a_count_only() {
        let counter = Counter { name: "c", labels: Vec::new(), value: 400_000.0 };
        let lines = written("pagefault", vec![Record::Counter(counter)]);
        assert_eq!(lines[0]["count"], 400_000);
        assert!(lines[0].get("p50_seconds").is_none());
    }
}
