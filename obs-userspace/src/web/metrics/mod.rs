//! `/metrics`: everything that is measured now, in the forms that Prometheus reads.
//!
//! Text and OpenMetrics have classic buckets at powers of two; protobuf has those and the native histogram, whose buckets
//! are exactly the record's. All forms show the same families, in the same order: by name, then by labels.

mod family;
mod form;
mod names;
mod protobuf;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};

pub(super) use form::Form;

use crate::model::record::Record;

/// Most series of one family; further ones are left out and counted.
pub(super) const FAMILY_SERIES_MAX: usize = 20_000;
/// Most series of one answer; further ones are left out and counted.
pub(super) const SERIES_MAX: usize = 100_000;

/// What a metric is. Its kind comes with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricInfo {
    /// Its name, as in records: `system.cpu.time`.
    pub name: &'static str,
    /// By OpenTelemetry's rules (UCUM): `s`, `By`, `1`, `{line}`.
    pub unit: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
}

/// Writes all counters, gauges and histograms. Returns how many series were left out.
pub(super) fn write(records: &[Record], infos: &[MetricInfo], form: Form, out: &mut dyn Write) -> io::Result<u64> {
    let (families, omitted) = family::families(records, infos);
    match form {
        Form::Text => text::write(&families, text::Flavour::Prometheus, out)?,
        Form::OpenMetrics => text::write(&families, text::Flavour::OpenMetrics, out)?,
        Form::Protobuf => protobuf::write(&families, out)?,
    }
    Ok(omitted)
}

/// The name that a metric has in Prometheus, for the documentation and its check; `kind` as in `# TYPE`.
#[must_use]
pub fn prometheus_name(name: &str, unit: &str, kind: &str) -> String {
    let kind = match kind {
        "counter" => family::Kind::Counter,
        "histogram" => family::Kind::Histogram,
        _ => family::Kind::Gauge,
    };
    names::family(name, unit, kind)
}
