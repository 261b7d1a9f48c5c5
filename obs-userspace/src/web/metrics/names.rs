//! From OpenTelemetry's names and units to Prometheus's, by the rules of OpenTelemetry's compatibility document, with one
//! rule of our own: a gauge may not end in `_count`, which Prometheus keeps for histograms; there that word is left out.

use super::family::Kind;

/// The name of a family: without `_total`, which the text forms treat differently.
pub(super) fn base(name: &str, unit: &str, kind: Kind) -> String {
    let mut base = sanitized(name, true);
    if let Kind::Counter = kind
        && let Some(stem) = base.strip_suffix("_total")
    {
        base.truncate(stem.len());
    }
    if let Kind::Gauge = kind
        && let Some(stem) = base.strip_suffix("_count")
    {
        base.truncate(stem.len());
    }
    for word in unit_words(unit, kind) {
        let has_it = base.split('_').any(|part| part == word);
        if !has_it {
            base.push('_');
            base.push_str(&word);
        }
    }
    base
}

/// The name as it stands in Prometheus text.
pub(super) fn family(name: &str, unit: &str, kind: Kind) -> String {
    let base = base(name, unit, kind);
    match kind {
        Kind::Counter => base + "_total",
        Kind::Gauge | Kind::Histogram => base,
    }
}

/// The unit's words, each of which becomes a part of the name: `By/s` is `bytes`, `per`, `second`.
fn unit_words(unit: &str, kind: Kind) -> Vec<String> {
    if unit == "1" {
        return if let Kind::Gauge = kind { vec!["ratio".to_owned()] } else { Vec::new() };
    }
    let mut words = Vec::new();
    for (place, part) in unit.split('/').take(2).enumerate() {
        // What stands in braces is a remark.
        let part = part.split('{').next().unwrap_or_default();
        let Some(word) = word(part, place > 0) else { continue };
        if place > 0 {
            words.push("per".to_owned());
        }
        words.push(word);
    }
    words
}

fn word(unit: &str, is_per: bool) -> Option<String> {
    let word = match (unit, is_per) {
        ("", _) | ("1", _) => return None,
        ("s", false) => "seconds",
        ("s", true) => "second",
        ("ms", false) => "milliseconds",
        ("us", false) => "microseconds",
        ("ns", false) => "nanoseconds",
        ("min", false) => "minutes",
        ("min", true) => "minute",
        ("h", false) => "hours",
        ("h", true) => "hour",
        ("d", false) => "days",
        ("d", true) => "day",
        ("By", _) => "bytes",
        ("KiBy", _) => "kibibytes",
        ("MiBy", _) => "mebibytes",
        ("Hz", _) => "hertz",
        ("Cel", _) => "celsius",
        ("J", _) => "joules",
        ("W", _) => "watts",
        ("V", _) => "volts",
        ("A", _) => "amperes",
        ("%", _) => "percent",
        (other, _) => return Some(sanitized(other, false)).filter(|word| !word.is_empty()),
    };
    Some(word.to_owned())
}

/// The name of a label.
pub(super) fn label(name: &str) -> String {
    let label = sanitized(name, false);
    // Names that begin with two underscores are Prometheus's own.
    if label.starts_with("__") { format!("key{label}") } else { label }
}

/// Letters, digits and underscores (and in names of metrics colons), no two underscores that were not there, no digit first.
fn sanitized(name: &str, is_metric: bool) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || (c == ':' && is_metric) {
            if out.is_empty() && c.is_ascii_digit() {
                out.push('_');
            }
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    let trimmed = out.trim_end_matches('_').len();
    out.truncate(trimmed);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_units_once() {
        for (name, unit, kind, expected) in [
            ("system.cpu.time", "s", Kind::Counter, "system_cpu_time_seconds_total"),
            ("system.disk.io", "By", Kind::Counter, "system_disk_io_bytes_total"),
            ("system.memory.usage", "By", Kind::Gauge, "system_memory_usage_bytes"),
            ("system.cpu.load_average.1m", "{thread}", Kind::Gauge, "system_cpu_load_average_1m"),
            ("process.thread.count", "{thread}", Kind::Gauge, "process_thread"),
            ("system.network.packet.count", "{packet}", Kind::Counter, "system_network_packet_count_total"),
            ("obs_agent_cpu_share", "1", Kind::Gauge, "obs_agent_cpu_share_ratio"),
            ("a.ratio", "1", Kind::Gauge, "a_ratio"),
            ("a", "1", Kind::Counter, "a_total"),
            ("a_total", "", Kind::Counter, "a_total"),
            ("a.seconds", "s", Kind::Histogram, "a_seconds"),
            ("a", "By/s", Kind::Gauge, "a_bytes_per_second"),
            ("a", "{request}/s", Kind::Gauge, "a_per_second"),
            ("9 lives..left-", "{life}", Kind::Gauge, "_9_lives_left"),
            ("größe", "", Kind::Gauge, "gr_e"),
        ] {
            assert_eq!(family(name, unit, kind), expected, "{name} {unit}");
        }
    }

    #[test]
    fn labels_are_plain() {
        assert_eq!(label("cpu.mode"), "cpu_mode");
        assert_eq!(label("__name__"), "key__name");
        assert_eq!(label("a:b"), "a_b");
    }
}
