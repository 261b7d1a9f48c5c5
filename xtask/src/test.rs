//! `cargo xtask test`: unit tests, documentation tests, and the scenario tests on this kernel.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result};

use crate::setup::{self, Group};
use crate::verifier_cost::VerifierCosts;
use crate::{build, host};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the scenario tests, which load programs into this kernel
    #[arg(long)]
    no_scenarios: bool,
    /// Arguments for the scenario tests, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test])? {
        return Ok(ExitCode::FAILURE);
    }
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    let mut said = Vec::new();
    let mut test = |what: &'static str, command: &mut Command| -> Result<()> {
        println!("\n=== {what}: {}", host::line(command));
        let (status, printed) = watch(command)?;
        skipped.extend(skip_reasons(printed.iter().map(String::as_str)));
        if !status.success() {
            failed.push(what);
            said.extend(failure_reports(&printed).map(str::to_owned));
        }
        Ok(())
    };
    // The kernel side has no host to be tested on; its logic is in crates that have one.
    let workspace = ["test", "--locked", "--no-fail-fast", "--workspace", "--exclude=obs-ebpf", "--exclude=obs-tests"];
    test("unit and documentation tests", host::cargo()?.args(workspace))?;
    let own = ["test", "--locked", "--no-fail-fast", "--package=obs-tests", "--lib", "--bins"];
    test("unit tests of the test package", host::cargo()?.args(own))?;
    if arguments.no_scenarios {
        skipped.push("scenario tests: --no-scenarios was given".to_owned());
    } else {
        build::obs()?;
        let mut command = host::cargo()?;
        command
            .args(["test", "--locked", "--package", "obs-tests", "--test", "scenarios", "--"])
            .args(&arguments.arguments)
            .env("OBS_BIN", host::obs_binary()?);
        test("scenario tests", &mut command)?;
        match verifier_cost()? {
            Compared::Fine => {}
            Compared::Dearer => failed.push("the cost of programs in the verifier"),
            Compared::Not(why) => skipped.push(format!("the cost of programs in the verifier: {why}")),
        }
    }
    println!();
    report_skipped(&skipped);
    if failed.is_empty() {
        println!("All tests passed.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("FAILED: {}.", failed.join(", "));
    // Once more at the end, where it is looked for.
    said.iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::FAILURE)
}

/// How the programs' cost in this kernel's verifier compares.
enum Compared {
    Fine,
    Dearer,
    Not(String),
}

fn verifier_cost() -> Result<Compared> {
    let costs = VerifierCosts::read()?;
    let release = host::read(Path::new("/proc/sys/kernel/osrelease"))?;
    let release = String::from_utf8_lossy(&release).into_owned();
    let series = release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    if !costs.knows(&series) {
        return Ok(Compared::Not(format!("there are no figures of Linux {series} to compare with")));
    }
    let mut command = host::program(host::obs_binary()?);
    command.arg("load-all");
    println!("\n=== cost in the verifier: {}", host::line(&command));
    let output = command.output().with_context(|| format!("cannot start `{}`", host::line(&command)))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{printed}");
    if !output.status.success() {
        return Ok(Compared::Not(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let complaints = costs.compare(&series, printed.lines());
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    Ok(if complaints.is_empty() { Compared::Fine } else { Compared::Dearer })
}

/// Prints what was not tested, and why.
pub(crate) fn report_skipped(skipped: &[String]) {
    if skipped.is_empty() {
        println!("Nothing was skipped.");
    } else {
        println!("Skipped:");
        for reason in skipped {
            println!("  {reason}");
        }
    }
}

/// Runs a command, passes on what it prints, and keeps it.
fn watch(command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", host::line(command)))?;
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let printed = pass_on(stdout)?;
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", host::line(command)))?;
    Ok((status, printed))
}

fn pass_on(stdout: impl Read) -> Result<Vec<String>> {
    let mut printed = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("{line}");
        printed.push(line);
    }
    Ok(printed)
}

/// What tests that failed have to say: of each test program the lines between `failures:` and the list of names, which is
/// headed by the same word.
fn failure_reports(printed: &[String]) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    printed.iter().map(String::as_str).filter(move |line| {
        is_inside ^= *line == "failures:";
        is_inside && *line != "failures:"
    })
}

/// What a test program says it skipped, each test once: `NAME: REASON` for its lines `SKIPPED NAME: REASON`, and for
/// its lines `test NAME ... ignored, REASON` where no such line names the test.
pub(crate) fn skip_reasons<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (mut told, mut ignored): (Vec<String>, Vec<(String, String)>) = (Vec::new(), Vec::new());
    for line in lines {
        if let Some(reason) = line.strip_prefix("SKIPPED ") {
            told.push(reason.trim_end().to_owned());
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... ignored"))
        {
            let reason = outcome.strip_prefix(", ").unwrap_or("it is marked as ignored");
            ignored.push((name.trim_end().to_owned(), reason.trim_end().to_owned()));
        }
    }
    ignored.retain(|(name, _)| {
        !told.iter().any(|told| told.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with(':')))
    });
    told.extend(ignored.into_iter().map(|(name, reason)| format!("{name}: {reason}")));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_collected_with_its_reason() {
        let printed = "test a ... ok\nSKIPPED py: no python3\ntest b ... ignored, slow\ntest c   ... ignored\n\
                       test py  ... ignored\n";
        let expected = ["py: no python3", "b: slow", "c: it is marked as ignored"];
        assert_eq!(skip_reasons(printed.lines()), expected);
    }

    #[test]
    fn what_failed_tests_say_is_repeated() {
        let printed = "test a ... ok\nfailures:\n\n---- b ----\n1 is not 2\nfailures:\n    b\n\ntest result: FAILED\n\
                       test c ... FAILED\n\nfailures:\n---- c ----\nno\n\nfailures:\n    c\n";
        let printed = pass_on(printed.as_bytes()).unwrap();
        let said: Vec<&str> = failure_reports(&printed).filter(|line| !line.is_empty()).collect();
        assert_eq!(said, ["---- b ----", "1 is not 2", "---- c ----", "no"]);
    }

    #[test]
    fn a_failing_command_is_seen() {
        let (status, _) = watch(host::program("sh").args(["-c", "echo SKIPPED x: y; exit 3"])).unwrap();
        assert_eq!(status.code(), Some(3));
    }
}
