//! Podman: by its socket, and by its storage where no service listens.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use obs_userspace::{enrich::identity::RuntimePaths, model::container::Runtime};

use super::{Case, Daemon, Finally, ask, expect, output, root_file_system, unique, wait_for};

pub(crate) const CASE: Case = Case { name: "containers::podman", tools: &["podman", "conmon", "runc", "tar"], run };

const IMAGE: &str = "localhost/obs-test:1";

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = root_file_system(folder.path())?;
    let (storage, run_root) = (folder.path().join("storage"), folder.path().join("run"));
    // crun, its default, refuses hosts with both versions of cgroups; without systemd there is cgroupfs only.
    let podman = || {
        let mut command = Command::new("podman");
        command.arg("--root").arg(&storage).arg("--runroot").arg(&run_root);
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command
    };
    let name = unique("podman");
    let _remove = Finally(|| {
        let _ = output(podman().args(["rm", "--force", "--time", "0", &name]));
    });
    let archive = folder.path().join("rootfs.tar");
    output(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    output(podman().arg("import").arg(&archive).arg(IMAGE))?;
    let mut run = podman();
    run.args(["run", "--detach", "--name", &name, "--label", "team=web", "--network", "host"]);
    // A host's test may not be allowed to raise limits.
    run.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", IMAGE, "/bin/sleep", "100000"]);
    super::run_detached(&mut run, folder.path())?;
    let told = output(podman().args(["inspect", "--format", "{{.State.Pid}} {{.Id}}", &name]))?;
    let (pid, id) = told.split_once(' ').context("podman tells no pid")?;
    let pid: u32 = pid.parse()?;

    let socket = folder.path().join("podman.sock");
    let mut service = podman();
    service.args(["system", "service", "--time", "0"]).arg(format!("unix://{}", socket.display()));
    let daemon = Daemon::start(&mut service, &folder.path().join("service.log"))?;
    wait_for("podman's service listens", || Ok(socket.exists().then_some(())))?;
    let runtimes = RuntimePaths {
        podman_sockets: vec![socket.clone()],
        container_storage: storage.clone(),
        docker_sockets: Vec::new(),
        cri_sockets: Vec::new(),
        containerd_sockets: Vec::new(),
        ..RuntimePaths::default()
    };
    let (identity, container) = ask(&runtimes, pid)?;
    expect("command line", identity.command_line.as_deref(), Some("/bin/sleep 100000"))?;
    expect("id", &*container.id, id)?;
    expect("runtime", container.runtime, Some(Runtime::Podman))?;
    expect("name", container.details.name.as_deref(), Some(&*name))?;
    expect("image", container.details.image.as_deref(), Some(IMAGE))?;
    expect("label", container.details.labels.get("team").map(|label| &**label), Some("web"))?;

    drop(daemon);
    let _ = fs::remove_file(&socket);
    let (_, container) = ask(&runtimes, pid)?;
    expect("name from storage", container.details.name.as_deref(), Some(&*name))?;
    expect("image from storage", container.details.image.as_deref(), Some(IMAGE))
}
