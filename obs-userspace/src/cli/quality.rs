//! `obs doctor -p PID`: how good the stacks of a process are, and what would make them better.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::summary::{cut_line, percent_of};
use crate::{
    collect::{Settings, cpu},
    config::{filter::Filter, sampling::Frequency, symbol_cache::SymbolCache},
    model::{
        profile::FrameDetail,
        summary::{FrameCounts, ProcessSummary, StackCounts, Summary},
    },
    pipeline::record::{self as recording, Recording},
};

/// Samples per second and CPU: more than by default, so that a few seconds say something.
const HERTZ: u32 = 499;

/// How long a process is looked at unless the user says otherwise.
pub(super) const DURATION_DEFAULT: &str = "5s";

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    duration_seconds: f64,
    processes: &'a [ProcessSummary],
    frames: &'a FrameCounts,
    notes: &'a [String],
}

/// Samples a process and its children, and writes how many of their stacks are complete and where the others were cut.
///
/// # Errors
/// If the process does not exist, the kernel refuses, or nothing can be written to `out`.
pub(super) fn run(pid: u32, duration: Duration, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let frequency: Frequency = HERTZ.to_string().parse().map_err(anyhow::Error::msg)?;
    let filter = Filter { pids: vec![pid], follow_children: true, ..Filter::default() };
    let settings = Settings { filter, frequency, ..Settings::default() };
    // What it is asked about is how stacks are walked, not what the frames are called.
    let symbol_cache = SymbolCache::Off;
    let recording = Recording {
        specs: [&cpu::SPEC],
        settings,
        duration: Some(duration),
        command: Vec::new(),
        detail: FrameDetail::Functions,
        symbol_cache,
    };
    let [summary] = recording::run(recording, &mut |_| ())?.summaries();
    if json {
        let Summary { duration_seconds, processes, frames, notes, .. } = &summary;
        serde_json::to_writer_pretty(
            &mut *out,
            &Report { duration_seconds: *duration_seconds, processes, frames, notes },
        )?;
        writeln!(out)?;
    } else {
        write_text(pid, &summary, out)?;
    }
    Ok(out.flush()?)
}

fn write_text(pid: u32, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let Summary { duration_seconds, processes, frames, notes, .. } = summary;
    if processes.is_empty() {
        return writeln!(
            out,
            "process {pid} used no CPU in {duration_seconds:.1} s, so there are no stacks to judge: look again while it is \
             busy, or for longer (-d 1m)"
        );
    }
    writeln!(out, "stacks of process {pid} and its children, {duration_seconds:.1} s at {HERTZ} Hz")?;
    for ProcessSummary { pid, name, samples, user_stacks, cuts } in processes {
        let StackCounts { complete, incomplete, absent: _ } = user_stacks;
        let all = complete + incomplete.values().sum::<u64>();
        writeln!(
            out,
            "  {name} [{pid}]: {samples} samples, {complete} of {all} complete{}",
            percent_of(*complete, all)
        )?;
        for cut in cuts {
            writeln!(out, "    {}", cut_line(cut))?;
        }
    }
    let unnamed: u64 = frames.unsymbolized.values().sum();
    let all = frames.symbolized + unnamed;
    writeln!(out, "  names: {} of {all} frames{}", frames.symbolized, percent_of(frames.symbolized, all))?;
    for note in notes {
        writeln!(out, "    {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::summary::CutSummary;

    #[test]
    fn says_where_stacks_were_cut_and_what_to_do() {
        let cut = CutSummary { file: Some("/opt/x".to_owned()), reason: "reason", samples: 1, advice: "do this" };
        let user_stacks =
            StackCounts { complete: 3, incomplete: BTreeMap::from([("reason".to_owned(), 1)]), absent: 0 };
        let process = ProcessSummary { pid: 7, name: "x".to_owned(), samples: 4, user_stacks, cuts: vec![cut] };
        let frames = FrameCounts { symbolized: 9, unsymbolized: BTreeMap::from([("stripped".to_owned(), 1)]) };
        let summary = Summary { duration_seconds: 5.0, processes: vec![process], frames, ..Summary::default() };
        let mut text = Vec::new();
        write_text(7, &summary, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "stacks of process 7 and its children, 5.0 s at 499 Hz
  x [7]: 4 samples, 3 of 4 complete (75.0 %)
    /opt/x: reason: 1 sample; do this
  names: 9 of 10 frames (90.0 %)
"
        );
        let mut text = Vec::new();
        write_text(7, &Summary { duration_seconds: 5.0, ..Summary::default() }, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("used no CPU"));
    }
}
