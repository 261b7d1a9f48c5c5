//! What a command left, and what a recording of obs left.

use std::{fs, process::ExitStatus};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Context;
use crate::read::folded::Folded;

/// A command that has ended.
pub(crate) struct Finished {
    /// The command line, for messages.
    pub(crate) line: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote to standard output.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The summary: the last line of standard error, which `--summary json` makes one JSON object.
    pub(crate) fn summary(&self) -> Result<Value> {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| {
            format!("{}: the last line of standard error is no JSON summary; it wrote:\n{}", self.line, self.stderr)
        })
    }

    /// The CPU seconds that a workload printed: `cpu_seconds 1.234`.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.stdout_text())
    }
}

/// The value of the line `cpu_seconds 1.234` that workloads print.
pub(crate) fn cpu_seconds(text: &str) -> Result<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix("cpu_seconds "))
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("no line `cpu_seconds …` in {text:?}"))
}

/// A finished `obs record`.
pub(crate) struct Recording {
    /// How it ended and what it printed.
    pub(crate) finished: Finished,
    /// Its summary.
    pub(crate) summary: Value,
    /// The file that it wrote.
    pub(crate) data: Vec<u8>,
}

impl Context {
    /// Runs `obs record cpu --summary json -o FILE` with these arguments, where FILE has the given ending, and expects
    /// the exit status 0.
    pub(crate) fn record(&self, ending: &str, arguments: &[&str]) -> Result<Recording> {
        self.record_by("cpu", ending, arguments)
    }

    /// The same with another collector.
    pub(crate) fn record_by(&self, collector: &str, ending: &str, arguments: &[&str]) -> Result<Recording> {
        let folder = tempfile::tempdir().context("making a folder for the output")?;
        let path = folder.path().join(format!("out{ending}"));
        let path = path.to_str().context("the temporary folder's name is not UTF-8")?;
        let mut command = self.obs(&["record", collector, "--summary", "json", "-o", path]);
        let finished = self.run(command.args(arguments))?;
        ensure!(finished.status.success(), "{} ended with {}:\n{}", finished.line, finished.status, finished.stderr);
        let summary = finished.summary()?;
        let data = fs::read(path).with_context(|| format!("{} left no file", finished.line))?;
        Ok(Recording { finished, summary, data })
    }
}

impl Recording {
    /// A number of the summary, by its path (`/samples/taken`).
    pub(crate) fn number(&self, pointer: &str) -> Result<u64> {
        self.summary
            .pointer(pointer)
            .and_then(Value::as_u64)
            .with_context(|| format!("the summary has no whole number at {pointer}: {}", self.summary))
    }

    /// How long was recorded, in seconds, as the summary says.
    pub(crate) fn seconds(&self) -> Result<f64> {
        self.summary["duration_seconds"].as_f64().filter(|seconds| *seconds > 0.0).context("no /duration_seconds")
    }

    /// Samples in the profile, as the summary says.
    pub(crate) fn taken(&self) -> Result<u64> {
        self.number("/samples/taken")
    }

    /// Samples that were lost, over all reasons.
    pub(crate) fn lost(&self) -> Result<u64> {
        let lost = self.summary.pointer("/samples/lost").and_then(Value::as_object);
        Ok(lost.context("the summary has no /samples/lost")?.values().filter_map(Value::as_u64).sum())
    }

    /// How often all BPF programs ran, as the kernel counted.
    pub(crate) fn program_runs(&self) -> Result<u64> {
        let programs = self.summary.pointer("/cost/programs").and_then(Value::as_array);
        let programs = programs.context("the summary has no /cost/programs")?;
        Ok(programs.iter().filter_map(|program| program["run_count"].as_u64()).sum())
    }

    /// The processes of the summary: id, name, samples.
    pub(crate) fn processes(&self) -> Result<Vec<(u32, String, u64)>> {
        let processes = self.summary["processes"].as_array().context("the summary has no list of processes")?;
        processes
            .iter()
            .map(|process| {
                let pid = process["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                Ok((
                    pid.context("a process without an id")?,
                    process["name"].as_str().context("a process without a name")?.to_owned(),
                    process["samples"].as_u64().context("a process without samples")?,
                ))
            })
            .collect()
    }

    /// The samples of processes of this name, as the summary says.
    pub(crate) fn samples_of(&self, name: &str) -> Result<u64> {
        Ok(self.processes()?.iter().filter(|(_, process, _)| process == name).map(|(_, _, samples)| samples).sum())
    }

    /// The file as folded stacks.
    pub(crate) fn folded(&self) -> Result<Folded> {
        Folded::parse(&self.data)
    }
}
