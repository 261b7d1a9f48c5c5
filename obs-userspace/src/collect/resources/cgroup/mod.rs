//! The cgroup hierarchies: finds containers and services in them, in the layouts of version 1, version 2 and both.

mod container;
mod files;
mod restarts;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{container::Containers, restarts::Restarts};
use super::{
    emit::Out,
    metrics as m,
    process::Processes,
    text::{Buffer, lines, number, read_once},
};
use crate::model::container::{container_of_path, unit_of_path};

/// Most folders of a hierarchy that are looked at in one reading.
const FOLDERS_MAX: usize = 16_384;

/// Deepest folder that is looked at.
const DEPTH_MAX: usize = 16;

/// Most processes of a container or service that are asked when they started.
const PROCESSES_MAX: usize = 64;

/// The controllers of version 1 that are read, and systemd's hierarchy, which has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Controller {
    /// Version 2: all in one.
    Unified,
    CpuAccounting,
    Cpu,
    Memory,
    BlockIo,
    Systemd,
}

const VERSION_1: [(&str, Controller); 5] = [
    ("systemd", Controller::Systemd),
    ("cpuacct", Controller::CpuAccounting),
    ("cpu", Controller::Cpu),
    ("memory", Controller::Memory),
    ("blkio", Controller::BlockIo),
];

/// The hierarchies below `/sys/fs/cgroup`. Controllers that are mounted together share a folder (`cpu,cpuacct`).
fn hierarchies(root: &Path) -> Vec<(PathBuf, Vec<Controller>)> {
    let mut found: Vec<(PathBuf, Vec<Controller>)> = Vec::new();
    if root.join("cgroup.controllers").exists() {
        found.push((root.to_owned(), vec![Controller::Unified]));
        return found;
    }
    // In the hybrid layout the services stand in version 2 as well.
    let unified = root.join("unified");
    if unified.join("cgroup.controllers").exists() {
        found.push((unified, vec![Controller::Unified]));
    }
    let Ok(entries) = std::fs::read_dir(root) else { return found };
    for entry in entries.flatten().take(64) {
        // Links like `cpu -> cpu,cpuacct` lead to the same.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let controllers: Vec<_> = name
            .split(',')
            .filter_map(|part| VERSION_1.iter().find(|(name, _)| *name == part).map(|(_, controller)| *controller))
            .collect();
        if !controllers.is_empty() {
            found.push((entry.path(), controllers));
        }
    }
    found
}

/// A container or a service, as it was found in a walk.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Its topmost folder in each hierarchy.
    folders: HashMap<Controller, PathBuf>,
    /// When its oldest and its newest process started, in ticks since boot.
    oldest_ticks: Option<u64>,
    newest_ticks: Option<u64>,
    /// Its oldest process.
    process: Option<u32>,
    processes: usize,
    /// Which hierarchy told its processes; they are the same in each.
    processes_from: Option<Controller>,
}

impl Group {
    fn add_process(&mut self, pid: u32, started_ticks: u64) {
        self.processes += 1;
        if self.oldest_ticks.is_none_or(|oldest| started_ticks < oldest) {
            self.oldest_ticks = Some(started_ticks);
            self.process = Some(pid);
        }
        self.newest_ticks = self.newest_ticks.max(Some(started_ticks));
    }
}

/// A service: its name, and whose it is if it is a user's.
type Service = (Arc<str>, Option<u32>);

/// What a walk found.
#[derive(Debug, Default)]
struct Found {
    containers: HashMap<Arc<str>, Group>,
    services: HashMap<Service, Group>,
}

/// Reads containers and services.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    containers: Containers,
    restarts: Restarts,
    /// Kills in containers that the host had not counted yet when it was read, just before. At its next reading it has: what is left of
    /// them then is forgotten, and explains no later kill.
    early_oom_kills: u64,
}

impl Cgroups {
    pub(super) fn new(proc: &Path, sys: &Path, root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            containers: Containers::new(proc, sys),
            restarts: Restarts::default(),
            early_oom_kills: 0,
        }
    }

    /// Reads all of them. `oom_kills` is by how much the host's count grew since the previous reading; what of it is no
    /// container's is told as the host's.
    pub(super) fn read(&mut self, processes: &Processes, oom_kills: u64, buffer: &mut Buffer, out: &mut Out<'_>) {
        let hierarchies = hierarchies(&self.root);
        let mut of_containers = 0;
        if hierarchies.is_empty() {
            let reason = format!("no cgroup hierarchy is mounted at {}", self.root.display());
            out.absent(container::ALL, reason.clone());
            out.absent(&[m::RESTARTS], reason);
        } else {
            let mut found = Found::default();
            // Services stand in the unified hierarchy, or in systemd's own.
            let services = [Controller::Systemd, Controller::Unified]
                .into_iter()
                .find(|wanted| hierarchies.iter().any(|(_, controllers)| controllers.contains(wanted)));
            for (folder, controllers) in &hierarchies {
                let with_services = services.is_some_and(|services| controllers.contains(&services));
                let is_complete = walk(folder, controllers, with_services, processes, buffer, &mut found);
                if !is_complete {
                    out.failed("cgroups: more folders than are looked at");
                }
            }
            of_containers = self.containers.read(&found.containers, buffer, out);
            self.restarts.read(&found, out);
        }
        let oom_kills = oom_kills.saturating_sub(std::mem::take(&mut self.early_oom_kills));
        self.early_oom_kills = of_containers.saturating_sub(oom_kills);
        container::put_oom_kills(None, oom_kills.saturating_sub(of_containers), out);
    }
}

/// Looks at every folder of a hierarchy, parents first. `false` if there were more than are looked at.
fn walk(
    root: &Path,
    controllers: &[Controller],
    with_services: bool,
    processes: &Processes,
    buffer: &mut Buffer,
    found: &mut Found,
) -> bool {
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    let mut count = 0;
    while let Some((folder, path, depth)) = folders.pop() {
        count += 1;
        if count > FOLDERS_MAX {
            return false;
        }
        let container = container_of_path(&path).map(|(id, _)| Arc::from(id));
        let is_in_container = container.is_some();
        // Services within a container are not the host's.
        let service = unit_of_path(&path).filter(|unit| with_services && !is_in_container && is_service(unit));
        let mut group = match (container, service) {
            (Some(id), _) => Some(found.containers.entry(id).or_default()),
            (None, Some(unit)) => Some(found.services.entry((unit.name, unit.user_id)).or_default()),
            (None, None) => None,
        };
        if let Some(group) = &mut group {
            for controller in controllers {
                // The topmost folder comes first, and its numbers contain those below it.
                group.folders.entry(*controller).or_insert_with(|| folder.clone());
            }
            let is_asked = group.processes_from.is_none_or(|asked| controllers.contains(&asked));
            if is_asked && group.processes < PROCESSES_MAX {
                add_processes(&folder, processes, buffer, group);
                if group.processes > 0 {
                    group.processes_from = controllers.first().copied();
                }
            }
        }
        if depth >= DEPTH_MAX {
            continue;
        }
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if folders.len() >= FOLDERS_MAX {
                return false;
            }
            let name = entry.file_name();
            folders.push((entry.path(), format!("{path}/{}", name.to_string_lossy()), depth + 1));
        }
    }
    true
}

/// Scopes and sessions are started once; what systemd starts again is a service.
fn is_service(unit: &crate::model::container::Unit) -> bool {
    unit.name.ends_with(".service") && !(unit.name.starts_with("user@") && unit.user_id.is_none())
}

fn add_processes(folder: &Path, processes: &Processes, buffer: &mut Buffer, group: &mut Group) {
    let Ok(text) = read_once(&folder.join("cgroup.procs"), buffer) else { return };
    for line in lines(text).take(PROCESSES_MAX) {
        let pid = number(line).and_then(|pid| u32::try_from(pid).ok());
        if let Some(pid) = pid
            && let Some(started_ticks) = processes.started_ticks(pid)
        {
            group.add_process(pid, started_ticks);
        }
    }
}

#[cfg(test)]
mod tests;
