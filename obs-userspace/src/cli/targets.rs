//! Whom to measure: the arguments that verbs share.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    config::filter::Filter,
    kernel::launch::{self, Running},
};

/// Whom to measure.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Measure this process, and the children that it starts from now on; may be repeated
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pids: Vec<u32>,
    /// Measure this thread; may be repeated
    #[arg(short, long = "tid", value_name = "TID", value_parser = clap::value_parser!(u32).range(1..))]
    tids: Vec<u32>,
    /// Measure processes and threads of this name (as in ps -o comm); may be repeated
    #[arg(long = "comm", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    comms: Vec<String>,
    /// Measure what runs in this folder of the cgroup2 file system, or below it; may be repeated
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<PathBuf>,
    /// Measure every process (the default when nothing else is chosen)
    #[arg(short, long, conflicts_with_all = ["pids", "tids", "comms", "cgroups", "command"])]
    all: bool,
    /// Leave out the children that chosen processes start
    #[arg(long)]
    no_follow: bool,
    /// A command to start and measure, with its children, from its first instruction
    #[arg(last = true, value_name = "CMD", num_args = 1..)]
    pub(super) command: Vec<OsString>,
}

impl TargetArgs {
    /// Refuses a `--` with nothing behind it; `example` shows what would stand there.
    pub(super) fn check(&self, example: &str) -> Result<(), Failure> {
        if self.command.is_empty() && std::env::args_os().any(|word| word == "--") {
            return Err(Failure::Usage(format!("a command must follow `--`, e.g. {example}")));
        }
        Ok(())
    }

    /// Whether anything is chosen at all.
    pub(super) fn chooses(&self) -> bool {
        let Self { pids, tids, comms, cgroups, all: _, no_follow: _, command } = self;
        let is_nothing =
            pids.is_empty() && tids.is_empty() && comms.is_empty() && cgroups.is_empty() && command.is_empty();
        !is_nothing
    }

    /// Takes the filter out; the command stays.
    pub(super) fn take_filter(&mut self) -> Filter {
        let chooses = self.chooses();
        let Self { pids, tids, comms, cgroups, all: _, no_follow, command: _ } = self;
        Filter {
            pids: std::mem::take(pids),
            pids_at_exec: Vec::new(),
            tids: std::mem::take(tids),
            comms: std::mem::take(comms),
            cgroups: std::mem::take(cgroups),
            follow_children: !*no_follow,
            // On a recording of the whole host, obs is part of the host.
            exclude_self: chooses,
        }
    }
}

/// The command's own exit status; waits for it, because the caller asked obs to run it.
pub(super) fn exit_code(command: Option<Running>) -> Result<u8, Failure> {
    let Some(mut command) = command else { return Ok(0) };
    if command.try_wait()?.is_none() {
        eprintln!("obs: the recording is over, the command still runs: waiting for it (Ctrl-C interrupts it)");
    }
    Ok(launch::exit_code(command.wait()?))
}
