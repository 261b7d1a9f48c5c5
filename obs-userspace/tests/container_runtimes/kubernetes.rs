//! containerd as Kubernetes uses it: a pod with one container, made through the Container Runtime Interface as kubelet does.

// The calls that kubelet makes are made with obs's own client.
#[allow(dead_code, reason = "of the client's tests nothing is run here")]
#[path = "../../src/enrich/identity/container/grpc.rs"]
mod grpc;

use std::{collections::HashMap, fs, os::unix::net::UnixStream, path::Path, process::Command};

use anyhow::{Context as _, Result};
use obs_userspace::{enrich::identity::RuntimePaths, model::container::Runtime};
use prost::Message;
use serde_json::json;

use super::{Case, Finally, ask, containerd::Containerd, expect, output, root_file_system, unique, wait_for};

pub(crate) const CASE: Case =
    Case { name: "containers::kubernetes", tools: &["containerd", "ctr", "runc", "tar", "sha256sum"], run };

const IMAGE: &str = "localhost/obs-test:1";
const POD_ID: &str = "0d2f0c1e-5c0f-4c8a-9a57-1f0c5b7b8f3e";

/// `NamespaceMode.NODE`: the host's network, which needs no network plug-in.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<SecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct SecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOptions {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// The answers, and the requests that consist of an id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Id>,
    #[prost(message, optional, tag = "2")]
    image: Option<Id>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

fn call<A: Message + Default>(socket: &Path, method: &str, request: &impl Message) -> Result<A> {
    let mut stream = UnixStream::connect(socket)?;
    let method = format!("/runtime.v1.RuntimeService/{method}");
    grpc::call(&mut stream, &method, &[], request).with_context(|| format!("calling {method}"))
}

/// An image that `ctr images import` takes: one layer, made of a root file system.
fn write_image(folder: &Path, root: &Path) -> Result<()> {
    let image = folder.join("image");
    fs::create_dir(&image)?;
    output(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(image.join("layer.tar")).arg("."))?;
    let sum = output(Command::new("sha256sum").arg(image.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().context("sha256sum printed nothing")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    fs::write(image.join("config.json"), serde_json::to_vec(&config)?)?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(image.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let archive = folder.join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&image).arg("-cf").arg(archive).args(["manifest.json", "config.json", "layer.tar"]);
    output(&mut tar).map(drop)
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = root_file_system(folder.path())?;
    write_image(folder.path(), &root)?;
    // A host's test may not be allowed to protect processes from being killed for lack of memory.
    let configuration = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\nrestrict_oom_score_adj = true\n\
         disable_apparmor = true\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n"
    );
    let containerd = Containerd::start(folder.path(), &configuration)?;
    let mut import = containerd.ctr();
    import.args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]);
    output(import.arg(folder.path().join("image.tar")))?;

    let socket = &containerd.socket;
    let pod_name = unique("pod");
    let config = PodSandboxConfig {
        metadata: Some(PodMetadata { name: pod_name.clone(), uid: POD_ID.to_owned(), namespace: "shop".to_owned() }),
        log_directory: folder.path().display().to_string(),
        labels: labels(&[("app", "web"), ("io.kubernetes.pod.uid", POD_ID)]),
        linux: Some(LinuxPod {
            cgroup_parent: format!("/kubepods/besteffort/pod{POD_ID}"),
            security_context: Some(SecurityContext { namespace_options: Some(NamespaceOptions { network: NODE }) }),
        }),
    };
    let sandbox: Id =
        wait_for("containerd's part for Kubernetes is ready, or says why not", || -> Result<Option<Result<Id>>> {
            let made = call(socket, "RunPodSandbox", &RunPodSandboxRequest { config: Some(config.clone()) });
            let is_starting = made.is_err() && call::<Nothing>(socket, "Version", &Nothing {}).is_err();
            Ok((!is_starting).then_some(made))
        })?
        .with_context(|| log_of(folder.path()))?;
    let _remove = Finally(|| {
        let _ = call::<Nothing>(socket, "StopPodSandbox", &sandbox);
        let _ = call::<Nothing>(socket, "RemovePodSandbox", &sandbox);
    });
    let created: Id = call(
        socket,
        "CreateContainer",
        &CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(ContainerConfig {
                metadata: Some(Id { id: "frontend".to_owned() }),
                image: Some(Id { id: IMAGE.to_owned() }),
                command: vec!["/bin/sleep".to_owned(), "99999".to_owned()],
                labels: labels(&[("io.kubernetes.container.name", "frontend")]),
            }),
            sandbox_config: Some(config),
        },
    )
    .with_context(|| log_of(folder.path()))?;
    let _: Nothing = call(socket, "StartContainer", &created).with_context(|| log_of(folder.path()))?;

    let pid = |id: &str| -> Result<u32> {
        let tasks = output(containerd.ctr().args(["--namespace", "k8s.io", "tasks", "list"]))?;
        let line = tasks.lines().find(|line| line.starts_with(id)).context("ctr does not list it")?;
        Ok(line.split_whitespace().nth(1).context("ctr tells no pid")?.parse()?)
    };
    let (identity, container) = ask(&containerd.runtimes, pid(&created.id)?)?;
    expect("command line", identity.command_line.as_deref(), Some("/bin/sleep 99999"))?;
    expect("id", &*container.id, &created.id)?;
    expect("pod's id", container.pod_id.as_deref(), Some(POD_ID))?;
    let details = &container.details;
    expect("name", details.name.as_deref(), Some("frontend"))?;
    expect("image", details.image.as_deref(), Some(IMAGE))?;
    expect("pod's name", details.pod_name.as_deref(), Some(&*pod_name))?;
    expect("pod's namespace", details.pod_namespace.as_deref(), Some("shop"))?;
    expect("pod's label", details.pod_labels.get("app").map(|label| &**label), Some("web"))?;

    // The container that only holds the pod's namespaces.
    let (_, container) = ask(&containerd.runtimes, pid(&sandbox.id)?)?;
    expect("the sandbox's name", container.details.name.as_deref(), Some("POD"))?;
    expect("the sandbox's pod", container.details.pod_name.as_deref(), Some(&*pod_name))?;

    // Without its socket, its files say everything but labels.
    let without =
        RuntimePaths { containerd_sockets: Vec::new(), cri_sockets: Vec::new(), ..containerd.runtimes.clone() };
    let (_, container) = ask(&without, pid(&created.id)?)?;
    expect("runtime from files", container.runtime, Some(Runtime::Containerd))?;
    expect("name from files", container.details.name.as_deref(), Some("frontend"))?;
    expect("pod's name from files", container.details.pod_name.as_deref(), Some(&*pod_name))?;
    expect("pod's id from files", container.pod_id.as_deref(), Some(POD_ID))
}

fn log_of(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("containerd.log")).unwrap_or_default();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("level=error")).collect();
    format!("containerd's log says: {}", errors.join("\n"))
}
