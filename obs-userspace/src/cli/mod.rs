//! The commands. One verb per file; what a verb does is done by the stages, not here.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. `obs record … -- CMD` returns the exit status of CMD.

mod agent;
mod doctor;
mod latency;
mod load_all;
mod output;
mod progress;
mod quality;
mod record;
mod stdout;
mod store;
mod summary;
mod targets;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};

use self::{doctor::DoctorArgs, stdout::stdout};
use crate::{collect::COLLECTORS, kernel::heap, telemetry};

/// Shows, for every process on this host and with nothing added to them, where time and memory go.
#[derive(Debug, Parser)]
#[command(name = "obs", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// How much obs says of its own work on standard error
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", value_enum)]
    log_level: telemetry::Level,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Record a profile of this host, of some processes, or of a command
    Record(Box<record::RecordArgs>),
    /// Say what the time of some processes, or of a command, goes into: on CPU, or waiting for what
    Why(Box<why::WhyArgs>),
    /// Watch how long something takes: waits for a CPU, disks, system calls, connections, interrupts
    Latency(Box<latency::LatencyArgs>),
    /// Measure the whole host all the time, and keep a history
    Agent(agent::AgentArgs),
    /// Say which features of this kernel work with these privileges, and which collectors can run
    Doctor(DoctorArgs),
    /// Look at what an agent keeps on disk
    Store(store::StoreArgs),
    /// Load, attach and detach every BPF program, and say what the verifier made of it
    #[command(hide = true)]
    LoadAll,
}

/// How a verb went wrong.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something that makes no sense; exit code 2.
    Usage(String),
    /// It could not be done; exit code 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs what the command line asks for.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let Cli { verb, log_level } = cli;
    heap::share_one();
    // The agent's log is configured.
    if !matches!(verb, Verb::Agent(_)) {
        telemetry::start_log(log_level);
    }
    let outcome = match verb {
        Verb::Agent(args) => agent::run(&args, &mut stdout()),
        Verb::Record(args) => record::run(*args),
        Verb::Why(args) => why::run(*args, &mut stdout()),
        Verb::Latency(args) => latency::run(*args, &mut stdout()),
        Verb::Doctor(DoctorArgs { json, pid: Some(pid), duration }) => {
            quality::run(pid, duration, json, &mut stdout()).map(|()| 0).map_err(Failure::Failed)
        }
        Verb::Doctor(args) => {
            let collectors = COLLECTORS.iter().map(|spec| (spec.name, spec.features));
            let can_record = doctor::run(&args, collectors, &mut stdout());
            can_record.map(|can_record| u8::from(!can_record)).map_err(Failure::Failed)
        }
        Verb::Store(args) => store::run(args, &mut stdout()),
        Verb::LoadAll => load_all::run(&mut stdout()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Usage(message)) => {
            use clap::CommandFactory as _;
            let error = Cli::command().error(ErrorKind::ValueValidation, message);
            // Where standard error is closed there is nobody to tell.
            let _ = error.print();
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("obs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
