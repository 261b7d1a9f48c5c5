//! An agent that runs, as a scenario sees it: its folder, its log, its answers.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::client;
use crate::harness::{Background, Context, Finished, wait_until};

/// Windows of a second, so that a scenario need not wait long.
pub(crate) const WINDOW: &str = "1s";

/// The same, for calculations.
pub(crate) const WINDOW_SECONDS: f64 = 1.0;

/// The agent with these settings (YAML), which keeps its history in this folder and writes its log to this file.
pub(crate) fn command(context: &Context, state: &Path, config: &Path, log: &Path) -> Command {
    let mut command = context.obs(&["agent", "--config"]);
    command.arg(config).env("OBS_STATE_DIR", state).env("OBS_WINDOW", WINDOW);
    command.env("OBS_HTTP_LISTEN", "127.0.0.1:0").env("OBS_LOG_FILE", log);
    command
}

/// A running agent. Dropping it kills it.
pub(crate) struct Running {
    process: Background,
    folder: TempDir,
    state: PathBuf,
    address: SocketAddr,
}

impl Running {
    /// Starts an agent with a state folder of its own, and waits until it serves.
    pub(crate) fn start(context: &Context, config: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let state = folder.path().join("state");
        Self::start_in(context, config, folder, state)
    }

    /// The same, with a given state folder. The other folder is for its log and configuration.
    pub(crate) fn start_in(context: &Context, config: &str, folder: TempDir, state: PathBuf) -> Result<Self> {
        let (config_path, log) = (folder.path().join("obs.yaml"), folder.path().join("obs.log"));
        fs::write(&config_path, config).context("writing a configuration")?;
        let process = Background::start(&mut command(context, &state, &config_path, &log))?;
        let mut address = None;
        wait_until("the agent serves", context.limit(), || {
            address = fs::read_to_string(&log).ok().and_then(|text| address_in(&text));
            if address.is_none() && !Path::new(&format!("/proc/{}/exe", process.pid())).exists() {
                bail!("the agent has ended; its log: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            Ok(address.is_some())
        })?;
        let address = address.context("it serves nowhere")?;
        Ok(Self { process, folder, state, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        // Of a process that nobody has waited for yet, the link leads nowhere.
        fs::read_link(format!("/proc/{}/exe", self.pid())).is_ok()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("obs.log")).unwrap_or_default()
    }

    /// Waits until its log says something.
    pub(crate) fn wait_for_log(&self, context: &Context, what: &str) -> Result<()> {
        wait_until(&format!("the log says {what:?}"), context.limit(), || Ok(self.log().contains(what)))
            .with_context(|| format!("the log: {}", self.log()))
    }

    /// Has it read another configuration.
    pub(crate) fn reload(&self, config: &str) -> Result<()> {
        fs::write(self.folder.path().join("obs.yaml"), config).context("writing a configuration")?;
        self.signal(Signal::HUP)
    }

    /// JSON that it answers with.
    pub(crate) fn json(&self, target: &str) -> Result<Value> {
        client::json(self.address, target)
    }

    /// The sum of a metric's series whose line contains all these texts; 0 if there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let reply = client::get(self.address, "/metrics")?;
        ensure!(reply.status == 200, "/metrics was answered with {}: {}", reply.status, reply.text());
        let text = reply.text();
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
        values.sum::<Result<f64, _>>().with_context(|| format!("reading {name} of {text}"))
    }

    /// Its resident memory as the kernel says, in bytes: now, and the most there ever was.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).context("reading the agent's status")?;
        let kilobytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number =
                line.and_then(|rest| rest.trim_start_matches(':').trim().split(' ').next()?.parse::<u64>().ok());
            number.map(|number| number * 1024).with_context(|| format!("no {field} in {status}"))
        };
        Ok((kilobytes("VmRSS")?, kilobytes("VmHWM")?))
    }

    /// How many windows it has kept, by `obs store check`, which must find nothing wrong.
    pub(crate) fn windows(&self, context: &Context) -> Result<u64> {
        windows(context, &self.state)
    }

    /// Waits until so many windows are kept.
    pub(crate) fn wait_for_windows(&self, context: &Context, count: u64) -> Result<()> {
        wait_for_windows(context, &self.state, count).with_context(|| format!("the log: {}", self.log()))
    }

    /// Ends it as an operator would. It must end well, and without having panicked.
    pub(crate) fn stop(self, context: &Context) -> Result<Finished> {
        self.signal(Signal::TERM)?;
        let Self { process, folder, .. } = self;
        let finished = process.finish(context.limit())?;
        let log = fs::read_to_string(folder.path().join("obs.log")).unwrap_or_default();
        ensure!(finished.status.success(), "the agent ended with {}: {}{log}", finished.status, finished.stderr);
        ensure!(!finished.stderr.contains("panicked"), "the agent panicked: {}", finished.stderr);
        Ok(finished)
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(self, context: &Context) -> Result<(TempDir, Finished)> {
        self.signal(Signal::KILL)?;
        let Self { process, folder, .. } = self;
        Ok((folder, process.finish(context.limit())?))
    }
}

/// Where the log says that the agent serves.
fn address_in(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("\"url\""))?;
    let value: Value = serde_json::from_str(line).ok()?;
    let url = value.pointer("/fields/url")?.as_str()?;
    url.trim_start_matches("http://").trim_end_matches('/').parse().ok()
}

/// How many windows a folder has, by `obs store check`, which must find nothing wrong.
pub(crate) fn windows(context: &Context, state: &Path) -> Result<u64> {
    let finished = context.run(context.obs(&["store", "check", "--json", "--state-dir"]).arg(state))?;
    let text = finished.stdout_text();
    ensure!(finished.status.success(), "the store is not clean: {text}{}", finished.stderr);
    let report: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    let files = report["files"].as_array().context("the report has no files")?;
    Ok(files.iter().filter_map(|file| file["windows"].as_u64()).sum())
}

/// Waits until a folder has so many windows.
pub(crate) fn wait_for_windows(context: &Context, state: &Path, count: u64) -> Result<()> {
    wait_until(&format!("{count} windows are kept"), context.limit(), || {
        // Each look reads every byte.
        std::thread::sleep(Duration::from_millis(50));
        Ok(state.join("lock").exists() && windows(context, state).is_ok_and(|kept| kept >= count))
    })
}

/// A number from the environment: how often something is repeated.
pub(crate) fn repetitions(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text:?} is no number")),
        Err(_) => Ok(default),
    }
}

/// Numbers that look random, and are the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a bound, which must not be zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize) % bound
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}
