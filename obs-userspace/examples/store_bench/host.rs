//! A host that never was: the windows of a busy machine with two CPUs, the same in every run.
//!
//! A hundred services, of which a quarter is busy, and seventy threads of the kernel, each with the series that the agent has of
//! it; scripts and builds, whose processes live for seconds; call trees of many depths, of which few functions take most of the
//! time. A window has what the agent puts into one: profiles, series and events, by the same names and labels.

use std::{collections::HashMap, sync::Arc};

use obs_userspace::{
    model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
        record::{Event, Label},
    },
    store::Window,
};

use crate::resources::{Activity, HostSeries, Measured, Points};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
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
    /// Threads of the kernel.
    pub(crate) kernel_threads: usize,
    /// Short-lived processes that begin in a window.
    pub(crate) short_lived: usize,
    /// Of so many of them one is still there at the window's end, and has series.
    pub(crate) short_lived_per_seen: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            services: 100,
            programs: 40,
            stacks_per_program: 90,
            samples: 1100,
            kernel_threads: 70,
            short_lived: 4,
            short_lived_per_seen: 4,
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

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Small numbers often, large ones seldom: the rank has a density that falls with its square root to the power given.
    pub(crate) fn rank(&mut self, bound: usize, steepness: f64) -> usize {
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
    is_busy: bool,
}

pub(crate) struct Host {
    shape: Shape,
    random: Random,
    modules: Vec<Module>,
    frames: Vec<Frame>,
    programs: Vec<Program>,
    services: Vec<Service>,
    series: HostSeries,
    measured: Vec<Measured>,
    next_pid: u32,
    number: u64,
}

const SYLLABLES: [&str; 24] = [
    "alloc", "buffer", "cache", "decode", "event", "flush", "get", "handle", "index", "join", "key", "lookup", "merge",
    "node", "open", "parse", "queue", "read", "scan", "table", "update", "value", "write", "yield",
];

impl Host {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let series = HostSeries::new(&mut random);
        let mut host = Self {
            shape,
            random,
            modules: vec![Module {
                path: "[kernel]".into(),
                build_id: Some("5e0b1c2d3f4a59687786a5b4c3d2e1f001122334".into()),
            }],
            frames: Vec::new(),
            programs: Vec::new(),
            services: Vec::new(),
            series,
            measured: Vec::new(),
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
        (0..shape.kernel_threads).for_each(|number| host.kernel_thread(number));
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
        let is_busy = number.is_multiple_of(4);
        // Few do most: the second half of what the first does, the third a third of it.
        let weight = |rank: usize| 1.0 / (rank + 1) as f64;
        let whole: f64 = (0..self.shape.services.div_ceil(4)).map(weight).sum();
        let activity = if is_busy { Activity::Busy(weight(number / 4) / whole) } else { Activity::Quiet };
        let key = process.key;
        let count = threads.len() as u64;
        self.measured.push(Measured::new(activity, key.pid, &process.name, key.started_ns, count, &mut self.random));
        self.services.push(Service { process, program, threads, is_busy });
    }

    fn kernel_thread(&mut self, number: usize) {
        let name = format!("kworker/{}:{}-{}", number % 2, number / 2, SYLLABLES[number % 24]);
        let started_ns = 100_000_000 + number as u64 * 1_000_000;
        self.measured.push(Measured::new(Activity::Kernel, 2 + number as u32, &name, started_ns, 1, &mut self.random));
    }

    /// The next window.
    pub(crate) fn window(&mut self) -> Window {
        let started_unix_ns = START_NS + self.number * WINDOW_NS;
        let boot_ns = started_unix_ns - BOOT_NS;
        let mut events = Vec::new();
        let mut short: Vec<(ProcessInfo, usize)> = Vec::new();
        let mut points = Points::default();
        let end_ns = boot_ns + WINDOW_NS;
        for number in 0..self.shape.short_lived {
            let program = self.random.below(self.shape.programs);
            let begun = boot_ns + self.random.next() % WINDOW_NS;
            let process = self.process(program, begun);
            self.life(&process, begun, &mut events);
            if number % self.shape.short_lived_per_seen == 0 {
                let (pid, random) = (process.key.pid, &mut self.random);
                let mut seen = Measured::new(Activity::Busy(0.01), pid, &process.name, begun, 1, random);
                seen.step(end_ns, random, &mut points);
            }
            short.push((process, program));
        }
        events.sort_by_key(|event| event.time_ns);
        let profile = self.profile(started_unix_ns, &short);
        self.series.step(end_ns, &mut self.random, &mut points);
        for measured in &mut self.measured {
            measured.step(end_ns, &mut self.random, &mut points);
        }
        self.number += 1;
        let Points { counters, gauges, histograms } = points;
        Window {
            started_unix_ns,
            duration_ns: WINDOW_NS,
            boot_unix_ns: BOOT_NS,
            profiles: vec![profile],
            // Those of the profiles suffice to the agent.
            processes: Vec::new(),
            counters,
            gauges,
            histograms,
            events,
        }
    }

    /// The events of a short-lived process.
    fn life(&mut self, process: &ProcessInfo, begun_ns: u64, events: &mut Vec<Event>) {
        let label = |name, value: &str| -> Label { (name, value.into()) };
        let pid = process.key.pid.to_string();
        let parent = (300 + self.random.below(40)).to_string();
        let executed_ns = begun_ns + self.random.next() % 3_000_000;
        let ended_ns = executed_ns + self.random.next() % (2 * SECOND_NS);
        let mut add = |name, time_ns, labels| events.push(Event { name, time_ns, process: None, labels });
        let (parent, name) = (label("process.parent_pid", &parent), label("process.executable.name", &process.name));
        add("process.fork", begun_ns, vec![label("process.pid", &pid), parent]);
        add("process.exec", executed_ns, vec![label("process.pid", &pid), name]);
        add("process.exit", ended_ns, vec![label("process.pid", &pid)]);
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
}
