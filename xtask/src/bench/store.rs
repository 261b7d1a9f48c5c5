//! `cargo xtask bench store`: what the history on disk costs, beside what it may cost.
//!
//! The windows are those of a host that never was (`obs-userspace/examples/store_bench`), the same in every run, so that sizes can
//! be compared between machines; times and memory are this machine's. `--state` adds what a real agent's windows come to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::table;
use crate::host;
use crate::setup::{self, Group};

/// Of how much, and beside what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many days are written; one block costs what another does, and sizes are told for a week
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// The state folder of an agent: what its windows cost, as blocks. It is copied, and may be in use
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What the history may cost.
const WEEK_BYTES_MAX: f64 = 50e6;
const DAY_GRAPH_MS_MAX: f64 = 200.0;
const MEMORY_BYTES_MAX: f64 = 10e6;

const WEEK_SECONDS: f64 = 7.0 * 86_400.0;
/// The question that has an aim, by the name that the example gives it.
const DAY_GRAPH: &str = "a day, flame graph";
/// Processes that begin in a window on a host that builds software all the time.
const BUILD_SHORT_LIVED: &str = "140";

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build])? {
        return Ok(ExitCode::FAILURE);
    }
    // Built as obs is, or its times say nothing.
    let mut build = host::cargo()?;
    build.args(["build", "--release", "--locked", "--package", "obs-userspace", "--example", "store_bench"]);
    host::run(&mut build)?;
    let example = host::target_dir()?.join("release/examples/store_bench");
    let hours = (arguments.days * 24).to_string();

    println!("\n{} days of a host with 2 CPUs, 100 services and 70 threads of the kernel:", arguments.days);
    let busy = report(&example, &["--hours", &hours])?;
    print!("{}", against_aims(&busy)?);
    print!("{}", table::render(&questions(&busy)?));

    // A day suffices: blocks do not know of each other.
    let mut rows = vec![heading(), row("busy", &busy)?];
    rows.push(row("builds all day", &report(&example, &["--hours", "24", "--short-lived", BUILD_SHORT_LIVED])?)?);
    if let Some(state) = &arguments.state {
        let state = state.to_str().context("the state folder's path is not UTF-8")?;
        rows.push(row("this agent", &report(&example, &["--state", state])?)?);
    }
    println!("\nBytes of a window, and what a week of them comes to:");
    print!("{}", table::render(&rows));
    Ok(if is_within(&busy)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(example: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = host::program(example);
    command.arg("--json").args(arguments);
    let text = host::text(&mut command)?;
    serde_json::from_str(&text).with_context(|| format!("`{}` printed no report: {text}", host::line(&command)))
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report.get(name).and_then(Value::as_f64).with_context(|| format!("the report has no number {name}"))
}

/// Of blocks: with all their windows, or with those of so many days, and the roll-up of the others.
fn week_bytes(report: &Value, days_of_windows: f64) -> Result<f64> {
    let windows = number(report, "windows")? * WEEK_SECONDS / number(report, "seconds")?.max(1.0);
    let share = days_of_windows / 7.0;
    let (whole, roll_up) = (number(report, "bytes_per_window")?, number(report, "roll_up_bytes_per_window")?);
    Ok(windows * (whole * share + roll_up * (1.0 - share)))
}

fn day_graph_ms(report: &Value) -> Result<f64> {
    let times = report.get("queries_ms").context("the report has no times of questions")?;
    number(times, DAY_GRAPH)
}

/// What has an aim: its name, how much it is, how much it may be, its unit.
fn aims(report: &Value) -> Result<[(&'static str, f64, f64, &'static str); 5]> {
    let mega = |bytes: f64| bytes / 1e6;
    let memory = |name| number(report, name).map(mega);
    Ok([
        ("disk, 7 days, of which windows 2 days", mega(week_bytes(report, 2.0)?), mega(WEEK_BYTES_MAX), "MB"),
        ("disk, 7 days of windows", mega(week_bytes(report, 7.0)?), f64::INFINITY, "MB"),
        ("a day's flame graph", day_graph_ms(report)?, DAY_GRAPH_MS_MAX, "ms"),
        ("memory, writing", memory("memory_writing_bytes")?, mega(MEMORY_BYTES_MAX), "MB"),
        ("memory, and a day's flame graph", memory("memory_with_query_bytes")?, f64::INFINITY, "MB"),
    ])
}

fn is_within(report: &Value) -> Result<bool> {
    Ok(report.get("is_clean") == Some(&Value::Bool(true)) && aims(report)?.iter().all(|(_, is, may, _)| is <= may))
}

fn against_aims(report: &Value) -> Result<String> {
    let mut rows = vec![["", "measured", "aim", ""].map(str::to_owned).to_vec()];
    for (what, is, may, unit) in aims(report)? {
        let (aim, verdict) = match may {
            f64::INFINITY => ("-".to_owned(), ""),
            may if is <= may => (format!("{may:.0} {unit}"), "met"),
            may => (format!("{may:.0} {unit}"), "MISSED"),
        };
        rows.push(vec![what.to_owned(), format!("{is:.1} {unit}"), aim, verdict.to_owned()]);
    }
    let mut plain = |what: &str, text: String| rows.push(vec![what.to_owned(), text]);
    plain("CPU of a window", format!("{:.0} us", number(report, "append_us")?));
    let (block, slowest) = (number(report, "block_ms")?, number(report, "block_ms_max")?);
    plain("CPU of a block", format!("{block:.0} ms"));
    plain("the slowest one", format!("{slowest:.0} ms"));
    plain("CPU a day", format!("{:.1} s", number(report, "cpu_seconds_a_day")?));
    let written = number(report, "bytes_written")? * WEEK_SECONDS / number(report, "seconds")?.max(1.0);
    plain("written in 7 days", format!("{:.1} MB", written / 1e6));
    Ok(table::render(&rows))
}

fn questions(report: &Value) -> Result<Vec<Vec<String>>> {
    let times = report.get("queries_ms").and_then(Value::as_object).context("the report has no times of questions")?;
    let mut rows = vec![vec!["\nquestion".to_owned(), "CPU ms".to_owned()]];
    for (what, time) in times {
        rows.push(vec![what.clone(), format!("{:.1}", time.as_f64().context("a time is no number")?)]);
    }
    Ok(rows)
}

fn heading() -> Vec<String> {
    let columns =
        ["", "samples", "points", "events", "journal bytes", "block bytes", "a week, MB", "2 days + roll-up, MB"];
    columns.map(str::to_owned).to_vec()
}

fn row(name: &str, report: &Value) -> Result<Vec<String>> {
    let mut cells = vec![name.to_owned()];
    for column in
        ["samples_per_window", "points_per_window", "events_per_window", "journal_bytes_per_window", "bytes_per_window"]
    {
        cells.push(format!("{:.0}", number(report, column)?));
    }
    for days in [7.0, 2.0] {
        cells.push(format!("{:.1}", week_bytes(report, days)? / 1e6));
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(bytes_per_window: u64, graph_ms: f64) -> Value {
        json!({
            "windows": 8640, "seconds": 86_400, "bytes_per_window": bytes_per_window, "is_clean": true,
            "roll_up_bytes_per_window": 350,
            "queries_ms": { DAY_GRAPH: graph_ms }, "memory_writing_bytes": 5e6, "memory_with_query_bytes": 3e7,
            "append_us": 1, "block_ms": 2, "block_ms_max": 3, "cpu_seconds_a_day": 4, "bytes_written": 5,
        })
    }

    #[test]
    fn a_day_is_a_seventh_of_a_week() {
        assert!((week_bytes(&report(700, 1.0), 7.0).unwrap() - 700.0 * 60_480.0).abs() < 1.0);
        assert!((week_bytes(&report(700, 1.0), 2.0).unwrap() - 450.0 * 60_480.0).abs() < 1.0);
    }

    #[test]
    fn a_missed_aim_is_told_and_fails() {
        assert!(is_within(&report(2000, 199.0)).unwrap());
        assert!(!is_within(&report(2000, 201.0)).unwrap());
        assert!(!is_within(&report(2100, 199.0)).unwrap());
        // Two days of 2,100 bytes a window, five of 350.
        let text = against_aims(&report(2100, 199.0)).unwrap();
        assert!(text.contains("51.4 MB   50 MB  MISSED"), "{text}");
        assert!(text.contains("199.0 ms  200 ms     met"), "{text}");
        let dirty = json!({ "is_clean": false });
        assert!(!is_within(&dirty).unwrap_or(false));
    }

    #[test]
    fn a_report_without_a_number_is_refused() {
        assert!(row("x", &json!({ "samples_per_window": 1 })).is_err());
    }
}
