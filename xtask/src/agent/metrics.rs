//! Metrics as Prometheus writes them as text.

use anyhow::{Context as _, Result};

/// Values with names and labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metrics(Vec<Series>);

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Series {
    /// What a label says, nothing if there is none.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

impl Metrics {
    /// Reads those whose name begins so.
    ///
    /// # Errors
    /// When a line is none of this format; the error shows it.
    pub(crate) fn parse(text: &str, prefix: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        let series = lines.map(|line| parse_line(line).with_context(|| format!("not a metric: {line}")));
        series.collect::<Result<_>>().map(Self)
    }

    /// All with this name.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// The sum of those with this name and these labels; `None` if there is none. What is not a number is not there.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.named(name)
            .filter(|series| labels.iter().all(|(label, value)| series.label(label) == *value))
            .map(|series| series.value)
            .filter(|value| !value.is_nan())
            .reduce(|sum, value| sum + value)
    }
}

fn parse_line(line: &str) -> Option<Series> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time may follow, which nobody here asks for. `+Inf`, `-Inf` and `NaN` are numbers to Rust too.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Series { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what comes after it.
fn parse_labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (mut value, mut characters) = (String::new(), quoted.char_indices());
        rest = loop {
            match characters.next()? {
                (at, '"') => break quoted.get(at + 1..)?,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP obs_a what\n# TYPE obs_a counter\n\
        obs_a_total{reason=\"full\",stage=\"x\"} 3\n\
        obs_a_total{reason=\"a \\\"quoted\\\" \\\\ {b}, c=\\n\",stage=\"x\",} 4.5e0 1700000000\n\
        obs_b NaN\nobs_c{le=\"+Inf\"} +Inf\nother{unread 1\n";

    #[test]
    fn names_labels_and_values_are_read() {
        let metrics = Metrics::parse(TEXT, "obs_").unwrap();
        let reasons: Vec<&str> = metrics.named("obs_a_total").map(|series| series.label("reason")).collect();
        assert_eq!(reasons, ["full", "a \"quoted\" \\ {b}, c=\n"]);
        assert_eq!(metrics.sum("obs_a_total", &[]), Some(7.5));
        assert_eq!(metrics.sum("obs_a_total", &[("stage", "x"), ("reason", "full")]), Some(3.0));
        assert_eq!(metrics.sum("obs_a_total", &[("stage", "y")]), None);
        assert_eq!(metrics.sum("obs_b", &[]), None);
        assert_eq!(metrics.sum("obs_c", &[]), Some(f64::INFINITY));
    }

    #[test]
    fn what_is_no_metric_is_an_error_that_shows_it() {
        for line in ["other{unread 1", "other{a=\"b} 1", "other", "other{a=\"b\"}", "other one"] {
            let error = Metrics::parse(line, "other").unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
