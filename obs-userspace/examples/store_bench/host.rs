//! A host that never was: the windows of a busy machine with two CPUs, the same in every run.
//!
//! A hundred services, of which some are busy; a build or a script now and then, whose processes live for seconds; call trees
//! of many depths, of which few functions take most of the time; counters that grow at their own rates, memory in pages,
//! ratios with all their digits.

use std::{collections::HashMap, sync::Arc};

use obs_userspace::{
    model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
        record::{Counter, Event, Gauge, Histogram, Label},
    },
    store::{KnownProcess, Window},
};

const SECOND_NS: u64 = 1_000_000_000;
pub(crate) const WINDOW_NS: u64 = 10 * SECOND_NS;
pub(crate) const START_NS: u64 = 1_772_323_200 * SECOND_NS;
const BOOT_NS: u64 = START_NS - 40 * 86_400 * SECOND_NS;
const PERIOD_NS: u64 = 10_101_010;

/// How the host is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) services: usize,
    pub(crate) programs: usize,
    pub(crate) stacks_per_program: usize,
    /// Samples of a window; on two CPUs at 99 Hz at most 1980.
    pub(crate) samples: u64,
    /// Short-lived processes that begin in a window.
    pub(crate) short_lived: usize,
    /// Services that have series of their own.
    pub(crate) measured_services: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            services: 100,
            programs: 40,
            stacks_per_program: 90,
            samples: 1100,
            short_lived: 2,
            measured_services: 60,
        }
    }
}

/// A generator of numbers that look random (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Small numbers often, large ones seldom: the rank has a density that falls with its square root to the power given.
    fn rank(&mut self, bound: usize, steepness: f64) -> usize {
        ((self.unit().powf(steepness) * bound as f64) as usize).min(bound - 1)
    }
}

struct Program {
    name: Arc<str>,
    /// Per stack, indices into the host's frames, innermost first.
    stacks: Vec<Arc<[u32]>>,
}

struct Service {
    process: ProcessInfo,
    program: usize,
    threads: Vec<Arc<str>>,
    cpu_ticks: [u64; 2],
    pages: u64,
    files: u64,
    is_busy: bool,
}

/// A counter of the host, in what the kernel counts it in.
struct HostCounter {
    name: &'static str,
    labels: Vec<Label>,
    value: u64,
    /// Most that it grows in a window.
    growth_max: u64,
    /// What one of it is in the unit that is kept: a number of bytes, or a fraction of a second.
    scale: Scale,
}

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

pub(crate) struct Host {
    shape: Shape,
    random: Random,
    modules: Vec<Module>,
    frames: Vec<Frame>,
    programs: Vec<Program>,
    services: Vec<Service>,
    counters: Vec<HostCounter>,
    next_pid: u32,
    number: u64,
}

const SYLLABLES: [&str; 24] = [
    "alloc", "buffer", "cache", "decode", "event", "flush", "get", "handle", "index", "join", "key", "lookup", "merge",
    "node", "open", "parse", "queue", "read", "scan", "table", "update", "value", "write", "yield",
];

impl Host {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut host = Self {
            shape,
            random: Random(0x9e37_79b9_7f4a_7c15),
            modules: vec![Module {
                path: "[kernel]".into(),
                build_id: Some("5e0b1c2d3f4a59687786a5b4c3d2e1f001122334".into()),
            }],
            frames: Vec::new(),
            programs: Vec::new(),
            services: Vec::new(),
            counters: Vec::new(),
            next_pid: 300,
            number: 0,
        };
        let kernel: Vec<u32> = (0..400).map(|_| host.function(0, FrameKind::Kernel)).collect();
        let libc = host.module("/usr/lib/x86_64-linux-gnu/libc.so.6");
        let library: Vec<u32> = (0..300).map(|_| host.function(libc, FrameKind::User)).collect();
        for number in 0..shape.programs {
            host.program(number, &kernel, &library);
        }
        (0..shape.services).for_each(|number| host.service(number));
        host.host_counters();
        host
    }

    fn module(&mut self, path: &str) -> u32 {
        let build_id: String = (0..5).map(|_| format!("{:08x}", self.random.next() as u32)).collect();
        self.modules.push(Module { path: path.into(), build_id: Some(build_id.into()) });
        self.modules.len() as u32 - 1
    }

    fn function(&mut self, module: u32, kind: FrameKind) -> u32 {
        let mut parts: Vec<&str> = (0..2 + self.random.below(3)).map(|_| SYLLABLES[self.random.below(24)]).collect();
        // A third is C++ or Rust, with long names.
        let name = if kind == FrameKind::Kernel || self.random.below(3) > 0 {
            format!("{}_{:x}", parts.join("_"), self.random.below(4096))
        } else {
            parts.push("impl");
            let name = format!("{}::<{}>::{}", parts.join("::"), parts[0].repeat(2), parts[1]);
            format!("{name}_{:x}(std::basic_string<char>&, unsigned long)", self.random.below(4096))
        };
        let line = 1 + self.random.below(3000) as u32;
        let source = (kind == FrameKind::User && self.random.below(2) == 0).then(|| ("src/main.cc".into(), line));
        self.frames.push(Frame { function: Some(name.into()), kind, module: Some(module), address: 0, source });
        self.frames.len() as u32 - 1
    }

    fn program(&mut self, number: usize, kernel: &[u32], library: &[u32]) {
        let name: Arc<str> = format!("{}-{}{number}", SYLLABLES[number % 24], SYLLABLES[self.random.below(24)]).into();
        let module = self.module(&format!("/usr/bin/{name}"));
        let own: Vec<u32> = (0..150).map(|_| self.function(module, FrameKind::User)).collect();
        // Stacks are paths through a call tree: each begins as a part of an earlier one.
        let mut paths: Vec<Vec<u32>> = vec![vec![library[0], own[0]]];
        for _ in 0..self.shape.stacks_per_program {
            let base = &paths[self.random.below(paths.len())];
            let kept = 2 + self.random.below(base.len() - 1);
            let mut path: Vec<u32> = base[..kept.min(base.len())].to_vec();
            for _ in 0..1 + self.random.below(14) {
                path.push(own[self.random.rank(own.len(), 2.0)]);
            }
            if self.random.below(3) == 0 {
                path.push(library[self.random.rank(library.len(), 2.0)]);
            }
            if self.random.below(3) == 0 {
                (0..3 + self.random.below(8)).for_each(|_| path.push(kernel[self.random.rank(kernel.len(), 2.0)]));
            }
            paths.push(path);
        }
        let stacks = paths.into_iter().map(|path| path.into_iter().rev().collect()).collect();
        self.programs.push(Program { name, stacks });
    }

    fn process(&mut self, program: usize, started_ns: u64) -> ProcessInfo {
        self.next_pid = if self.next_pid > 4_000_000 { 300 } else { self.next_pid + 1 + self.random.below(3) as u32 };
        let name = Arc::clone(&self.programs[program].name);
        let in_container = program.is_multiple_of(3);
        let id: Arc<str> = format!("{:064x}", 0x1234_5678_9abc_u64 * (program as u64 + 1)).into();
        ProcessInfo {
            key: ProcessKey { pid: self.next_pid, started_ns, exec_id: 1 + self.random.below(9) as u32 },
            executable: Some(format!("/usr/bin/{name}").into()),
            cgroup: Some(
                if in_container {
                    format!("/system.slice/docker-{id}.scope")
                } else {
                    format!("/system.slice/{name}.service")
                }
                .into(),
            ),
            container_id: in_container.then_some(id),
            name,
        }
    }

    fn service(&mut self, number: usize) {
        let program = number % self.shape.programs;
        let started_ns = 5 * SECOND_NS + self.random.next() % (3600 * SECOND_NS);
        let process = self.process(program, started_ns);
        let mut threads = vec![Arc::clone(&process.name)];
        (0..self.random.below(6)).for_each(|index| threads.push(format!("worker/{index}").into()));
        let cpu_ticks = [self.random.next() % 1_000_000, self.random.next() % 100_000];
        let (pages, files) = (1000 + self.random.next() % 60_000, 5 + self.random.next() % 200);
        self.services.push(Service {
            process,
            program,
            threads,
            cpu_ticks,
            pages,
            files,
            is_busy: number.is_multiple_of(4),
        });
    }

    /// The counters of the host.
    fn host_counters(&mut self) {
        let mut add = |name, labels: &[(&'static str, String)], growth: u64, scale| {
            let labels = labels.iter().map(|(name, value)| (*name, Arc::from(value.as_str()))).collect();
            let value = growth * 100_000 + self.random.next() % 1_000_000;
            self.counters.push(HostCounter { name, labels, value, growth_max: growth * 2, scale });
        };
        for cpu in 0..2 {
            for (mode, growth) in [
                ("user", 600),
                ("system", 150),
                ("idle", 200),
                ("iowait", 30),
                ("irq", 0),
                ("softirq", 9),
                ("steal", 0),
                ("nice", 0),
            ] {
                add("system.cpu.time", &[("cpu", cpu.to_string()), ("mode", mode.to_owned())], growth, Scale::Per(100));
            }
        }
        for device in ["sda", "sdb"] {
            for direction in ["read", "write"] {
                let labels = [("device", device.to_owned()), ("direction", direction.to_owned())];
                add("system.disk.io", &labels, 1200, Scale::Times(4096));
                add("system.disk.operations", &labels, 400, Scale::Times(1));
                add("system.disk.operation_time", &labels, 800, Scale::Per(1000));
            }
            add("system.disk.io_time", &[("device", device.to_owned())], 700, Scale::Per(1000));
        }
        for interface in ["eth0", "lo"] {
            for direction in ["receive", "transmit"] {
                let labels = [("interface", interface.to_owned()), ("direction", direction.to_owned())];
                add("system.network.io", &labels, 12_000_000, Scale::Times(1));
                add("system.network.packets", &labels, 9000, Scale::Times(1));
                add("system.network.errors", &labels, 0, Scale::Times(1));
                add("system.network.dropped", &labels, 1, Scale::Times(1));
            }
        }
        for resource in ["cpu", "memory", "io"] {
            add("system.pressure.time", &[("resource", resource.to_owned())], 50_000, Scale::Per(1_000_000));
        }
    }

    /// The next window.
    pub(crate) fn window(&mut self) -> Window {
        let started_unix_ns = START_NS + self.number * WINDOW_NS;
        let boot_ns = started_unix_ns - BOOT_NS;
        let mut events = Vec::new();
        let mut short: Vec<(ProcessInfo, usize)> = Vec::new();
        for index in 0..self.shape.short_lived {
            let program = self.random.below(self.shape.programs);
            let begun = boot_ns + self.random.next() % WINDOW_NS;
            let process = self.process(program, begun);
            let label = |name, value: String| -> Label { (name, value.into()) };
            let names = vec![
                label("executable", format!("/usr/bin/{}", process.name)),
                label("parent", (200 + index).to_string()),
            ];
            events.push(Event { name: "process.exec", time_ns: begun, process: Some(process.key), labels: names });
            let status = vec![label("status", "0".to_owned())];
            events.push(Event { name: "process.exit", time_ns: begun + 1, process: Some(process.key), labels: status });
            short.push((process, program));
        }
        let profile = self.profile(started_unix_ns, &short);
        let (mut counters, mut gauges) = (Vec::new(), Vec::new());
        self.series(&mut counters, &mut gauges);
        let histograms = self.histograms();
        self.number += 1;
        let mut processes: Vec<KnownProcess> = Vec::new();
        for service in &self.services {
            let labels = [("user", "www-data"), ("command", "/usr/bin/service --config /etc/service.conf")];
            let labels = labels.map(|(name, value)| (Arc::from(name), Arc::from(value))).to_vec();
            processes.push(KnownProcess { info: service.process.clone(), labels });
        }
        Window {
            started_unix_ns,
            duration_ns: WINDOW_NS,
            boot_unix_ns: BOOT_NS,
            profiles: vec![profile],
            processes,
            counters,
            gauges,
            histograms,
            events,
        }
    }

    fn profile(&mut self, started_unix_ns: u64, short: &[(ProcessInfo, usize)]) -> Profile {
        // Per (process, thread, stack) the samples; processes are services, then the short-lived ones.
        let mut counts: HashMap<(usize, usize, usize), u64> = HashMap::new();
        let busy: Vec<usize> = (0..self.services.len()).filter(|index| self.services[*index].is_busy).collect();
        for _ in 0..self.shape.samples {
            let who = match self.random.below(100) {
                0..93 => busy[self.random.rank(busy.len(), 4.0)],
                93..98 => self.random.below(self.services.len()),
                _ if short.is_empty() => 0,
                _ => self.services.len() + self.random.below(short.len()),
            };
            let (program, threads) = match self.services.get(who) {
                Some(service) => (service.program, service.threads.len()),
                None => (short[who - self.services.len()].1, 1),
            };
            let stack = self.random.rank(self.programs[program].stacks.len(), 9.0);
            // A thread does one kind of work.
            *counts.entry((who, stack % threads, stack)).or_default() += 1;
        }
        let (mut processes, mut samples) = (Vec::new(), Vec::new());
        let mut position: HashMap<usize, u32> = HashMap::new();
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_unstable();
        for ((who, thread, stack), count) in rows {
            let (info, program, name) = match self.services.get(who) {
                Some(service) => (&service.process, service.program, &service.threads[thread]),
                None => {
                    let (info, program) = &short[who - self.services.len()];
                    (info, *program, &info.name)
                }
            };
            let process = *position.entry(who).or_insert_with(|| {
                processes.push(info.clone());
                processes.len() as u32 - 1
            });
            let stack = Arc::clone(&self.programs[program].stacks[stack]);
            let values = vec![count, count * PERIOD_NS];
            samples.push(ProfileSample { process, thread_name: Arc::clone(name), stack, cut: None, values });
        }
        Profile {
            collector: "cpu".into(),
            value_types: vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
            period: Some((ValueType::new("cpu", "nanoseconds"), PERIOD_NS)),
            started_unix_ns,
            duration_ns: WINDOW_NS,
            modules: self.modules.clone(),
            frames: self.frames.clone(),
            processes,
            samples,
        }
    }

    fn series(&mut self, counters: &mut Vec<Counter>, gauges: &mut Vec<Gauge>) {
        let random = &mut self.random;
        for HostCounter { name, labels, value, growth_max, scale } in &mut self.counters {
            *value += random.next().checked_rem(*growth_max).unwrap_or_default();
            counters.push(Counter { name, labels: labels.clone(), value: scale.apply(*value) });
        }
        for (name, places, scale) in [
            ("system.load.1m", 100.0, 4.0),
            ("system.load.5m", 100.0, 3.0),
            ("system.load.15m", 100.0, 2.0),
            ("system.pressure.cpu", 100.0, 40.0),
            ("system.pressure.memory", 100.0, 2.0),
            ("system.pressure.io", 100.0, 9.0),
        ] {
            let value = (random.unit() * scale * places).round() / places;
            gauges.push(Gauge { name, labels: Vec::new(), value });
        }
        for state in ["used", "free", "cached", "buffers", "slab", "available"] {
            let value = (4_000_000_000.0 + random.unit() * 400_000_000.0) as u64 / 4096 * 4096;
            gauges.push(Gauge {
                name: "system.memory.usage",
                labels: vec![("state", state.into())],
                value: value as f64,
            });
        }
        for cpu in 0..2 {
            let labels: Vec<Label> = vec![("cpu", cpu.to_string().into())];
            gauges.push(Gauge { name: "system.cpu.utilization", labels, value: random.unit() });
        }
        for service in self.services.iter_mut().take(self.shape.measured_services) {
            let pid: Arc<str> = service.process.key.pid.to_string().into();
            let labels = |mode: Option<&str>| -> Vec<Label> {
                let mut labels: Vec<Label> =
                    vec![("pid", Arc::clone(&pid)), ("process", Arc::clone(&service.process.name))];
                labels.extend(mode.map(|mode| ("mode", Arc::from(mode))));
                labels
            };
            let is_active = service.is_busy || random.below(4) == 0;
            for (index, mode) in ["user", "system"].into_iter().enumerate() {
                // As the kernel counts it, in hundredths of seconds.
                let bound = if service.is_busy { 200 } else { 10 };
                service.cpu_ticks[index] += if is_active { random.next() % bound } else { 0 };
                let value = service.cpu_ticks[index] as f64 / 100.0;
                counters.push(Counter { name: "process.cpu.time", labels: labels(Some(mode)), value });
            }
            if random.below(3) == 0 && is_active {
                service.pages = service.pages.saturating_add_signed(random.below(200) as i64 - 99);
                service.files = service.files.saturating_add_signed(random.below(5) as i64 - 2).max(3);
            }
            gauges.push(Gauge {
                name: "process.memory.usage",
                labels: labels(None),
                value: (service.pages * 4096) as f64,
            });
            gauges.push(Gauge {
                name: "process.open_file_descriptors",
                labels: labels(None),
                value: service.files as f64,
            });
            gauges.push(Gauge { name: "process.threads", labels: labels(None), value: service.threads.len() as f64 });
        }
    }

    fn histograms(&mut self) -> Vec<Histogram> {
        let random = &mut self.random;
        let mut of = |name, device: &str| {
            let buckets: Vec<u64> =
                (0..30).map(|index: u64| random.next() % (1 + 40 / (1 + index.abs_diff(12)))).collect();
            // As the kernel side counts durations: in multiples of 2^-30 s.
            let ticks = buckets.iter().sum::<u64>() * (500_000 + random.next() % 500_000);
            let sum = ticks as f64 / (1_u64 << 30) as f64;
            let labels: Vec<Label> = vec![("device", device.into())];
            Histogram { name, labels, first_bucket: -90, buckets, zero_count: 0, sum }
        };
        vec![of("obs.disk.latency", "sda"), of("obs.disk.latency", "sdb"), of("obs.cpu.run_queue_latency", "all")]
    }
}
