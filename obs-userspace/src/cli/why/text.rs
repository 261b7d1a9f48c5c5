//! The answer for people: one page.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    Answer,
    breakdown::{Breakdown, Part, PartTime, Place},
    disks::DiskUse,
};
use crate::export::clean;

/// Parts below this share of the whole are listed, but not gone into.
const SHARE_SHOWN_MIN: f64 = 0.01;

/// Most functions of a place that are shown, those nearest to the wait.
const FUNCTIONS_SHOWN_MAX: usize = 6;

/// Most characters of one function's name: templates and closures have names of any length.
const FUNCTION_CHARS_MAX: usize = 60;

/// Most disks that are told of.
const DISKS_SHOWN_MAX: usize = 3;

/// Samples below which the division of the time on CPU is called rough.
const CPU_SAMPLES_FEW: u64 = 100;

/// Writes it, with so many places under each part.
pub(super) fn write(answer: &Answer, places: usize, out: &mut dyn Write) -> io::Result<()> {
    let Answer { duration_seconds, threads, breakdown, disks, summaries } = answer;
    let whole = seconds(breakdown.thread_time_ns);
    writeln!(out, "{duration_seconds:.2} s, {threads:.1} threads on average: {whole} of threads' time\n")?;
    if breakdown.thread_time_ns == 0 {
        return writeln!(out, "Nothing that was chosen lived meanwhile.");
    }
    for time in &breakdown.parts {
        line(breakdown, time.part.phrase(), time.ns.cast_signed(), out)?;
    }
    line(breakdown, "not accounted for", breakdown.remainder_ns, out)?;

    let mut parts: Vec<&PartTime> = breakdown.parts.iter().collect();
    parts.sort_by_key(|time| std::cmp::Reverse(time.ns));
    for time in parts.into_iter().filter(|time| breakdown.share(time.ns) >= SHARE_SHOWN_MIN) {
        writeln!(out, "\n{}, {:.1} %", time.part.phrase(), 100.0 * breakdown.share(time.ns))?;
        list(breakdown, &time.places, places, out)?;
        if !time.wakers.is_empty() {
            writeln!(out, "  ended by")?;
            list(breakdown, &time.wakers, places, out)?;
        }
        if time.part == Part::BlockIo {
            write_disks(disks, out)?;
        }
    }
    writeln!(out)?;
    if breakdown.cpu_samples < CPU_SAMPLES_FEW && breakdown.share(on_cpu_ns(breakdown)) >= SHARE_SHOWN_MIN {
        writeln!(
            out,
            "note: {} samples divide the time on CPU into program and kernel: the division is rough",
            breakdown.cpu_samples
        )?;
    }
    for summary in summaries {
        let lost: u64 = summary.samples.lost.values().sum();
        if lost > 0 {
            let reasons: Vec<String> =
                summary.samples.lost.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
            writeln!(out, "note: {lost} lost by {} ({})", summary.collector, reasons.join(", "))?;
        }
        for note in &summary.notes {
            writeln!(out, "note: {}", clean(note.into()))?;
        }
    }
    let [cpu, time] = summaries;
    let bpf = [cpu, time].iter().filter_map(|summary| summary.cost.bpf_cpu_seconds).sum::<f64>();
    writeln!(out, "cost: {:.2} s CPU in obs, {bpf:.2} s in the kernel", time.cost.process_cpu_seconds)
}

fn on_cpu_ns(breakdown: &Breakdown) -> u64 {
    let is_on_cpu = |time: &&PartTime| matches!(time.part, Part::OnCpuUser | Part::OnCpuKernel);
    breakdown.parts.iter().filter(is_on_cpu).map(|time| time.ns).sum()
}

/// One line of the table, which adds up.
fn line(breakdown: &Breakdown, phrase: &str, ns: i64, out: &mut dyn Write) -> io::Result<()> {
    let share = 100.0 * ns as f64 / breakdown.thread_time_ns as f64;
    // Less than nothing by less than is shown is nothing.
    let share = if share.abs() < 0.05 { 0.0 } else { share };
    let sign = if ns < 0 { "-" } else { "" };
    writeln!(out, "  {phrase:<22} {share:>6.1} %  {:>10}", format!("{sign}{}", seconds(ns.unsigned_abs())))
}

fn list(breakdown: &Breakdown, places: &[Place], count: usize, out: &mut dyn Write) -> io::Result<()> {
    for place in places.iter().take(count) {
        writeln!(out, "  {:>5.1} %  {}", 100.0 * breakdown.share(place.ns), path(place))?;
    }
    let rest: u64 = places.iter().skip(count).map(|place| place.ns).sum();
    if rest > 0 {
        let share = 100.0 * breakdown.share(rest);
        writeln!(out, "  {share:>5.1} %  {} more places", places.len() - count)?;
    }
    Ok(())
}

/// The way to a place: the process and the innermost functions; of a waker, who it was.
fn path(place: &Place) -> String {
    let Place { process, functions, kernel_function, ns: _ } = place;
    let is_note = |function: &&String| function.starts_with("[woken by") || function.starts_with("[cut:");
    let notes = functions.iter().take_while(is_note).count();
    let skipped = functions.len().saturating_sub(FUNCTIONS_SHOWN_MAX).max(notes);
    let begin = if skipped > notes { " > …" } else { "" };
    let mut text = clean(process.as_str().into()).into_owned();
    for note in functions.iter().take(notes) {
        let _ = write!(text, " {}", clean(note.as_str().into()));
    }
    text.push_str(begin);
    for function in functions.iter().skip(skipped) {
        let function = clean(function.as_str().into());
        let kept: String = function.chars().take(FUNCTION_CHARS_MAX).collect();
        let end = if kept.len() < function.len() { "…" } else { "" };
        let _ = write!(text, " > {kept}{end}");
    }
    if let Some(function) = kernel_function {
        let _ = write!(text, " ({})", clean(function.as_str().into()));
    }
    text
}

fn write_disks(disks: &[DiskUse], out: &mut dyn Write) -> io::Result<()> {
    for disk in disks.iter().take(DISKS_SHOWN_MAX) {
        let part = |count: u64, mean: Option<f64>, what: &str| {
            mean.map(|mean| format!("{count} {what} of {:.2} ms on average", 1e3 * mean))
        };
        let parts =
            [part(disk.reads, disk.read_mean_seconds, "reads"), part(disk.writes, disk.write_mean_seconds, "writes")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        writeln!(
            out,
            "  disk {} (of the whole host): {}, busy for {:.2} s",
            disk.name,
            parts.join(", "),
            disk.busy_seconds
        )?;
    }
    Ok(())
}

/// Nanoseconds, readable.
fn seconds(ns: u64) -> String {
    match ns {
        10_000_000.. => format!("{:.2} s", ns as f64 / 1e9),
        10_000.. => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} us", ns as f64 / 1e3),
    }
}
