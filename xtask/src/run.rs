//! `cargo xtask run`: obs on this host, from whatever state this machine is in.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{self, Group};
use crate::{build, host};

/// What obs is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for obs. Without any, it records the CPU time of the whole host for ten seconds
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build])? {
        return Ok(ExitCode::FAILURE);
    }
    build::obs()?;
    let mut command = host::program(host::obs_binary()?);
    let picture = host::target_dir()?.join("obs-cpu.svg");
    let is_default = arguments.arguments.is_empty();
    if is_default {
        command.args(["record", "cpu", "-a", "-d", "10s", "-o"]).arg(&picture);
        println!("Recording where the CPU time of this host goes, for 10 seconds.");
    } else {
        command.args(&arguments.arguments);
    }
    if !host::is_root() {
        println!("Loading programs into the kernel needs root: sudo may ask for your password.");
    }
    let status = host::status(&mut host::as_root(&command))?;
    if is_default && status.success() {
        println!("The flame graph is in {}: open it in a browser.", picture.display());
    }
    Ok(host::exit_code(status))
}
