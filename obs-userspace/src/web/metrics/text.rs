//! Prometheus text 0.0.4 and OpenMetrics 1.0.0.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::family::{self, Family, Kind, Series, Value};
use crate::model::record::Histogram;

/// Which of the two text forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Prometheus,
    OpenMetrics,
}

pub(super) fn write(families: &[Family<'_>], flavour: Flavour, out: &mut dyn Write) -> io::Result<()> {
    for family in families {
        // OpenMetrics names the family without `_total`, Prometheus with it.
        let name = match flavour {
            Flavour::Prometheus => family.name(),
            Flavour::OpenMetrics => family.base.clone(),
        };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(out, "# HELP {name} {}", escaped(family.help, flavour == Flavour::OpenMetrics))?;
        writeln!(out, "# TYPE {name} {kind}")?;
        for series in &family.series {
            match &series.value {
                Value::Number(value) => {
                    out.write_all(family.name().as_bytes())?;
                    write_labels(&series.labels, None, out)?;
                    writeln!(out, " {}", number(*value))?;
                }
                Value::Histogram(histogram) => write_histogram(family, series, histogram, out)?,
            }
        }
    }
    if flavour == Flavour::OpenMetrics {
        out.write_all(b"# EOF\n")?;
    }
    Ok(())
}

fn write_histogram(
    family: &Family<'_>,
    series: &Series<'_>,
    histogram: &Histogram,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Family { base, unit, .. } = family;
    for exponent in family::classic_exponents(unit) {
        write!(out, "{base}_bucket")?;
        write_labels(&series.labels, Some(&number(f64::from(exponent).exp2())), out)?;
        writeln!(out, " {}", family::count_up_to(histogram, exponent))?;
    }
    let count = family::count(histogram);
    write!(out, "{base}_bucket")?;
    write_labels(&series.labels, Some("+Inf"), out)?;
    writeln!(out, " {count}")?;
    write!(out, "{base}_sum")?;
    write_labels(&series.labels, None, out)?;
    writeln!(out, " {}", number(histogram.sum))?;
    write!(out, "{base}_count")?;
    write_labels(&series.labels, None, out)?;
    writeln!(out, " {count}")
}

fn write_labels(labels: &[(String, &Arc<str>)], bound: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    if labels.is_empty() && bound.is_none() {
        return Ok(());
    }
    let mut before = '{';
    for (name, value) in labels {
        write!(out, "{before}{name}=\"{}\"", escaped(value, true))?;
        before = ',';
    }
    if let Some(bound) = bound {
        write!(out, "{before}le=\"{bound}\"")?;
    }
    out.write_all(b"}")
}

/// A number as both forms write it. The shortest digits that lead back to it.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else if value != 0.0 && !(1e-6..1e16).contains(&value.abs()) {
        format!("{value:e}")
    } else {
        format!("{value}")
    }
}

/// Backslashes and ends of lines, and in quoted texts quotes, are escaped; other characters are as they are.
fn escaped(text: &str, is_quoted: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_quoted => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}
