//! What keys mean, in words: the state of a wait, the name of a disk, the path of a cgroup.
//!
//! Names that do not change are looked up once. What is no longer there when it is looked up (a cgroup, a process) keeps its number.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use obs_common::{
    latency::{BlockPart, ConnectOutcome, DETAIL_OTHER, LatencyKey, LatencyOwner, PageFault},
    wait::WaitState,
};

use super::{kinds::LatencyKind, system_calls};
use crate::model::record::Label;

/// The value of labels of what found no room among the keys.
pub const OTHER: &str = "~other";
/// The value of labels of what was counted under keys that gave their room to others.
pub const ENDED: &str = "~ended";
/// The value of labels of what is nobody's, or of somebody who is not known.
const UNKNOWN: &str = "~unknown";

/// Names that are kept, of each kind; then all are forgotten and looked up again.
const NAMES_MAX: usize = 4_096;
/// Folders of the cgroup hierarchy that are looked at.
const CGROUPS_MAX: usize = 16_384;
/// Nanoseconds of a tick of `/proc/PID/stat`.
const TICK_NS: u64 = 10_000_000;

/// The vectors of software interrupts, as in linux/interrupt.h.
const VECTORS: [&str; 10] =
    ["hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"];

/// Finds words for keys.
#[derive(Debug, Default)]
pub(super) struct Labels {
    devices: HashMap<u32, Arc<str>>,
    handlers: HashMap<u64, Arc<str>>,
    processes: HashMap<(u32, u64), Arc<str>>,
    cgroups: HashMap<u64, Arc<str>>,
    /// Whether the hierarchy was walked since [`Labels::refresh`].
    cgroups_walked: bool,
}

impl Labels {
    /// Allows to look for new cgroups again.
    pub(super) fn refresh(&mut self) {
        self.cgroups_walked = false;
        let Self { devices, handlers, processes, cgroups, cgroups_walked: _ } = self;
        if devices.len() > NAMES_MAX {
            devices.clear();
        }
        if handlers.len() > NAMES_MAX {
            handlers.clear();
        }
        if processes.len() > NAMES_MAX {
            processes.clear();
        }
        if cgroups.len() > CGROUPS_MAX {
            cgroups.clear();
        }
    }

    /// The labels of a key.
    pub(super) fn of(&mut self, kind: &LatencyKind, key: &LatencyKey, by: super::By) -> Vec<Label> {
        if key.detail == DETAIL_OTHER {
            return vec![("key", OTHER.into())];
        }
        let mut labels = (kind.labels)(self, key.detail);
        // Interrupts are nobody's, and need not say so.
        if kind.has_owner {
            let LatencyOwner { cgroup_id, started_ns, tgid, reserved: _ } = key.owner;
            if by.cgroup {
                labels.push(("cgroup", self.cgroup(cgroup_id)));
            }
            if by.process {
                let process = if tgid == 0 { UNKNOWN.into() } else { self.process(tgid, started_ns) };
                labels.push(("process", process));
                labels.push(("pid", tgid.to_string().into()));
            }
        }
        labels
    }

    pub(super) fn none(&mut self, _detail: u64) -> Vec<Label> {
        Vec::new()
    }

    pub(super) fn wait(&mut self, detail: u64) -> Vec<Label> {
        vec![("state", state(detail, "run queue").into())]
    }

    pub(super) fn run_queue(&mut self, detail: u64) -> Vec<Label> {
        vec![("state", state(detail, "woken").into())]
    }

    pub(super) fn block(&mut self, detail: u64) -> Vec<Label> {
        let operation = match detail as u8 {
            0 => "read".into(),
            1 => "write".into(),
            2 => "flush".into(),
            3 => "discard".into(),
            5 => "secure erase".into(),
            9 => "write zeroes".into(),
            other => format!("operation {other}").into(),
        };
        let part = if detail >> 8 & 0xff == BlockPart::Queue as u64 { "queue" } else { "device" };
        vec![("device", self.device((detail >> 32) as u32)), ("operation", operation), ("part", part.into())]
    }

    pub(super) fn system_call(&mut self, detail: u64) -> Vec<Label> {
        let name = u32::try_from(detail).ok().and_then(system_calls::name);
        vec![("system_call", name.map_or_else(|| format!("number {detail}").into(), Into::into))]
    }

    pub(super) fn page_fault(&mut self, detail: u64) -> Vec<Label> {
        vec![("kind", if detail == PageFault::Major as u64 { "major" } else { "minor" }.into())]
    }

    pub(super) fn connect(&mut self, detail: u64) -> Vec<Label> {
        let outcome = if detail == ConnectOutcome::Established as u64 { "established" } else { "failed" };
        vec![("outcome", outcome.into())]
    }

    pub(super) fn soft_interrupt(&mut self, detail: u64) -> Vec<Label> {
        let name = usize::try_from(detail).ok().and_then(|vector| VECTORS.get(vector));
        vec![("vector", name.map_or_else(|| format!("vector {detail}").into(), |name| (*name).into()))]
    }

    pub(super) fn hard_interrupt(&mut self, detail: u64) -> Vec<Label> {
        let handler = self.handlers.entry(detail).or_insert_with(|| {
            let actions = fs::read_to_string(format!("/sys/kernel/irq/{detail}/actions")).unwrap_or_default();
            if actions.trim().is_empty() { UNKNOWN.into() } else { actions.trim().into() }
        });
        vec![("irq", detail.to_string().into()), ("handler", handler.clone())]
    }

    /// The name of a disk, by the kernel's own form of its number.
    fn device(&mut self, device: u32) -> Arc<str> {
        let name = self.devices.entry(device).or_insert_with(|| {
            let number = format!("{}:{}", device >> 20, device & 0xf_ffff);
            // A link to the device's folder.
            let folder = fs::read_link(Path::new("/sys/dev/block").join(&number)).ok();
            let name = folder.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            name.map_or_else(|| number.as_str().into(), Into::into)
        });
        name.clone()
    }

    /// The name of a process, if it is still the same.
    fn process(&mut self, pid: u32, started_ns: u64) -> Arc<str> {
        let name = self
            .processes
            .entry((pid, started_ns))
            .or_insert_with(|| process_name(pid, started_ns).map_or_else(|| "(ended)".into(), Into::into));
        name.clone()
    }

    /// The path of a cgroup below the root of the unified hierarchy.
    fn cgroup(&mut self, id: u64) -> Arc<str> {
        if id == 0 {
            return UNKNOWN.into();
        }
        if !self.cgroups.contains_key(&id) && !self.cgroups_walked {
            self.cgroups_walked = true;
            self.walk_cgroups();
        }
        self.cgroups.get(&id).cloned().unwrap_or_else(|| format!("id {id}").into())
    }

    fn walk_cgroups(&mut self) {
        let Some(root) = unified_root() else { return };
        let mut folders = vec![root.clone()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            seen += 1;
            if seen > CGROUPS_MAX {
                return;
            }
            // A group may go while it is looked at.
            let Ok(metadata) = fs::metadata(&folder) else { continue };
            let path = folder.strip_prefix(&root).unwrap_or(&folder);
            self.cgroups.insert(metadata.ino(), format!("/{}", path.display()).into());
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let inner =
                entries.filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())));
            folders.extend(inner.map(|entry| entry.path()));
        }
    }
}

/// What a wait's state is called. A run queue is part of a wait, or what is measured itself.
fn state(detail: u64, run_queue: &'static str) -> &'static str {
    let is = |state: WaitState| detail == state as u64;
    match detail {
        _ if is(WaitState::Sleep) => "sleep",
        _ if is(WaitState::Lock) => "lock",
        _ if is(WaitState::BlockIo) => "block I/O",
        _ if is(WaitState::Network) => "network",
        _ if is(WaitState::PageFault) => "page fault",
        _ if is(WaitState::Kernel) => "in the kernel",
        _ if is(WaitState::RunQueue) => run_queue,
        _ if is(WaitState::Preempted) => "pre-empted",
        _ if is(WaitState::Throttled) => "throttled",
        _ => UNKNOWN,
    }
}

/// The name of the process with this id that started then.
fn process_name(pid: u32, started_ns: u64) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    // The 22nd field; the first behind the name is the third.
    let started_ticks: u64 = tail.split_whitespace().nth(19)?.parse().ok()?;
    let (_, name) = head.split_once('(')?;
    (started_ticks == started_ns / TICK_NS).then(|| name.to_owned())
}

/// Where the unified hierarchy is mounted: in hybrid set-ups not at `/sys/fs/cgroup` itself.
fn unified_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use obs_common::latency::{LatencySource, block_detail};

    use super::*;
    use crate::collect::latency::{By, kinds::kind_of};

    fn labels(source: LatencySource, detail: u64) -> String {
        let key = LatencyKey { owner: LatencyOwner::NOBODY, detail, source: source as u32, reserved: 0 };
        let kind = kind_of(source as u32).unwrap();
        let found = Labels::default().of(kind, &key, By { cgroup: true, process: false });
        found.iter().map(|(name, value)| format!("{name}={value} ")).collect()
    }

    #[test]
    fn details_have_words() {
        for (source, detail, expected) in [
            (LatencySource::OffCpu, WaitState::RunQueue as u64, "state=run queue cgroup=~unknown "),
            (LatencySource::RunQueue, WaitState::RunQueue as u64, "state=woken cgroup=~unknown "),
            (LatencySource::RunQueue, WaitState::Preempted as u64, "state=pre-empted cgroup=~unknown "),
            (LatencySource::PageFault, PageFault::Major as u64, "kind=major cgroup=~unknown "),
            (LatencySource::Connect, ConnectOutcome::Failed as u64, "outcome=failed cgroup=~unknown "),
            (LatencySource::SoftIrq, 3, "vector=net_rx "),
            (LatencySource::SoftIrq, 10, "vector=vector 10 "),
            (LatencySource::RoundTrip, 0, "cgroup=~unknown "),
            (LatencySource::SystemCall, 5_000, "system_call=number 5000 cgroup=~unknown "),
            (LatencySource::OffCpu, DETAIL_OTHER, "key=~other "),
        ] {
            assert_eq!(labels(source, detail), expected);
        }
        let queue = block_detail(4_000 << 20 | 7, BlockPart::Queue, 1);
        assert_eq!(labels(LatencySource::Block, queue), "device=4000:7 operation=write part=queue cgroup=~unknown ");
        let odd = block_detail(4_000 << 20, BlockPart::Device, 34);
        assert!(labels(LatencySource::Block, odd).contains("operation=operation 34 part=device"));
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let pid = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        assert!(process_name(pid, ticks * TICK_NS + 1).is_some());
        assert_eq!(process_name(pid, (ticks + 1) * TICK_NS), None);
    }
}
