//! Who the processes of a window are, as labels by which they can be chosen.

use std::{collections::HashSet, sync::Arc};

use crate::{
    config::agent::PrivacyConfig,
    enrich::identity::{Identities, IdentityCounts, IdentityOptions, Lookup, RedactionOptions},
    model::{
        process::{ContainerDetails, ContainerIdentity, Identity, ProcessInfo},
        profile::Profile,
    },
    store::{KnownProcess, label},
};

/// The labels besides the store's own; [docs/identity.md](../../../../docs/identity.md) lists them.
const COMMAND_LINE: &str = "command_line";
const USER: &str = "user";
const RUNTIME: &str = "runtime";
const CONTAINER_NAME: &str = "container_name";
const IMAGE: &str = "image";
const POD_UID: &str = "pod_uid";
const POD: &str = "pod";
const NAMESPACE: &str = "namespace";
const LABEL_PREFIX: &str = "label.";
const POD_LABEL_PREFIX: &str = "pod_label.";

/// Most bytes of a command line in the history: compilers have lines of many kilobytes, thousands of times a day.
const COMMAND_LINE_BYTES_MAX: usize = 256;

/// Knows who processes are; nobody, if that could not be started.
#[derive(Clone)]
pub(super) struct Who(Option<Arc<Identities>>);

impl Who {
    /// Starts finding out.
    pub(super) fn start(config: &PrivacyConfig) -> Self {
        let PrivacyConfig { redact, redact_patterns } = config;
        let patterns = redact_patterns.iter().map(|pattern| pattern.expression().to_owned()).collect();
        let redaction = RedactionOptions { defaults: *redact, patterns };
        let identities = Identities::start(IdentityOptions { redaction, ..IdentityOptions::default() });
        let identities = identities.inspect_err(|error| {
            tracing::error!(%error, "processes will have no command line, user, unit or container");
        });
        Self(identities.ok().map(Arc::new))
    }

    /// For those who see processes begin.
    pub(super) fn identities(&self) -> Option<Arc<Identities>> {
        self.0.clone()
    }

    /// What became of what was asked.
    pub(super) fn counts(&self) -> IdentityCounts {
        self.0.as_ref().map(|identities| identities.counts()).unwrap_or_default()
    }

    /// What is known of the processes of these profiles. Of the others nothing is known beyond what the profile says, yet.
    pub(super) fn known(&self, profiles: &[Profile]) -> Vec<KnownProcess> {
        let Some(identities) = &self.0 else { return Vec::new() };
        let mut seen = HashSet::new();
        let processes = profiles.iter().flat_map(|profile| &profile.processes);
        processes
            .filter(|process| seen.insert(process.key))
            .filter_map(|process| match identities.lookup(process.key.pid, process.key.started_ns) {
                Lookup::Known(identity) => Some(join(process, &identity)),
                Lookup::Pending | Lookup::Unknown(_) => None,
            })
            .collect()
    }
}

/// A process image of a profile, with what is known of the process.
fn join(process: &ProcessInfo, identity: &Identity) -> KnownProcess {
    // Of a process that has become another program since, or had been one before: the command line is not this image's.
    let is_of_the_image = process.executable.is_none() || process.executable == identity.executable;
    let container = identity.container.as_deref();
    let info = ProcessInfo {
        executable: process.executable.clone().or_else(|| identity.executable.clone()),
        container_id: container.map(|it| Arc::clone(&it.id)).or_else(|| process.container_id.clone()),
        cgroup: identity.cgroup.clone().or_else(|| process.cgroup.clone()),
        ..process.clone()
    };
    let mut labels = Labels::default();
    if let Some(line) = identity.command_line.as_deref().filter(|_| is_of_the_image) {
        labels.add(COMMAND_LINE, cut(line));
    }
    match (&identity.user_name, identity.user_id) {
        (Some(name), _) => labels.add(USER, Arc::clone(name)),
        (None, Some(id)) => labels.add(USER, id.to_string().into()),
        (None, None) => {}
    }
    if let Some(unit) = &identity.unit {
        labels.add(label::UNIT, Arc::clone(&unit.name));
    }
    if let Some(container) = container {
        labels.add_container(container);
    }
    KnownProcess { info, labels: labels.0 }
}

/// The beginning of a command line.
fn cut(line: &str) -> Arc<str> {
    if line.len() <= COMMAND_LINE_BYTES_MAX {
        return line.into();
    }
    format!("{}…", &line[..line.floor_char_boundary(COMMAND_LINE_BYTES_MAX - '…'.len_utf8())]).into()
}

#[derive(Default)]
struct Labels(Vec<(Arc<str>, Arc<str>)>);

impl Labels {
    fn add(&mut self, name: &str, value: Arc<str>) {
        self.0.push((name.into(), value));
    }

    fn add_known(&mut self, name: &str, value: Option<&Arc<str>>) {
        if let Some(value) = value {
            self.add(name, Arc::clone(value));
        }
    }

    /// What is asked for most comes first: a store keeps so many and no more.
    fn add_container(&mut self, container: &ContainerIdentity) {
        let ContainerIdentity { id: _, runtime, pod_id, details, unknown: _ } = container;
        let ContainerDetails { name, image, pod_name, pod_namespace, labels, pod_labels } = details;
        if let Some(runtime) = runtime {
            self.add(RUNTIME, runtime.name().into());
        }
        self.add_known(CONTAINER_NAME, name.as_ref());
        self.add_known(IMAGE, image.as_ref());
        self.add_known(POD_UID, pod_id.as_ref());
        self.add_known(POD, pod_name.as_ref());
        self.add_known(NAMESPACE, pod_namespace.as_ref());
        for (prefix, labels) in [(POD_LABEL_PREFIX, pod_labels), (LABEL_PREFIX, labels)] {
            for (name, value) in labels {
                self.add(&format!("{prefix}{name}"), Arc::clone(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{
        container::{Runtime, Unit},
        process::ProcessKey,
    };

    fn process(executable: Option<&str>) -> ProcessInfo {
        ProcessInfo {
            key: ProcessKey { pid: 7, started_ns: 20_000_001, exec_id: 1 },
            name: "web".into(),
            executable: executable.map(Into::into),
            container_id: None,
            cgroup: None,
        }
    }

    fn identity() -> Identity {
        let text = |text: &str| Some(Arc::from(text));
        let label = |name: &str, value: &str| BTreeMap::from([(Arc::from(name), Arc::from(value))]);
        Identity {
            pid: 7,
            started_ns: 20_000_000,
            parent_pid: 1,
            name: "web".into(),
            command_line: text("web --token=[redacted]"),
            secrets_redacted: 1,
            is_command_line_cut: false,
            executable: text("/bin/web"),
            user_id: Some(33),
            user_name: None,
            cgroup: text("/docker/c0ffee"),
            unit: Some(Unit { name: "docker.service".into(), user_id: None }),
            container: Some(Arc::new(ContainerIdentity {
                id: "c0ffee".into(),
                runtime: Some(Runtime::Docker),
                pod_id: text("pod-uid"),
                details: ContainerDetails {
                    name: text("web-1"),
                    image: text("web:3"),
                    pod_name: text("web-abc"),
                    pod_namespace: text("shop"),
                    labels: label("tier", "front"),
                    pod_labels: label("app", "web"),
                },
                unknown: None,
            })),
        }
    }

    #[test]
    fn everything_that_is_known_becomes_a_label() {
        let KnownProcess { info, labels } = join(&process(None), &identity());
        assert_eq!(info.executable.as_deref(), Some("/bin/web"));
        assert_eq!(info.container_id.as_deref(), Some("c0ffee"));
        assert_eq!(info.cgroup.as_deref(), Some("/docker/c0ffee"));
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("command_line", "web --token=[redacted]"),
            ("user", "33"),
            ("unit", "docker.service"),
            ("runtime", "docker"),
            ("container_name", "web-1"),
            ("image", "web:3"),
            ("pod_uid", "pod-uid"),
            ("pod", "web-abc"),
            ("namespace", "shop"),
            ("pod_label.app", "web"),
            ("label.tier", "front"),
        ];
        assert_eq!(labels, expected);
        let page = include_str!("../../../../docs/identity.md");
        for (name, _) in expected {
            let name = name.split_once('.').map_or(name.to_owned(), |(prefix, _)| format!("{prefix}.NAME"));
            assert!(page.contains(&format!("`{name}`")), "docs/identity.md does not name the label {name}");
        }
    }

    #[test]
    fn another_programs_command_line_is_left_out() {
        let has_line = |executable| {
            let known = join(&process(executable), &identity());
            known.labels.iter().any(|(name, _)| &**name == COMMAND_LINE)
        };
        assert!(has_line(Some("/bin/web")));
        assert!(!has_line(Some("/bin/sh")));
    }

    #[test]
    fn long_command_lines_are_cut_between_characters() {
        let line = cut(&"é".repeat(COMMAND_LINE_BYTES_MAX));
        assert!(line.len() <= COMMAND_LINE_BYTES_MAX && line.ends_with("é…"), "{line}");
        assert_eq!(&*cut("short"), "short");
    }
}
