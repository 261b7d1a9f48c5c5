//! The project's own commands: `cargo xtask VERB`. One verb per file.

mod agent;
mod bench;
mod build;
mod doctor;
mod guarded;
mod host;
mod interrupt;
mod run;
mod setup;
mod soak;
mod test;
mod tidy;
mod unwind_check;
mod verifier_cost;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// obs's own commands: from a fresh machine to a tested binary.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what this machine lacks to build obs; says what before it does it
    Setup(setup::Arguments),
    /// Build the binary: target/release/obs
    Build(build::Arguments),
    /// Build obs and run it on this host
    Run(run::Arguments),
    /// Run every test that this kernel can run
    Test(test::Arguments),
    /// Hold the rules that no linter knows: imports, headers, one registry, no writes to the target
    Tidy,
    /// Compare the unwind tables of ELF files with what binutils reads in them
    UnwindCheck(unwind_check::Arguments),
    /// Run the scenario tests on other kernels, under qemu
    Vm(vm::Arguments),
    /// Measure what obs costs
    Bench(bench::Arguments),
    /// Run the agent on a busy host for a while, and show what it costs over time
    Soak(soak::Arguments),
    /// Build obs and ask it what it can do on this kernel
    Doctor(doctor::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::main(&arguments),
        Verb::Build(arguments) => build::main(&arguments),
        Verb::Run(arguments) => run::main(&arguments),
        Verb::Test(arguments) => test::main(&arguments),
        Verb::Tidy => tidy::main(),
        Verb::UnwindCheck(arguments) => unwind_check::main(&arguments),
        Verb::Vm(arguments) => vm::main(&arguments),
        Verb::Bench(arguments) => bench::main(&arguments),
        Verb::Soak(arguments) => soak::main(&arguments),
        Verb::Doctor(arguments) => doctor::main(&arguments),
    };
    exit_code(outcome)
}

/// A verb that ran a program passes its exit status on.
fn exit_code(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
