//! `cargo xtask soak`: the agent on a busy host for a while, what it costs over time, and whether it keeps its promises.

mod loads;
mod plot;
mod report;
mod sample;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::loads::Loads;
use self::report::Verdict;
use self::sample::{Sample, Sampler};
use crate::agent::{Agent, RunTimes, log};
use crate::setup::{self, Group};
use crate::{build, host, interrupt};

/// How long, and where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long, in minutes
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// How often the agent is looked at, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    every: u32,
    /// Where the plot goes [default: target/soak/soak.svg]; the samples and the agent's log are put beside it
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// A binary to soak, instead of building this source's
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=10_080.0).contains(&minutes) { Ok(minutes) } else { Err("must be from 1 to 10080".to_owned()) }
}

/// Parts of the soak, each with the part of its time at which it ends. The storm is 5 minutes of 30.
const PHASES: [(f64, &str); 4] =
    [(1.0 / 15.0, "start"), (0.5, "busy"), (0.5 + 1.0 / 6.0, "storm"), (1.0, "after the storm")];
const STORM: usize = 2;

/// How long the agent may take to end.
const END_MAX: Duration = Duration::from_secs(5);

/// Causes of the log that are shown.
const CAUSES_MAX: usize = 40;

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Soak])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("measuring the whole host needs root: run `sudo -E cargo xtask soak`");
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            build::obs()?;
            host::obs_binary()?
        }
    };
    let plot = match &arguments.plot {
        Some(plot) => plot.clone(),
        None => host::target_dir()?.join("soak/soak.svg"),
    };
    if let Some(folder) = plot.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        host::make_dir(folder)?;
    }
    interrupt::listen()?;
    let _counted = RunTimes::count()?;
    // Where everybody may go, for part of the load does not run as root.
    let folder = tempfile::Builder::new().prefix("obs-soak-").permissions(all_may_enter()).tempdir();
    let folder = folder.context("cannot create a temporary folder")?;

    let mut agent = Agent::start(&binary, folder.path(), &[])?;
    let soaked = soak(arguments, &mut agent, folder.path(), &binary);
    let log = agent.log()?;
    host::write(&plot.with_extension("log"), &log)?;
    let Soaked { samples, builds } = soaked?;

    let names = PHASES.map(|(_, name)| name);
    host::write(&plot.with_extension("tsv"), sample::tsv(&samples, &names))?;
    let all_seconds = arguments.minutes * 60.0;
    let title = format!("obs agent on a busy host of {} CPUs, {} minutes", host::cpus(), arguments.minutes);
    let page = report::page(&samples, &PHASES.map(|(end, name)| (end * all_seconds, name)), &title);
    host::write(&plot, plot::render(&page))?;

    println!("\n{}", report::measures(&samples, &names));
    println!("{}", report::threads(&samples, &names));
    println!("{}", report::losses(&samples, &names));
    println!("The crate was built {builds} times.");
    let mut verdicts = Vec::from(report::verdicts(&samples));
    verdicts.push(ending(&mut agent)?);
    // With what it logged while it ended.
    let log = agent.log()?;
    host::write(&plot.with_extension("log"), &log)?;
    verdicts.push(complaints(&log));
    verdicts.push(check_store(&binary, agent.state())?);
    println!();
    for Verdict { is_kept, text } in &verdicts {
        println!("{} {text}", if *is_kept { "kept:  " } else { "MISSED:" });
    }
    println!("\nThe plot is {}; beside it are the samples (.tsv) and the agent's log (.log).", plot.display());
    let all = verdicts.iter().all(|verdict| verdict.is_kept);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all_may_enter() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

struct Soaked {
    samples: Vec<Sample>,
    builds: u64,
}

/// Loads the host and looks at the agent, until the time is over or the agent.
fn soak(arguments: &Arguments, agent: &mut Agent, folder: &Path, binary: &Path) -> Result<Soaked> {
    let all = Duration::from_secs_f64(arguments.minutes * 60.0);
    let every = Duration::from_secs(arguments.every.into());
    println!("The agent runs; the host is busy for {} minutes. Looking every {every:?}.", arguments.minutes);
    let mut sampler = Sampler::start(agent)?;
    let mut loads = Loads::start(folder, binary)?;
    let (mut samples, mut storm) = (Vec::new(), None);
    let began = agent.began();
    let mut next = began + every;
    for (phase, (end, name)) in PHASES.iter().enumerate() {
        let end = began + all.mul_f64(*end);
        println!("{:>6.0} s: {name}", began.elapsed().as_secs_f64());
        if phase == STORM {
            storm = Some(loads::storm(folder, end.saturating_duration_since(std::time::Instant::now()))?);
        }
        while next <= end {
            interrupt::sleep_until(next)?;
            loads.check()?;
            if let Some(status) = agent.ended()? {
                bail!("the agent has ended by itself: {status}; its log:\n{}", agent.log()?);
            }
            samples.push(sampler.take(agent, began.elapsed().as_secs_f64(), phase)?);
            next += every;
        }
        interrupt::sleep_until(end)?;
        if let Some(mut storm) = storm.take() {
            // It ends by itself about now; and if it has failed there was none.
            let (status, _) = storm.end()?;
            if status.code().is_some_and(|code| code != 0) {
                bail!("stress-ng failed: {status}");
            }
        }
    }
    Ok(Soaked { samples, builds: loads.builds() })
}

/// Ends the agent as an operator would.
fn ending(agent: &mut Agent) -> Result<Verdict> {
    let (status, took) = agent.end()?;
    Ok(Verdict {
        is_kept: status.success() && took <= END_MAX,
        text: format!("SIGTERM ended it in {:.2} s ({status}); {END_MAX:?} are promised", took.as_secs_f64()),
    })
}

/// Shows what the agent complained of.
fn complaints(log: &str) -> Verdict {
    let causes = log::complaints(&log::lines(log));
    let errors: u64 = causes.iter().filter(|cause| cause.level == "ERROR").map(|cause| cause.count).sum();
    let warnings: u64 = causes.iter().filter(|cause| cause.level != "ERROR").map(|cause| cause.count).sum();
    for cause in causes.iter().take(CAUSES_MAX) {
        println!("{} times {}: {} {}", cause.count, cause.level, cause.message, cause.example);
    }
    if causes.len() > CAUSES_MAX {
        println!("and {} causes more: see the log", causes.len() - CAUSES_MAX);
    }
    Verdict { is_kept: errors == 0, text: format!("its log has {errors} errors and {warnings} warnings") }
}

fn check_store(binary: &Path, state: &Path) -> Result<Verdict> {
    let mut check = host::program(binary);
    check.args(["store", "check", "--state-dir"]).arg(state);
    let output = check.output().with_context(|| format!("cannot start `{}`", host::line(&check)))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Verdict { is_kept: output.status.success(), text: format!("obs store check: {said}") })
}
