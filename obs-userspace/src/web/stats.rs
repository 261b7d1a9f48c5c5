//! What the server counts of its own work.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::metrics::MetricInfo;
use crate::model::record::{Counter, Gauge, Label, Record};

/// The server's own metrics.
pub static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "obs_agent_http_requests",
        unit: "{request}",
        help: "Requests that were answered, by class of their status.",
    },
    MetricInfo { name: "obs_agent_http_connections", unit: "{connection}", help: "Connections that are open." },
    MetricInfo {
        name: "obs_agent_http_connections_ended",
        unit: "{connection}",
        help: "Connections that the server ended, by reason.",
    },
    MetricInfo {
        name: "obs_agent_http_series_omitted",
        unit: "{series}",
        help: "Series beyond the limits of one answer of /metrics.",
    },
];

/// Why the server ended a connection, or did not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It idled, or took too long for its head, its body or the answer.
    TimedOut,
    /// Another one needed its place.
    Evicted,
    /// There was no place.
    Refused,
    /// The TLS handshake failed.
    Handshake,
    /// It broke, or what came was no HTTP.
    Broken,
}

const ENDED: [(Ended, &str); 5] = [
    (Ended::TimedOut, "timeout"),
    (Ended::Evicted, "evicted"),
    (Ended::Refused, "refused"),
    (Ended::Handshake, "handshake"),
    (Ended::Broken, "broken"),
];

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

#[derive(Default)]
pub(super) struct Stats {
    requests: [AtomicU64; CLASSES.len()],
    ended: [AtomicU64; ENDED.len()],
    pub(super) connections: AtomicU64,
    pub(super) series_omitted: AtomicU64,
}

impl Stats {
    pub(super) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.requests[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, why: Ended) {
        self.ended[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn records(&self) -> Vec<Record> {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let counter = |name: &'static str, labels: Vec<Label>, value| Record::Counter(Counter { name, labels, value });
        let by = |label: &'static str, value: &str| vec![(label, Arc::from(value))];
        let mut records = Vec::new();
        for (class, count) in CLASSES.iter().zip(&self.requests) {
            records.push(counter("obs_agent_http_requests", by("class", class), read(count)));
        }
        for ((_, reason), count) in ENDED.iter().zip(&self.ended) {
            records.push(counter("obs_agent_http_connections_ended", by("reason", reason), read(count)));
        }
        records.push(counter("obs_agent_http_series_omitted", Vec::new(), read(&self.series_omitted)));
        records.push(Record::Gauge(Gauge {
            name: "obs_agent_http_connections",
            labels: Vec::new(),
            value: read(&self.connections),
        }));
        records
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_and_the_records_are_the_same_metrics() {
        let stats = Stats::default();
        let names: BTreeSet<&str> = stats
            .records()
            .iter()
            .map(|record| match record {
                Record::Counter(counter) => counter.name,
                Record::Gauge(gauge) => gauge.name,
                Record::Histogram(_) | Record::Event(_) | Record::StackSample(_) => panic!("none of these"),
            })
            .collect();
        assert_eq!(names, METRICS.iter().map(|info| info.name).collect());
        let page = include_str!("../../../docs/http.md");
        for MetricInfo { name, unit, help } in METRICS {
            let row = format!("| `{name}` | `{unit}` | {help} |");
            assert!(page.contains(&row), "docs/http.md lacks {row}");
        }
        for (at, (why, _)) in ENDED.iter().enumerate() {
            assert_eq!(*why as usize, at);
        }
        for status in [100, 200, 302, 404, 599, 999] {
            stats.answered(status);
        }
    }
}
