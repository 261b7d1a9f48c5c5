//! `obs record COLLECTOR`: measures for a while, writes a profile, says what it lost and what it cost.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};

use super::{
    Failure,
    output::Output,
    progress::Progress,
    summary,
    targets::{self, TargetArgs},
};
use crate::{
    collect::{self, COLLECTORS, Settings, UNWIND_BYTES_DEFAULT},
    config::{
        duration,
        sampling::{Frequency, SamplingEvent},
        symbol_cache::SymbolCache,
        waits::{self, WaitSettings},
    },
    export::{self, ExportError, Format},
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
  obs record offcpu --wakers -d 10s -o chain.svg    every wait of the host, and who ended it
  obs record cpu -d 10s --cgroup /sys/fs/cgroup/system.slice -o slice.speedscope.json";

/// Arguments of `obs record`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RecordArgs {
    /// What to measure
    #[arg(value_parser = PossibleValuesParser::new(collectors()))]
    collector: String,

    #[command(flatten)]
    targets: TargetArgs,

    #[arg(short = 'F', long, value_name = "HERTZ", help = format!("Samples per second and CPU [default: {}]", Frequency::default()))]
    frequency: Option<Frequency>,
    /// How long a wait must be to have a stack (offcpu); shorter ones are counted without [default: 1ms]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    threshold: Option<Duration>,
    /// Also note who ended each long wait, and where (offcpu)
    #[arg(long)]
    wakers: bool,
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
pub(super) fn run(mut args: RecordArgs) -> Result<u8, Failure> {
    args.targets.check("obs record cpu -o out.svg -- make")?;
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
    if spec.samples && (args.threshold.is_some() || args.wakers) {
        let message = format!("{} samples and measures no waits: leave out --threshold and --wakers", spec.name);
        return Err(Failure::Usage(message));
    }
    let settings = Settings {
        filter: args.targets.take_filter(),
        event: args.event.unwrap_or_default(),
        frequency: args.frequency.unwrap_or_default(),
        bpf_log: args.bpf_log,
        unwind_bytes: UNWIND_BYTES_DEFAULT,
        waits: WaitSettings {
            threshold: args.threshold.unwrap_or(waits::THRESHOLD_DEFAULT),
            wakers: args.wakers,
            running: false,
        },
    };
    // Before anything is measured: a recording that cannot be kept is not worth making.
    let output = Output::open(&args.output)?;

    let detail = match args.detail {
        Detail::Functions => FrameDetail::Functions,
        Detail::Lines => FrameDetail::Lines,
        Detail::Addresses => FrameDetail::Addresses,
    };
    let symbol_cache = args.symbol_cache.unwrap_or_else(|| SymbolCache::usual(rustix::process::geteuid().is_root()));
    let recording = Recording {
        specs: [spec],
        settings,
        duration: args.duration,
        command: args.targets.command,
        detail,
        symbol_cache,
    };
    let mut progress = Progress::new(args.duration, args.summary == SummaryForm::Text);
    let recorded = recording::run(recording, &mut |state| progress.show(state))?;
    progress.finish();

    let [part] = &recorded.parts;
    output.write(|writer| match export::write(&part.profile, format, writer) {
        Ok(()) => Ok(()),
        Err(ExportError::Write { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    })?;
    let [summary] = recorded.summaries();
    let mut stderr = io::stderr().lock();
    match args.summary {
        SummaryForm::Text => summary::write_text(&summary, &args.output, &mut stderr)?,
        SummaryForm::Json => writeln!(stderr, "{}", serde_json::to_string(&summary)?)?,
        SummaryForm::None => {}
    }
    drop(stderr);
    targets::exit_code(recorded.command)
}
