//! The registry: series, limits, snapshots.

use std::{collections::BTreeSet, thread};

use super::*;
use crate::model::record::Record;

/// A counter's or gauge's value in a snapshot, by name and label values.
fn value(registry: &Registry, name: &str, labels: &[&str]) -> Option<f64> {
    let is = |theirs: &[record::Label]| theirs.iter().map(|(_, value)| &**value).eq(labels.iter().copied());
    registry.snapshot().into_iter().find_map(|record| match record {
        Record::Counter(it) if it.name == name && is(&it.labels) => Some(it.value),
        Record::Gauge(it) if it.name == name && is(&it.labels) => Some(it.value),
        _ => None,
    })
}

#[test]
fn metrics_are_declared_once_and_well() {
    let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for metric in METRICS {
        assert!(metric.name.strip_prefix("obs_agent_").is_some_and(|rest| !rest.is_empty()), "{}", metric.name);
        assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", metric.name);
        // Formats add them.
        for suffix in ["_total", "_seconds", "_bytes", "_ratio"] {
            assert!(!metric.name.ends_with(suffix), "{}", metric.name);
        }
        assert!(metric.summary.ends_with('.') && !metric.unit.is_empty(), "{}", metric.name);
        assert_eq!(metric.kind == MetricKind::Latency, metric.name.ends_with("_latency"));
    }
}

#[test]
fn a_stage_counts_what_it_does() {
    let registry = Registry::default();
    let stage = registry.stage("enrich");
    stage.received.add(10);
    stage.sent.add(7);
    stage.errors.add(1);
    stage.dropped("queue full").add(2);
    stage.latency.observe(Duration::from_millis(3));
    // Another handle is the same series.
    registry.stage("enrich").received.add(5);
    assert_eq!(value(&registry, "obs_agent_stage_received", &["enrich"]), Some(15.0));
    assert_eq!(value(&registry, "obs_agent_stage_sent", &["enrich"]), Some(7.0));
    assert_eq!(value(&registry, "obs_agent_stage_errors", &["enrich"]), Some(1.0));
    assert_eq!(value(&registry, "obs_agent_stage_dropped", &["enrich", "queue full"]), Some(2.0));
    let latencies: Vec<_> = registry
        .snapshot()
        .into_iter()
        .filter_map(|record| if let Record::Histogram(it) = record { Some(it) } else { None })
        .collect();
    let [latency] = &latencies[..] else { panic!("{latencies:?}") };
    assert_eq!((latency.name, latency.buckets.as_slice(), latency.sum), ("obs_agent_stage_latency", &[1][..], 0.003));
    assert_eq!(latency.labels, [("stage", Arc::from("enrich"))]);
}

#[test]
fn seconds_are_counted_in_nanoseconds_and_sums_of_others_only_rise() {
    let registry = Registry::default();
    let time = registry.counter(&PROGRAM_TIME, &["cpu", "cpu_sample"]);
    time.raise_to(1_500_000_000);
    time.raise_to(1_000_000_000);
    assert_eq!(value(&registry, "obs_agent_program_time", &["cpu", "cpu_sample"]), Some(1.5));
    let fill = registry.gauge(&QUEUE_FILL, &["store"]);
    assert_eq!(value(&registry, "obs_agent_queue_fill", &["store"]), None, "unknown is not zero");
    fill.set(0.75);
    fill.set(0.25);
    assert_eq!(value(&registry, "obs_agent_queue_fill", &["store"]), Some(0.25));
    registry.gauge(&PAUSED, &[]).set_bool(true);
    assert_eq!(value(&registry, "obs_agent_paused", &[]), Some(1.0));
}

#[test]
fn series_have_a_limit_and_the_rest_is_added_up() {
    let registry = Registry::default();
    for number in 0..5_000 {
        registry.counter(&SAMPLES_LOST, &["cpu", &format!("reason {number}")]).add(1);
    }
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.len(), SERIES_MAX + 2);
    let over = 5_000.0 - SERIES_MAX as f64;
    assert_eq!(value(&registry, "obs_agent_samples_lost", &["~other", "~other"]), Some(over));
    assert_eq!(value(&registry, "obs_agent_series_over_limit", &[]), Some(over));
    // What was there before keeps its own.
    registry.counter(&SAMPLES_LOST, &["cpu", "reason 5"]).add(1);
    assert_eq!(value(&registry, "obs_agent_samples_lost", &["cpu", "reason 5"]), Some(2.0));
    registry.forget(&SAMPLES_LOST, "reason", "reason 5");
    assert_eq!(value(&registry, "obs_agent_samples_lost", &["cpu", "reason 5"]), None);
    assert_eq!(value(&registry, "obs_agent_samples_lost", &["cpu", "reason 6"]), Some(1.0));
    registry.forget(&SAMPLES_LOST, "collector", "cpu");
    assert_eq!(registry.snapshot().len(), 2);
}

#[test]
fn misuse_shows_nowhere() {
    let registry = Registry::default();
    registry.gauge(&STAGE_SENT, &["a"]).set(7.0);
    registry.counter(&QUEUE_FILL, &["a"]).add(7);
    registry.latency(&QUEUE_FILL, &["a"]).observe(Duration::from_secs(1));
    registry.counter(&STAGE_ERRORS, &["é".repeat(1_000).as_str(), "too much"]).add(1);
    registry.counter(&STAGE_ERRORS, &[]).add(1);
    assert_eq!(value(&registry, "obs_agent_stage_sent", &["a"]), Some(0.0));
    assert_eq!(value(&registry, "obs_agent_queue_fill", &["a"]), None);
    assert_eq!(value(&registry, "obs_agent_stage_errors", &["é".repeat(64).as_str()]), Some(1.0));
    assert_eq!(value(&registry, "obs_agent_stage_errors", &[""]), Some(1.0));
}

#[test]
fn threads_lose_nothing() {
    let registry = Registry::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stage = registry.stage("collect");
                for _ in 0..10_000 {
                    stage.received.add(1);
                    stage.latency.observe(Duration::from_micros(3));
                }
            });
        }
    });
    assert_eq!(value(&registry, "obs_agent_stage_received", &["collect"]), Some(40_000.0));
    let record = registry.snapshot().into_iter().find(|record| matches!(record, Record::Histogram(_)));
    let Some(Record::Histogram(latency)) = record else { panic!() };
    assert_eq!(latency.buckets, [40_000]);
}

/// The list stands in the document, in the same words.
#[test]
fn the_document_has_the_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/self-metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- metrics: written by a test -->\n", "<!-- end of metrics -->\n");
    let (before, rest) = text.split_once(begin).unwrap();
    let (documented, after) = rest.split_once(end).unwrap();
    let mut table = String::from("| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for Metric { name, unit, kind, labels, summary } in METRICS {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Latency => "histogram",
        };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        table.push_str(&format!("| `{name}` | {kind} | `{unit}` | {labels} | {summary} |\n"));
    }
    if std::env::var_os("OBS_UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(documented, table, "docs/self-metrics.md has other metrics than the agent");
    }
}
