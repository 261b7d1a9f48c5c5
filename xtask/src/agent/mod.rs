//! An agent of its own: started with a private state folder, looked at from outside, and ended.

mod kernel;
pub(crate) mod log;
pub(crate) mod metrics;
mod process;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::kernel::Programs;
pub(crate) use self::kernel::RunTimes;
use self::metrics::Metrics;
use self::process::ProcessCost;
use crate::guarded::Guarded;
use crate::{host, interrupt};

/// How long an agent may take until it serves.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The most that is read of an answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What the agent promises to stay below, as `obs agent --print-default-config` says: a share of the host's CPU time ...
pub(crate) const CPU_SHARE_MAX: f64 = 0.01;
/// ... and bytes of resident memory and kernel maps together.
pub(crate) const MEMORY_BYTES_MAX: f64 = 100e6;

/// A running agent. Ends when it is dropped.
pub(crate) struct Agent {
    guarded: Guarded,
    address: SocketAddr,
    state: PathBuf,
    log: PathBuf,
    began: Instant,
}

/// What an agent has cost since its start, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    /// When this was.
    pub(crate) at: Instant,
    /// What the system says of the process.
    pub(crate) process: ProcessCost,
    /// What the kernel says of its BPF programs.
    pub(crate) programs: Programs,
}

/// What an agent cost between two moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Spent {
    /// How long that was.
    pub(crate) seconds: f64,
    /// CPU time of the process, in user mode and in the kernel.
    pub(crate) cpu_seconds: f64,
    /// CPU time of its BPF programs, in other processes' time, as the kernel counts it.
    pub(crate) bpf_seconds: f64,
    /// How often they ran.
    pub(crate) bpf_runs: u64,
    /// CPU time by the name of the thread; of threads that live.
    pub(crate) threads: BTreeMap<String, f64>,
}

impl Cost {
    /// What was spent since the agent's start.
    pub(crate) fn since_start(&self, began: Instant) -> Spent {
        let threads = BTreeMap::new();
        let nothing = ProcessCost { cpu_seconds: 0.0, rss_bytes: 0, anonymous_bytes: 0, threads };
        self.since(&Self { at: began, process: nothing, programs: Programs::new() })
    }

    /// What was spent since an earlier moment.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        let threads = self.process.threads.iter().map(|(name, seconds)| {
            let before = before.process.threads.get(name).copied().unwrap_or(0.0);
            (name.clone(), (seconds - before).max(0.0))
        });
        let programs = kernel::since(&self.programs, &before.programs);
        Spent {
            seconds: self.at.saturating_duration_since(before.at).as_secs_f64(),
            cpu_seconds: self.process.cpu_seconds - before.process.cpu_seconds,
            bpf_seconds: programs.seconds,
            bpf_runs: programs.runs,
            threads: threads.collect(),
        }
    }
}

impl Agent {
    /// Starts the binary on a folder, which is made if need be and in which its state and its log will be. The log of an earlier
    /// agent there is replaced. Settings are variables `OBS_…`; those of this process do not count.
    ///
    /// # Errors
    /// When it does not serve soon, with what its log says.
    pub(crate) fn start(binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let (state, log) = (folder.join("state"), folder.join("agent.log"));
        host::make_dir(&state)?;
        let errors = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Guarded::command(binary, &[]);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OBS_")) {
            command.env_remove(name);
        }
        command.arg("agent").env("OBS_STATE_DIR", &state).env("OBS_HTTP_LISTEN", "127.0.0.1:0");
        command.env("OBS_LOG_FORMAT", "json").envs(settings.iter().copied()).stderr(errors);
        let began = Instant::now();
        let mut guarded = Guarded::start(command)?;
        loop {
            let written = log::lines(&String::from_utf8_lossy(&host::read(&log)?));
            if let Some(address) = written.iter().find_map(log::Line::address) {
                return Ok(Self { guarded, address, state, log, began });
            }
            let ended = guarded.ended()?;
            if ended.is_some() || began.elapsed() >= START_MAX {
                let said = String::from_utf8_lossy(&host::read(&log)?).into_owned();
                let how = ended.map_or_else(|| "serves nothing yet".to_owned(), |status| format!("ended: {status}"));
                bail!("the agent {how}; its log:\n{said}");
            }
            interrupt::sleep(LOOK_EVERY)?;
        }
    }

    /// When it was started.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.guarded.ended()
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let folder = PathBuf::from(format!("/proc/{}", self.guarded.child.id()));
        Ok(Cost { at: Instant::now(), process: process::read(&folder)?, programs: kernel::read(&folder)? })
    }

    /// What it says of itself. Costs it a little: first the costs, then the metrics.
    ///
    /// # Errors
    /// When it does not answer, or with something else than metrics.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        let attempt = || format!("cannot get http://{}/metrics", self.address);
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_MAX).with_context(attempt)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).with_context(attempt)?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {}\r\nAccept: text/plain\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).with_context(attempt)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).with_context(attempt)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            bail!("{}: it answers `{status}`", attempt());
        }
        Metrics::parse(body, "obs_agent_").with_context(attempt)
    }

    /// Bytes in its state folder, by the name of what is in it: files, and folders with all that is in them.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(crate) fn state_bytes(&self) -> Result<BTreeMap<String, u64>> {
        let entries = fs::read_dir(&self.state).with_context(|| format!("cannot list {}", self.state.display()))?;
        // What goes away meanwhile has no size.
        Ok(entries
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), bytes_in(&entry.path())))
            .collect())
    }

    /// Where its state is.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// What it has logged so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&host::read(&self.log)?).into_owned())
    }

    /// Ends it with SIGTERM. How it ended, and how long that took.
    ///
    /// # Errors
    /// When the system does not let it be ended.
    pub(crate) fn end(&mut self) -> Result<(ExitStatus, Duration)> {
        self.guarded.end()
    }
}

/// Most folders that are looked into.
const FOLDERS_MAX: usize = 10_000;

/// Bytes of a file, or of all files in a folder.
fn bytes_in(path: &Path) -> u64 {
    let (mut bytes, mut waiting) = (0, vec![path.to_owned()]);
    for _ in 0..FOLDERS_MAX {
        let Some(path) = waiting.pop() else { break };
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            for entry in entries {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                    Ok(metadata) => bytes += metadata.len(),
                    Err(_) => {}
                }
            }
        } else {
            bytes += metadata.len();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_the_difference() {
        let at = Instant::now();
        let cost = |seconds: u64, cpu_seconds: f64, runs: u64, threads: &[(&str, f64)]| Cost {
            at: at + Duration::from_secs(seconds),
            process: ProcessCost {
                cpu_seconds,
                rss_bytes: 0,
                anonymous_bytes: 0,
                threads: threads.iter().map(|(name, seconds)| ((*name).to_owned(), *seconds)).collect(),
            },
            programs: [(1, kernel::ProgramTime { runs, seconds: cpu_seconds / 2.0 })].into(),
        };
        let spent = cost(30, 5.0, 90, &[("a", 3.0), ("b", 0.5)]).since(&cost(10, 3.0, 40, &[("a", 2.5)]));
        let threads = [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into();
        assert_eq!(spent, Spent { seconds: 20.0, cpu_seconds: 2.0, bpf_seconds: 1.0, bpf_runs: 50, threads });
    }

    #[test]
    fn folders_count_with_all_that_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        host::make_dir(&folder.path().join("a/b")).unwrap();
        host::write(&folder.path().join("a/b/c"), [0; 10]).unwrap();
        host::write(&folder.path().join("a/d"), [0; 5]).unwrap();
        assert_eq!(bytes_in(&folder.path().join("a")), 15);
        assert_eq!(bytes_in(&folder.path().join("a/d")), 5);
        assert_eq!(bytes_in(&folder.path().join("none")), 0);
    }
}
