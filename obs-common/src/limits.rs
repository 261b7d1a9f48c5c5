//! The named bounds of every table, buffer and walk that both sides must agree on.

/// Bytes of a thread's name as the kernel keeps it (`TASK_COMM_LEN`), its closing NUL included.
pub const COMM_BYTES: usize = 16;

/// Most user-space frames of one stack; a deeper stack keeps its innermost frames and is counted as cut.
pub const USER_FRAMES_MAX: usize = 512;

/// Most kernel frames of one stack (the kernel's own default bound, `kernel.perf_event_max_stack`).
pub const KERNEL_FRAMES_MAX: usize = 127;

/// Words of user registers in a snapshot of a stack, on any architecture.
pub const SNAPSHOT_REGISTERS_MAX: usize = 34;

/// Most bytes of stack in a snapshot: with the registers they must fit into an element of a per-CPU map (32 KiB).
pub const SNAPSHOT_STACK_BYTES_MAX: usize = SNAPSHOT_BELOW_BYTES + 7 * SNAPSHOT_PAGE_BYTES;

/// How far below the stack pointer a snapshot begins, in bytes: in a function's last instructions, registers that it has
/// restored are still where it saved them, and nowhere else do its unwind rows look for them.
pub const SNAPSHOT_BELOW_BYTES: usize = 128;

/// A snapshot is read in pieces that never reach over the end of a page of this size: the smallest that there is.
pub const SNAPSHOT_PAGE_BYTES: usize = 4_096;

/// Deepest level of the unified cgroup hierarchy at which a `--cgroup` filter is recognised.
pub const CGROUP_DEPTH_MAX: u32 = 16;

/// Processes, threads, names or cgroups that one filter can hold, followed children included.
pub const FILTER_ENTRIES_MAX: u32 = 8_192;

/// Different (process, thread name, cgroup, user stack, kernel stack) keys counted between two drains.
pub const STACK_COUNTS_MAX: u32 = 16_384;

/// Short waits of a thread that are counted together at most.
pub const SHORT_WAITS_TOGETHER_MAX: u32 = 64;

/// Threads whose waits are followed at a time.
pub const WAITS_MAX: u32 = 32_768;

/// Stacks that the kernel side remembers having sent, so that each is sent once.
pub const STACKS_SENT_MAX: u32 = 32_768;

/// Process images that the kernel side remembers having announced.
pub const PROCESSES_SEEN_MAX: u32 = 8_192;

/// Bytes of the ring buffer that carries stacks and announcements to user space.
pub const RING_BYTES: u32 = 1 << 20;

/// Keys of latency histograms; what exceeds them is counted under `~other` of its kind.
pub const LATENCY_KEYS_MAX: u32 = 1_024;

/// Keys of plain counts of events that have no duration; as above.
pub const LATENCY_COUNTS_MAX: u32 = 4_096;

/// Latencies under way at a time, over all kinds: threads, requests of disks, connections.
pub const LATENCY_STARTS_MAX: u32 = 32_768;

/// Sockets and requests whose owner is remembered.
pub const LATENCY_OWNERS_MAX: u32 = 16_384;

/// System calls whose number lies below can be chosen.
pub const SYSTEM_CALLS_MAX: u32 = 1_024;
