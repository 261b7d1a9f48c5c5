//! `obs why`: what the time of processes goes into, part by part up to the whole, and where to look.

mod breakdown;
mod disks;
mod text;

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::{
    breakdown::Breakdown,
    disks::{DiskUse, Disks},
};
use super::{
    Failure,
    progress::Progress,
    targets::{self, TargetArgs},
};
use crate::{
    collect::{Settings, cpu, offcpu},
    config::{
        duration,
        sampling::Frequency,
        symbol_cache::SymbolCache,
        waits::{self, WaitSettings},
    },
    model::{profile::FrameDetail, summary::Summary},
    pipeline::record::{self as recording, Recording},
};

const AFTER_HELP: &str = "\
Examples:
  obs why -p 1234 -d 10s        what the threads of a process do with their time
  obs why -- make -j4           the same of a command and its children, from the first instruction to the last
  obs why --comm postgres       of everything named postgres, until Ctrl-C";

/// Samples per second and CPU: they divide the time on CPU, which is exact, into program and kernel.
const HERTZ: u32 = 199;

/// Arguments of `obs why`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    targets: TargetArgs,

    /// How long to look, e.g. 10s or 5m; without it, until Ctrl-C or until the processes end
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// How long a wait must be for its place, and who ended it, to be noted [default: 1ms]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    threshold: Option<Duration>,
    /// How many places to show under each part
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 3)]
    places: usize,
    /// How to print it
    #[arg(long, value_name = "FORM", default_value = "text", value_enum)]
    format: Form,
    /// Where to keep the names of functions for the next time, or none [default: /var/cache/obs; ~/.cache/obs if not root]
    #[arg(long, value_name = "FOLDER")]
    symbol_cache: Option<SymbolCache>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// All that is told.
#[derive(Debug, Serialize)]
struct Answer {
    duration_seconds: f64,
    /// How many threads there were, on average.
    threads: f64,
    #[serde(flatten)]
    breakdown: Breakdown,
    /// What the whole host's disks did meanwhile.
    disks: Vec<DiskUse>,
    /// Of the samples on CPU and of the waits.
    summaries: [Summary; 2],
}

/// Runs the verb.
pub(super) fn run(mut args: WhyArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    args.targets.check("obs why -- make")?;
    let frequency: Frequency = HERTZ.to_string().parse().map_err(anyhow::Error::msg)?;
    let threshold = args.threshold.unwrap_or(waits::THRESHOLD_DEFAULT);
    let settings = Settings {
        filter: args.targets.take_filter(),
        frequency,
        waits: WaitSettings { threshold, wakers: true, running: true },
        ..Settings::default()
    };
    let symbol_cache = args.symbol_cache.unwrap_or_else(|| SymbolCache::usual(rustix::process::geteuid().is_root()));
    let recording = Recording {
        specs: [&cpu::SPEC, &offcpu::SPEC],
        settings,
        duration: args.duration,
        command: args.targets.command,
        detail: FrameDetail::Functions,
        symbol_cache,
    };
    let disks = Disks::read();
    let mut progress = Progress::new(args.duration, args.format == Form::Text);
    let recorded = recording::run(recording, &mut |state| progress.show(state))?;
    progress.finish();
    let disks = disks.and_then(|before| Ok(before.until(&Disks::read()?)));
    let [cpu, time] = &recorded.parts;
    let thread_time_ns = time.thread_time_ns.context("the collector of waits does not tell how long threads lived")?;
    let summaries = recorded.summaries();
    let duration_seconds = summaries[1].duration_seconds;
    let answer = Answer {
        duration_seconds,
        threads: if duration_seconds > 0.0 { thread_time_ns as f64 / 1e9 / duration_seconds } else { 0.0 },
        breakdown: Breakdown::new(&cpu.profile, &time.profile, thread_time_ns),
        // Of a host whose disks cannot be seen, nothing is told.
        disks: disks.unwrap_or_default(),
        summaries,
    };
    match args.format {
        Form::Text => text::write(&answer, args.places, out)?,
        Form::Json => {
            serde_json::to_writer(&mut *out, &answer).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    targets::exit_code(recorded.command)
}
