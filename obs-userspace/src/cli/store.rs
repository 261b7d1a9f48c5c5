//! `obs store`: whether what is kept on disk is whole, and what it is. Reads only; an agent may be writing.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Subcommand;

use super::Failure;
use crate::store::{self, CheckReport, FileReport, FileState, StatReport};

/// The variable that names the state folder where the command line does not.
const STATE_DIR_VARIABLE: &str = "OBS_STATE_DIR";
const STATE_DIR_DEFAULT: &str = "/var/lib/obs";
const SECOND_NS: u64 = 1_000_000_000;

/// Look at what an agent keeps on disk
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    what: What,
    /// The agent's state folder [default: $OBS_STATE_DIR, or /var/lib/obs]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read every byte and say what is wrong; exit code 1 if anything is
    Check,
    /// Say what there is: files, bytes, times, counts by type, bytes per window
    Stat,
}

/// Returns the exit code.
pub(super) fn run(args: StoreArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let StoreArgs { what, state_dir, json } = args;
    let state_dir = state_dir
        .or_else(|| std::env::var_os(STATE_DIR_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(STATE_DIR_DEFAULT));
    let code = match what {
        What::Check => {
            let report = store::check(&state_dir)?;
            if json {
                serde_json::to_writer_pretty(&mut *out, &report)?;
                writeln!(out)?;
            } else {
                write_check(&report, out)?;
            }
            u8::from(!report.is_clean())
        }
        What::Stat => {
            let report = store::stat(&state_dir)?;
            if json {
                serde_json::to_writer_pretty(&mut *out, &report)?;
                writeln!(out)?;
            } else {
                write_stat(&report, out)?;
            }
            0
        }
    };
    out.flush()?;
    Ok(code)
}

fn write_check(report: &CheckReport, out: &mut dyn Write) -> io::Result<()> {
    let CheckReport { files, temporary, superseded, foreign } = report;
    for FileReport { name, bytes: _, state, contents: _ } in files {
        match state {
            FileState::Whole => {}
            FileState::Unfinished { bytes } => {
                writeln!(
                    out,
                    "{name}: ends with {bytes} bytes of an unfinished window, which the next start cuts off"
                )?;
            }
            FileState::Newer { reason } | FileState::Damaged { reason } => writeln!(out, "{name}: {reason}")?,
        }
    }
    for path in temporary {
        writeln!(out, "{}: half-written; the next start removes it", path.display())?;
    }
    for name in superseded {
        writeln!(out, "{name}: its block is finished; the next start removes it")?;
    }
    for path in foreign {
        writeln!(out, "{}: not a file of the store; it is left alone", path.display())?;
    }
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let windows: u64 = files.iter().map(|file| file.contents.windows).sum();
    let verdict = if report.is_clean() { "clean" } else { "NOT CLEAN" };
    writeln!(out, "{verdict}: {} files, {}, {windows} windows", files.len(), megabytes(bytes))
}

fn write_stat(report: &StatReport, out: &mut dyn Write) -> io::Result<()> {
    let StatReport {
        files,
        bytes,
        windows,
        bytes_per_window,
        samples,
        points,
        events,
        sections,
        collectors,
        series,
        event_names,
        notes,
    } = report;
    writeln!(
        out,
        "{:<18} {:>20} {:>9} {:>8} {:>9} {:>9} {:>7} {:>10} {:>9}",
        "file", "began (UTC)", "span", "windows", "samples", "points", "events", "bytes", "/window"
    )?;
    for FileReport { name, bytes, state, contents } in files {
        let reason = match state {
            FileState::Whole if contents.is_coarse => "  roll-up only".to_owned(),
            FileState::Whole => String::new(),
            FileState::Unfinished { bytes } => format!("  and {bytes} bytes of an unfinished window"),
            FileState::Newer { reason } | FileState::Damaged { reason } => format!("  {reason}"),
        };
        writeln!(
            out,
            "{name:<18} {:>20} {:>9} {:>8} {:>9} {:>9} {:>7} {bytes:>10} {:>9}{reason}",
            utc(contents.started_unix_ns),
            span(contents.ended_unix_ns.saturating_sub(contents.started_unix_ns)),
            contents.windows,
            contents.samples,
            contents.points,
            contents.events,
            bytes.checked_div(contents.windows).unwrap_or_default(),
        )?;
    }
    writeln!(
        out,
        "\n{} files, {}, {windows} windows, {bytes_per_window:.0} bytes per window\n\
         {samples} samples, {points} points, {events} events",
        files.len(),
        megabytes(*bytes),
    )?;
    for (section, bytes) in sections {
        writeln!(out, "{bytes:>12} bytes of {section}")?;
    }
    for collector in collectors {
        writeln!(out, "profiles  {collector}")?;
    }
    for (name, kind, count) in series {
        writeln!(out, "{kind:<9} {name} ({count} series)")?;
    }
    for name in event_names {
        writeln!(out, "event     {name}")?;
    }
    if notes.omitted > 0 {
        writeln!(out, "and {} more names", notes.omitted)?;
    }
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn span(length_ns: u64) -> String {
    let seconds = length_ns / SECOND_NS;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A time as people write it. The days' arithmetic is that of the proleptic Gregorian calendar, whose years begin in March
/// here: then the leap day is the last one.
fn utc(unix_ns: u64) -> String {
    let seconds = unix_ns / SECOND_NS;
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        model::record::Gauge,
        store::{Store, StoreOptions, Window},
    };

    fn run_on(dir: &Path, what: What, json: bool) -> (u8, String) {
        let mut out = Vec::new();
        let code = run(StoreArgs { what, state_dir: Some(dir.to_owned()), json }, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    fn filled(dir: &Path) {
        let mut store = Store::open(dir, StoreOptions::default()).unwrap();
        let gauges = vec![Gauge { name: "system.load", labels: Vec::new(), value: 0.5 }];
        let started_unix_ns = 951_782_399 * SECOND_NS;
        store.append(&Window { started_unix_ns, duration_ns: 10 * SECOND_NS, gauges, ..Window::default() }).unwrap();
        store.rotate().unwrap();
    }

    #[test]
    fn a_whole_folder_is_clean_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let (code, text) = run_on(dir.path(), What::Check, false);
        assert_eq!(code, 0);
        assert!(text.starts_with("clean: 1 files, 0.0 MB, 1 windows"), "{text}");
        let path = dir.path().join("blocks/0000000001.block");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[80] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (code, text) = run_on(dir.path(), What::Check, false);
        assert_eq!(code, 1);
        assert!(text.starts_with("0000000001.block: it is damaged at byte "), "{text}");
        assert!(text.contains("NOT CLEAN"), "{text}");
    }

    #[test]
    fn what_there_is_is_told_as_text_and_as_json() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let (code, text) = run_on(dir.path(), What::Stat, false);
        assert_eq!(code, 0);
        assert!(text.contains("0000000001.block") && text.contains("2000-02-28 23:59:59"), "{text}");
        assert!(text.contains("gauge     system.load (1 series)"), "{text}");
        let (_, json) = run_on(dir.path(), What::Stat, true);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["windows"], &json["files"][0]["state"]), (&1.into(), &"whole".into()));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut out = Vec::new();
        let args = StoreArgs { what: What::Check, state_dir: Some("/nonexistent".into()), json: false };
        let Err(Failure::Failed(error)) = run(args, &mut out) else { panic!("it was there") };
        assert!(error.to_string().contains("cannot list /nonexistent/blocks"), "{error}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(seconds * SECOND_NS), expected);
        }
    }
}
