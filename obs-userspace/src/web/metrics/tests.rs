//! The three forms of the same records, and what Prometheus's own tool says to them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use prost::Message as _;

use super::{
    super::metrics::protobuf::{MetricFamily, MetricType, spans},
    *,
};
use crate::model::record::{Counter, Gauge, Histogram};

const INFOS: &[MetricInfo] = &[
    MetricInfo { name: "system.cpu.time", unit: "s", help: "CPU time \\ by \"mode\".\nAll of it." },
    MetricInfo { name: "system.memory.usage", unit: "By", help: "Memory." },
    MetricInfo { name: "process.thread.count", unit: "{thread}", help: "Threads." },
    MetricInfo { name: "obs.latency", unit: "s", help: "How long it took." },
];

fn label(name: &'static str, value: &str) -> (&'static str, Arc<str>) {
    (name, Arc::from(value))
}

fn counter(value: f64, labels: &[(&'static str, &str)]) -> Record {
    let labels = labels.iter().map(|(name, value)| label(name, value)).collect();
    Record::Counter(Counter { name: "system.cpu.time", labels, value })
}

fn gauge(name: &'static str, value: f64) -> Record {
    Record::Gauge(Gauge { name, labels: Vec::new(), value })
}

/// 2 zeros, 3 of at most 2^-1/8 s, 1 of at most 1 s, 4 of at most 2 s.
fn histogram() -> Record {
    let buckets = vec![3, 1, 0, 0, 0, 0, 0, 0, 0, 4];
    Record::Histogram(Histogram {
        name: "obs.latency",
        labels: vec![label("stage", "drain")],
        first_bucket: -1,
        buckets,
        zero_count: 2,
        sum: 12.5,
    })
}

fn records() -> Vec<Record> {
    vec![
        counter(1.5, &[("cpu.mode", "user")]),
        histogram(),
        counter(0.25, &[("cpu.mode", "sys\"te\\m\n")]),
        gauge("system.memory.usage", 1e18),
        gauge("process.thread.count", 7.0),
    ]
}

fn written(records: &[Record], form: Form) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    let omitted = write(records, INFOS, form, &mut out).unwrap();
    (out, omitted)
}

fn text(records: &[Record], form: Form) -> String {
    String::from_utf8(written(records, form).0).unwrap()
}

#[test]
fn text_is_escaped_and_in_order() {
    let text = text(&records(), Form::Text);
    assert!(text.starts_with("# HELP obs_latency_seconds How long it took.\n# TYPE obs_latency_seconds histogram\n"));
    for line in [
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"9.5367431640625e-7\"} 2",
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"0.5\"} 2",
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"1\"} 6",
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"2\"} 10",
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"4\"} 10",
        "obs_latency_seconds_bucket{stage=\"drain\",le=\"+Inf\"} 10",
        "obs_latency_seconds_sum{stage=\"drain\"} 12.5",
        "obs_latency_seconds_count{stage=\"drain\"} 10",
        "# TYPE process_thread gauge",
        "process_thread 7",
        "# HELP system_cpu_time_seconds_total CPU time \\\\ by \"mode\".\\nAll of it.",
        "# TYPE system_cpu_time_seconds_total counter",
        "system_cpu_time_seconds_total{cpu_mode=\"sys\\\"te\\\\m\\n\"} 0.25\nsystem_cpu_time_seconds_total{cpu_mode=\"user\"} 1.5",
        "system_memory_usage_bytes 1e18",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{text}\nlacks {line}");
    }
}

#[test]
fn openmetrics_names_families_without_total_and_has_an_end() {
    let text = text(&records(), Form::OpenMetrics);
    assert!(text.contains("# HELP system_cpu_time_seconds CPU time \\\\ by \\\"mode\\\".\\nAll of it.\n"));
    assert!(text.contains("# TYPE system_cpu_time_seconds counter\nsystem_cpu_time_seconds_total{cpu_mode="));
    assert!(text.ends_with("# EOF\n"));
}

fn families(bytes: &[u8]) -> Vec<MetricFamily> {
    let mut rest = bytes;
    std::iter::from_fn(|| (!rest.is_empty()).then(|| MetricFamily::decode_length_delimited(&mut rest).unwrap()))
        .collect()
}

#[test]
fn protobuf_has_the_native_histogram_beside_the_classic_one() {
    let families = families(&written(&records(), Form::Protobuf).0);
    let names: Vec<&str> = families.iter().map(|family| family.name.as_str()).collect();
    let expected =
        ["obs_latency_seconds", "process_thread", "system_cpu_time_seconds_total", "system_memory_usage_bytes"];
    assert_eq!(names, expected);
    assert_eq!(families[0].kind(), MetricType::Histogram);
    let histogram = families[0].metric[0].histogram.as_ref().unwrap();
    assert_eq!((histogram.sample_count, histogram.sample_sum, histogram.zero_count), (Some(10), Some(12.5), Some(2)));
    assert_eq!(histogram.schema, Some(3));
    assert_eq!(histogram.zero_threshold, Some(2.938735877055719e-39));
    // Two buckets at -1 and 0, seven empty ones, one at 8.
    let spans: Vec<_> = histogram.positive_span.iter().map(|span| (span.offset, span.length)).collect();
    assert_eq!(spans, [(Some(-1), Some(2)), (Some(7), Some(1))]);
    assert_eq!(histogram.positive_delta, [3, -2, 3]);
    let at_one = histogram.bucket.iter().find(|bucket| bucket.upper_bound == Some(1.0)).unwrap();
    assert_eq!(at_one.cumulative_count, Some(6));
    assert_eq!(families[2].metric[1].counter.as_ref().unwrap().value, Some(1.5));
}

#[test]
fn short_gaps_are_written_and_long_ones_skipped() {
    for (first, buckets, expected_spans, expected_deltas) in [
        (0, vec![], vec![], vec![]),
        (5, vec![0, 0], vec![], vec![]),
        (-3, vec![0, 2, 0, 0, 5], vec![(-2, 4)], vec![2, -2, 0, 5]),
        (2, vec![1, 0, 0, 0, 1], vec![(2, 1), (3, 1)], vec![1, 0]),
    ] {
        let (spans, deltas) = spans(first, &buckets);
        let spans: Vec<_> = spans.iter().map(|span| (span.offset.unwrap(), span.length.unwrap())).collect();
        assert_eq!((spans, deltas), (expected_spans, expected_deltas), "{first} {buckets:?}");
    }
    // Extremes are no trouble.
    spans(i32::MAX, &[1, u64::MAX]);
    spans(i32::MIN, &[1, 0, 0, 0, 1]);
}

#[test]
fn series_beyond_the_limit_doubled_ones_and_doubled_names_are_left_out_and_counted() {
    let many: Vec<Record> =
        (0..FAMILY_SERIES_MAX + 3).map(|number| counter(1.0, &[("cpu.mode", &number.to_string())])).collect();
    assert_eq!(written(&many, Form::Text).1, 3);
    let doubled = [counter(1.0, &[("cpu.mode", "a")]), counter(2.0, &[("cpu.mode", "a")])];
    let (bytes, omitted) = written(&doubled, Form::Text);
    assert_eq!(omitted, 1);
    assert_eq!(String::from_utf8(bytes).unwrap().matches("\nsystem_cpu_time_seconds_total{").count(), 1);
    let same = [gauge("a.b", 1.0), gauge("a_b", 2.0)];
    assert_eq!(written(&same, Form::Text).1, 1);
}

#[test]
fn numbers_that_are_none_are_written_as_prometheus_reads_them() {
    let text = text(
        &[gauge("a", f64::NAN), gauge("b", f64::INFINITY), gauge("c", f64::NEG_INFINITY), gauge("d", -0.5)],
        Form::Text,
    );
    for line in ["a NaN", "b +Inf", "c -Inf", "d -0.5"] {
        assert!(text.contains(&format!("\n{line}\n")), "{text}");
    }
}

/// Prometheus's tool reads the text and has nothing against names and help texts.
#[test]
fn promtool_is_content() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped: cannot start promtool ({error}); `cargo xtask setup test` installs it");
            return;
        }
    };
    promtool.stdin.take().unwrap().write_all(&written(&records(), Form::Text).0).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
