//! What a container's runtime says of it: name, image, pod, labels.
//!
//! The runtime's socket is asked first, its files next. Asking never takes longer than a limit for each source, what is
//! answered is bounded, and who does not answer is asked ever more rarely.

mod cri;
mod docker;
mod grpc;
mod http;
mod socket;
mod state;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub(super) use self::state::{KnownByState, find_by_cgroup};
use crate::model::{
    container::Runtime,
    process::{ContainerDetails, ContainerIdentity},
};

/// Most bytes of a name, an image, a label or its value.
const TEXT_BYTES_MAX: usize = 512;

/// Most labels of a container, and of a pod.
const LABELS_MAX: usize = 64;

/// Most bytes of all of them together.
const LABEL_BYTES_MAX: usize = 8 << 10;

/// Where runtimes listen and keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePaths {
    /// Docker's sockets.
    pub docker_sockets: Vec<PathBuf>,
    /// Podman's sockets. Connecting may start its service, where systemd listens for it.
    pub podman_sockets: Vec<PathBuf>,
    /// Sockets of runtimes for Kubernetes (CRI).
    pub cri_sockets: Vec<PathBuf>,
    /// containerd's sockets.
    pub containerd_sockets: Vec<PathBuf>,
    /// The folder in which each user has one of its own, by id; in it listens the user's own Podman.
    pub users: PathBuf,
    /// The folder in which containerd keeps its tasks, by namespace and id.
    pub containerd_tasks: PathBuf,
    /// The folder in which runc keeps its state for containerd, by namespace and id.
    pub containerd_runc: PathBuf,
    /// The folder in which runc keeps its state, by id.
    pub runc: PathBuf,
    /// The storage that Podman and CRI-O share.
    pub container_storage: PathBuf,
    /// The folder in which Docker keeps its containers, by id.
    pub docker_containers: PathBuf,
}

impl RuntimePaths {
    /// The usual ones, below a root folder: `/`, or where the host's is mounted.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let all = |paths: &[&str]| paths.iter().map(|path| root.join(path)).collect();
        Self {
            docker_sockets: all(&["run/docker.sock"]),
            podman_sockets: all(&["run/podman/podman.sock"]),
            cri_sockets: all(&[
                "run/containerd/containerd.sock",
                "run/crio/crio.sock",
                "run/k3s/containerd/containerd.sock",
                "run/k0s/containerd.sock",
                "var/snap/microk8s/common/run/containerd.sock",
                "run/cri-dockerd.sock",
            ]),
            containerd_sockets: all(&["run/containerd/containerd.sock", "run/docker/containerd/containerd.sock"]),
            users: root.join("run/user"),
            containerd_tasks: root.join("run/containerd/io.containerd.runtime.v2.task"),
            containerd_runc: root.join("run/containerd/runc"),
            runc: root.join("run/runc"),
            container_storage: root.join("var/lib/containers/storage"),
            docker_containers: root.join("var/lib/docker/containers"),
        }
    }
}

impl Default for RuntimePaths {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

/// What a source says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) pod_id: Option<Arc<str>>,
    pub(super) details: ContainerDetails,
}

/// Somebody who may know a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    DockerSocket,
    DockerFiles,
    PodmanSocket,
    Storage,
    CriSocket,
    ContainerdSocket,
    ContainerdFiles,
    RuncFiles,
}

/// Whom to ask, in this order.
fn sources(runtime: Option<Runtime>) -> &'static [Source] {
    use Source::{
        ContainerdFiles, ContainerdSocket, CriSocket, DockerFiles, DockerSocket, PodmanSocket, RuncFiles, Storage,
    };
    match runtime {
        Some(Runtime::Docker) => &[DockerSocket, DockerFiles],
        Some(Runtime::Podman) => &[PodmanSocket, Storage],
        Some(Runtime::CriO) => &[CriSocket, Storage],
        Some(Runtime::Containerd) => &[CriSocket, ContainerdSocket, ContainerdFiles],
        Some(Runtime::Runc) => &[RuncFiles],
        // They have no more to say than the name, which is the id.
        Some(Runtime::Nspawn | Runtime::Lxc) => &[],
        None => {
            &[CriSocket, DockerSocket, ContainerdSocket, PodmanSocket, ContainerdFiles, Storage, DockerFiles, RuncFiles]
        }
    }
}

/// Asks for a container those that its runtime makes likely. `cgroup` tells whether it is a user's own. The error names
/// each that could not answer, and why.
pub(super) fn ask(
    paths: &RuntimePaths,
    container: &ContainerIdentity,
    cgroup: &str,
    limit: Duration,
) -> Result<(Answer, Option<Runtime>), String> {
    if let Some(Runtime::Nspawn | Runtime::Lxc) = container.runtime {
        let details = ContainerDetails { name: Some(Arc::clone(&container.id)), ..ContainerDetails::default() };
        return Ok((Answer { details, ..Answer::default() }, container.runtime));
    }
    // What stands in a path and in a file's name must be no more than an id.
    if !container.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        || container.id.starts_with('.')
    {
        return Err("its id is not one that a runtime gives".to_owned());
    }
    let mut problems = Vec::new();
    if let Some(user_id) = user_of_path(cgroup).filter(|user_id| *user_id != 0) {
        // A user's socket may answer what the user likes: it is asked for that user's containers only, and the host's
        // runtimes do not know those.
        let socket = paths.users.join(user_id.to_string()).join("podman/podman.sock");
        return match docker::ask(&socket, &container.id, limit) {
            Ok(Some(answer)) => Ok((answer, Some(Runtime::Podman))),
            Ok(None) => Err(format!("{} does not have it", socket.display())),
            Err(error) => Err(format!("{}: {error}", socket.display())),
        };
    }
    for source in sources(container.runtime) {
        if let Some(found) = ask_source(*source, paths, &container.id, limit, &mut problems) {
            return Ok(found);
        }
    }
    if problems.is_empty() {
        problems.push("no runtime that obs knows has it".to_owned());
    }
    Err(problems.join("; "))
}

fn ask_source(
    source: Source,
    paths: &RuntimePaths,
    id: &str,
    limit: Duration,
    problems: &mut Vec<String>,
) -> Option<(Answer, Option<Runtime>)> {
    let mut note = |path: &Path, error: &io::Error| {
        // That there is no such runtime on this host is no problem.
        if error.kind() != io::ErrorKind::NotFound {
            problems.push(format!("{}: {error}", path.display()));
        }
    };
    match source {
        Source::DockerSocket | Source::PodmanSocket => {
            let (sockets, runtime) = if source == Source::DockerSocket {
                (&paths.docker_sockets, Runtime::Docker)
            } else {
                (&paths.podman_sockets, Runtime::Podman)
            };
            sockets.iter().find_map(|socket| match docker::ask(socket, id, limit) {
                Ok(answer) => Some((answer?, Some(runtime))),
                Err(error) => {
                    note(socket, &error);
                    None
                }
            })
        }
        Source::CriSocket => paths.cri_sockets.iter().find_map(|socket| match cri::ask(socket, id, limit) {
            Ok(answer) => Some((answer?, None)),
            Err(error) => {
                note(socket, &error);
                None
            }
        }),
        Source::ContainerdSocket => {
            let namespace = state::containerd_namespace(paths, id)?;
            paths.containerd_sockets.iter().find_map(|socket| {
                match cri::ask_containerd(socket, &namespace, id, limit) {
                    Ok(answer) => Some((answer, Some(Runtime::Containerd))),
                    Err(error) => {
                        note(socket, &error);
                        None
                    }
                }
            })
        }
        Source::ContainerdFiles => {
            let namespace = state::containerd_namespace(paths, id)?;
            let found = state::containerd_task(paths, &namespace, id);
            found.map_err(|error| note(&paths.containerd_tasks, &error)).ok().map(|a| (a, Some(Runtime::Containerd)))
        }
        Source::Storage => {
            let found = state::stored(paths, id).map_err(|error| note(&paths.container_storage, &error)).ok()?;
            found.map(|answer| (answer, None))
        }
        Source::DockerFiles => {
            let found = state::docker(paths, id).map_err(|error| note(&paths.docker_containers, &error));
            found.ok().map(|answer| (answer, Some(Runtime::Docker)))
        }
        Source::RuncFiles => {
            let found = state::runc(paths, id).map_err(|error| note(&paths.runc, &error));
            found.ok().map(|answer| (answer, Some(Runtime::Runc)))
        }
    }
}

/// Whose cgroup it is: `/user.slice/user-UID.slice/…`.
fn user_of_path(cgroup: &str) -> Option<u32> {
    let rest = cgroup.strip_prefix("/user.slice/user-")?;
    rest.split_once(".slice")?.0.parse().ok()
}

/// A text of somebody else's, if there is any: at most so long, and printable.
fn bounded(text: &str) -> Option<Arc<str>> {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end))?;
    let text = text.get(..end)?;
    (!text.is_empty()).then(|| text.replace(char::is_control, "\u{fffd}").into())
}

/// The first labels by name, if there are more than are kept.
fn bounded_map(labels: &HashMap<String, String>) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut names: Vec<&String> = labels.keys().collect();
    names.sort_unstable();
    let mut left = LABEL_BYTES_MAX;
    let mut kept = BTreeMap::new();
    for name in names.into_iter().take(LABELS_MAX) {
        let value = labels.get(name).and_then(|value| bounded(value)).unwrap_or_default();
        let Some(name) = bounded(name) else { continue };
        let Some(less) = left.checked_sub(name.len() + value.len()) else { break };
        left = less;
        kept.insert(name, value);
    }
    kept
}

#[cfg(test)]
mod tests;
