//! `obs record COLLECTOR`: measures for a while, writes a profile, says what it lost and what it cost.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};

use super::{Failure, output::Output, progress::Progress, summary};
use crate::{
    collect::{self, COLLECTORS, Settings, UNWIND_BYTES_DEFAULT, WAIT_THRESHOLD_DEFAULT},
    config::{
        duration,
        filter::Filter,
        sampling::{Frequency, SamplingEvent},
        symbol_cache::SymbolCache,
    },
    export::{self, ExportError, Format},
    kernel::launch::{self, Running},
    model::profile::FrameDetail,
    pipeline::record::{self as recording, Recording},
};

const AFTER_HELP: &str = "\
Examples:
  obs record cpu -d 10s -o host.svg                 the whole host, as a flame graph
  obs record cpu -d 30s -p 1234 -o server.pb.gz     one process and the children that it starts, for go tool pprof
  obs record cpu -o build.svg -- make -j4           a command and its children, from the first instruction to the last
  obs record cpu -d 10s --comm postgres             everything named postgres, as folded stacks on standard output
  obs record offcpu -d 10s -p 1234 -o waits.svg     where a process's threads wait, and what for
  obs record cpu -d 10s --cgroup /sys/fs/cgroup/system.slice -o slice.speedscope.json";

/// Arguments of `obs record`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RecordArgs {
    /// What to measure
    #[arg(value_parser = PossibleValuesParser::new(collectors()))]
    collector: String,

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

    #[arg(short = 'F', long, value_name = "HERTZ", help = format!("Samples per second and CPU [default: {}]", Frequency::default()))]
    frequency: Option<Frequency>,
    /// How long a wait must be to have a stack (offcpu); shorter ones are counted without [default: 1ms]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    threshold: Option<Duration>,
    #[arg(long, value_name = "EVENT", help = format!("What triggers samples: cpu-clock works everywhere, cycles needs hardware counters [default: {}]", SamplingEvent::default()))]
    event: Option<SamplingEvent>,
    /// How long to record, e.g. 10s or 5m; without it, until Ctrl-C or until the command exits
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    duration: Option<Duration>,

    /// Where to write the profile; its ending chooses the format, and - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// The format, where the ending does not say
    #[arg(long, value_name = "FORMAT", long_help = format!("The format, where the ending does not say:\n{}", Format::help()))]
    format: Option<Format>,
    /// What tells frames of the profile apart, in formats that show it
    #[arg(long, value_name = "DETAIL", default_value = "lines", value_enum)]
    detail: Detail,
    /// Where to keep the names of functions for the next recording, or none [default: /var/cache/obs; ~/.cache/obs if not root]
    #[arg(long, value_name = "FOLDER")]
    symbol_cache: Option<SymbolCache>,
    /// How to print the closing summary on standard error
    #[arg(long, value_name = "FORM", default_value = "text", value_enum)]
    summary: SummaryForm,
    /// Log what the BPF programs themselves say (with --log-level debug)
    #[arg(long)]
    bpf_log: bool,

    /// A command to start and measure, with its children, from its first instruction
    #[arg(last = true, value_name = "CMD", num_args = 1..)]
    command: Vec<OsString>,
}

/// What tells frames apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Detail {
    /// The function: the smallest profile.
    Functions,
    /// The source line too, where it is known.
    Lines,
    /// The address too: the largest profile.
    Addresses,
}

/// How the summary is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SummaryForm {
    /// For people.
    Text,
    /// One JSON object on one line.
    Json,
    /// Not at all.
    None,
}

/// The collectors of which a profile can be made.
fn collectors() -> impl Iterator<Item = &'static str> {
    COLLECTORS.iter().filter(|spec| spec.takes_stacks()).map(|spec| spec.name)
}

/// Runs the verb.
pub(super) fn run(args: RecordArgs) -> Result<u8, Failure> {
    let missing_command = args.command.is_empty() && std::env::args_os().any(|word| word == "--");
    if missing_command {
        return Err(Failure::Usage("a command must follow `--`, e.g. obs record cpu -o out.svg -- make".to_owned()));
    }
    let format = match args.format {
        Some(format) => format,
        None if args.output.as_os_str() == "-" => Format::Folded,
        None => Format::from_path(&args.output).map_err(|error| Failure::Usage(error.to_string()))?,
    };
    let spec = collect::find(&args.collector)
        .ok_or_else(|| Failure::Usage(format!("there is no collector '{}'", args.collector)))?;
    if !spec.samples && (args.frequency.is_some() || args.event.is_some()) {
        let message =
            format!("{} counts every event and does not sample: leave out --frequency and --event", spec.name);
        return Err(Failure::Usage(message));
    }
    if spec.samples && args.threshold.is_some() {
        return Err(Failure::Usage(format!("{} samples and has no threshold: leave out --threshold", spec.name)));
    }
    let nothing_chosen =
        args.pids.is_empty() && args.tids.is_empty() && args.comms.is_empty() && args.cgroups.is_empty();
    let settings = Settings {
        filter: Filter {
            pids: args.pids,
            pids_at_exec: Vec::new(),
            tids: args.tids,
            comms: args.comms,
            cgroups: args.cgroups,
            follow_children: !args.no_follow,
            // On a recording of the whole host, obs is part of the host.
            exclude_self: !nothing_chosen,
        },
        event: args.event.unwrap_or_default(),
        frequency: args.frequency.unwrap_or_default(),
        bpf_log: args.bpf_log,
        unwind_bytes: UNWIND_BYTES_DEFAULT,
        wait_threshold: args.threshold.unwrap_or(WAIT_THRESHOLD_DEFAULT),
    };
    // Before anything is measured: a recording that cannot be kept is not worth making.
    let output = Output::open(&args.output)?;

    let detail = match args.detail {
        Detail::Functions => FrameDetail::Functions,
        Detail::Lines => FrameDetail::Lines,
        Detail::Addresses => FrameDetail::Addresses,
    };
    let symbol_cache = args.symbol_cache.unwrap_or_else(|| SymbolCache::usual(rustix::process::geteuid().is_root()));
    let recording = Recording { spec, settings, duration: args.duration, command: args.command, detail, symbol_cache };
    let mut progress = Progress::new(args.duration, args.summary == SummaryForm::Text);
    let recorded = recording::run(recording, &mut |state| progress.show(state))?;
    progress.finish();

    output.write(|writer| match export::write(&recorded.profile, format, writer) {
        Ok(()) => Ok(()),
        Err(ExportError::Write { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    })?;
    let summary = recorded.summary();
    let mut stderr = io::stderr().lock();
    match args.summary {
        SummaryForm::Text => summary::write_text(&summary, &args.output, &mut stderr)?,
        SummaryForm::Json => writeln!(stderr, "{}", serde_json::to_string(&summary)?)?,
        SummaryForm::None => {}
    }
    drop(stderr);
    exit_code(recorded.command)
}

/// The command's own exit status; waits for it, because the caller asked obs to run it.
pub(super) fn exit_code(command: Option<Running>) -> Result<u8, Failure> {
    let Some(mut command) = command else { return Ok(0) };
    if command.try_wait()?.is_none() {
        eprintln!("obs: the recording is over, the command still runs: waiting for it (Ctrl-C interrupts it)");
    }
    Ok(launch::exit_code(command.wait()?))
}
