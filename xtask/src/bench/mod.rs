//! `cargo xtask bench WHAT`: what obs costs, measured beside what it is compared with, in the same run.
//!
//! Times differ between machines and between days; ratios within one run do not. So a benchmark runs its candidates in
//! turns under the same load and prints medians and ratios. A new benchmark is a file here and a line in [`What`].

mod agent;
mod crowd;
pub(crate) mod load;
pub(crate) mod measure;
mod record;
mod stacks;
mod store;
pub(crate) mod table;
mod unwind;
mod waits;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::host;

/// Which benchmark to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The agent while it runs, beside `perf record -a -g`, and as processes grow in number
    Agent(agent::Arguments),
    /// A one-second recording to a flame graph: `obs record cpu` beside `perf record -F 99 -a -g`
    Record(record::Arguments),
    /// What complete stacks cost, in the kernel and outside of it, beside perf
    Unwind(unwind::Arguments),
    /// Builds the unwind table of one file; what `bench unwind` runs
    #[command(hide = true)]
    TableOf(unwind::TableOf),
    /// Whether the stacks are true: real programs, beside `perf record --call-graph dwarf` of the same run
    Stacks(stacks::Arguments),
    /// What the history on disk costs: bytes, questions, memory, beside what they may cost
    Store(store::Arguments),
    /// How much slower programs become while waits are measured, beside bpftrace and perf
    Waits(waits::Arguments),
    /// Turns `perf script` on standard input into a flame graph; what `bench record` runs for perf
    #[command(hide = true)]
    PerfSvg(record::PerfSvg),
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        What::Agent(arguments) => agent::main(arguments),
        What::Record(arguments) => record::main(arguments),
        What::Unwind(arguments) => unwind::main(arguments),
        What::TableOf(arguments) => unwind::table_of(arguments),
        What::Stacks(arguments) => stacks::main(arguments),
        What::Store(arguments) => store::main(arguments),
        What::Waits(arguments) => waits::main(arguments),
        What::PerfSvg(arguments) => record::perf_svg(arguments),
    }
}

/// The test package's programs, built for here.
fn workloads(folder: &Path) -> Result<PathBuf> {
    let workloads = folder.join("workloads");
    host::make_dir(&workloads)?;
    let mut build = host::cargo()?;
    build.args(["run", "--locked", "--quiet", "--package=obs-tests", "--bin=obs-workloads", "--"]).arg(&workloads);
    host::output(&mut build)?;
    Ok(workloads)
}
