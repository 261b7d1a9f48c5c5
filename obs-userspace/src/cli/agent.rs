//! `obs agent`: measures the whole host all the time and keeps a history.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    config::agent::{AgentConfig, default_config_text},
    pipeline::agent::{self, known_collectors},
};

/// Arguments of `obs agent`.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// The configuration file; without it the defaults hold. Variables OBS_… override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the default configuration, with every setting explained, and end
    #[arg(long)]
    print_default_config: bool,
}

/// Runs the verb.
pub(super) fn run(args: &AgentArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let collectors = known_collectors();
    if args.print_default_config {
        write!(out, "{}", default_config_text(&collectors))?;
        return Ok(0);
    }
    let mut load = || AgentConfig::load(args.config.as_deref(), std::env::vars_os(), &collectors);
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("obs: the configuration is refused:\n{errors}");
            return Ok(2);
        }
    };
    agent::run(loaded, &mut load)?;
    Ok(0)
}
