//! What the agent says of itself: its cost, what it lost, what it shed. Filled in by whoever wires the agent.

use serde::Serialize;

/// The agent as it is now. What is unknown is absent, not zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AgentStatus {
    /// The version of obs.
    pub version: String,
    /// The host's name.
    pub host: Option<String>,
    /// When the agent started, in nanoseconds since 1970 (UTC).
    pub started_unix_ns: u64,
    /// How long a window is, in nanoseconds: how often there is something new.
    pub window_ns: u64,
    /// What the agent costs.
    pub cost: AgentCost,
    /// What is shed, in the order in which it was.
    pub shed: Vec<ShedStep>,
    /// Why all measuring is paused, if it is.
    pub paused: Option<String>,
    /// Every collector that there is.
    pub collectors: Vec<CollectorStatus>,
    /// What was lost since the agent started.
    pub losses: Vec<Loss>,
}

/// What the agent costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AgentCost {
    /// Share of the host's CPU time (of all CPUs) in user space, without the HTTP server, 1 being all of it.
    pub user_cpu_share: Option<f64>,
    /// The same in BPF programs.
    pub bpf_cpu_share: Option<f64>,
    /// The same of the HTTP server.
    pub web_cpu_share: Option<f64>,
    /// Most that the first two may be together.
    pub cpu_share_max: Option<f64>,
    /// Resident memory, in bytes.
    pub rss_bytes: Option<u64>,
    /// Memory of the kernel's maps, in bytes.
    pub map_bytes: Option<u64>,
    /// Most that both may be together, in bytes.
    pub memory_bytes_max: Option<u64>,
}

/// A step that the governor shed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShedStep {
    /// The step's name.
    pub step: String,
    /// What that means, and why, in a sentence.
    pub reason: String,
    /// Since when, in nanoseconds since 1970.
    pub since_unix_ns: Option<u64>,
}

/// How a collector is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectorStatus {
    /// Its name.
    pub name: String,
    /// What it measures.
    pub summary: String,
    /// Whether it measures now.
    pub is_running: bool,
    /// If not, why not.
    pub reason: Option<String>,
    /// How often it samples, in hertz, if it does.
    pub frequency_hertz: Option<f64>,
}

/// Something that was lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The collector or the stage that lost it.
    pub source: String,
    /// Why.
    pub reason: String,
    /// How much, since the agent started.
    pub count: u64,
}
