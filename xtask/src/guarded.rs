//! Programs that end with whoever started them, however that ends.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

use crate::host;

/// How long a program may take to end after SIGTERM, before SIGKILL.
const END_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A program that runs, in a process group of its own. The group is ended when this is dropped, and the program by the kernel
/// when the thread that started it ends.
pub(crate) struct Guarded {
    /// What runs.
    pub(crate) child: Child,
    line: String,
}

impl Guarded {
    /// Starts it. What the command says of its process (folder, variables, where its output goes) holds.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: Command) -> Result<Self> {
        let line = host::line(&command);
        let mut command = command;
        // So that its children end with it, and so that Ctrl-C is left to whoever has to clean up.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { child, line })
    }

    /// A command for [`start`](Self::start): the program, through setpriv, which asks the kernel to end it with its starter.
    pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, setpriv: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).args(setpriv).arg("--").arg(program);
        command
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot look after `{}`", self.line))
    }

    /// Sends SIGTERM, waits, sends SIGKILL if that takes too long. How it ended, and how long that took.
    ///
    /// # Errors
    /// When the system does not let it be ended.
    pub(crate) fn end(&mut self) -> Result<(ExitStatus, Duration)> {
        if let Some(status) = self.ended()? {
            return Ok((status, Duration::ZERO));
        }
        let begin = Instant::now();
        let mut is_killed = false;
        self.signal(Signal::TERM);
        loop {
            if let Some(status) = self.ended()? {
                let took = begin.elapsed();
                // Children that it left behind; its number cannot be another's so soon.
                self.signal(Signal::KILL);
                return Ok((status, took));
            }
            if begin.elapsed() >= END_MAX && !is_killed {
                is_killed = true;
                self.signal(Signal::KILL);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        // A group keeps its number while anyone is in it. If nobody is, there is nothing to do.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Ok(None) = self.ended() {
            // Nobody is left to be told.
            let _ = self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_when_it_is_told_to_and_when_it_is_dropped() {
        let mut command = Guarded::command("sleep", &[]);
        command.arg("600");
        let mut guarded = Guarded::start(command).unwrap();
        assert!(guarded.ended().unwrap().is_none());
        let (status, _) = guarded.end().unwrap();
        assert!(!status.success());
        assert_eq!(guarded.ended().unwrap(), Some(status));

        let mut command = Guarded::command("sleep", &[]);
        command.arg("600");
        let guarded = Guarded::start(command).unwrap();
        let folder = format!("/proc/{}", guarded.child.id());
        assert!(std::path::Path::new(&folder).exists());
        drop(guarded);
        assert!(!std::path::Path::new(&folder).exists());
    }
}
