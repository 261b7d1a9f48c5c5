//! The resource monitor: what the host, its processes and its containers use, from procfs, sysfs and cgroupfs.
//!
//! It is no BPF collector, and needs none of their features: it reads what every kernel shows. [`RESOURCE_METRICS`] is the
//! list of what it hands on; a metric without a value is absent, with a reason in the [`Report`], and never zero instead.
//!
//! **Invariant:** sums only grow, and the parts that are handed on add up to the whole: what exceeds a budget is under
//! `~other`.

mod budget;
mod cgroup;
mod disk;
mod emit;
mod filesystem;
mod host;
mod metrics;
mod network;
mod pressure;
mod process;
mod text;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rustix::time::{ClockId, clock_gettime};

pub use self::metrics::{MetricKind, RESOURCE_METRICS, ResourceMetric};
use self::{
    cgroup::Cgroups,
    disk::Disks,
    emit::{Memory, Out},
    filesystem::Filesystems,
    host::Host,
    network::Network,
    pressure::HostPressure,
    process::Processes,
    text::{Buffer, Source},
};
use crate::model::record::Record;

/// Where the kernel's file systems are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// procfs.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// The cgroup hierarchies: version 2 itself, or the folder in which those of version 1 are.
    pub cgroup: PathBuf,
    /// What the paths of mounts begin at.
    pub root: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), cgroup: "/sys/fs/cgroup".into(), root: "/".into() }
    }
}

/// How often to read what, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceOptions {
    /// How often the host is read: CPU, memory, disks, networks.
    pub host_interval: Duration,
    /// How often processes and containers are read.
    pub process_interval: Duration,
    /// Most processes with series of their own: half of them by CPU time of late, the others by memory.
    pub processes_max: usize,
}

impl Default for ResourceOptions {
    fn default() -> Self {
        Self { host_interval: Duration::from_secs(10), process_interval: Duration::from_secs(10), processes_max: 200 }
    }
}

/// A process that has series of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessSeen {
    /// Its id.
    pub pid: u32,
    /// When it started, in nanoseconds of the boot-time clock, rounded down to 10 ms as `/proc` has it.
    pub started_ns: u64,
}

/// What one reading has to say besides its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether the host was due and has been read.
    pub host_read: bool,
    /// Whether processes and containers were due and have been read.
    pub processes_read: bool,
    /// Metrics that lack values, each with a reason: all of them, or some (which the reason says). Of the last reading of
    /// the host and the last one of the processes.
    pub absent: BTreeMap<&'static str, String>,
    /// Reads that failed since the start, by what was read. That a process has ended meanwhile is no failure.
    pub read_errors: BTreeMap<&'static str, u64>,
    /// Processes with series of their own, by pid, if they were read.
    pub processes: Vec<ProcessSeen>,
}

/// When something is to be read.
#[derive(Clone, Copy, Debug)]
struct Due {
    interval_ns: u64,
    next_ns: u64,
}

impl Due {
    fn new(interval: Duration) -> Self {
        Self { interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), next_ns: 0 }
    }

    /// Whether it is to be read now. Its times do not drift, and what was missed is not made up for.
    fn is_now(&mut self, now_ns: u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        let late_ns = now_ns - self.next_ns;
        let from_ns = if late_ns < self.interval_ns { self.next_ns } else { now_ns };
        self.next_ns = from_ns.saturating_add(self.interval_ns);
        true
    }
}

/// Reads resources.
#[derive(Debug)]
pub struct Resources {
    host: Host,
    pressure: HostPressure,
    disks: Disks,
    network: Network,
    filesystems: Filesystems,
    processes: Processes,
    cgroups: Cgroups,
    /// `/proc/stat` once more, for the time at which the processes were read.
    stat: Source,
    buffer: Buffer,
    memory: Memory,
    host_due: Due,
    processes_due: Due,
    host_absent: BTreeMap<&'static str, String>,
    processes_absent: BTreeMap<&'static str, String>,
    /// Kills that the host counted and that no reading of the containers has explained yet.
    oom_kills: u64,
}

impl Resources {
    /// Prepares reading; nothing is read yet.
    #[must_use]
    pub fn new(roots: &Roots, options: ResourceOptions) -> Self {
        let Roots { proc, sys, cgroup, root } = roots;
        let ResourceOptions { host_interval, process_interval, processes_max } = options;
        Self {
            host: Host::new(proc),
            pressure: HostPressure::new(proc),
            disks: Disks::new(proc, sys),
            network: Network::new(proc),
            filesystems: Filesystems::new(proc, root),
            processes: Processes::new(proc, processes_max),
            cgroups: Cgroups::new(proc, sys, cgroup),
            stat: Source::new(proc.join("stat")),
            buffer: Buffer::default(),
            memory: Memory::default(),
            host_due: Due::new(host_interval),
            processes_due: Due::new(process_interval),
            host_absent: BTreeMap::new(),
            processes_absent: BTreeMap::new(),
            oom_kills: 0,
        }
    }

    /// How long until something is due.
    #[must_use]
    pub fn due_in(&self) -> Duration {
        let next_ns = self.host_due.next_ns.min(self.processes_due.next_ns);
        Duration::from_nanos(next_ns.saturating_sub(now_ns()))
    }

    /// Reads what is due and appends it to `records`. What cannot be read is in the report; nothing else suffers from it.
    pub fn read(&mut self, records: &mut Vec<Record>) -> Report {
        let now_ns = now_ns();
        let (host_read, processes_read) = (self.host_due.is_now(now_ns), self.processes_due.is_now(now_ns));
        self.read_groups(now_ns, host_read, processes_read, records)
    }

    /// Reads everything, due or not, and appends it to `records`.
    pub fn read_all(&mut self, records: &mut Vec<Record>) -> Report {
        self.read_groups(now_ns(), true, true, records)
    }

    /// Reads the host only, neither processes nor containers, and appends it to `records`.
    pub fn read_host(&mut self, records: &mut Vec<Record>) -> Report {
        self.read_groups(now_ns(), true, false, records)
    }

    fn read_groups(&mut self, now_ns: u64, host: bool, processes: bool, records: &mut Vec<Record>) -> Report {
        if host {
            let mut out = Out::new(records, &mut self.memory, now_ns);
            self.oom_kills += self.host.read(&mut self.buffer, &mut out);
            self.pressure.read(&mut self.buffer, &mut out);
            self.disks.read(&mut self.buffer, &mut out);
            self.network.read(&mut self.buffer, &mut out);
            self.filesystems.read(&mut self.buffer, &mut out);
            self.host_absent = out.into_absent();
        }
        let mut seen = Vec::new();
        if processes {
            let mut out = Out::new(records, &mut self.memory, now_ns);
            let (stat, buffer) = (&mut self.stat, &mut self.buffer);
            self.processes.read(&mut out, || host::parse_stat(stat.read(buffer).ok()?).of_threads());
            let oom_kills = std::mem::take(&mut self.oom_kills);
            self.cgroups.read(&self.processes, oom_kills, &mut self.buffer, &mut out);
            self.processes_absent = out.into_absent();
            seen = self.processes.listed();
        }
        let absent = self.host_absent.iter().chain(&self.processes_absent);
        Report {
            host_read: host,
            processes_read: processes,
            absent: absent.map(|(name, reason)| (*name, reason.clone())).collect(),
            read_errors: self.memory.errors().clone(),
            processes: seen,
        }
    }
}

/// The boot-time clock, in nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
