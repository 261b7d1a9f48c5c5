//! The series of a host that never was: those that the agent's resource monitor and its own metrics have, by the same names and
//! labels, growing as the kernel lets them grow.

use std::sync::Arc;

use obs_userspace::model::record::{Counter, Gauge, Histogram, Label};

use crate::host::{Random, SECOND_NS};

/// What a window gets.
#[derive(Default)]
pub(crate) struct Points {
    pub(crate) counters: Vec<Counter>,
    pub(crate) gauges: Vec<Gauge>,
    pub(crate) histograms: Vec<Histogram>,
}

/// How much a process does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activity {
    /// All the time; this is its share of what the busy ones do.
    Busy(f64),
    /// In a quarter of the windows, a little.
    Quiet,
    /// A thread of the kernel that is woken once in a while.
    Kernel,
}

/// A process that has series: the thirteen that the agent writes of each.
pub(crate) struct Measured {
    activity: Activity,
    /// Since boot.
    started_ns: u64,
    labels: [Label; 3],
    cpu_ticks: [u64; 2],
    faults: [u64; 2],
    switches: [u64; 2],
    disk_pages: [u64; 2],
    pages: u64,
    virtual_pages: u64,
    threads: u64,
    files: u64,
}

impl Measured {
    pub(crate) fn new(
        activity: Activity,
        pid: u32,
        name: &str,
        started_ns: u64,
        threads: u64,
        past: &mut Random,
    ) -> Self {
        let age = if activity == Activity::Kernel { 100 } else { 100_000 };
        let mut up_to = |bound: u64| past.next() % bound.max(1);
        let in_seconds = format!("{}.{:02}", started_ns / SECOND_NS, started_ns % SECOND_NS / 10_000_000);
        let is_user = u64::from(activity != Activity::Kernel);
        Self {
            activity,
            started_ns,
            labels: [
                ("process.pid", pid.to_string().into()),
                ("obs.process.start_time", in_seconds.into()),
                ("process.executable.name", name.into()),
            ],
            cpu_ticks: [up_to(10 * age) * is_user, up_to(age)],
            faults: [up_to(30 * age) * is_user, up_to(200) * is_user],
            switches: [up_to(50 * age), up_to(age)],
            disk_pages: [up_to(age) * is_user, up_to(age) * is_user],
            pages: (1000 + up_to(60_000)) * is_user,
            virtual_pages: (5000 + up_to(600_000)) * is_user,
            threads,
            files: (5 + up_to(200)) * is_user,
        }
    }

    /// What it did in a window, and what it then shows.
    pub(crate) fn step(&mut self, since_boot_ns: u64, random: &mut Random, points: &mut Points) {
        let is_awake = match self.activity {
            Activity::Busy(_) => true,
            Activity::Quiet => random.below(4) == 0,
            Activity::Kernel => random.below(6) == 0,
        };
        // Of what the busy ones do together in a window, on two CPUs that are busy for half of the time.
        let share = if let Activity::Busy(share) = self.activity { share } else { 0.0 };
        let of_all = |whole: f64| (2.0 * whole * share) as u64;
        let user = u64::from(self.activity != Activity::Kernel);
        if is_awake {
            let mut up_to = |bound: u64| random.next().checked_rem(bound).unwrap_or_default();
            self.cpu_ticks[0] += up_to(user * 4 + of_all(800.0));
            self.cpu_ticks[1] += up_to(2 + of_all(300.0));
            self.faults[0] += up_to(user * 40 + of_all(50_000.0));
            self.switches[0] += 1 + up_to(20 + of_all(40_000.0));
            self.switches[1] += up_to(2 + of_all(4000.0));
            self.disk_pages[0] += up_to(of_all(1200.0));
            self.disk_pages[1] += up_to(of_all(2400.0));
            if up_to(3) == 0 {
                self.pages = self.pages.saturating_add_signed((up_to(200) as i64 - 99) * user as i64);
                self.files = self.files.saturating_add_signed((up_to(5) as i64 - 2) * user as i64);
            }
            self.faults[1] += u64::from(up_to(50) == 0) * user;
            self.virtual_pages += u64::from(up_to(50) == 0) * user * 33_000;
        }
        self.put(since_boot_ns, random, points);
    }

    fn put(&self, since_boot_ns: u64, random: &mut Random, points: &mut Points) {
        let with = |label: Option<(&'static str, &str)>| -> Vec<Label> {
            let mut labels = self.labels.to_vec();
            labels.extend(label.map(|(name, value)| (name, Arc::from(value))));
            labels
        };
        for (name, label, values, sums, scale) in [
            ("process.cpu.time", "cpu.mode", ["user", "system"], self.cpu_ticks, Scale::Per(100)),
            ("process.paging.faults", "system.paging.fault.type", ["minor", "major"], self.faults, Scale::Times(1)),
            (
                "process.context_switches",
                "process.context_switch.type",
                ["voluntary", "involuntary"],
                self.switches,
                Scale::Times(1),
            ),
            ("process.disk.io", "disk.io.direction", ["read", "write"], self.disk_pages, Scale::Times(4096)),
        ] {
            for (value, sum) in values.into_iter().zip(sums) {
                points.counters.push(Counter { name, labels: with(Some((label, value))), value: scale.apply(sum) });
            }
        }
        // It is read a little later in one window than in another; the kernel's ticks are hundredths.
        let late_ns = random.next() % 40_000_000;
        let uptime = (since_boot_ns + late_ns).saturating_sub(self.started_ns) / 10_000_000;
        for (name, value) in [
            ("process.memory.usage", self.pages as f64 * 4096.0),
            ("process.memory.virtual", self.virtual_pages as f64 * 4096.0),
            ("process.thread.count", self.threads as f64),
            ("process.uptime", uptime as f64 / 100.0),
            ("process.unix.file_descriptor.count", self.files as f64),
        ] {
            points.gauges.push(Gauge { name, labels: with(None), value });
        }
    }
}

/// A sum of the host or of the agent, in what the kernel counts it in.
struct Sum {
    name: &'static str,
    labels: Vec<Label>,
    value: u64,
    /// Most that it grows in a window.
    growth_max: u64,
    scale: Scale,
}

/// What one of a sum is in the unit that is kept: so many, or a fraction.
#[derive(Clone, Copy)]
enum Scale {
    Times(u64),
    Per(u64),
}

impl Scale {
    fn apply(self, value: u64) -> f64 {
        match self {
            Self::Times(factor) => (value * factor) as f64,
            Self::Per(divisor) => value as f64 / divisor as f64,
        }
    }
}

/// A value of the host or of the agent that goes up and down.
struct Value {
    name: &'static str,
    labels: Vec<Label>,
    least: f64,
    /// How much more it can be; 0 is one that does not change.
    range: f64,
    /// What it is a multiple of; 0 is any number.
    unit: f64,
}

/// The series of the host, and the agent's own.
pub(crate) struct HostSeries {
    sums: Vec<Sum>,
    values: Vec<Value>,
}

impl HostSeries {
    pub(crate) fn new(past: &mut Random) -> Self {
        let mut series = Self { sums: Vec::new(), values: Vec::new() };
        series.host_sums(past);
        series.host_values();
        series.agent();
        series
    }

    fn sum(
        &mut self,
        past: &mut Random,
        name: &'static str,
        labels: &[(&'static str, &str)],
        growth: u64,
        scale: Scale,
    ) {
        let value = growth * 100_000 + if growth > 0 { past.next() % 1_000_000 } else { 0 };
        self.sums.push(Sum { name, labels: owned(labels), value, growth_max: growth * 2, scale });
    }

    fn value(&mut self, name: &'static str, labels: &[(&'static str, &str)], least: f64, range: f64, unit: f64) {
        self.values.push(Value { name, labels: owned(labels), least, range, unit });
    }

    fn host_sums(&mut self, past: &mut Random) {
        for (mode, growth) in [
            ("user", 1200),
            ("system", 300),
            ("idle", 400),
            ("iowait", 60),
            ("interrupt", 18),
            ("nice", 0),
            ("steal", 0),
        ] {
            self.sum(past, "system.cpu.time", &[("cpu.mode", mode)], growth, Scale::Per(100));
        }
        for resource in ["cpu", "memory", "io"] {
            for kind in ["some", "full"] {
                let labels = [("obs.pressure.resource", resource), ("obs.pressure.kind", kind)];
                self.sum(past, "obs.pressure.time", &labels, 50_000, Scale::Per(1_000_000));
            }
        }
        for (name, growth) in
            [("obs.system.context_switches", 40_000), ("obs.system.oom_kills", 0), ("system.process.created", 60)]
        {
            self.sum(past, name, &[], growth, Scale::Times(1));
        }
        for kind in ["minor", "major"] {
            let growth = if kind == "minor" { 60_000 } else { 20 };
            self.sum(past, "system.paging.faults", &[("system.paging.fault.type", kind)], growth, Scale::Times(1));
        }
        for direction in ["in", "out"] {
            self.sum(past, "system.paging.operations", &[("system.paging.direction", direction)], 0, Scale::Times(1));
        }
        for device in ["sda", "sdb"] {
            for direction in ["read", "write"] {
                let labels = [("system.device", device), ("disk.io.direction", direction)];
                self.sum(past, "system.disk.io", &labels, 1200, Scale::Times(4096));
                self.sum(past, "system.disk.operations", &labels, 400, Scale::Times(1));
                self.sum(past, "system.disk.merged", &labels, 90, Scale::Times(1));
                self.sum(past, "system.disk.operation_time", &labels, 800, Scale::Per(1000));
            }
            self.sum(past, "system.disk.io_time", &[("system.device", device)], 700, Scale::Per(1000));
        }
        for interface in ["eth0", "lo", "docker0", "veth0"] {
            for direction in ["receive", "transmit"] {
                let labels = [("network.interface.name", interface), ("network.io.direction", direction)];
                self.sum(past, "system.network.io", &labels, 12_000_000, Scale::Times(1));
                self.sum(past, "system.network.packet.count", &labels, 9000, Scale::Times(1));
                self.sum(past, "system.network.errors", &labels, 0, Scale::Times(1));
                self.sum(past, "system.network.packet.dropped", &labels, 0, Scale::Times(1));
            }
        }
    }

    fn host_values(&mut self) {
        for (name, range) in [
            ("system.cpu.load_average.1m", 4.0),
            ("system.cpu.load_average.5m", 3.0),
            ("system.cpu.load_average.15m", 2.0),
        ] {
            self.value(name, &[], 0.0, range, 0.01);
        }
        for state in ["used", "free", "cached", "buffers"] {
            self.value("system.memory.usage", &[("system.memory.state", state)], 4e9, 4e8, 4096.0);
        }
        for state in ["reclaimable", "unreclaimable"] {
            let labels = [("system.memory.linux.slab.state", state)];
            self.value("system.memory.linux.slab.usage", &labels, 2e8, 1e6, 4096.0);
        }
        for (name, least, range, unit) in [
            ("system.memory.limit", 8e9, 0.0, 1.0),
            ("system.memory.linux.available", 4e9, 4e8, 4096.0),
            ("system.memory.linux.shared", 1e8, 1e6, 4096.0),
            ("system.cpu.logical.count", 2.0, 0.0, 1.0),
            ("obs.system.file_descriptor.count", 4000.0, 200.0, 1.0),
            ("obs.system.file_descriptor.limit", 1e6, 0.0, 1.0),
        ] {
            self.value(name, &[], least, range, unit);
        }
        for (state, least, range) in
            [("running", 1.0, 6.0), ("sleeping", 160.0, 12.0), ("stopped", 0.0, 0.0), ("defunct", 0.0, 0.0)]
        {
            self.value("system.process.count", &[("process.state", state)], least, range, 1.0);
        }
        for (mountpoint, range) in [("/", 3e7), ("/boot", 0.0), ("/run", 1e5), ("/dev/shm", 0.0), ("/var", 3e7)] {
            for state in ["used", "free", "reserved"] {
                let labels = [
                    ("system.device", "/dev/sda1"),
                    ("system.filesystem.mountpoint", mountpoint),
                    ("system.filesystem.type", "ext4"),
                    ("system.filesystem.mode", "rw"),
                    ("system.filesystem.state", state),
                ];
                let range = if state == "reserved" { 0.0 } else { range };
                self.value("system.filesystem.usage", &labels, 2e10, range, 4096.0);
            }
        }
    }

    /// What the agent tells of itself.
    fn agent(&mut self) {
        for side in ["user", "kernel"] {
            self.value("obs_agent_cpu_share", &[("side", side)], 0.002, 0.006, 0.0);
            self.value("obs_agent_budget_used", &[("side", side)], 0.3, 0.3, 0.0);
        }
        self.value("obs_agent_resident_memory", &[], 6e7, 2e6, 4096.0);
        for step in ["a", "b", "c", "d", "e", "f"] {
            self.value("obs_agent_shed", &[("step", step)], 0.0, 0.0, 1.0);
        }
        for name in ["obs_agent_map_memory", "obs_agent_paused", "obs_agent_shed_level", "obs_agent_start_time"] {
            self.value(name, &[], 0.0, 0.0, 1.0);
        }
        let sum = |name, labels: &[(&'static str, &str)], growth_max, scale| Sum {
            name,
            labels: owned(labels),
            value: 0,
            growth_max,
            scale,
        };
        for side in ["user", "kernel"] {
            self.sums.push(sum("obs_agent_cpu_time", &[("side", side)], 100_000_000, Scale::Per(SECOND_NS)));
        }
        self.sums.push(sum("obs_agent_program_runs", &[("program", "cpu_sample")], 4000, Scale::Times(1)));
        for stage in ["measure", "keep"] {
            self.sums.push(sum("obs_agent_stage_received", &[("stage", stage)], 2, Scale::Times(1)));
            self.sums.push(sum("obs_agent_stage_sent", &[("stage", stage)], 2, Scale::Times(1)));
            self.sums.push(sum("obs_agent_stage_errors", &[("stage", stage)], 0, Scale::Times(1)));
        }
    }

    /// A window's points.
    pub(crate) fn step(&mut self, since_boot_ns: u64, random: &mut Random, points: &mut Points) {
        for Sum { name, labels, value, growth_max, scale } in &mut self.sums {
            *value += random.next().checked_rem(*growth_max).unwrap_or_default();
            points.counters.push(Counter { name, labels: labels.clone(), value: scale.apply(*value) });
        }
        for Value { name, labels, least, range, unit } in &self.values {
            let exact = least + random.unit() * range;
            // As a decimal, where the kernel tells one.
            let value = match *unit {
                unit if unit >= 1.0 => (exact / unit).round() * unit,
                unit if unit > 0.0 => (exact / unit).round() / (1.0 / unit).round(),
                _ => exact,
            };
            points.gauges.push(Gauge { name, labels: labels.clone(), value });
        }
        let uptime = (since_boot_ns + random.next() % 40_000_000) / 10_000_000;
        points.gauges.push(Gauge { name: "system.uptime", labels: Vec::new(), value: uptime as f64 / 100.0 });
        // One window was kept, and the kernel was looked at a few times.
        for (name, label, looks) in
            [("obs_agent_stage_latency", ("stage", "keep"), 1), ("obs_agent_stage_latency", ("stage", "collect"), 12)]
        {
            let mut buckets = vec![0; 30];
            (0..looks).for_each(|_| buckets[random.rank(30, 2.0)] += 1);
            let sum = (looks * 5_000_000 + random.next() % 50_000_000) as f64 / 1e9;
            points.histograms.push(Histogram {
                name,
                labels: owned(&[label]),
                first_bucket: -60,
                buckets,
                zero_count: 0,
                sum,
            });
        }
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| (*name, Arc::from(*value))).collect()
}
