//! Which process something belongs to.

use std::sync::Arc;

/// One image of one process: the same program from its start, or from its last `exec`, to its end.
///
/// A process id alone is reused, and addresses mean something else after an `exec`; this never names two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// When the process started, in nanoseconds of the boot-time clock.
    pub started_ns: u64,
    /// How often it had called `exec`, its ancestors' calls included.
    pub exec_id: u32,
}

/// What is known of a process besides its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Which process image this is.
    pub key: ProcessKey,
    /// The name of its first thread (`comm`).
    pub name: Arc<str>,
    /// The path of its executable in its own mount namespace, if it could be learnt.
    pub executable: Option<Arc<str>>,
    /// The id of the container that it runs in (64 hexadecimal digits, or a runtime's own form), if any.
    pub container_id: Option<Arc<str>>,
    /// The path of its cgroup, if it could be learnt.
    pub cgroup: Option<Arc<str>>,
}
