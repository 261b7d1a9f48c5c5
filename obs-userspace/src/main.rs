//! The command `obs`: parses the command line, hands over to a verb, turns its outcome into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use obs_userspace::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
