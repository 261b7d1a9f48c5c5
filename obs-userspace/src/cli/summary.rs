//! The closing summary of a recording, for people.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use crate::model::summary::{Cost, CutSummary, FrameCounts, ProcessSummary, StackCounts, Summary};

/// Most processes whose stack quality is listed.
const PROCESSES_SHOWN_MAX: usize = 5;

/// Most places at which a process's stacks were cut that are listed, and the share of its samples below which none is.
const CUTS_SHOWN_MAX: usize = 2;
const CUT_SHARE_SHOWN_MIN: f64 = 0.005;

/// Writes the summary.
pub(super) fn write_text(summary: &Summary, output: &Path, out: &mut dyn Write) -> io::Result<()> {
    let Summary {
        collector,
        duration_seconds,
        event,
        frequency_hertz,
        samples,
        user_stacks,
        frames,
        processes,
        cost,
        notes,
    } = summary;
    let sampling = match (event, frequency_hertz) {
        (Some(event), Some(hertz)) => format!(", {event} at {hertz} Hz"),
        _ => String::new(),
    };
    writeln!(out, "recorded {collector} for {duration_seconds:.1} s{sampling}")?;

    let lost: u64 = samples.lost.values().sum();
    let seen = samples.taken + lost;
    write!(out, "  samples   {} taken, {lost} lost{}", samples.taken, percent_of(lost, seen))?;
    writeln!(out, "{}", reasons(&samples.lost))?;
    if samples.filtered + samples.idle > 0 {
        writeln!(out, "            {} turned away by the filter, {} on idle CPUs", samples.filtered, samples.idle)?;
    }
    write_stacks(user_stacks, out)?;
    let FrameCounts { symbolized, unsymbolized } = frames;
    let unnamed: u64 = unsymbolized.values().sum();
    write!(
        out,
        "  names     {symbolized} of {} frames{}",
        symbolized + unnamed,
        percent_of(*symbolized, symbolized + unnamed)
    )?;
    writeln!(out, "{}", reasons(unsymbolized))?;
    write_processes(processes, out)?;

    let Cost { process_cpu_seconds, bpf_cpu_seconds, rss_peak_bytes, map_bytes, programs: _ } = cost;
    let bpf = bpf_cpu_seconds.map_or("unknown".to_owned(), |seconds| format!("{seconds:.3} s"));
    writeln!(
        out,
        "  cost      {process_cpu_seconds:.3} s CPU in obs, {bpf} in the kernel, {} MB memory, {} MB of maps",
        megabytes(*rss_peak_bytes),
        megabytes(*map_bytes)
    )?;
    for note in notes {
        writeln!(out, "  note      {note}")?;
    }
    if output.as_os_str() != "-" {
        writeln!(out, "wrote {}", output.display())?;
    }
    Ok(())
}

fn write_stacks(stacks: &StackCounts, out: &mut dyn Write) -> io::Result<()> {
    let StackCounts { complete, incomplete, absent } = stacks;
    let cut: u64 = incomplete.values().sum();
    write!(out, "  stacks    {complete} complete{}", percent_of(*complete, complete + cut))?;
    if cut > 0 {
        write!(out, ", {cut} cut{}", reasons(incomplete))?;
    }
    if *absent > 0 {
        write!(out, ", {absent} without a user stack")?;
    }
    writeln!(out)
}

/// The processes with the most cut stacks: those are what a reader may have to mend.
fn write_processes(processes: &[ProcessSummary], out: &mut dyn Write) -> io::Result<()> {
    let cut = |process: &ProcessSummary| process.user_stacks.incomplete.values().sum::<u64>();
    let mut worst: Vec<_> = processes.iter().filter(|process| cut(process) > 0).collect();
    worst.sort_by_key(|process| std::cmp::Reverse(cut(process)));
    for process in worst.iter().take(PROCESSES_SHOWN_MAX) {
        let stacks = &process.user_stacks;
        let all = stacks.complete + cut(process);
        writeln!(
            out,
            "            {} [{}]: {} of {all} complete{}{}",
            process.name,
            process.pid,
            stacks.complete,
            percent_of(stacks.complete, all),
            reasons(&stacks.incomplete)
        )?;
        let is_many = |cut: &&CutSummary| cut.samples as f64 >= CUT_SHARE_SHOWN_MIN * all as f64;
        for cut in process.cuts.iter().take(CUTS_SHOWN_MAX).filter(is_many) {
            writeln!(out, "              {}", cut_line(cut))?;
        }
    }
    if worst.len() > PROCESSES_SHOWN_MAX {
        writeln!(
            out,
            "            and {} more processes with cut stacks (all: --summary json)",
            worst.len() - PROCESSES_SHOWN_MAX
        )?;
    }
    Ok(())
}

/// `FILE: REASON: N samples; ADVICE`.
pub(super) fn cut_line(cut: &CutSummary) -> String {
    let CutSummary { file, reason, samples, advice } = cut;
    let file = file.as_deref().unwrap_or("no known file");
    let samples = if *samples == 1 { "1 sample".to_owned() } else { format!("{samples} samples") };
    format!("{file}: {reason}: {samples}; {advice}")
}

/// ` (reason n, reason n)`, most frequent first; nothing if there is none.
fn reasons(reasons: &BTreeMap<String, u64>) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<_> = reasons.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let list: Vec<_> = sorted.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
    format!(" ({})", list.join(", "))
}

/// ` (12.3 %)`; nothing if the whole is empty.
pub(super) fn percent_of(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    // Exact below 2^53 samples.
    #[expect(clippy::cast_precision_loss, reason = "a share to one decimal needs no more")]
    let percent = part as f64 * 100.0 / whole as f64;
    format!(" ({percent:.1} %)")
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::summary::SampleCounts;

    #[test]
    fn says_what_was_lost_and_why() {
        let cut = BTreeMap::from([("too deep".to_owned(), 3), ("no unwind table yet".to_owned(), 7)]);
        let stacks = StackCounts { complete: 90, incomplete: cut, absent: 4 };
        let summary = Summary {
            collector: "cpu".to_owned(),
            duration_seconds: 10.04,
            event: Some("cpu-clock".to_owned()),
            frequency_hertz: Some(99),
            samples: SampleCounts {
                taken: 104,
                lost: BTreeMap::from([("map of counts full".to_owned(), 1)]),
                filtered: 12,
                idle: 900,
            },
            user_stacks: stacks.clone(),
            frames: FrameCounts { symbolized: 75, unsymbolized: BTreeMap::from([("stripped".to_owned(), 25)]) },
            processes: vec![ProcessSummary {
                pid: 7,
                name: "x".to_owned(),
                samples: 104,
                user_stacks: stacks,
                cuts: vec![CutSummary {
                    file: Some("/bin/x".to_owned()),
                    reason: "too deep",
                    samples: 3,
                    advice: "recurse less",
                }],
            }],
            cost: Cost { process_cpu_seconds: 0.1, rss_peak_bytes: 3 << 20, map_bytes: 1, ..Cost::default() },
            notes: vec!["a note".to_owned()],
        };
        let mut text = Vec::new();
        write_text(&summary, Path::new("out.svg"), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "recorded cpu for 10.0 s, cpu-clock at 99 Hz
  samples   104 taken, 1 lost (1.0 %) (map of counts full: 1)
            12 turned away by the filter, 900 on idle CPUs
  stacks    90 complete (90.0 %), 10 cut (no unwind table yet: 7, too deep: 3), 4 without a user stack
  names     75 of 100 frames (75.0 %) (stripped: 25)
            x [7]: 90 of 100 complete (90.0 %) (no unwind table yet: 7, too deep: 3)
              /bin/x: too deep: 3 samples; recurse less
  cost      0.100 s CPU in obs, unknown in the kernel, 3 MB memory, 1 MB of maps
  note      a note
wrote out.svg
"
        );
    }
}
