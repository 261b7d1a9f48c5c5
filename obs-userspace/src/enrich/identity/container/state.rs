//! What runtimes keep in files: where there is no socket, and for containers that one only knows by their cgroup.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{Answer, RuntimePaths, bounded, bounded_map, docker::Inspected};
use crate::model::{container::Runtime, process::ContainerDetails};

/// Most bytes of a runtime's file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Most namespaces of containerd, and storage drivers, that are looked into.
const FOLDERS_MAX: usize = 32;

/// Folders of a cgroup's path that may be a container: one at its end, or somewhat above.
const DEPTH_MAX: usize = 4;

/// A container that its cgroup's path alone does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct KnownByState {
    pub(in super::super) id: Arc<str>,
    pub(in super::super) runtime: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncState {
    cgroup_paths: HashMap<String, String>,
    config: RuncConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuncConfig {
    labels: Option<Vec<String>>,
}

/// The annotations of an OCI bundle's `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bundle {
    annotations: HashMap<String, String>,
}

/// An entry of `containers.json`, which Podman and CRI-O share.
#[derive(Debug, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON within JSON.
    #[serde(default)]
    metadata: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct StoredMetadata {
    image_name: String,
    name: String,
    pod_name: String,
    metadata_name: String,
    namespace: String,
}

/// Containers that were given names of their own: `/NAMESPACE/NAME` of containerd (ctr), `/NAME` of runc, and with systemd
/// `PREFIX-NAME.scope`. Runc keeps a file for each, which says what its cgroups are.
pub(in super::super) fn find_by_cgroup(paths: &RuntimePaths, cgroup: &str) -> Option<KnownByState> {
    let mut path = cgroup.trim_end_matches('/');
    for _ in 0..DEPTH_MAX {
        let (parent, part) = path.rsplit_once('/')?;
        let of_scope = part.strip_suffix(".scope").and_then(|scope| scope.split_once('-')).map(|(_, name)| name);
        let name = of_scope.unwrap_or(part);
        if is_file_name(name) && !name.ends_with(".slice") {
            let mut folders = vec![(paths.runc.clone(), Runtime::Runc)];
            match parent.rsplit('/').next() {
                Some(namespace) if of_scope.is_none() && is_file_name(namespace) => {
                    folders.push((paths.containerd_runc.join(namespace), Runtime::Containerd));
                }
                // The scope's name tells everything but the namespace.
                _ => folders.extend(subfolders(&paths.containerd_runc).map(|folder| (folder, Runtime::Containerd))),
            }
            for (folder, runtime) in folders {
                let state: Option<RuncState> = read_json(&folder.join(name).join("state.json")).ok();
                let is_it = |state: RuncState| state.cgroup_paths.values().any(|known| known.ends_with(path));
                if state.is_some_and(is_it) {
                    return Some(KnownByState { id: name.into(), runtime });
                }
            }
        }
        path = parent;
    }
    None
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().take(FOLDERS_MAX).map(|entry| entry.path())
}

/// The namespace of containerd in which a container is.
pub(super) fn containerd_namespace(paths: &RuntimePaths, id: &str) -> Option<String> {
    let namespaces = std::fs::read_dir(&paths.containerd_tasks).ok()?;
    let mut namespaces = namespaces.flatten().take(FOLDERS_MAX).map(|entry| entry.file_name());
    namespaces.find_map(|namespace| {
        let namespace = namespace.to_str()?;
        let is_there = is_file_name(namespace) && paths.containerd_tasks.join(namespace).join(id).is_dir();
        is_there.then(|| namespace.to_owned())
    })
}

/// What containerd wrote for the runtime about a container; of those of Kubernetes, everything but labels.
pub(super) fn containerd_task(paths: &RuntimePaths, namespace: &str, id: &str) -> io::Result<Answer> {
    let bundle: Bundle = read_json(&paths.containerd_tasks.join(namespace).join(id).join("config.json"))?;
    let of = |what: &str| bundle.annotations.get(&format!("io.kubernetes.cri.{what}")).and_then(|value| bounded(value));
    let is_sandbox = bundle.annotations.get("io.kubernetes.cri.container-type").is_some_and(|kind| kind == "sandbox");
    let name = if is_sandbox { bounded("POD") } else { of("container-name") };
    let nerdctl = bundle.annotations.get("nerdctl/name").and_then(|name| bounded(name));
    Ok(Answer {
        pod_id: of("sandbox-uid"),
        details: ContainerDetails {
            name: name.or(nerdctl).or_else(|| bounded(id)),
            image: of("image-name"),
            pod_name: of("sandbox-name"),
            pod_namespace: of("sandbox-namespace"),
            ..ContainerDetails::default()
        },
    })
}

/// What the storage of Podman and CRI-O says of a container. `None` if it has no such container.
pub(super) fn stored(paths: &RuntimePaths, id: &str) -> io::Result<Option<Answer>> {
    let drivers = std::fs::read_dir(&paths.container_storage)?.flatten().take(FOLDERS_MAX).map(|entry| entry.path());
    let is_of_containers = |path: &PathBuf| path.to_string_lossy().ends_with("-containers");
    for driver in drivers.filter(is_of_containers) {
        let Ok(stored) = read_json::<Vec<Stored>>(&driver.join("containers.json")) else { continue };
        let Some(stored) = stored.into_iter().find(|stored| stored.id == id) else { continue };
        let metadata: StoredMetadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
        let name =
            [&metadata.metadata_name, &metadata.name].into_iter().chain(&stored.names).find_map(|name| bounded(name));
        // CRI-O writes Kubernetes's labels beside it, again as JSON within JSON.
        let bundle: Bundle = read_json(&driver.join(id).join("userdata/config.json")).unwrap_or_default();
        let annotation = |what: &str| bundle.annotations.get(&format!("io.kubernetes.cri-o.{what}"));
        let labels: HashMap<String, String> =
            annotation("Labels").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let label = |what: &str| labels.get(&format!("io.kubernetes.{what}")).and_then(|value| bounded(value));
        return Ok(Some(Answer {
            pod_id: label("pod.uid"),
            details: ContainerDetails {
                name: label("container.name").or(name),
                image: bounded(&metadata.image_name),
                pod_name: label("pod.name").or_else(|| bounded(&metadata.pod_name)),
                pod_namespace: label("pod.namespace").or_else(|| bounded(&metadata.namespace)),
                labels: bounded_map(&labels),
                ..ContainerDetails::default()
            },
        }));
    }
    Ok(None)
}

/// What Docker keeps of a container.
pub(super) fn docker(paths: &RuntimePaths, id: &str) -> io::Result<Answer> {
    let inspected: Inspected = read_json(&paths.docker_containers.join(id).join("config.v2.json"))?;
    Ok(inspected.into_answer())
}

/// What runc keeps of a container: the annotations that it was given.
pub(super) fn runc(paths: &RuntimePaths, id: &str) -> io::Result<Answer> {
    let state: RuncState = read_json(&paths.runc.join(id).join("state.json"))?;
    let labels = state.config.labels.unwrap_or_default();
    // `bundle` is runc's own.
    let labels = labels.iter().filter_map(|label| label.split_once('=')).filter(|(name, _)| *name != "bundle");
    let labels: HashMap<String, String> = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Answer {
        details: ContainerDetails { name: bounded(id), labels: bounded_map(&labels), ..ContainerDetails::default() },
        ..Answer::default()
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    // Not what leads elsewhere, and nothing that could block.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Whether a name can be a folder's: it leads nowhere else.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0'])
}
