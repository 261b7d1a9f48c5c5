//! What the store costs: days of a busy host's windows written, and questions asked of them.
//!
//! `cargo run --release --example store_bench -- [--hours N] [--dir DIR] [--profiles DIR] [--ask]`. Sizes are the same in every run; times are CPU
//! time of this machine, the median of several.

mod host;
mod recorded;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use host::{Host, START_NS, Shape, WINDOW_NS};
use obs_userspace::store::{
    self, EventQuery, Grouping, Limits, MatchOp, Matcher, ProcessQuery, ProfileQuery, Range, Reader, SeriesQuery,
    Store, StoreOptions,
};

const HOUR_WINDOWS: u64 = 360;
const DAY_WINDOWS: u64 = 24 * HOUR_WINDOWS;
const REPEATS: usize = 5;

struct Arguments {
    hours: u64,
    dir: Option<PathBuf>,
    /// Only ask, of a folder that an earlier run filled for as long.
    ask: bool,
    /// Profiles of `obs record -o FILE.json` instead of those that never were, one per window.
    profiles: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { hours: 7 * 24, dir: None, ask: false, profiles: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--hours" => arguments.hours = value()?.parse().context("--hours wants a number")?,
            "--profiles" => arguments.profiles = Some(value()?.into()),
            "--ask" => arguments.ask = true,
            "--dir" => arguments.dir = Some(value()?.into()),
            _ => bail!("there is no option {word}; there are --hours N, --dir DIR, --profiles DIR and --ask"),
        }
    }
    Ok(arguments)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let scratch = std::env::temp_dir().join(format!("obs-store-bench-{}", std::process::id()));
    let dir = arguments.dir.clone().unwrap_or_else(|| scratch.clone());
    let outcome = if arguments.ask {
        queries(&Reader::open(&dir)?, arguments.hours * HOUR_WINDOWS)
    } else {
        measure(&dir, &arguments)
    };
    if arguments.dir.is_none() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    outcome
}

fn measure(dir: &Path, arguments: &Arguments) -> Result<()> {
    let hours = arguments.hours;
    let mut host = Host::new(Shape::default());
    let recorded = arguments.profiles.as_deref().map(recorded::read).transpose()?.unwrap_or_default();
    let mut next = recorded.iter().cycle();
    let mut store = Store::open(dir, StoreOptions { boot_id: [7; 16], ..StoreOptions::default() })?;
    // The generator's own memory does not count.
    let mut first = Some(host.window());
    reset_peak()?;
    let before = memory("VmRSS")?;

    let (mut appending, mut rotating, mut slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut samples, mut points, mut events, mut journal_bytes) = (0, 0, 0, 0);
    // What was recorded is not repeated: it would look smaller than it is.
    let windows = if recorded.is_empty() { hours * HOUR_WINDOWS } else { recorded.len() as u64 };
    for _ in 0..windows {
        let mut window = first.take().unwrap_or_else(|| host.window());
        if let Some(profile) = next.next() {
            window.profiles = vec![profile.clone()];
        }
        let sealed = store.stats().blocks_sealed;
        let begun = cpu_time();
        let appended = store.append(&window)?;
        let took = cpu_time() - begun;
        if store.stats().blocks_sealed > sealed {
            rotating += took;
            slowest = slowest.max(took);
        } else {
            appending += took;
        }
        samples += appended.samples;
        points += appended.points;
        events += appended.events;
        journal_bytes += appended.bytes;
    }
    if !recorded.is_empty() {
        store.rotate()?;
    }
    store.flush()?;
    let stats = store.stats();
    let writer_peak = memory("VmHWM")?.saturating_sub(before);
    let reader = store.reader();
    // Before all others, so that what they left to the allocator does not count.
    reset_peak()?;
    let day = Range { from_unix_ns: end(windows) - DAY_WINDOWS.min(windows) * WINDOW_NS, to_unix_ns: end(windows) };
    drop(reader.profile(&profile_of(day))?);
    let with_query_peak = memory("VmHWM")?.saturating_sub(before);
    println!(
        "windows {windows}: per window {} samples, {} points, {} events",
        samples / windows,
        points / windows,
        events / windows
    );
    println!(
        "disk    {:.1} MB in {} files, {} bytes per window",
        megabytes(stats.bytes),
        stats.files,
        stats.bytes / windows
    );
    println!("written {:.1} MB, of which journals {:.1} MB", megabytes(stats.bytes_written), megabytes(journal_bytes));
    println!(
        "append  {:.0} us per window; a block {:.0} ms, the slowest {:.0} ms; {:.2} s of CPU a day",
        appending.as_secs_f64() * 1e6 / windows as f64,
        rotating.as_secs_f64() * 1e3 / stats.blocks_sealed.max(1) as f64,
        slowest.as_secs_f64() * 1e3,
        (appending + rotating).as_secs_f64() * 24.0 / hours as f64,
    );
    sections(dir)?;
    let stacks: Vec<u64> = store::stat(dir)?.files.iter().map(|file| file.contents.stacks).collect();
    println!("blocks  {} different stacks each", stacks.iter().sum::<u64>() / stacks.len() as u64);

    println!(
        "memory  {:.1} MB at most while writing, {:.1} MB with a day's flame graph",
        megabytes(writer_peak),
        megabytes(with_query_peak)
    );
    queries(&reader, windows)?;
    let begun = cpu_time();
    let report = store::check(dir)?;
    println!("check   {:.0} ms, clean: {}", (cpu_time() - begun).as_secs_f64() * 1e3, report.is_clean());
    if !report.is_clean() {
        bail!("the store is not clean: {report:?}");
    }
    Ok(())
}

fn end(windows: u64) -> u64 {
    START_NS + windows * WINDOW_NS
}

fn profile_of(range: Range) -> ProfileQuery {
    ProfileQuery {
        range,
        collector: "cpu".to_owned(),
        matchers: Vec::new(),
        grouping: Grouping::Names,
        limits: Limits::default(),
    }
}

fn queries(reader: &Reader, windows: u64) -> Result<()> {
    let last =
        |count: u64| Range { from_unix_ns: end(windows) - count.min(windows) * WINDOW_NS, to_unix_ns: end(windows) };
    // Not at the edges of blocks or buckets: windows of both ends are read.
    let crooked = |count: u64| {
        let to_unix_ns = end(windows) - 777 * WINDOW_NS;
        Range { from_unix_ns: to_unix_ns - count.min(windows.saturating_sub(800)) * WINDOW_NS, to_unix_ns }
    };
    for (what, range) in [
        ("5 minutes, flame graph", last(30)),
        ("2 hours, flame graph", last(720)),
        ("a day, flame graph", last(DAY_WINDOWS)),
        ("a day, crooked edges", crooked(DAY_WINDOWS)),
        ("everything, flame graph", last(windows)),
    ] {
        let mut merged = None;
        timed(what, || {
            merged = Some(reader.profile(&profile_of(range))?);
            Ok(())
        })?;
        if let Some(merged) = merged {
            println!(
                "          {} stacks, {} frames, {} omitted",
                merged.profile.samples.len(),
                merged.profile.frames.len(),
                merged.notes.omitted
            );
        }
    }
    let one = vec![Matcher::new("process", MatchOp::Like, "alloc*")];
    timed("a day, one program", || {
        reader.profile(&ProfileQuery { matchers: one.clone(), ..profile_of(last(DAY_WINDOWS)) })?;
        Ok(())
    })?;
    timed("a day, every process and thread apart", || {
        reader.profile(&ProfileQuery { grouping: Grouping::Threads, ..profile_of(last(DAY_WINDOWS)) })?;
        Ok(())
    })?;
    timed("a day, top functions", || {
        reader.top_functions(&profile_of(last(DAY_WINDOWS)), None)?;
        Ok(())
    })?;
    for (what, name, step_seconds, range) in [
        ("a day of system.cpu.time, 1 min", "system.cpu.time", 60, last(DAY_WINDOWS)),
        ("a day of process.cpu.time, 1 min", "process.cpu.time", 60, last(DAY_WINDOWS)),
        ("everything of system.cpu.time, 10 min", "system.cpu.time", 600, last(windows)),
    ] {
        timed(what, || {
            let name = name.to_owned();
            let step_ns = step_seconds * 1_000_000_000;
            reader.series(&SeriesQuery { name, matchers: Vec::new(), range, step_ns, limits: Limits::default() })?;
            Ok(())
        })?;
    }
    timed("a day, processes with their CPU", || {
        let collector = Some("cpu".to_owned());
        reader.processes(&ProcessQuery {
            range: last(DAY_WINDOWS),
            matchers: Vec::new(),
            collector,
            limits: Limits::default(),
        })?;
        Ok(())
    })?;
    timed("a day, events", || {
        let (names, matchers) = (Vec::new(), Vec::new());
        reader.events(&EventQuery { range: last(DAY_WINDOWS), names, matchers, limits: Limits::default() })?;
        Ok(())
    })
}

fn timed(what: &str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let begun = cpu_time();
        ask()?;
        times.push(cpu_time() - begun);
    }
    times.sort();
    println!("query   {:>7.1} ms  {what}", times[REPEATS / 2].as_secs_f64() * 1e3);
    Ok(())
}

/// Bytes by what they hold.
fn sections(dir: &Path) -> Result<()> {
    for (section, bytes) in store::stat(dir)?.sections {
        println!("        {:>7.2} MB {section}", megabytes(bytes));
    }
    Ok(())
}

/// What this thread took of a CPU so far: what else runs on the machine does not count.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Begins to measure the peak anew.
fn reset_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("resetting the peak of memory")
}

fn memory(field: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).context("no such field")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("not a number")?;
    Ok(kilobytes * 1024)
}
