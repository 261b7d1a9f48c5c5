//! What a recording says of itself: how much it took, what it lost, what it cost. Printed as text or as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

/// The closing summary of a recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The collector's name.
    pub collector: String,
    /// How long was recorded, in seconds.
    pub duration_seconds: f64,
    /// The event that was sampled (`cpu-clock`, `cycles`), for collectors that sample.
    pub event: Option<String>,
    /// Samples per second and CPU that were asked for, for collectors that sample.
    pub frequency_hertz: Option<u64>,
    /// Samples, by what became of them.
    pub samples: SampleCounts,
    /// User stacks, by whether they reach the thread's first frame.
    pub user_stacks: StackCounts,
    /// Frames, by whether they have a name.
    pub frames: FrameCounts,
    /// Per process: its share and the quality of its stacks, most samples first.
    pub processes: Vec<ProcessSummary>,
    /// What obs itself cost.
    pub cost: Cost,
    /// Things that the reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Samples, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleCounts {
    /// In the profile.
    pub taken: u64,
    /// Passed the filter but are not in the profile, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Turned away by the filter, in the kernel.
    pub filtered: u64,
    /// Fell on an idle CPU.
    pub idle: u64,
}

/// Stacks, weighted by their samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StackCounts {
    /// Samples whose user stack reaches the thread's first frame.
    pub complete: u64,
    /// Samples whose user stack was cut, by reason.
    pub incomplete: BTreeMap<String, u64>,
    /// Samples of threads that have no user stack: the kernel's own, and those just between two programs (in `exec`).
    pub absent: u64,
}

/// Frames, counted once per different frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrameCounts {
    /// Different frames that have a name.
    pub symbolized: u64,
    /// Different frames without a name, by reason.
    pub unsymbolized: BTreeMap<String, u64>,
}

/// One process of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessSummary {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// The name of its first thread.
    pub name: String,
    /// Samples taken of it.
    pub samples: u64,
    /// How many of its stacks are complete, and why the others are not.
    pub user_stacks: StackCounts,
    /// Where its stacks were cut, most samples first.
    pub cuts: Vec<CutSummary>,
}

/// Stacks of a process that were cut at the same file for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CutSummary {
    /// The path of the file whose code the outermost frame runs, as the process sees it; absent where no file is known.
    pub file: Option<String>,
    /// Why the walk ended there.
    pub reason: &'static str,
    /// Samples.
    pub samples: u64,
    /// What the user can do.
    pub advice: &'static str,
}

/// What obs itself cost while it recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// CPU time of the obs process (user and system), in seconds.
    pub process_cpu_seconds: f64,
    /// CPU time inside the BPF programs, in seconds; absent where the kernel does not count it.
    pub bpf_cpu_seconds: Option<f64>,
    /// Most resident memory, in bytes.
    pub rss_peak_bytes: u64,
    /// Memory of the kernel's maps, in bytes.
    pub map_bytes: u64,
    /// Each BPF program's run count and run time.
    pub programs: Vec<ProgramCost>,
}

/// What one BPF program cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramCost {
    /// The program's name.
    pub name: String,
    /// How often it ran.
    pub run_count: u64,
    /// How long it ran in total, in nanoseconds.
    pub run_time_ns: u64,
}
