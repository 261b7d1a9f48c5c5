//! containerd with its own client, ctr: by its socket and by its files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use obs_userspace::{enrich::identity::RuntimePaths, model::container::Runtime};

use super::{Case, Daemon, Finally, ask, expect, output, root_file_system, unique, wait_for};

pub(crate) const CASE: Case = Case { name: "containers::containerd", tools: &["containerd", "ctr", "runc"], run };

/// A containerd of the test's own.
pub(super) struct Containerd {
    pub(super) socket: PathBuf,
    pub(super) runtimes: RuntimePaths,
    _daemon: Daemon,
}

impl Containerd {
    /// Starts it in a folder, with further lines of configuration.
    pub(super) fn start(folder: &Path, configuration: &str) -> Result<Self> {
        let socket = folder.join("containerd.sock");
        let (root, state) = (folder.join("root"), folder.join("state"));
        let config = folder.join("config.toml");
        let text =
            format!("version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n{configuration}\n");
        fs::write(&config, text)?;
        let log = folder.join("containerd.log");
        let daemon = Daemon::start(Command::new("containerd").arg("--config").arg(&config), &log)?;
        let runtimes = RuntimePaths {
            containerd_sockets: vec![socket.clone()],
            cri_sockets: vec![socket.clone()],
            docker_sockets: Vec::new(),
            podman_sockets: Vec::new(),
            containerd_tasks: state.join("io.containerd.runtime.v2.task"),
            ..RuntimePaths::default()
        };
        let containerd = Self { socket, runtimes, _daemon: daemon };
        let ready = wait_for("containerd answers", || Ok(output(containerd.ctr().arg("version")).ok()));
        ready.with_context(|| format!("its log: {}", fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(containerd)
    }

    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = root_file_system(folder.path())?;
    let containerd = Containerd::start(folder.path(), "")?;
    let name = unique("ctr");
    let _remove = Finally(|| {
        let _ = output(containerd.ctr().args(["tasks", "kill", "--signal", "KILL", &name]));
        let _ =
            wait_for("the container is gone", || Ok(output(containerd.ctr().args(["tasks", "delete", &name])).ok()));
        let _ = output(containerd.ctr().args(["containers", "delete", &name]));
    });
    let mut run = containerd.ctr();
    run.args(["run", "--rootfs", "--detach", "--label", "team=web"]).arg(&root).args([&name, "/bin/sleep", "100000"]);
    super::run_detached(&mut run, folder.path())?;
    let tasks = output(containerd.ctr().args(["tasks", "list"]))?;
    let line = tasks.lines().find(|line| line.starts_with(&name)).context("ctr does not list it")?;
    let pid: u32 = line.split_whitespace().nth(1).context("ctr tells no pid")?.parse()?;

    let (identity, container) = ask(&containerd.runtimes, pid)?;
    expect("command line", identity.command_line.as_deref(), Some("/bin/sleep 100000"))?;
    expect("id", &*container.id, &name)?;
    expect("runtime", container.runtime, Some(Runtime::Containerd))?;
    expect("name", container.details.name.as_deref(), Some(&*name))?;
    expect("label", container.details.labels.get("team").map(|label| &**label), Some("web"))?;

    // Without its socket, its files say the rest.
    let without =
        RuntimePaths { containerd_sockets: Vec::new(), cri_sockets: Vec::new(), ..containerd.runtimes.clone() };
    let (_, container) = ask(&without, pid)?;
    expect("name from files", container.details.name.as_deref(), Some(&*name))?;
    expect("labels from files", container.details.labels.len(), 0)
}
