//! `obs latency WHAT`: watches how long something takes, as histograms, interval by interval.

mod json;
mod text;

use std::{io::Write, time::Duration};

use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser},
};

use super::{
    Failure,
    targets::{self, TargetArgs},
};
use crate::{
    collect::latency::{By, LATENCY_KINDS, LatencyKind, LatencyOptions, Room, find_kind, system_calls},
    config::duration,
    pipeline::latency::{self as watching, Watch},
};

const AFTER_HELP: &str = "\
Examples:
  obs latency runqueue                          how long threads of the whole host wait for a CPU, every second
  obs latency block -d 10s --interval 10s       the host's disks, once
  obs latency syscall -p 1234 --syscall fsync   one process's fsync, and that of the children that it starts
  obs latency offcpu --by process --comm redis-server
  obs latency block -- dd if=/var/tmp/file of=/dev/null iflag=direct bs=1M";

/// Fewer events have no p99.9 that would mean something.
const TAIL_EVENTS_MIN: u64 = 1_000;

/// Arguments of `obs latency`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct LatencyArgs {
    /// What to measure
    #[arg(value_name = "WHAT", value_parser = PossibleValuesParser::new(whats()))]
    what: String,

    #[command(flatten)]
    targets: TargetArgs,

    /// What to tell apart besides what each kind tells apart itself
    #[arg(long, value_name = "KEY", default_value = "detail", value_enum)]
    by: Key,
    /// For syscall: measure these only, by name or number, separated by commas [default: all]
    #[arg(long = "syscall", value_name = "NAME", value_delimiter = ',', value_parser = system_calls::number)]
    system_calls: Vec<u32>,
    /// How often to print what was measured
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// How long to measure, e.g. 10s or 5m; without it, until Ctrl-C or until the chosen processes have ended
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text", value_enum)]
    format: Form,
}

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    /// What the kind tells apart itself (states, devices, system calls, …)
    Detail,
    /// The cgroup too
    Cgroup,
    /// The process too
    Process,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// One JSON object on one line for each key and interval, and for each key at the end
    Json,
}

/// What can be measured, with its line of help.
fn whats() -> impl Iterator<Item = PossibleValue> {
    LATENCY_KINDS.iter().map(|kind| PossibleValue::new(kind.name).help(kind.summary))
}

/// Runs the verb.
pub(super) fn run(args: LatencyArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let kind = find_kind(&args.what).ok_or_else(|| Failure::Usage(format!("obs cannot measure '{}'", args.what)))?;
    let form = args.format;
    let watch = watch(kind, args)?;
    let command = match form {
        Form::Text => watching::run(watch, &mut |measured| Ok(text::write(kind, measured, out)?))?,
        Form::Json => watching::run(watch, &mut |measured| json::write(kind, measured, out))?,
    };
    targets::exit_code(command)
}

/// What the arguments ask for.
fn watch(kind: &'static LatencyKind, args: LatencyArgs) -> Result<Watch, Failure> {
    let LatencyArgs { what: _, mut targets, by, system_calls, interval, duration, format: _ } = args;
    targets.check("obs latency block -- dd if=/var/tmp/file of=/dev/null")?;
    let is_chosen = targets.chooses();
    if !kind.has_owner && (is_chosen || by != Key::Detail) {
        let message = format!(
            "{} are nobody's: they interrupt whoever runs; leave out the choice of processes and --by",
            if kind.name == "softirq" { "software interrupts" } else { "interrupts" }
        );
        return Err(Failure::Usage(message));
    }
    if kind.name != "syscall" && !system_calls.is_empty() {
        return Err(Failure::Usage(format!("{} has nothing to do with system calls: leave out --syscall", kind.name)));
    }
    let mut filter = targets.take_filter();
    // Only processes have children.
    filter.follow_children &= !filter.pids.is_empty() || !targets.command.is_empty();
    let options = LatencyOptions {
        kinds: vec![kind],
        filter,
        by: By { cgroup: by == Key::Cgroup, process: by == Key::Process },
        system_calls: Some(system_calls).filter(|numbers| !numbers.is_empty()),
        room: Room::default(),
    };
    Ok(Watch { options, interval, duration, command: targets.command })
}

/// The labels of a key, as people read them.
fn title(labels: &[crate::model::record::Label]) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
