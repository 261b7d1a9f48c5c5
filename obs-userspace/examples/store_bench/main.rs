//! What the store costs: days of a busy host's windows written, and questions asked of them.
//!
//! `cargo xtask bench store` runs it, and compares with what is aimed at; by itself it is `cargo run --release --example store_bench --
//! [--hours N] [--short-lived N] [--dir DIR] [--profiles DIR] [--state DIR] [--ask] [--json]`. Sizes are the same in every run; times
//! are CPU time of this machine, the median of several.

mod host;
mod recorded;
mod resources;

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
    /// Short-lived processes of a window.
    short_lived: usize,
    /// The state folder of an agent, whose windows are measured instead; it is copied first.
    state: Option<PathBuf>,
    /// One JSON object instead of text.
    json: bool,
}

fn arguments() -> Result<Arguments> {
    let short_lived = Shape::default().short_lived;
    let mut arguments =
        Arguments { hours: 7 * 24, dir: None, ask: false, profiles: None, short_lived, state: None, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--hours" => arguments.hours = value()?.parse().context("--hours wants a number")?,
            "--profiles" => arguments.profiles = Some(value()?.into()),
            "--ask" => arguments.ask = true,
            "--dir" => arguments.dir = Some(value()?.into()),
            "--short-lived" => arguments.short_lived = value()?.parse().context("--short-lived wants a number")?,
            "--state" => arguments.state = Some(value()?.into()),
            "--json" => arguments.json = true,
            _ => bail!("there is no option {word}"),
        }
    }
    Ok(arguments)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let scratch = std::env::temp_dir().join(format!("obs-store-bench-{}", std::process::id()));
    let dir = arguments.dir.clone().unwrap_or_else(|| scratch.clone());
    let outcome = match &arguments.state {
        Some(state) => blocks_of(state, &dir, arguments.json),
        None if arguments.ask => queries(&Reader::open(&dir)?, arguments.hours * HOUR_WINDOWS, false).map(drop),
        None => measure(&dir, &arguments),
    };
    if arguments.dir.is_none() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    outcome
}

/// Bytes of a window in finished blocks.
struct PerWindow {
    /// With everything.
    whole: u64,
    /// Once the windows themselves were removed.
    roll_up: u64,
}

impl PerWindow {
    fn of(report: &store::StatReport) -> Self {
        let blocks = || report.files.iter().filter(|file| file.name.ends_with(".block"));
        let windows = blocks().map(|file| file.contents.windows).sum::<u64>().max(1);
        let bytes: u64 = blocks().map(|file| file.bytes).sum();
        let is_fine = |section: &str| matches!(section, "samples" | "points");
        let fine: u64 = report.sections.iter().filter(|(name, _)| is_fine(name)).map(|(_, bytes)| bytes).sum();
        Self { whole: bytes / windows, roll_up: (bytes - fine) / windows }
    }
}

/// What an agent's windows come to as blocks.
fn blocks_of(state: &Path, dir: &Path, json: bool) -> Result<()> {
    let (from, to) = (state.join("blocks"), dir.join("blocks"));
    fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(&from).with_context(|| format!("listing {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().context("a file without a name")?;
        fs::copy(&path, to.join(name)).with_context(|| format!("copying {}", path.display()))?;
    }
    let journals = store::stat(dir)?;
    // Of another start of the machine: all journals are finished.
    let options = StoreOptions { boot_id: [0xff; 16], retention_bytes: u64::MAX, ..StoreOptions::default() };
    drop(Store::open(dir, StoreOptions { retention_seconds: u64::MAX, ..options })?);
    let blocks = store::stat(dir)?;
    let windows = blocks.windows.max(1);
    let length = |report: &store::FileReport| report.contents.ended_unix_ns - report.contents.started_unix_ns;
    let seconds = blocks.files.iter().map(length).sum::<u64>() as f64 / 1e9;
    let per_window = |count: u64| count / windows;
    if json {
        let report = serde_json::json!({
            "windows": blocks.windows,
            "seconds": seconds,
            "samples_per_window": per_window(blocks.samples),
            "points_per_window": per_window(blocks.points),
            "events_per_window": per_window(blocks.events),
            "journal_bytes_per_window": per_window(journals.bytes),
            "bytes_per_window": PerWindow::of(&blocks).whole,
            "roll_up_bytes_per_window": PerWindow::of(&blocks).roll_up,
            "sections": blocks.sections,
        });
        println!("{report}");
        return Ok(());
    }
    println!(
        "windows {windows} over {seconds:.0} s: per window {} samples, {} points, {} events",
        per_window(blocks.samples),
        per_window(blocks.points),
        per_window(blocks.events)
    );
    println!("disk    {} bytes per window, {} before", per_window(blocks.bytes), per_window(journals.bytes));
    sections(dir)
}

fn measure(dir: &Path, arguments: &Arguments) -> Result<()> {
    let hours = arguments.hours;
    let mut host = Host::new(Shape { short_lived: arguments.short_lived, ..Shape::default() });
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
    if arguments.json {
        let per_window = PerWindow::of(&store::stat(dir)?);
        let seconds_a_day = (appending + rotating).as_secs_f64() * DAY_WINDOWS as f64 / windows as f64;
        let report = serde_json::json!({
            "windows": windows,
            "seconds": windows * WINDOW_NS / 1_000_000_000,
            "samples_per_window": samples / windows,
            "points_per_window": points / windows,
            "events_per_window": events / windows,
            "journal_bytes_per_window": journal_bytes / windows,
            "bytes_per_window": per_window.whole,
            "roll_up_bytes_per_window": per_window.roll_up,
            "bytes": stats.bytes,
            "bytes_written": stats.bytes_written,
            "append_us": appending.as_secs_f64() * 1e6 / windows as f64,
            "block_ms": rotating.as_secs_f64() * 1e3 / stats.blocks_sealed.max(1) as f64,
            "block_ms_max": slowest.as_secs_f64() * 1e3,
            "cpu_seconds_a_day": seconds_a_day,
            "memory_writing_bytes": writer_peak,
            "memory_with_query_bytes": with_query_peak,
            "queries_ms": queries(&reader, windows, true)?.into_iter().collect::<serde_json::Map<_, _>>(),
            "sections": store::stat(dir)?.sections,
            "is_clean": store::check(dir)?.is_clean(),
        });
        println!("{report}");
        return Ok(());
    }
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
    queries(&reader, windows, false)?;
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

/// Asks, and says how long each question took, in milliseconds.
fn queries(reader: &Reader, windows: u64, is_quiet: bool) -> Result<Vec<(String, serde_json::Value)>> {
    let mut times = Vec::new();
    let mut timed = |what: &str, ask: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let took = median_time(ask)?;
        if !is_quiet {
            println!("query   {:>7.1} ms  {what}", took.as_secs_f64() * 1e3);
        }
        times.push((what.to_owned(), (took.as_secs_f64() * 1e3).into()));
        Ok(())
    };
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
        timed(what, &mut || {
            merged = Some(reader.profile(&profile_of(range))?);
            Ok(())
        })?;
        if let Some(merged) = merged.filter(|_| !is_quiet) {
            println!(
                "          {} stacks, {} frames, {} omitted",
                merged.profile.samples.len(),
                merged.profile.frames.len(),
                merged.notes.omitted
            );
        }
    }
    let one = vec![Matcher::new("process", MatchOp::Like, "alloc*")];
    timed("a day, one program", &mut || {
        reader.profile(&ProfileQuery { matchers: one.clone(), ..profile_of(last(DAY_WINDOWS)) })?;
        Ok(())
    })?;
    timed("a day, every process and thread apart", &mut || {
        reader.profile(&ProfileQuery { grouping: Grouping::Threads, ..profile_of(last(DAY_WINDOWS)) })?;
        Ok(())
    })?;
    timed("a day, top functions", &mut || {
        reader.top_functions(&profile_of(last(DAY_WINDOWS)), None)?;
        Ok(())
    })?;
    for (what, name, step_seconds, range) in [
        ("a day of system.cpu.time, 1 min", "system.cpu.time", 60, last(DAY_WINDOWS)),
        ("a day of process.cpu.time, 1 min", "process.cpu.time", 60, last(DAY_WINDOWS)),
        ("everything of system.cpu.time, 10 min", "system.cpu.time", 600, last(windows)),
    ] {
        timed(what, &mut || {
            let name = name.to_owned();
            let step_ns = step_seconds * 1_000_000_000;
            reader.series(&SeriesQuery { name, matchers: Vec::new(), range, step_ns, limits: Limits::default() })?;
            Ok(())
        })?;
    }
    timed("a day, processes with their CPU", &mut || {
        let collector = Some("cpu".to_owned());
        reader.processes(&ProcessQuery {
            range: last(DAY_WINDOWS),
            matchers: Vec::new(),
            collector,
            limits: Limits::default(),
        })?;
        Ok(())
    })?;
    timed("a day, events", &mut || {
        let (names, matchers) = (Vec::new(), Vec::new());
        reader.events(&EventQuery { range: last(DAY_WINDOWS), names, matchers, limits: Limits::default() })?;
        Ok(())
    })?;
    Ok(times)
}

fn median_time(ask: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let begun = cpu_time();
        ask()?;
        times.push(cpu_time() - begun);
    }
    times.sort();
    Ok(times[REPEATS / 2])
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
