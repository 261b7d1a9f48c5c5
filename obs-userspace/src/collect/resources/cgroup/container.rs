//! Containers: what their cgroups count, their networks and their age.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    super::{
        budget::{Budget, Growing, OTHER},
        emit::{
            Out,
            Value::{Name, Word},
        },
        host::seconds_since,
        metrics as m,
        network::interfaces,
        pressure::{RESOURCES, seconds},
        text::{Buffer, read_once},
    },
    Group,
    files::{self, Errors, Numbers},
};

/// Most containers with series of their own.
const CONTAINERS_MAX: usize = 256;

/// Most disks and interfaces of one container with series of their own.
const DEVICES_MAX: usize = 8;

pub(super) const ALL: &[&m::ResourceMetric] = &[
    m::CONTAINER_CPU_TIME,
    m::CONTAINER_THROTTLED,
    m::CONTAINER_MEMORY,
    m::CONTAINER_WORKING_SET,
    m::CONTAINER_RSS,
    m::CONTAINER_DISK_IO,
    m::CONTAINER_NETWORK_IO,
    m::CONTAINER_UPTIME,
    m::CONTAINER_PRESSURE,
    m::CONTAINER_OOM_KILLS,
];

/// The sums of one container: CPU user, system, throttled (ns); kills; pressure of CPU, memory, disks: some and full (µs).
type Sums = [u64; 10];

/// What is kept of a listed container besides its sums.
#[derive(Debug)]
struct Devices {
    disks: Budget<2>,
    network: Budget<2>,
}

/// Reads the containers.
#[derive(Debug)]
pub(super) struct Containers {
    proc: PathBuf,
    sys: PathBuf,
    budget: Budget<10>,
    devices: HashMap<Arc<str>, Devices>,
    disk_names: HashMap<(u64, u64), String>,
    oom_kills: HashMap<Arc<str>, Growing>,
    is_first: bool,
}

impl Containers {
    pub(super) fn new(proc: &Path, sys: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            sys: sys.to_owned(),
            budget: Budget::new(CONTAINERS_MAX),
            devices: HashMap::new(),
            disk_names: HashMap::new(),
            oom_kills: HashMap::new(),
            is_first: true,
        }
    }

    /// Reads all containers; returns how many processes were killed in them for lack of memory since the last reading, each once.
    pub(super) fn read(&mut self, found: &HashMap<Arc<str>, Group>, buffer: &mut Buffer, out: &mut Out<'_>) -> u64 {
        let is_first = std::mem::replace(&mut self.is_first, false);
        // Devices come and go; their names are learnt anew rather than kept for ever.
        self.disk_names.clear();
        self.devices.retain(|id, _| found.contains_key(id));
        self.oom_kills.retain(|id, _| found.contains_key(id));
        if found.is_empty() {
            out.absent(ALL, "no container runs");
        }
        // Containers of a pod share its network: it is the oldest one's.
        let mut groups: Vec<_> = found.iter().collect();
        groups.sort_by(|a, b| (a.1.oldest_ticks, a.0).cmp(&(b.1.oldest_ticks, b.0)));
        let mut networks = HashSet::from_iter(self.host_network());
        let mut errors = Errors::new();
        let mut gauges = Vec::new();
        let mut kills = 0;
        let counting_below: HashSet<_> = found.values().filter_map(files::folder_counting_kills_below).collect();
        for (id, group) in groups {
            let numbers = files::read(group, buffer, &mut errors);
            let grown = self.take_oom_kills(id, &numbers, is_first, out);
            if !is_counted_above(group, &counting_below) {
                kills += grown;
            }
            if !self.budget.read(id, sums(&numbers)) {
                out.failed("cgroups: more containers than are counted");
                continue;
            }
            if self.budget.is_listed(id) {
                self.read_devices(id, group, &numbers, &mut networks, buffer, out);
            }
            gauges.push((Arc::clone(id), numbers, group.oldest_ticks));
        }
        for (path, error) in errors.iter().take(1) {
            out.absent(ALL, format!("{} cannot be read: {error}", path.display()));
        }
        errors.iter().for_each(|_| out.failed("cgroups"));
        self.budget.end_round();
        self.put_sums(&gauges, out);
        self.put_gauges(&gauges, out);
        self.put_devices(out);
        kills
    }

    fn take_oom_kills(&mut self, id: &Arc<str>, numbers: &Numbers, is_first: bool, out: &mut Out<'_>) -> u64 {
        let Some(value) = numbers.oom_kills else { return 0 };
        let grown = self.oom_kills.entry(Arc::clone(id)).or_default().read(value);
        // Kills before the start are history, not news.
        if is_first {
            return 0;
        }
        put_oom_kills(Some(id), grown, out);
        grown
    }

    /// The host's network namespace: the first process's, or, where that may not be seen, our own.
    fn host_network(&self) -> Option<PathBuf> {
        let of = |process: &str| std::fs::read_link(self.proc.join(process).join("ns/net")).ok();
        of("1").or_else(|| of("self"))
    }

    fn read_devices(
        &mut self,
        id: &Arc<str>,
        group: &Group,
        numbers: &Numbers,
        networks: &mut HashSet<PathBuf>,
        buffer: &mut Buffer,
        out: &mut Out<'_>,
    ) {
        let devices = self
            .devices
            .entry(Arc::clone(id))
            .or_insert_with(|| Devices { disks: Budget::new(DEVICES_MAX), network: Budget::new(DEVICES_MAX) });
        for (device, bytes) in numbers.disks.iter().flatten() {
            let name = self.disk_names.entry(*device).or_insert_with(|| files::disk_name(&self.sys, *device));
            if !devices.disks.read(name, *bytes) {
                out.failed("cgroups: more disks of a container than are counted");
            }
        }
        devices.disks.end_round();
        if let Some(pid) = group.process {
            let folder = self.proc.join(pid.to_string());
            match std::fs::read_link(folder.join("ns/net")) {
                Ok(network) if !networks.contains(&network) => {
                    networks.insert(network);
                    let text = read_once(&folder.join("net/dev"), buffer).unwrap_or_default();
                    for (name, traffic) in interfaces(text).flatten().filter(|(name, _)| *name != "lo") {
                        let [received, _, _, _, sent, ..] = traffic;
                        if !devices.network.read(name, [received, sent]) {
                            out.failed("cgroups: more interfaces of a container than are counted");
                        }
                    }
                }
                Ok(_) => out.absent(
                    &[m::CONTAINER_NETWORK_IO],
                    "of containers that share the host's network, or another container's, nobody counts it",
                ),
                Err(error) => out.absent(
                    &[m::CONTAINER_NETWORK_IO],
                    format!("the network of a container cannot be told: {}: {error}", folder.join("ns/net").display()),
                ),
            }
        }
        devices.network.end_round();
    }

    fn put_sums(&self, read: &[(Arc<str>, Numbers, Option<u64>)], out: &mut Out<'_>) {
        // What no container has is absent; what some have is handed on for them.
        let has = Has::of(read.iter().map(|(_, numbers, _)| numbers));
        has.explain(!read.is_empty(), out);
        let by_id: HashMap<&Arc<str>, &Numbers> = read.iter().map(|(id, numbers, _)| (id, numbers)).collect();
        for (id, sums) in self.budget.listed() {
            if let Some(numbers) = by_id.get(id) {
                put(id, &Has::of(std::iter::once(*numbers)), &sums, out);
            }
        }
        if let Some(sums) = self.budget.other() {
            put(&OTHER.into(), &has, &sums, out);
        }
    }

    fn put_gauges(&self, read: &[(Arc<str>, Numbers, Option<u64>)], out: &mut Out<'_>) {
        let other: Arc<str> = OTHER.into();
        let mut others = [None; 3];
        for (id, numbers, oldest_ticks) in read {
            let working_set =
                numbers.memory_bytes.zip(numbers.inactive_file_bytes).map(|(all, idle)| all.saturating_sub(idle));
            let values = [numbers.memory_bytes, working_set, numbers.anonymous_bytes];
            if !self.budget.is_listed(id) {
                for (sum, value) in others.iter_mut().zip(values) {
                    *sum = value.map(|value| sum.unwrap_or(0) + value).or(*sum);
                }
                continue;
            }
            put_memory(id, values, out);
            if let Some(ticks) = oldest_ticks {
                out.put(m::CONTAINER_UPTIME, &[Name(id)], seconds_since(*ticks, out.now_ns()));
            }
        }
        put_memory(&other, others, out);
    }

    fn put_devices(&self, out: &mut Out<'_>) {
        let other: Arc<str> = OTHER.into();
        for (id, devices) in &self.devices {
            for (metric, budget, directions) in [
                (m::CONTAINER_DISK_IO, &devices.disks, ["read", "write"]),
                (m::CONTAINER_NETWORK_IO, &devices.network, ["receive", "transmit"]),
            ] {
                let all = budget.listed().chain(budget.other().map(|sums| (&other, sums)));
                for (device, sums) in all {
                    for (direction, bytes) in directions.into_iter().zip(sums) {
                        out.put(metric, &[Name(id), Name(device), Word(direction)], bytes as f64);
                    }
                }
            }
        }
    }
}

/// Whether a container's kills are in the count of another one as well, in which it runs.
fn is_counted_above(group: &Group, counting_below: &HashSet<&Path>) -> bool {
    let folder = files::folder_counting_kills_below(group);
    folder.is_some_and(|folder| folder.ancestors().skip(1).any(|above| counting_below.contains(above)))
}

/// Which sums there are, in one container or in any of several.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    cpu: bool,
    throttled: bool,
    memory: bool,
    oom_kills: bool,
    disks: bool,
    pressure: [[bool; 2]; 3],
}

impl Has {
    fn of<'a>(all: impl Iterator<Item = &'a Numbers>) -> Self {
        let mut has = Self::default();
        for numbers in all {
            has.cpu |= numbers.cpu_ns.is_some();
            has.throttled |= numbers.throttled_ns.is_some();
            has.memory |= numbers.memory_bytes.is_some();
            has.oom_kills |= numbers.oom_kills.is_some();
            has.disks |= numbers.disks.is_some();
            for (has, pressure) in has.pressure.iter_mut().zip(&numbers.pressure) {
                let of = |value: fn(&super::super::pressure::Pressure) -> Option<u64>| {
                    pressure.as_ref().and_then(value).is_some()
                };
                has[0] |= of(|pressure| pressure.some_us);
                has[1] |= of(|pressure| pressure.full_us);
            }
        }
        has
    }

    /// Says what no container has.
    fn explain(&self, any: bool, out: &mut Out<'_>) {
        for (has, metrics, controller) in [
            (self.cpu, &[m::CONTAINER_CPU_TIME][..], "cpu (version 1: cpuacct)"),
            (self.throttled, &[m::CONTAINER_THROTTLED], "cpu"),
            (self.memory, &[m::CONTAINER_MEMORY, m::CONTAINER_WORKING_SET, m::CONTAINER_RSS], "memory"),
            (self.disks, &[m::CONTAINER_DISK_IO], "io (version 1: blkio)"),
        ] {
            if any && !has {
                out.absent(metrics, format!("the cgroup controller {controller} is not enabled for any container"));
            }
        }
        if any && !self.oom_kills {
            out.absent(&[m::CONTAINER_OOM_KILLS], "the cgroup controller memory, or this kernel, does not count them");
        }
        if any && !self.pressure.as_flattened().contains(&true) {
            let reason = "only cgroups of version 2 show it, on kernels that account for pressure";
            out.absent(&[m::CONTAINER_PRESSURE], reason);
        }
    }
}

fn sums(numbers: &Numbers) -> Sums {
    let [user_ns, system_ns] = numbers.cpu_ns.unwrap_or_default();
    let pressure = |at: usize| {
        let pressure = numbers.pressure.get(at).copied().flatten().unwrap_or_default();
        [pressure.some_us.unwrap_or(0), pressure.full_us.unwrap_or(0)]
    };
    let ([cpu_some, cpu_full], [memory_some, memory_full], [io_some, io_full]) =
        (pressure(0), pressure(1), pressure(2));
    let (throttled_ns, kills) = (numbers.throttled_ns.unwrap_or(0), numbers.oom_kills.unwrap_or(0));
    [user_ns, system_ns, throttled_ns, kills, cpu_some, cpu_full, memory_some, memory_full, io_some, io_full]
}

fn put(id: &Arc<str>, has: &Has, sums: &Sums, out: &mut Out<'_>) {
    let [user_ns, system_ns, throttled_ns, kills, pressure @ ..] = sums;
    if has.cpu {
        for (mode, ns) in [("user", user_ns), ("system", system_ns)] {
            out.put(m::CONTAINER_CPU_TIME, &[Name(id), Word(mode)], *ns as f64 / 1e9);
        }
    }
    if has.throttled {
        out.put(m::CONTAINER_THROTTLED, &[Name(id)], *throttled_ns as f64 / 1e9);
    }
    if has.oom_kills {
        out.put(m::CONTAINER_OOM_KILLS, &[Name(id)], *kills as f64);
    }
    let (by_resource, _) = pressure.as_chunks::<2>();
    for ((resource, times_us), has) in RESOURCES.into_iter().zip(by_resource).zip(has.pressure) {
        for ((kind, time_us), has) in ["some", "full"].into_iter().zip(times_us).zip(has) {
            if has {
                out.put(m::CONTAINER_PRESSURE, &[Name(id), Word(resource), Word(kind)], seconds(*time_us));
            }
        }
    }
}

fn put_memory(id: &Arc<str>, values: [Option<u64>; 3], out: &mut Out<'_>) {
    for (metric, value) in [m::CONTAINER_MEMORY, m::CONTAINER_WORKING_SET, m::CONTAINER_RSS].into_iter().zip(values) {
        if let Some(bytes) = value {
            out.put(metric, &[Name(id)], bytes as f64);
        }
    }
}

/// Tells of processes that were killed for lack of memory, if any were.
pub(super) fn put_oom_kills(container: Option<&Arc<str>>, count: u64, out: &mut Out<'_>) {
    if count > 0 {
        let count: Arc<str> = count.to_string().into();
        let nowhere: Arc<str> = "".into();
        out.event(m::OOM_KILL, &[Name(container.unwrap_or(&nowhere)), Name(&count)]);
    }
}
