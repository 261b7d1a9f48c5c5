//! Which features of the kernel work here, found out by using each of them once.
//!
//! Version numbers say little: distributions port features back, security policies take them away, containers hide them.
//! So every trial creates the real thing (a map, a program, an event), makes it do its work where that is possible, and
//! closes it again. Nothing outlives a trial, because nothing is pinned: what a descriptor held goes with the descriptor.

use std::{
    cell::OnceCell,
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    btf::{self, Btf},
    sys::SysError,
};

mod bpf;
mod events;
mod files;
mod host;
mod instructions;

pub use host::{Capability, CgroupMount, Host, Seccomp};

/// Longest that a trial waits for something to happen that happens all the time.
const TRIAL_WAIT_MAX: Duration = Duration::from_millis(500);

/// What a feature belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Programs, maps and helpers.
    Programs,
    /// What makes programs run, and what the kernel reports by itself.
    Events,
    /// Files of the kernel's and of other processes'.
    Files,
}

impl Family {
    /// Every family, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Programs, Self::Events, Self::Files];

    /// What to call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Programs => "BPF programs and maps",
            Self::Events => "Events",
            Self::Files => "Files of the system",
        }
    }
}

/// What the user may make of a missing feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// obs uses it.
    Used,
    /// obs uses it where it is there, and does not miss it where it is not.
    Optional,
}

/// Declares the features once: a feature cannot be added without its name, its purpose and what it builds on.
macro_rules! features {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $family:ident, $weight:ident, [$($needs:ident),*], $purpose:literal;)+) => {
        /// Something that the kernel may or may not do for obs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Feature {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Feature {
            /// Every feature, in the order in which they are tried and shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What users and `--json` call it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What obs uses it for, in a few words.
            #[must_use]
            pub fn purpose(self) -> &'static str {
                match self { $(Self::$variant => $purpose),+ }
            }

            /// What it belongs to.
            #[must_use]
            pub fn family(self) -> Family {
                match self { $(Self::$variant => Family::$family),+ }
            }

            /// Other features without which this one cannot be tried.
            #[must_use]
            pub fn needs(self) -> &'static [Self] {
                match self { $(Self::$variant => &[$(Self::$needs),*]),+ }
            }

            fn weight(self) -> Weight {
                match self { $(Self::$variant => Weight::$weight),+ }
            }
        }
    };
}

features! {
    /// bpf(2) itself.
    Bpf = "bpf", Programs, Used, [], "run obs's programs in the kernel";
    /// Programs become machine code.
    Jit = "jit", Programs, Used, [Bpf], "run them as machine code";
    /// The kernel takes type information along with programs.
    ProgramTypes = "program-types", Programs, Used, [Bpf], "load programs made of functions";
    /// Arrays that user space can map.
    ArrayMmap = "array-mmap", Programs, Used, [Bpf], "write unwind tables without system calls";
    /// Hash maps with a value for each CPU.
    PerCpuHash = "per-cpu-hash", Programs, Used, [Bpf], "count without locks";
    /// Hash maps that forget what was used least recently.
    LruHash = "lru-hash", Programs, Used, [Bpf], "remember what was sent already";
    /// Hash maps that are emptied in few system calls.
    HashBatch = "hash-batch", Programs, Used, [Bpf], "drain counts in a few system calls";
    /// Hash maps that take memory only for what they hold, used by sampling programs.
    HashOnDemand = "hash-on-demand", Programs, Used, [Bpf], "take memory only for what is counted";
    /// The ring buffer that all CPUs share.
    RingBuffer = "ring-buffer", Programs, Used, [Bpf], "receive stacks and announcements";
    /// The helper `bpf_loop`.
    Loop = "loop", Programs, Used, [ProgramTypes], "walk hundreds of frames";
    /// The helper `bpf_get_stack`.
    GetStack = "get-stack", Programs, Used, [Bpf], "take kernel stacks";
    /// The helpers `bpf_get_current_task_btf` and `bpf_task_pt_regs`.
    TaskRegisters = "task-registers", Programs, Used, [Bpf], "unwind threads that are in the kernel";
    /// The helpers `bpf_get_current_cgroup_id` and `bpf_get_current_ancestor_cgroup_id`.
    CgroupIds = "cgroup-ids", Programs, Used, [Bpf], "tell cgroups apart, filter by them";
    /// The helper `bpf_ktime_get_boot_ns`.
    BootClock = "boot-clock", Programs, Used, [Bpf], "one clock for samples and what processes do";
    /// The kernel measures how long programs run.
    RunTimeStats = "run-time-stats", Programs, Used, [Bpf], "tell what obs itself costs";
    /// Maps of many megabytes may be created.
    LockedMemory = "locked-memory", Programs, Used, [Bpf], "maps and rings of many megabytes";
    /// Timers that sample every CPU.
    CpuClock = "cpu-clock", Events, Used, [], "sample every CPU by a timer";
    /// Hardware counters of cycles.
    HardwareCycles = "hardware-cycles", Events, Optional, [], "sample by cycles instead of time";
    /// Programs that run at each sample.
    SamplingPrograms = "sampling-programs", Events, Used, [Bpf], "take a stack at each sample";
    /// Programs on tracepoints, with typed arguments (`tp_btf`).
    TypedTracepoints = "typed-tracepoints", Events, Used, [Bpf, KernelTypes], "follow forks, switches, faults";
    /// A tracepoint at the end of each switch, hit by the thread that was switched to.
    SwitchEnd = "switch-end", Events, Optional, [TypedTracepoints], "stacks of waits, for next to nothing";
    /// Programs that run for each thread that there is.
    TaskIterators = "task-iterators", Events, Used, [Bpf, KernelTypes], "see threads that wait already";
    /// Programs on tracepoints, with raw arguments.
    RawTracepoints = "raw-tracepoints", Events, Used, [Bpf], "the same where types are missing";
    /// Programs on tracepoints, by way of perf and tracefs.
    Tracepoints = "tracepoints", Events, Used, [Bpf, Tracefs], "single system calls";
    /// Programs on instructions of user-space files.
    Uprobes = "uprobes", Events, Used, [Bpf], "allocations and locks in libraries";
    /// Programs on kernel functions, by trampolines.
    Fentry = "fentry", Events, Optional, [Bpf, KernelTypes], "kernel functions without a tracepoint";
    /// Programs on kernel functions, by breakpoints.
    Kprobes = "kprobes", Events, Optional, [Bpf], "the same on older kernels";
    /// perf's records of what processes do.
    ProcessRecords = "process-records", Events, Used, [], "follow mappings, execs and exits";
    /// The kernel's types (BTF).
    KernelTypes = "kernel-types", Files, Used, [], "find fields of kernel structures (BTF)";
    /// The file system of tracepoints.
    Tracefs = "tracefs", Files, Used, [], "find tracepoints by name";
    /// Addresses of kernel symbols.
    KernelSymbols = "kernel-symbols", Files, Used, [], "name the kernel's functions";
    /// The unified cgroup hierarchy.
    CgroupHierarchy = "cgroup-v2", Files, Used, [], "name cgroups and containers";
    /// The processes of the host are visible.
    HostProcesses = "host-processes", Files, Used, [], "see every process of the host";
    /// The mappings of other processes can be read.
    ProcessMappings = "process-mappings", Files, Used, [HostProcesses], "learn what running processes mapped";
    /// Files that are mapped can be opened even after they were deleted.
    MappedFiles = "mapped-files", Files, Used, [], "read programs that were replaced on disk";
}

impl Feature {
    /// Whether obs can do without: some machines lack it for good reasons.
    #[must_use]
    pub fn is_optional(self) -> bool {
        match self.weight() {
            Weight::Used => false,
            Weight::Optional => true,
        }
    }

    /// Tries the feature out, and what it builds on before.
    #[must_use]
    pub fn probe(self, prober: &Prober) -> Outcome {
        let known = &prober.outcomes[self as usize];
        known.get_or_init(|| self.probe_now(prober)).clone()
    }

    fn probe_now(self, prober: &Prober) -> Outcome {
        if let Some(needed) = self.needs().iter().find(|needed| !needed.probe(prober).is_usable()) {
            return Outcome::missing(format!("it needs {needed}"), format!("see {needed}"));
        }
        match self {
            Self::Bpf => bpf::bpf(prober),
            Self::Jit => bpf::jit(prober),
            Self::ProgramTypes => bpf::program_types(prober),
            Self::ArrayMmap => bpf::array_mmap(prober),
            Self::PerCpuHash => bpf::per_cpu_hash(prober),
            Self::LruHash => bpf::lru_hash(prober),
            Self::HashBatch => bpf::hash_batch(prober),
            Self::HashOnDemand => bpf::hash_on_demand(prober),
            Self::RingBuffer => bpf::ring_buffer(prober),
            Self::Loop => bpf::bpf_loop(prober),
            Self::GetStack => bpf::get_stack(prober),
            Self::TaskRegisters => bpf::task_registers(prober),
            Self::CgroupIds => bpf::cgroup_ids(prober),
            Self::BootClock => bpf::boot_clock(prober),
            Self::RunTimeStats => bpf::run_time_stats(prober),
            Self::LockedMemory => bpf::locked_memory(prober),
            Self::CpuClock => events::cpu_clock(prober),
            Self::HardwareCycles => events::hardware_cycles(prober),
            Self::SamplingPrograms => events::sampling_programs(prober),
            Self::TypedTracepoints => events::typed_tracepoints(prober),
            Self::SwitchEnd => events::switch_end(prober),
            Self::TaskIterators => events::task_iterators(prober),
            Self::RawTracepoints => events::raw_tracepoints(prober),
            Self::Tracepoints => events::tracepoints(prober),
            Self::Uprobes => events::uprobes(prober),
            Self::Fentry => events::fentry(prober),
            Self::Kprobes => events::kprobes(prober),
            Self::ProcessRecords => events::process_records(prober),
            Self::KernelTypes => files::kernel_types(prober),
            Self::Tracefs => files::tracefs(prober),
            Self::KernelSymbols => files::kernel_symbols(prober),
            Self::CgroupHierarchy => files::cgroup_hierarchy(),
            Self::HostProcesses => files::host_processes(prober),
            Self::ProcessMappings => files::process_mappings(prober),
            Self::MappedFiles => files::mapped_files(),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should.
    Works,
    /// In another way than the best one.
    WorksBy {
        /// In which, and what it costs.
        fallback: String,
    },
    /// Not at all.
    Missing {
        /// Why.
        why: String,
        /// What the user can do.
        remedy: String,
    },
}

impl Outcome {
    /// Whether obs can use it, if only by a fallback.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        match self {
            Self::Works | Self::WorksBy { .. } => true,
            Self::Missing { .. } => false,
        }
    }

    fn works_by(fallback: impl Into<String>) -> Self {
        Self::WorksBy { fallback: fallback.into() }
    }

    fn missing(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing { why: why.into(), remedy: remedy.into() }
    }
}

/// What the trials share. Each feature is tried once, however often it is asked for.
pub struct Prober {
    host: Host,
    /// Nothing if they cannot be read; the reason is part of the outcome of [`Feature::KernelTypes`].
    types: OnceCell<Result<Btf, String>>,
    outcomes: Vec<OnceCell<Outcome>>,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Prober {
    /// Looks around; tries nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let outcomes = Feature::ALL.iter().map(|_| OnceCell::new()).collect();
        Self { host: Host::look(), types: OnceCell::new(), outcomes }
    }

    /// What was found out without trying anything.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn types(&self) -> &Result<Btf, String> {
        self.types.get_or_init(|| Btf::open(&btf::path()).map_err(|error| error.to_string()))
    }

    /// Turns a refusal into an outcome: privileges are blamed on what is missing, all else on the kernel.
    fn judge(&self, tried: Result<Outcome, SysError>, remedy: &str) -> Outcome {
        match tried {
            Ok(outcome) => outcome,
            Err(error) if error.is_permission() => {
                let (why, remedy) = self.host.why_refused();
                Outcome::missing(format!("{error}: {why}"), remedy)
            }
            Err(error) => Outcome::missing(error.to_string(), remedy),
        }
    }

    /// [`Prober::judge`] for what asks for `CAP_SYS_ADMIN`, whatever the smaller capabilities are for.
    fn judge_for_admin(&self, tried: Result<Outcome, SysError>, otherwise: &str, remedy: &str) -> Outcome {
        match tried {
            Err(error)
                if error.is_permission() && self.host.missing_capabilities.is_empty() && !self.host.is_admin() =>
            {
                let why = format!("{error}: the kernel asks for CAP_SYS_ADMIN here");
                Outcome::missing(why, format!("grant CAP_SYS_ADMIN, {otherwise}"))
            }
            tried => self.judge(tried, remedy),
        }
    }

    /// [`Prober::judge`] where another way exists; missing privileges are missing all the same.
    fn judge_or(&self, tried: Result<Outcome, SysError>, fallback: &str) -> Outcome {
        match tried {
            Err(error) if !error.is_permission() => Outcome::works_by(fallback),
            tried => self.judge(tried, ""),
        }
    }
}

/// Does something again and again until it has had an effect, for at most [`TRIAL_WAIT_MAX`].
fn wait_until(
    mut provoke: impl FnMut(),
    mut happened: impl FnMut() -> Result<bool, SysError>,
) -> Result<bool, SysError> {
    let deadline = Instant::now() + TRIAL_WAIT_MAX;
    loop {
        provoke();
        if happened()? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;
