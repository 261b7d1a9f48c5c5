//! What the tests share: commands, a root file system, and the question to obs.

pub(crate) mod containerd;
pub(crate) mod kubernetes;
pub(crate) mod podman;
pub(crate) mod resources;
pub(crate) mod runc;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use obs_userspace::{
    enrich::identity::{Identities, IdentityOptions, Lookup, RuntimePaths},
    model::process::{ContainerIdentity, Identity},
};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Programs that it needs, besides busybox.
    pub(crate) tools: &'static [&'static str],
    pub(crate) run: fn() -> Result<()>,
}

impl Case {
    /// Why it cannot run here, if it cannot.
    pub(crate) fn missing(&self) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        let tools = self.tools.iter().find(|name| tool(name).is_none());
        if let Some(name) = tools {
            return Some(format!("no {name} on this machine (cargo xtask setup test)"));
        }
        busybox().is_none().then(|| "no static busybox on this machine (cargo xtask setup test)".to_owned())
    }
}

fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

fn busybox() -> Option<PathBuf> {
    let loader = b"/lib64/ld-linux-x86-64.so.2";
    let is_static = |path: &PathBuf| {
        fs::read(path).is_ok_and(|bytes| !bytes.windows(loader.len()).take(8192).any(|window| window == loader))
    };
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(is_static)
}

/// Runs a command to its end; what it prints.
fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {line}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(output.status.success(), "{line} failed: {} {}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Runs a command whose child keeps its output open, as `runc run -d` does.
fn run_detached(command: &mut Command, folder: &Path) -> Result<()> {
    let line = format!("{command:?}");
    let log = folder.join("detached.log");
    let file = fs::File::create(&log)?;
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
    let status = status.with_context(|| format!("starting {line}"))?;
    ensure!(status.success(), "{line} failed: {}", fs::read_to_string(&log)?);
    Ok(())
}

fn wait_for<T>(what: &str, mut is_so: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = is_so()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < LIMIT, "after {LIMIT:?} still not so: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A daemon that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Self(child.with_context(|| format!("starting {command:?}"))?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begin = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begin.elapsed() < LIMIT {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is to be done at the end, whatever happens before.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A root file system with a shell and what it needs.
fn root_file_system(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(busybox().context("no busybox")?, root.join("bin/busybox"))?;
    for name in ["sh", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(root)
}

/// A name that no other run has.
fn unique(name: &str) -> String {
    format!("obs-test-{name}-{}", std::process::id())
}

fn started_ns(pid: u32) -> Result<u64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("reading the state of {pid}"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().nth(19).context("a short line")?.parse()?;
    Ok(ticks * 10_000_000)
}

/// Asks obs who a process is, until its container's runtime has answered.
fn ask(runtimes: &RuntimePaths, pid: u32) -> Result<(Arc<Identity>, Arc<ContainerIdentity>)> {
    let identities = Identities::start(IdentityOptions { runtimes: runtimes.clone(), ..IdentityOptions::default() })?;
    let started_ns = started_ns(pid)?;
    let mut last = None;
    let found = wait_for("obs knows the container", || {
        let identity = match identities.lookup(pid, started_ns) {
            Lookup::Known(identity) => identity,
            Lookup::Pending => return Ok(None),
            Lookup::Unknown(reason) => bail!("obs cannot know {pid}: {reason}"),
        };
        let Some(container) = identity.container.clone() else {
            bail!("obs sees no container: {identity:?}");
        };
        last.clone_from(&container.unknown);
        Ok(container.unknown.is_none().then_some((identity, container)))
    });
    found.with_context(|| format!("the last reason was: {last:?}"))
}

/// Fails if what was found is not what was expected.
#[allow(clippy::needless_pass_by_value, reason = "every call would need to borrow what it makes for this")]
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{what}: obs says {found:?}, it is {expected:?}");
    Ok(())
}
