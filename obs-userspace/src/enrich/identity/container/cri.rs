//! What Kubernetes's runtimes say, through the Container Runtime Interface (`runtime.v1`), and containerd through its own.
//!
//! Only the fields that are used are declared; the numbers are those of the published protocol files.

use std::{collections::HashMap, io, path::Path, time::Duration};

use prost::Message;

use super::{Answer, bounded, bounded_map, grpc, socket::Connection};
use crate::model::process::ContainerDetails;

#[derive(Clone, PartialEq, Message)]
struct ById {
    #[prost(string, tag = "1")]
    id: String,
}

/// `ListContainersRequest` and `ListPodSandboxRequest`, whose filters both have the id first.
#[derive(Clone, PartialEq, Message)]
struct ListRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<ById>,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<ImageSpec>,
    #[prost(string, tag = "5")]
    image_ref: String,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "9")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
    /// What the user wrote, since version 1.29 of the interface.
    #[prost(string, tag = "18")]
    user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(map = "string, string", tag = "5")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// `containerd.services.containers.v1.GetContainerResponse`.
#[derive(Clone, PartialEq, Message)]
struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    container: Option<ContainerdContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerdContainer {
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
}

/// Asks a runtime of Kubernetes for a container, or for the sandbox of a pod. `None` if it has neither.
pub(super) fn ask(socket: &Path, id: &str, limit: Duration) -> io::Result<Option<Answer>> {
    let by_id = |id: &str| ListRequest { filter: Some(ById { id: id.to_owned() }) };
    let mut connection = Connection::open(socket, limit)?;
    let method = "/runtime.v1.RuntimeService/ListContainers";
    let containers: ListContainersResponse = grpc::call(&mut connection, method, &[], &by_id(id))?;
    // The filter also takes the first letters of an id.
    let container = containers.containers.into_iter().find(|container| container.id == id);
    let sandbox_id = container.as_ref().map_or(id, |container| &container.pod_sandbox_id);
    let mut connection = Connection::open(socket, limit)?;
    let method = "/runtime.v1.RuntimeService/ListPodSandbox";
    let sandboxes: ListPodSandboxResponse = grpc::call(&mut connection, method, &[], &by_id(sandbox_id))?;
    let sandbox = sandboxes.items.into_iter().find(|sandbox| sandbox.id == sandbox_id);
    if container.is_none() && sandbox.is_none() {
        return Ok(None);
    }
    let mut answer = Answer::default();
    let details = &mut answer.details;
    match container {
        Some(container) => {
            details.name = container.metadata.and_then(|metadata| bounded(&metadata.name));
            let image = container.image.unwrap_or_default();
            let names = [&image.user_specified_image, &image.image, &container.image_ref];
            // containerd gives the image's digest where it was not named; the name stands in an annotation then.
            let named = names.into_iter().find(|name| !name.is_empty() && !name.starts_with("sha256:"));
            let annotated = container.annotations.get("io.kubernetes.cri.image-name");
            details.image =
                named.or(annotated).or(names.into_iter().find(|name| !name.is_empty())).and_then(|name| bounded(name));
            details.labels = bounded_map(&container.labels);
        }
        // Kubernetes's own name for the container that only holds a pod's namespaces.
        None => details.name = bounded("POD"),
    }
    if let Some(sandbox) = sandbox {
        details.pod_labels = bounded_map(&sandbox.labels);
        if let Some(metadata) = sandbox.metadata {
            details.pod_name = bounded(&metadata.name);
            details.pod_namespace = bounded(&metadata.namespace);
            answer.pod_id = bounded(&metadata.uid);
        }
    }
    Ok(Some(answer))
}

/// Asks containerd itself for a container of one of its namespaces.
pub(super) fn ask_containerd(socket: &Path, namespace: &str, id: &str, limit: Duration) -> io::Result<Answer> {
    let mut connection = Connection::open(socket, limit)?;
    let method = "/containerd.services.containers.v1.Containers/Get";
    let metadata = [("containerd-namespace", namespace)];
    let answer: GetContainerResponse = grpc::call(&mut connection, method, &metadata, &ById { id: id.to_owned() })?;
    let container = answer.container.unwrap_or_default();
    // nerdctl keeps the name in a label.
    let name = container.labels.get("nerdctl/name").map_or(id, String::as_str);
    Ok(Answer {
        details: ContainerDetails {
            name: bounded(name),
            image: bounded(&container.image),
            labels: bounded_map(&container.labels),
            ..ContainerDetails::default()
        },
        ..Answer::default()
    })
}
