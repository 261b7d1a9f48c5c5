//! `cargo xtask vm`: boots other kernels under qemu, and runs there what was built here.

mod apt;
mod cpio;
mod guest;
mod initramfs;
mod kernel;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Group};
use crate::verifier_cost::VerifierCosts;
use crate::{build, host, test};
use apt::Apt;
use guest::{Accelerator, Guest};
use initramfs::{Payload, Step};
use kernel::{Kernel, Series};
use report::Report;

/// How long booting and powering off may take when it is tried whether KVM works. It takes a second where it does.
const KVM_TRIAL_LIMIT: Duration = Duration::from_secs(15);

/// How often a guest is booted whose kernel dies of the emulator, as long as it has time. On a machine that is busy besides, it may do so
/// every few minutes; but what has passed is not lost.
const BOOTS_MAX: u32 = 10;

/// Programs of this machine that come along. xz would be another: compressing a real file five times takes ten minutes
/// under emulation, and shows nothing there that it does not show on a real machine.
const TOOLS: [&str; 3] = ["gzip", "seq", "sort"];

/// Which kernels to boot, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The series to boot; may be given several times. All by default
    #[arg(long, value_enum)]
    kernel: Vec<Series>,
    /// How the guest's instructions are run; `auto` tries whether a kernel boots on KVM
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    accel: Choice,
    /// How many seconds a guest may take before it counts as hung
    #[arg(long, default_value_t = 2400, value_name = "SECONDS")]
    time_limit: u64,
    /// Arguments for the scenario tests, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Auto,
    Kvm,
    Tcg,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("cargo xtask vm boots Debian's kernels for x86-64 with programs built on this machine, which is another");
    }
    if !setup::provide(&[Group::Build, Group::Test, Group::Vm])? {
        return Ok(ExitCode::FAILURE);
    }
    let cache = host::target_dir()?.join("vm");
    host::make_dir(&cache)?;
    let apt = Apt::open(&cache.join("apt"))?;
    let wanted = if arguments.kernel.is_empty() { kernel::ALL.to_vec() } else { arguments.kernel.clone() };
    let kernels =
        wanted.iter().map(|series| kernel::provide(*series, &apt, &cache)).collect::<Result<Vec<Kernel>>>()?;

    build::obs()?;
    let steps = steps(&arguments.arguments);
    let archive = cache.join("initrd.gz");
    initramfs::write(&payload(&cache)?, &steps, &archive)?;

    let mut guests = Vec::new();
    for (series, kernel) in wanted.iter().zip(&kernels) {
        let accelerator = accelerator(arguments.accel, kernel, &cache)?;
        let log = cache.join(format!("serial-{}.log", series.name()));
        println!("=== {} under {}; serial console: {}", kernel.package, accelerator.name(), log.display());
        guests.push(Guest { name: series.name(), image: &kernel.image, archive: &archive, accelerator, log });
    }
    let limit = Duration::from_secs(arguments.time_limit);
    // One after the other: beside another one, each is slower, and more often dies of the emulator.
    let booted =
        guests.iter().map(|guest| boot(guest, limit, &arguments.arguments)).collect::<Result<Vec<Report>>>()?;
    let reports: Vec<(Series, Report)> = wanted.into_iter().zip(booted).collect();
    Ok(conclude(&reports, &steps, &VerifierCosts::read()?))
}

/// Boots a guest until it powers off, again if the emulator made its kernel die: then what has passed is left out.
fn boot(guest: &Guest<'_>, limit: Duration, scenario_arguments: &[String]) -> Result<Report> {
    let again = guest.archive.with_file_name("initrd-again.gz");
    let (mut attempt, mut archive) = (1, guest.archive);
    let first_boot = Instant::now();
    let mut passed = Vec::new();
    let mut before: Option<Report> = None;
    loop {
        let begin = Instant::now();
        let end = Guest { archive, log: guest.log.clone(), ..*guest }.run(limit)?;
        let serial = String::from_utf8_lossy(&host::read(&guest.log)?).into_owned();
        let mut report = Report::read(&serial, end);
        passed.extend(report.passed());
        if let Some(before) = before.take() {
            report = report.going_on_from(before);
        }
        let seconds = begin.elapsed().as_secs();
        let may_again = attempt < BOOTS_MAX && first_boot.elapsed() < limit;
        if !may_again || report.is_complete() || !guest.accelerator.is_to_blame(end, &serial) {
            println!("{} powered off after {seconds} s.", guest.name);
            return Ok(report);
        }
        // Arguments may choose parts of names; those that are to be left out are whole names.
        if !scenario_arguments.is_empty() {
            passed.clear();
        }
        println!(
            "After {seconds} s {} had {} of the emulator: once more, without the {} scenarios that have passed.",
            guest.name,
            if end == guest::End::Exited { "died" } else { "come to a standstill, most likely" },
            passed.len()
        );
        if !passed.is_empty() {
            let skips = passed.iter().flat_map(|name| ["--skip".to_owned(), name.clone()]);
            let arguments: Vec<String> = std::iter::once("--exact".to_owned()).chain(skips).collect();
            initramfs::write_again(guest.archive, &steps(&arguments), &again)?;
            archive = &again;
        }
        before = Some(report);
        attempt += 1;
    }
}

/// What the guest does, in this order. Each step's exit status counts.
fn steps(scenario_arguments: &[String]) -> Vec<Step> {
    let quoted: Vec<String> =
        scenario_arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', "'\\''"))).collect();
    // The guest's clock is nobody else's.
    let environment =
        format!("OBS_BIN={} OBS_WORKLOADS={} OBS_SCENARIOS_OWN_CLOCK=1", initramfs::OBS, initramfs::WORKLOADS);
    let scenarios = format!("{environment} {} {}", initramfs::SCENARIOS, quoted.join(" "));
    vec![
        Step { name: "doctor", command: format!("{} doctor", initramfs::OBS) },
        Step { name: "load", command: format!("{} load-all", initramfs::OBS) },
        Step { name: "scenarios", command: scenarios.trim_end().to_owned() },
    ]
}

/// Builds what the guest runs: nothing is built twice, and nothing is built in the guest.
fn payload(cache: &Path) -> Result<Payload> {
    let built = host::text(host::cargo()?.args([
        "test",
        "--locked",
        "--no-run",
        "--message-format=json",
        "--package=obs-tests",
        "--test=scenarios",
    ]))?;
    let scenarios = built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").is_some_and(|name| name == "scenarios"))
        .find_map(|message| message.get("executable").and_then(|path| path.as_str()).map(PathBuf::from))
        .context("cargo built no test program `scenarios` of the package obs-tests")?;
    let workloads = cache.join("workloads");
    host::make_dir(&workloads)?;
    let mut build = host::cargo()?;
    build.args(["run", "--locked", "--quiet", "--package=obs-tests", "--bin=obs-workloads", "--"]).arg(&workloads);
    host::output(&mut build)?;
    Ok(Payload {
        init: host::workspace()?.join("tests/vm/init"),
        busybox: host::find_program("busybox").context("busybox is gone")?,
        obs: stripped(&host::obs_binary()?, &cache.join("obs"))?,
        scenarios: Some(stripped(&scenarios, &cache.join("scenarios"))?),
        workloads: Some(workloads),
        tools: TOOLS.iter().filter_map(|name| host::find_program(name)).collect(),
    })
}

/// A copy of a program without its debug information: the guest's memory is small, and where obs sees itself, reading a hundred
/// megabytes of it takes an emulated CPU minutes.
fn stripped(program: &Path, copy: &Path) -> Result<PathBuf> {
    host::output(host::program("strip").arg("--strip-debug").arg("-o").arg(copy).arg(program))?;
    Ok(copy.to_owned())
}

/// Decides how to run the guest: a machine may have /dev/kvm and still be unable to boot a stock kernel on it.
fn accelerator(choice: Choice, kernel: &Kernel, cache: &Path) -> Result<Accelerator> {
    match choice {
        Choice::Tcg => return Ok(Accelerator::Emulation),
        Choice::Kvm => return Ok(Accelerator::Kvm),
        Choice::Auto => {}
    }
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Emulation);
    }
    let archive = cache.join("initrd-trial.gz");
    let payload = Payload {
        init: host::workspace()?.join("tests/vm/init"),
        busybox: host::find_program("busybox").context("busybox is gone")?,
        obs: host::obs_binary()?,
        scenarios: None,
        workloads: None,
        tools: Vec::new(),
    };
    initramfs::write(&payload, &[], &archive)?;
    let log = cache.join("serial-kvm-trial.log");
    let accelerator = Accelerator::Kvm;
    let guest = Guest { name: "a trial", image: &kernel.image, archive: &archive, accelerator, log };
    let end = guest.run(KVM_TRIAL_LIMIT)?;
    let report = Report::read(&String::from_utf8_lossy(&host::read(&guest.log)?), end);
    if report.is_complete() {
        return Ok(Accelerator::Kvm);
    }
    println!("{} does not boot on this machine's KVM: its instructions are emulated.", kernel.package);
    Ok(Accelerator::Emulation)
}

fn conclude(reports: &[(Series, Report)], steps: &[Step], costs: &VerifierCosts) -> ExitCode {
    let mut skipped = Vec::new();
    let mut all_passed = true;
    println!();
    for (series, report) in reports {
        let mut failures = report.failures(steps);
        failures.extend(costs.compare(series.name(), report.output_of("load")));
        println!("{}", report.summary(series.name(), steps));
        for failure in &failures {
            println!("  FAILED: {failure}");
        }
        all_passed &= failures.is_empty();
        skipped.extend(report.skipped().into_iter().map(|reason| format!("{}: {reason}", series.name())));
    }
    test::report_skipped(&skipped);
    if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_scenarios_as_they_are() {
        let steps = steps(&["it's".to_owned(), "--exact".to_owned()]);
        assert!(steps[2].command.ends_with(r"/obs/scenarios 'it'\''s' '--exact'"), "{}", steps[2].command);
    }
}
