//! `cargo xtask build`: from whatever state this machine is in to `target/release/obs`.

use std::process::ExitCode;

use anyhow::Result;

use crate::host;
use crate::setup::{self, Group};

/// What to build.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Do not check for missing packages first
    #[arg(long)]
    no_setup: bool,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.no_setup && !setup::provide(&[Group::Build])? {
        return Ok(ExitCode::FAILURE);
    }
    obs()?;
    println!("{}", host::obs_binary()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the binary with the BPF objects in it.
pub(crate) fn obs() -> Result<()> {
    host::run(host::cargo()?.args(["build", "--release", "--locked", "--package", "obs-userspace"]))
}
