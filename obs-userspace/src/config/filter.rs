//! Whom to measure.

use std::path::PathBuf;

/// Whom to measure; decided in the kernel, before anything is paid for.
///
/// Kinds are joined by *and*, the entries of one kind by *or*; an empty kind admits everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Processes, by id in the initial namespace.
    pub pids: Vec<u32>,
    /// Processes that are chosen from the moment that they execute a program, by id in the initial namespace.
    pub pids_at_exec: Vec<u32>,
    /// Threads, by id in the initial namespace.
    pub tids: Vec<u32>,
    /// Thread or process names, as the kernel keeps them (at most 15 bytes).
    pub comms: Vec<String>,
    /// Folders of the unified cgroup hierarchy; what lies below them is included.
    pub cgroups: Vec<PathBuf>,
    /// Whether the children that chosen processes start from now on are chosen too.
    pub follow_children: bool,
    /// Whether obs itself is left out.
    pub exclude_self: bool,
}
