//! `obs doctor`: which features of this kernel work with these privileges, and which collectors can run.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::quality;
use crate::{
    config::duration,
    kernel::features::{Family, Feature, Host, Outcome, Prober},
};

/// Columns of the text.
const COLUMNS: usize = 80;
/// Columns of the mark and of the names of features.
const MARK_COLUMNS: usize = 9;
const NAME_COLUMNS: usize = 18;

/// Say which features of this kernel work with these privileges, and which collectors can run
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,
    /// Instead, sample this process and say how good its stacks are, and what would make them better
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pid: Option<u32>,
    /// For how long
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse, default_value = quality::DURATION_DEFAULT, requires = "pid")]
    pub(super) duration: Duration,
}

/// What was found out.
#[derive(Serialize)]
struct Report<'a> {
    host: &'a Host,
    features: Vec<Finding>,
    collectors: Vec<Verdict<'a>>,
    /// Whether what `obs record` does by default can be done.
    ok: bool,
}

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    #[serde(rename = "for")]
    purpose: &'static str,
    family: Family,
    optional: bool,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip)]
    feature: Feature,
}

/// Whether a collector can run.
#[derive(Serialize)]
struct Verdict<'a> {
    name: &'a str,
    can_run: bool,
    missing: Vec<&'static str>,
    by_fallback: Vec<&'static str>,
}

/// Tries out every feature and writes what was found. `collectors` are names with the features that they need; the first
/// one is what `obs record` is used for by default. Returns whether that one can run.
///
/// # Errors
/// Nothing can be written to `out`.
pub(super) fn run<'a>(
    args: &DoctorArgs,
    collectors: impl IntoIterator<Item = (&'a str, &'a [Feature])>,
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let prober = Prober::new();
    let features = Feature::ALL.iter().map(|&feature| Finding {
        name: feature.name(),
        purpose: feature.purpose(),
        family: feature.family(),
        optional: feature.is_optional(),
        outcome: feature.probe(&prober),
        feature,
    });
    let features: Vec<Finding> = features.collect();
    let outcomes = |feature: Feature| feature.probe(&prober);
    let collectors: Vec<Verdict<'_>> =
        collectors.into_iter().map(|(name, needs)| verdict(name, needs, outcomes)).collect();
    let ok = collectors.first().is_none_or(|verdict| verdict.can_run);
    let report = Report { host: prober.host(), features, collectors, ok };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write_text(&report, out)?;
    }
    out.flush()?;
    Ok(ok)
}

fn verdict<'a>(name: &'a str, needs: &[Feature], outcome: impl Fn(Feature) -> Outcome) -> Verdict<'a> {
    let (mut missing, mut by_fallback) = (Vec::new(), Vec::new());
    for &feature in needs {
        match outcome(feature) {
            Outcome::Works => {}
            Outcome::WorksBy { .. } => by_fallback.push(feature.name()),
            Outcome::Missing { .. } => missing.push(feature.name()),
        }
    }
    Verdict { name, can_run: missing.is_empty(), missing, by_fallback }
}

fn write_text(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let Report { host, features, collectors, ok } = report;
    write_host(host, out)?;
    for family in Family::ALL {
        writeln!(out, "\n{}", family.title())?;
        for finding in features.iter().filter(|finding| finding.family == family) {
            write_finding(finding, features, out)?;
        }
    }
    writeln!(out, "\nCollectors")?;
    for Verdict { name, can_run, missing, by_fallback } in collectors {
        let (mark, why) = match (can_run, by_fallback.is_empty()) {
            (true, true) => ("ok", "can run".to_owned()),
            (true, false) => ("fallback", format!("can run; by fallback: {}", by_fallback.join(", "))),
            (false, _) => ("missing", format!("cannot run: it needs {}", missing.join(", "))),
        };
        write_item(out, mark, name, &why)?;
    }
    let count = |wanted: fn(&Finding) -> bool| features.iter().filter(|finding| wanted(finding)).count();
    let missing = count(|finding| !finding.outcome.is_usable() && !finding.optional);
    let fallbacks = count(|finding| matches!(finding.outcome, Outcome::WorksBy { .. }));
    let summary = match (ok, missing) {
        (true, 0) => "everything that obs uses works here",
        (true, _) => "a default recording works here; what is missing costs only what it is for",
        (false, _) => "obs cannot record here before what is missing above is mended",
    };
    writeln!(out)?;
    write_wrapped(out, "", &format!("Verdict: {summary} ({missing} missing, {fallbacks} by fallback)."), 0)
}

fn write_host(host: &Host, out: &mut dyn Write) -> io::Result<()> {
    let Host { kernel_release, architecture, effective_uid, missing_capabilities, .. } = host;
    let user = if *effective_uid == 0 { "root".to_owned() } else { format!("user {effective_uid}") };
    writeln!(out, "Linux {kernel_release} ({architecture}), as {user}")?;
    let policies = [
        ("seccomp", seccomp(host)),
        ("lockdown", host.lockdown.clone()),
        ("kernel.perf_event_paranoid", host.perf_event_paranoid.map(|level| level.to_string())),
        ("kernel.kptr_restrict", host.kptr_restrict.map(|level| level.to_string())),
        ("kernel.unprivileged_bpf_disabled", host.unprivileged_bpf_disabled.map(|level| level.to_string())),
    ];
    let policies = policies.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    write_wrapped(out, "Policies: ", &policies.collect::<Vec<_>>().join(", "), 10)?;
    if !host.initial_user_namespace {
        writeln!(out, "In a user namespace: privileges over the host are missing")?;
    }
    if missing_capabilities.is_empty() {
        return writeln!(out, "Privileges: every capability that obs needs");
    }
    writeln!(out, "Privileges: these capabilities are missing (or run as root)")?;
    for missing in missing_capabilities {
        writeln!(out, "  {:<24}{}", missing.name, missing.purpose)?;
    }
    Ok(())
}

fn seccomp(host: &Host) -> Option<String> {
    use crate::kernel::features::Seccomp;
    Some(match host.seccomp {
        Seccomp::Off => return Some("off".to_owned()),
        Seccomp::Strict => "strict".to_owned(),
        Seccomp::Filter => "filter".to_owned(),
    })
}

fn write_finding(finding: &Finding, all: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let Finding { name, purpose, optional, outcome, feature, family: _ } = finding;
    let mark = match (outcome, optional) {
        (Outcome::Works, _) => "ok",
        (Outcome::WorksBy { .. }, _) => "fallback",
        (Outcome::Missing { .. }, false) => "missing",
        (Outcome::Missing { .. }, true) => "absent",
    };
    write_item(out, mark, name, purpose)?;
    let indent = 2 + MARK_COLUMNS + 2;
    match outcome {
        Outcome::Works => Ok(()),
        Outcome::WorksBy { fallback } => write_wrapped(out, &note("by", indent), fallback, indent + 4),
        Outcome::Missing { why, remedy } => {
            let is_missing =
                |needed: &&Finding| feature.needs().contains(&needed.feature) && !needed.outcome.is_usable();
            if let Some(needed) = all.iter().find(is_missing) {
                // What to do stands there, once.
                return writeln!(out, "{}it needs {}, see there", note("why", indent), needed.name);
            }
            write_wrapped(out, &note("why", indent), why, indent + 5)?;
            write_wrapped(out, &note("do", indent), remedy, indent + 4)
        }
    }
}

fn note(word: &str, indent: usize) -> String {
    format!("{:indent$}{word}: ", "")
}

/// A line of a mark, a name and some words.
fn write_item(out: &mut dyn Write, mark: &str, name: &str, words: &str) -> io::Result<()> {
    let head = format!("  {mark:<MARK_COLUMNS$}{name:<NAME_COLUMNS$}");
    write_wrapped(out, &head, words, 2 + MARK_COLUMNS + NAME_COLUMNS)
}

/// Writes words after a head, on further lines from column `indent` where [`COLUMNS`] end. Control characters (from the
/// names of files, say) are written as escapes.
fn write_wrapped(out: &mut dyn Write, head: &str, words: &str, indent: usize) -> io::Result<()> {
    let mut line = head.to_owned();
    let mut is_empty = true;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let shown: String = word
            .chars()
            .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
            .collect();
        if !is_empty && line.chars().count() + 1 + shown.chars().count() > COLUMNS {
            writeln!(out, "{line}")?;
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(&shown);
        is_empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let mut host = Prober::new().host().clone();
        (host.kernel_release, host.architecture) = ("6.1.0-test".to_owned(), "x86_64".to_owned());
        host.missing_capabilities.clear();
        host
    }

    fn finding(feature: Feature, outcome: Outcome) -> Finding {
        Finding {
            name: feature.name(),
            purpose: feature.purpose(),
            family: feature.family(),
            optional: feature.is_optional(),
            outcome,
            feature,
        }
    }

    fn missing() -> Outcome {
        Outcome::Missing {
            why: "a reason that is so long that it does not fit into one line of eighty columns at all".to_owned(),
            remedy: "a remedy\nwith a line break".to_owned(),
        }
    }

    fn text(features: Vec<Finding>, needs: &[Feature]) -> (String, bool) {
        let outcome = |wanted: Feature| {
            let found = features.iter().find(|finding| finding.feature == wanted);
            found.expect("tried").outcome.clone()
        };
        let collectors = vec![verdict("cpu", needs, outcome)];
        let ok = collectors[0].can_run;
        let mut out = Vec::new();
        write_text(&Report { host: &host(), features, collectors, ok }, &mut out).expect("memory");
        (String::from_utf8(out).expect("text"), ok)
    }

    #[test]
    fn lines_fit_into_eighty_columns() {
        let features = Feature::ALL.iter().map(|&feature| finding(feature, missing())).collect();
        let (text, ok) = text(features, Feature::ALL);
        assert!(!ok);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert_eq!(line, line.trim_end());
        }
        assert!(text.contains("a remedy\\nwith"), "what others wrote cannot break lines: {text}");
        assert!(text.contains("why: it needs bpf, see there"), "{text}");
    }

    #[test]
    fn a_collector_that_lacks_something_says_what() {
        let features = || {
            let fallback = Outcome::WorksBy { fallback: "another way".to_owned() };
            vec![
                finding(Feature::Bpf, Outcome::Works),
                finding(Feature::HashBatch, fallback),
                finding(Feature::RingBuffer, missing()),
            ]
        };
        let (all, ok) = text(features(), &[Feature::Bpf, Feature::HashBatch, Feature::RingBuffer]);
        assert!(!ok && all.contains("  missing  cpu               cannot run: it needs ring-buffer\n"), "{all}");
        assert!(all.contains("Verdict: obs cannot record here"), "{all}");
        assert!(all.contains("  fallback hash-batch        drain counts in a few system calls\n"), "{all}");
        assert!(all.contains("by: another way\n"), "{all}");

        let (some, ok) = text(features(), &[Feature::Bpf, Feature::HashBatch]);
        assert!(ok && some.contains("can run; by fallback: hash-batch\n"), "{some}");
        assert!(some.contains("(1 missing, 1 by fallback)"), "{some}");

        let (few, ok) = text(features(), &[Feature::Bpf]);
        assert!(ok && few.contains("  ok       cpu               can run\n"), "{few}");
    }

    #[test]
    fn optional_features_are_not_missed() {
        let (text, _) = text(vec![finding(Feature::Kprobes, missing())], &[]);
        assert!(text.contains("  absent   kprobes"), "{text}");
        assert!(text.contains("Verdict: everything that obs uses works here (0 missing"), "{text}");
    }

    #[test]
    fn json_carries_the_same() {
        let mut out = Vec::new();
        let needs: &[Feature] = &[Feature::KernelTypes];
        let ok = run(&DoctorArgs { json: true, pid: None, duration: Duration::ZERO }, [("cpu", needs)], &mut out)
            .expect("memory");
        let report: serde_json::Value = serde_json::from_slice(&out).expect("one JSON object");
        assert_eq!(report["ok"], ok);
        assert_eq!(report["collectors"][0]["can_run"], ok);
        let features = report["features"].as_array().expect("a list");
        assert_eq!(features.len(), Feature::ALL.len());
        for (found, feature) in features.iter().zip(Feature::ALL) {
            assert_eq!(found["name"], feature.name());
            assert!(["works", "works-by", "missing"].contains(&found["result"].as_str().expect("text")), "{found}");
        }
        assert!(report["host"]["kernel_release"].is_string());
        assert!(report["host"]["missing_capabilities"].is_array());
    }
}
