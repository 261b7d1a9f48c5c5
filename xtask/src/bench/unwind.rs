//! `cargo xtask bench unwind`: what complete stacks cost, in the kernel per sample and outside of it per recording.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use obs_unwind::{ElfImage, UnwindTable};
use serde_json::Value;

use super::load::Load;
use super::measure::{self, Cost, median};
use super::{table, workloads};
use crate::setup::{self, Group};
use crate::{build, host};

/// How often, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many recordings at each depth; their median is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long the recordings of the whole host are
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

/// Whose table to build.
#[derive(Debug, clap::Args)]
pub(crate) struct TableOf {
    file: PathBuf,
}

/// Frames of the recursion; some four more lead to it.
const DEPTHS: [u32; 3] = [10, 30, 100];

/// So many functions to compile take rustc several seconds.
const COMPILED_FUNCTIONS: u32 = 600;

/// So often that a second gives thousands of samples.
const HERTZ: &str = "4999";

const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("measuring the whole host needs root: run `sudo -E cargo xtask bench unwind`");
    }
    build::obs()?;
    let folder = host::target_dir()?.join("bench");
    host::make_dir(&folder)?;
    in_the_kernel(arguments.rounds, &folder)?;
    in_a_compiler(&folder)?;
    of_the_host(arguments.seconds, &folder)?;
    // Built as obs is, or its time says nothing.
    host::run(host::cargo()?.args(["build", "--release", "--locked", "--package", "xtask"]))?;
    match largest_library(Path::new("/usr/lib"))? {
        Some(library) => {
            let mut build = host::program(host::target_dir()?.join("release/xtask"));
            host::run(build.args(["bench", "table-of"]).arg(&library))?;
        }
        None => println!("\nThere is no library in /usr/lib to build a table of."),
    }
    Ok(ExitCode::SUCCESS)
}

/// What the programs ran for in one recording, by the kernel's own count.
struct Runs {
    nanoseconds: f64,
    taken: f64,
    /// Runs that took no sample.
    others: f64,
    map_bytes: f64,
}

/// The time of a sample, by the depth of its stack.
fn in_the_kernel(rounds: u32, folder: &Path) -> Result<()> {
    let workloads = workloads(folder)?;
    let recursion = workloads.join("recursion").display().to_string();
    let idle = workloads.join("idle").display().to_string();
    println!(
        "\nBPF time of a sample, {rounds} recordings of 1 s each at {HERTZ} Hz; the program has no frame pointers."
    );
    let devnull = Path::new("/dev/null");
    let (mut costs, mut map_bytes) = (vec![Vec::new(); DEPTHS.len()], 0.0);
    for _ in 0..rounds {
        // Of a program that sleeps no samples are taken: what is left is what each other run costs.
        let nothing = record(HERTZ, devnull, &[&idle, "1"])?;
        let other = nothing.nanoseconds / nothing.others.max(1.0);
        for (depth, costs) in DEPTHS.iter().zip(&mut costs) {
            let runs = record(HERTZ, devnull, &[&recursion, "1", &depth.to_string()])?;
            costs.push((runs.nanoseconds - other * runs.others) / runs.taken.max(1.0));
            map_bytes = runs.map_bytes;
        }
    }
    let medians: Vec<f64> = costs.iter().map(|costs| median(costs.iter().copied())).collect();
    let mut rows = vec![["frames of the recursion", "ns a sample", "ns a frame, all in"].map(str::to_owned).to_vec()];
    for (depth, cost) in DEPTHS.iter().zip(&medians) {
        rows.push(vec![depth.to_string(), format!("{cost:.0}"), format!("{:.0}", cost / f64::from(*depth))]);
    }
    print!("{}", table::render(&rows));
    if let ([.., low, high], [.., few, many]) = (&medians[..], &DEPTHS[..]) {
        println!("each further frame: {:.0} ns", (high - low) / f64::from(many - few));
    }
    println!("memory of the maps: {:.1} MiB", map_bytes / BYTES_PER_MIB);
    Ok(())
}

/// The time of a sample in a program with millions of rows, whose stacks differ from sample to sample: rustc, with LLVM.
fn in_a_compiler(folder: &Path) -> Result<()> {
    println!(
        "\nBPF time of a sample in rustc, which has 2.4 million rows; at 99 Hz little of what a walk needs is in the caches."
    );
    let source = folder.join("many_functions.rs");
    let body = "{ v.iter().map(|x| x.wrapping_mul(K)).filter(|x| x % (K % 7 + 2) == 0).sum() }";
    let function = |k: u32| format!("pub fn f{k}(v: &[u64]) -> u64 {}\n", body.replace('K', &k.to_string()));
    host::write(&source, (1..=COMPILED_FUNCTIONS).map(function).collect::<String>())?;
    // The program itself, not rustup's wrapper.
    let sysroot = host::text(host::program("rustc").args(["--print", "sysroot"]))?;
    let rustc = Path::new(sysroot.trim()).join("bin/rustc").display().to_string();
    let object = folder.join("many_functions.o").display().to_string();
    let source = source.display().to_string();
    let command = [&rustc, "-O", "--crate-type=lib", "--emit=obj", "-o", &object, &source];
    let mut rows =
        vec![["Hz", "samples", "frames a stack", "ns a sample", "ns a frame, all in"].map(str::to_owned).to_vec()];
    for hertz in [HERTZ, "99"] {
        let folded = folder.join("compiler.folded");
        let runs = record(hertz, &folded, &command)?;
        let depth = mean_depth(&String::from_utf8_lossy(&host::read(&folded)?));
        let cost = runs.nanoseconds / runs.taken.max(1.0);
        rows.push(vec![
            hertz.to_owned(),
            format!("{:.0}", runs.taken),
            format!("{depth:.1}"),
            format!("{cost:.0}"),
            format!("{:.0}", cost / depth),
        ]);
    }
    print!("{}", table::render(&rows));
    Ok(())
}

/// How many frames a sample of folded stacks has; inlined ones, which nobody walked, do not count.
fn mean_depth(folded: &str) -> f64 {
    let (mut frames, mut samples) = (0.0, 0.0);
    for (stack, count) in folded.lines().filter_map(|line| line.rsplit_once(' ')) {
        let count: f64 = count.parse().unwrap_or(0.0);
        // The process's name comes first.
        frames += count * stack.split(';').skip(1).filter(|frame| !frame.ends_with("_[i]")).count() as f64;
        samples += count;
    }
    frames / f64::max(samples, 1.0)
}

fn record(hertz: &str, folded: &Path, command: &[&str]) -> Result<Runs> {
    let mut obs = host::program(host::obs_binary()?);
    obs.args(["record", "cpu", "-F", hertz, "--summary", "json", "--format", "folded", "-o"]).arg(folded).arg("--");
    let output = obs.args(command).stdout(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start `{}`", host::line(&obs)))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary = text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = summary.with_context(|| format!("`{}` printed no summary: {text}", host::line(&obs)))?;
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).context("a number is missing in obs's summary");
    let programs = summary.pointer("/cost/programs").and_then(Value::as_array);
    let sampler = programs.into_iter().flatten().find(|program| program.get("name").is_some_and(|n| n == "cpu_sample"));
    let sampler = sampler.context("the summary does not know the program cpu_sample")?;
    let taken = number(summary.pointer("/samples/taken"))?;
    Ok(Runs {
        nanoseconds: number(sampler.get("run_time_ns"))?,
        taken,
        others: number(sampler.get("run_count"))? - taken,
        map_bytes: number(summary.pointer("/cost/map_bytes"))?,
    })
}

/// What recording the whole host costs outside of the kernel, beside perf. Each takes long enough to come once.
fn of_the_host(seconds: u32, folder: &Path) -> Result<()> {
    let cpus = host::cpus();
    println!(
        "\nThe whole host for {seconds} s at 99 Hz, {cpus} of {cpus} CPUs kept busy by xz; then symbols, to a file."
    );
    let load = Load::start(cpus, &host::obs_binary()?)?;
    let data = folder.join("perf.data");
    let length = seconds.to_string();
    let mut rows = vec![["", "CPU s", "of them recording", "peak MiB", "file MiB"].map(str::to_owned).to_vec()];
    // The first recording that meets a program indexes the program's names for all that follow.
    for name in ["obs, names not known yet", "obs"] {
        let mut obs = host::program(host::obs_binary()?);
        obs.args(["record", "cpu", "-a", "-d", &format!("{length}s"), "-o"]).arg(folder.join("host.folded"));
        obs.arg("--symbol-cache").arg(folder.join("names"));
        let ours = measure::run(obs.stdout(Stdio::null()).stderr(Stdio::null()))?;
        rows.push(row(name, &[ours], &folder.join("host.folded"))?);
    }
    for (name, graph) in [("perf, frame pointers", "fp"), ("perf, copied stacks", "dwarf")] {
        let mut record = host::program("perf");
        record.args(["record", "-q", "-F", "99", "-a", "-e", "cpu-clock", "--call-graph", graph, "-o"]).arg(&data);
        record.args(["--", "sleep", &length]);
        let recorded = measure::run(record.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let mut script = host::program("perf");
        script.args(["script", "-i"]).arg(&data);
        let scripted = measure::run(script.stdout(Stdio::null()).stderr(Stdio::null()))?;
        rows.push(row(name, &[recorded, scripted], &data)?);
    }
    drop(load);
    print!("{}", table::render(&rows));
    Ok(())
}

fn row(name: &str, parts: &[Cost], file: &Path) -> Result<Vec<String>> {
    let cpu_seconds: f64 = parts.iter().map(|part| part.cpu_seconds).sum();
    let peak = parts.iter().map(|part| part.peak_rss_bytes).max().unwrap_or(0);
    let bytes = std::fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / BYTES_PER_MIB);
    // obs finds names in the same process; what its recording alone cost is not told apart.
    let recording = if parts.len() > 1 { format!("{:.2}", parts[0].cpu_seconds) } else { "-".to_owned() };
    Ok(vec![name.to_owned(), format!("{cpu_seconds:.2}"), recording, mib(peak), mib(bytes)])
}

/// The largest file that is named like a library.
fn largest_library(folder: &Path) -> Result<Option<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut largest: Option<(u64, PathBuf)> = None;
    while let Some(folder) = folders.pop() {
        // What cannot be read is not ours to measure.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("cannot look at {}", entry.path().display()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_string_lossy().contains(".so") {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                if largest.as_ref().is_none_or(|(most, _)| bytes > *most) {
                    largest = Some((bytes, entry.path()));
                }
            }
        }
    }
    Ok(largest.map(|(_, path)| path))
}

/// Builds one table and says what it took.
pub(crate) fn table_of(arguments: &TableOf) -> Result<ExitCode> {
    let bytes = host::read(&arguments.file)?;
    let begin = Instant::now();
    let image = ElfImage::parse(&bytes).with_context(|| format!("in {}", arguments.file.display()))?;
    let (table, notes) = UnwindTable::build(&image).with_context(|| format!("in {}", arguments.file.display()))?;
    let seconds = begin.elapsed().as_secs_f64();
    let per_row = |rows: u64| table.bytes() as f64 / rows.max(1) as f64;
    println!(
        "\nThe table of {} ({:.0} MiB): {seconds:.2} s, {} rows read, {} kept, {:.1} MiB; {:.2} bytes a row read, {:.2} kept",
        arguments.file.display(),
        bytes.len() as f64 / BYTES_PER_MIB,
        notes.rows_read,
        table.rows().len(),
        table.bytes() as f64 / BYTES_PER_MIB,
        per_row(notes.rows_read),
        per_row(table.rows().len() as u64),
    );
    Ok(ExitCode::SUCCESS)
}
