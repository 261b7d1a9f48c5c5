//! A command that runs beside the scenario. It never outlives it.

use std::{
    fmt::Write as _,
    io::Read,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Finished;

/// How often it is looked whether something has happened.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running command. Dropping it kills it.
pub(crate) struct Background {
    child: Child,
    line: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Background {
    /// Starts the command; what it prints is collected.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut line = command.get_program().to_string_lossy().into_owned();
        for argument in command.get_args() {
            let _ = write!(line, " {}", argument.to_string_lossy());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {line}"))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Ok(Self { child, line, stdout, stderr })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.line))
    }

    /// Waits until it ends, and fails if that takes longer than the limit.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Finished> {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("waiting for {}", self.line))? {
                break status;
            }
            if begin.elapsed() > limit {
                bail!("{} has not ended after {limit:?}", self.line);
            }
            thread::sleep(POLL_INTERVAL);
        };
        let stdout = self.stdout.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Finished { line: self.line.clone(), status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits until something is so, and fails if it is not within the limit.
pub(crate) fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > limit {
            bail!("after {limit:?} still not so: {what}");
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
