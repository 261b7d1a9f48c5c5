//! `cargo xtask doctor`: what obs can do on this kernel with these privileges.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{self, Group};
use crate::{build, host};

/// What is passed on to `obs doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for `obs doctor`, such as --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build])? {
        return Ok(ExitCode::FAILURE);
    }
    build::obs()?;
    let status = host::status(host::program(host::obs_binary()?).arg("doctor").args(&arguments.arguments))?;
    Ok(host::exit_code(status))
}
