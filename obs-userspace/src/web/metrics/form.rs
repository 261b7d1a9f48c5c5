//! Which form of metrics a client wants, by its `Accept` header.

/// Most bytes of the header that are looked at.
const ACCEPT_BYTES_MAX: usize = 4096;

/// A form of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, each behind its length.
    Protobuf,
}

impl Form {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The form that a client likes best; of those it likes as much, the one that says most. Text where nothing fits:
    /// scrapers are known to read it whatever they say.
    pub(crate) fn wanted(accept: &str) -> Self {
        let accept = accept.get(..ACCEPT_BYTES_MAX).unwrap_or(accept);
        let mut best = (0, 0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(String, &str)> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
                .collect();
            let parameter = |name: &str| parameters.iter().find(|(it, _)| it == name).map(|(_, value)| *value);
            let weight = parameter("q").map_or(Some(1000), thousandths).unwrap_or(0);
            let version = parameter("version");
            let (form, rank) = match media.as_str() {
                "application/vnd.google.protobuf"
                    if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && parameter("encoding") == Some("delimited") =>
                {
                    (Self::Protobuf, 4)
                }
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    (Self::OpenMetrics, 3)
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => (Self::Text, 2),
                "text/*" | "*/*" => (Self::Text, 1),
                _ => continue,
            };
            if weight > 0 && (weight, rank) > (best.0, best.1) {
                best = (weight, rank, form);
            }
        }
        best.2
    }
}

/// A weight such as `0.75`, in thousandths.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u32 = format!("{fraction:0<3}").parse().ok()?;
    Some((whole * 1000 + fraction).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, form) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/html", Form::Text),
            ("text/plain;version=0.0.4", Form::Text),
            ("application/openmetrics-text", Form::OpenMetrics),
            // Prometheus 2.42 without and with native histograms.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Form::OpenMetrics,
            ),
            (
                &format!(
                    "{protobuf},application/openmetrics-text;version=1.0.0;q=0.8,\
                     application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                ),
                Form::Protobuf,
            ),
            (&format!("{protobuf};q=0.2,text/plain;q=0.3"), Form::Text),
            (&format!("{protobuf};q=0,*/*;q=0.1"), Form::Text),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited", Form::Text),
            ("application/vnd.google.protobuf", Form::Text),
            ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Form::Text),
            ("application/openmetrics-text;q=x,text/plain;q=1.5;;=", Form::Text),
        ] {
            assert_eq!(Form::wanted(accept), form, "{accept}");
        }
        Form::wanted(&"ä,;=q".repeat(10_000));
    }
}
