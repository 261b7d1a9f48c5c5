//! `cargo xtask run`: obs on this host, from whatever state this machine is in.

use std::{env, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::setup::{self, Group};
use crate::{build, host};

/// The variable that names the agent's state folder.
const STATE_DIR: &str = "OBS_STATE_DIR";

/// What obs is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for obs. Without any, the agent runs until Ctrl-C and serves its page
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build])? {
        return Ok(ExitCode::FAILURE);
    }
    build::obs()?;
    let mut command = host::program(host::obs_binary()?);
    // Those that obs understands; sudo would not hand them on.
    command.envs(env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OBS_")));
    if arguments.arguments.is_empty() {
        command.arg("agent");
        if env::var_os(STATE_DIR).is_none() {
            let state = host::target_dir()?.join("obs-state");
            println!("History goes to {}; {STATE_DIR} can name another folder.", state.display());
            command.env(STATE_DIR, state);
        }
        println!("Starting the agent. Open the address that it prints in a browser; Ctrl-C ends it.");
    } else {
        command.args(&arguments.arguments);
    }
    if !host::is_root() {
        println!("Loading programs into the kernel needs root: sudo may ask for your password.");
    }
    // In our place, so that signals go to it alone.
    let mut command = host::as_root(command);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", host::line(&command)))
}
