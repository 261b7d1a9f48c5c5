//! What is known of a process, as names and values: on disk, and to choose by.

use std::sync::Arc;

use crate::model::process::{ProcessInfo, ProcessKey};

/// The labels by which processes and threads can be chosen, besides attributes' own names.
pub mod label {
    /// The name of the process's first thread.
    pub const PROCESS: &str = "process";
    /// The process id, in decimal digits.
    pub const PID: &str = "pid";
    /// The name of the thread that was measured.
    pub const THREAD: &str = "thread";
    /// The path of the executable.
    pub const EXECUTABLE: &str = "executable";
    /// The container's id.
    pub const CONTAINER: &str = "container";
    /// The cgroup's path.
    pub const CGROUP: &str = "cgroup";
    /// The systemd unit: as the caller told it, or else the innermost service or scope of the cgroup's path.
    pub const UNIT: &str = "unit";
}

/// The names of attributes on disk are those of the labels, except for what is computed.
pub(super) fn of(info: &ProcessInfo) -> impl Iterator<Item = (&'static str, &str)> {
    let ProcessInfo { key: _, name, executable, container_id, cgroup } = info;
    [
        Some((label::PROCESS, &**name)),
        optional_pair(label::EXECUTABLE, executable),
        optional_pair(label::CONTAINER, container_id),
        optional_pair(label::CGROUP, cgroup),
    ]
    .into_iter()
    .flatten()
}

fn optional_pair<'a>(name: &'static str, value: &'a Option<Arc<str>>) -> Option<(&'static str, &'a str)> {
    value.as_deref().map(|value| (name, value))
}

/// Puts together what [`of`] took apart. Names that are not known are left out: a later obs may have written more.
pub(super) fn info(key: ProcessKey, attributes: impl Iterator<Item = (Arc<str>, Arc<str>)>) -> ProcessInfo {
    let mut info = ProcessInfo { key, name: Arc::from(""), executable: None, container_id: None, cgroup: None };
    for (name, value) in attributes {
        match &*name {
            label::PROCESS => info.name = value,
            label::EXECUTABLE => info.executable = Some(value),
            label::CONTAINER => info.container_id = Some(value),
            label::CGROUP => info.cgroup = Some(value),
            _ => {}
        }
    }
    info
}

/// The systemd unit that a cgroup's path leads to; empty if to none.
#[must_use]
pub fn unit_of(cgroup: &str) -> &str {
    let is_unit =
        |part: &&str| [".service", ".scope"].iter().any(|ending| part.len() > ending.len() && part.ends_with(ending));
    cgroup.rsplit('/').find(is_unit).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_unit_of_a_path_is_found() {
        assert_eq!(unit_of("/system.slice/nginx.service"), "nginx.service");
        assert_eq!(unit_of("/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope/inner"), "run-1.scope");
        assert_eq!(unit_of("/user.slice"), "");
        assert_eq!(unit_of("/.service"), "");
        assert_eq!(unit_of(""), "");
    }

    #[test]
    fn a_process_is_put_together_again() {
        let key = ProcessKey { pid: 7, started_ns: 8, exec_id: 9 };
        let mut process = ProcessInfo {
            key,
            name: "app".into(),
            executable: Some("/bin/app".into()),
            container_id: Some("c0ffee".into()),
            cgroup: Some("/system.slice/app.service".into()),
        };
        for _ in 0..2 {
            let attributes = of(&process).map(|(name, value)| (Arc::from(name), Arc::from(value)));
            assert_eq!(info(key, attributes), process);
            process = ProcessInfo { executable: None, container_id: None, cgroup: None, ..process };
        }
    }
}
