//! `cargo xtask setup`: makes this machine able to build, test and boot what the project has.
//!
//! It looks for things, not for a record of having installed them, says what it will do, and does only that.

mod debian;
mod linker;
mod needs;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::host;
use needs::Need;

/// What a machine may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Group {
    /// Building obs
    Build,
    /// Its tests: compilers for the known-answer programs, and the tools that obs is compared with
    Test,
    /// Booting other kernels
    Vm,
    /// What keeps a host busy while the agent is soaked
    Soak,
    /// Other tools that benchmarks put beside obs
    Bench,
    /// The checks of continuous integration
    Ci,
}

/// What to install.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the machine is for; several may be given
    #[arg(value_enum, default_values_t = [Group::Build])]
    groups: Vec<Group>,
    /// Say what is missing, install nothing; exits with 1 if something is missing
    #[arg(long)]
    check: bool,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let missing = missing(&arguments.groups);
    if missing.is_empty() {
        println!("Nothing is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check {
        for need in &missing {
            println!("missing: {}", need.what());
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(if provide(&arguments.groups)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs what is missing for these uses. `false` when someone has to do it by hand, who has then been told how.
pub(crate) fn provide(groups: &[Group]) -> Result<bool> {
    let missing = missing(groups);
    if missing.is_empty() {
        return Ok(true);
    }
    if !debian::is_debian() {
        explain(&missing);
        return Ok(false);
    }
    announce(&missing);
    debian::install(&missing)?;
    // The rest is built with what was just installed.
    for need in &missing {
        match need {
            Need::BpfLinker => linker::install()?,
            Need::CargoDeny => {
                host::run(host::cargo()?.args(["install", "--locked", "cargo-deny"]))?;
            }
            Need::Packages { .. } | Need::BpfCompiler => {}
        }
    }
    let left: Vec<Need> = self::missing(groups);
    if !left.is_empty() {
        eprintln!("Everything was installed, and yet this is missing:");
        explain(&left);
        return Ok(false);
    }
    Ok(true)
}

fn missing(groups: &[Group]) -> Vec<Need> {
    needs::all()
        .into_iter()
        .filter(|(group, _)| groups.contains(group))
        .map(|(_, need)| need)
        .filter(Need::is_missing)
        .collect()
}

/// Says what will be done, before it is done.
fn announce(missing: &[Need]) {
    let packages = debian::packages(missing);
    println!("This machine lacks something. I will now:");
    if !packages.is_empty() {
        let how = if host::is_root() { "apt-get" } else { "sudo apt-get" };
        println!("  - install with {how}: {}", packages.join(" "));
    }
    for need in missing {
        match need {
            Need::BpfLinker => println!("  - build bpf-linker with `cargo install` (about a minute)"),
            Need::CargoDeny => println!("  - build cargo-deny with `cargo install` (some minutes)"),
            Need::Packages { .. } | Need::BpfCompiler => {}
        }
    }
}

/// Says what a person has to do where this cannot.
fn explain(missing: &[Need]) {
    eprintln!("`cargo xtask setup` can install things on Debian only. This machine needs:");
    for need in missing {
        eprintln!("  - {}: {}", need.what(), need.by_hand());
    }
}
