//! Many processes that do next to nothing.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStdin, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::guarded::Guarded;

/// As many processes. They end when this is dropped, or when this process ends, however that happens.
pub(super) struct Crowd {
    /// Ended by being closed, before the process is: so that its own end is orderly.
    stdin: Option<ChildStdin>,
    guarded: Guarded,
}

impl Crowd {
    /// Starts them and waits until all are there. They sleep; with `wake_ms` above 0 each wakes so often, for 50 µs.
    ///
    /// # Errors
    /// When not all can be started: the limit of processes may be too small.
    pub(super) fn start(program: &Path, count: u32, wake_ms: u32) -> Result<Self> {
        let mut command = Guarded::command(program, &[]);
        command.args([count.to_string(), wake_ms.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guarded = Guarded::start(command)?;
        let stdout = guarded.child.stdout.take().context("the crowd has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read what the crowd says")?;
        if line.trim() != "ready" {
            bail!("{count} processes cannot be started: see above, and `ulimit -u` and /proc/sys/kernel/pid_max");
        }
        Ok(Self { stdin: guarded.child.stdin.take(), guarded })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stdin = None;
        // Dropping would do, but not wait for an orderly end.
        let _ = self.guarded.child.wait();
    }
}
