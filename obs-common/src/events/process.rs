//! What the kernel side says of processes.

use crate::stack::RecordHeader;

/// A process image was measured for the first time; user space learns its mappings now, while it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessSeen {
    /// Kind [`crate::stack::RecordKind::ProcessSeen`].
    pub header: RecordHeader,
    /// When the process started, in nanoseconds of the boot-time clock.
    pub started_ns: u64,
    /// When this was seen, in nanoseconds of the boot-time clock.
    pub time_ns: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// How often the process has called `exec`.
    pub exec_id: u32,
    /// The name of the process's first thread, NUL-padded.
    pub comm: [u8; crate::limits::COMM_BYTES],
}
