//! What Docker says of a container, and Podman, which speaks the same language.

use std::{collections::HashMap, io, path::Path, time::Duration};

use serde::Deserialize;

use super::{Answer, bounded, bounded_map, http, socket::Connection};
use crate::model::process::ContainerDetails;

/// `GET /containers/ID/json`, as far as it is used; the file `config.v2.json` that Docker keeps has the same fields.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    name: String,
    config: Option<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    image: Option<String>,
    labels: Option<HashMap<String, String>>,
}

impl Inspected {
    pub(super) fn into_answer(self) -> Answer {
        let config = self.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        // Kubernetes through Docker.
        let of_pod = |what: &str| labels.get(&format!("io.kubernetes.{what}")).and_then(|value| bounded(value));
        let name = of_pod("container.name").or_else(|| bounded(self.name.trim_start_matches('/')));
        Answer {
            pod_id: of_pod("pod.uid"),
            details: ContainerDetails {
                name,
                image: config.image.as_deref().and_then(bounded),
                pod_name: of_pod("pod.name"),
                pod_namespace: of_pod("pod.namespace"),
                labels: bounded_map(&labels),
                ..ContainerDetails::default()
            },
        }
    }
}

/// Asks for a container. `None` if there is no such container.
pub(super) fn ask(socket: &Path, id: &str, limit: Duration) -> io::Result<Option<Answer>> {
    let mut connection = Connection::open(socket, limit)?;
    let answer = http::get(&mut connection, &format!("/containers/{id}/json"))?;
    match answer.status {
        200 => {
            let inspected: Inspected = serde_json::from_slice(&answer.body)?;
            Ok(Some(inspected.into_answer()))
        }
        404 => Ok(None),
        status => Err(io::Error::other(format!("the server answers with status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_kinds() {
        let parse = |text: &str| serde_json::from_str::<Inspected>(text).map(Inspected::into_answer);
        let answer =
            parse(r#"{"Id":"1","Name":"/web","Config":{"Image":"nginx:1","Labels":{"team":"a"}},"X":[1]}"#).unwrap();
        assert_eq!((answer.details.name.as_deref(), answer.details.image.as_deref()), (Some("web"), Some("nginx:1")));
        assert_eq!(answer.details.labels.get("team").map(|value| &**value), Some("a"));
        let pod = parse(
            r#"{"Name":"/k8s_web_p_n_u_0","Config":{"Labels":{"io.kubernetes.container.name":"web",
            "io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.pod.uid":"u"}}}"#,
        )
        .unwrap();
        assert_eq!(pod.details.name.as_deref(), Some("web"));
        assert_eq!((pod.details.pod_name.as_deref(), pod.pod_id.as_deref()), (Some("p"), Some("u")));
        assert_eq!(parse(r#"{"Config":null}"#).unwrap().details, ContainerDetails::default());
        assert!(parse("7").is_err() && parse(r#"{"Name":7}"#).is_err());
    }
}
