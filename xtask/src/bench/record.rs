//! `cargo xtask bench record`: what a one-second recording of the whole host costs, from start to written flame graph.

use std::io::{BufReader, stdin};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use inferno::collapse::Collapse as _;
use inferno::{collapse, flamegraph};

use super::load::Load;
use super::measure::{self, Cost, median};
use super::table;
use crate::setup::{self, Group};
use crate::{build, host};

/// How often, and under which load.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many recordings of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How many programs keep a CPU busy meanwhile. Half as many as there are CPUs by default
    #[arg(long)]
    load: Option<usize>,
}

/// Where to write the flame graph.
#[derive(Debug, clap::Args)]
pub(crate) struct PerfSvg {
    output: PathBuf,
}

/// The same for both, and what the issue of this benchmark asks for.
const FREQUENCY_HZ: &str = "99";

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("measuring the whole host needs root: run `sudo -E cargo xtask bench record`");
    }
    build::obs()?;
    // What turns perf's output into a flame graph must be optimised as obs is, or the comparison is not fair.
    host::run(host::cargo()?.args(["build", "--release", "--locked", "--package", "xtask"]))?;
    let folder = host::target_dir()?.join("bench");
    host::make_dir(&folder)?;

    let cpus = host::cpus();
    let load = arguments.load.unwrap_or((cpus / 2).max(1));
    println!("{} rounds of 1 s each at {FREQUENCY_HZ} Hz, {load} of {cpus} CPUs kept busy by xz.", arguments.rounds);
    let running = Load::start(load, &host::obs_binary()?)?;
    let (mut obs, mut perf) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        // Who goes first changes, so that neither always finds the other's warm caches.
        if round % 2 == 0 {
            obs.push(record_with_obs(&folder)?);
            perf.push(record_with_perf(&folder)?);
        } else {
            perf.push(record_with_perf(&folder)?);
            obs.push(record_with_obs(&folder)?);
        }
    }
    drop(running);
    print!("{}", compare(&obs, &perf));
    Ok(ExitCode::SUCCESS)
}

fn record_with_obs(folder: &Path) -> Result<Cost> {
    let svg = fresh(&folder.join("obs.svg"))?;
    let mut command = host::program(host::obs_binary()?);
    command.args(["record", "cpu", "-a", "-F", FREQUENCY_HZ, "-d", "1s", "-o"]).arg(&svg);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let cost = measure::run(&mut command)?;
    expect_svg(&svg)?;
    Ok(cost)
}

/// Records, and then folds and draws in a pipe as people do: `perf script | collapse | flamegraph`.
fn record_with_perf(folder: &Path) -> Result<Cost> {
    let data = folder.join("perf.data");
    let svg = fresh(&folder.join("perf.svg"))?;
    let begin = Instant::now();
    let mut record = host::program("perf");
    record.args(["record", "-q", "-F", FREQUENCY_HZ, "-a", "-g", "-o"]).arg(&data).args(["--", "sleep", "1"]);
    let recorded = measure::run(record.stdout(Stdio::null()).stderr(Stdio::null()))?;

    let mut script = host::program("perf");
    script.args(["script", "-i"]).arg(&data).stdout(Stdio::piped()).stderr(Stdio::null());
    let script_line = host::line(&script);
    let mut script = script.spawn().with_context(|| format!("cannot start `{script_line}`"))?;
    let mut draw = host::program(host::target_dir()?.join("release/xtask"));
    draw.args(["bench", "perf-svg"]).arg(&svg);
    draw.stdin(script.stdout.take().context("perf script has no standard output")?);
    let drawn = measure::run(&mut draw)?;
    let scripted = measure::wait(script, &script_line)?;
    expect_svg(&svg)?;

    let parts = [recorded, drawn, scripted];
    Ok(Cost {
        cpu_seconds: parts.iter().map(|part| part.cpu_seconds).sum(),
        peak_rss_bytes: parts.iter().map(|part| part.peak_rss_bytes).max().unwrap_or(0),
        wall_seconds: begin.elapsed().as_secs_f64(),
    })
}

/// What runs at the end of perf's pipe.
pub(crate) fn perf_svg(arguments: &PerfSvg) -> Result<ExitCode> {
    let mut folded = Vec::new();
    collapse::perf::Folder::default()
        .collapse(BufReader::new(stdin().lock()), &mut folded)
        .context("cannot fold the output of perf script")?;
    let lines = std::str::from_utf8(&folded).context("perf script printed something that is not text")?.lines();
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut flamegraph::Options::default(), lines, &mut svg).context("cannot draw")?;
    host::write(&arguments.output, svg)?;
    Ok(ExitCode::SUCCESS)
}

/// A path at which nothing is left from an earlier round.
fn fresh(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(path.to_owned())
}

fn expect_svg(path: &Path) -> Result<()> {
    let contents = host::read(path)?;
    if !String::from_utf8_lossy(&contents).contains("</svg>") {
        bail!("{} is no complete flame graph", path.display());
    }
    Ok(())
}

/// The medians of both and how they compare.
fn compare(obs: &[Cost], perf: &[Cost]) -> String {
    const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;
    let row = |name: &str, unit: &str, value: &dyn Fn(&Cost) -> f64| -> Vec<String> {
        let (ours, theirs) = (median(obs.iter().map(value)), median(perf.iter().map(value)));
        let ratio = if theirs > 0.0 { format!("{:.2}", ours / theirs) } else { "-".to_owned() };
        vec![format!("{name} ({unit})"), format!("{ours:.3}"), format!("{theirs:.3}"), ratio]
    };
    let heading = ["median", "obs", "perf", "obs/perf"].map(str::to_owned).to_vec();
    table::render(&[
        heading,
        row("CPU time", "s", &|cost| cost.cpu_seconds),
        row("peak memory of a process", "MiB", &|cost| cost.peak_rss_bytes as f64 / BYTES_PER_MIB),
        row("start to flame graph", "s", &|cost| cost.wall_seconds),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_shows_medians_and_their_ratio() {
        let cost = |cpu_seconds| Cost { cpu_seconds, peak_rss_bytes: 2 << 20, wall_seconds: 1.5 };
        let text = compare(&[cost(0.1), cost(0.2), cost(0.9)], &[cost(0.4)]);
        assert!(text.lines().any(|line| line.starts_with("CPU time (s)") && line.ends_with("0.200  0.400      0.50")));
        assert!(text.lines().any(|line| line.contains("2.000  2.000      1.00")), "{text}");
    }
}
