//! How a stack travels from the kernel: as a record that is sent once, and as an id in the keys that are counted.

use crate::limits::COMM_BYTES;

/// Set in a user frame's address when it was the address being executed (the innermost frame, or one that a signal
/// interrupted), not a return address. User addresses never reach this bit.
pub const FRAME_EXACT: u64 = 1 << 63;

/// Set in a user frame's address when the frame was found by following the frame pointer, not by an unwind table.
pub const FRAME_BY_POINTER: u64 = 1 << 62;

/// The bits of a user frame that are its address.
pub const FRAME_ADDRESS: u64 = (1 << 62) - 1;

/// The id of "no stack of this kind": a kernel thread has no user stack, a thread in user mode no kernel stack.
pub const NO_STACK: u64 = 0;

/// The id of a stack that was captured but could not be sent (the ring buffer was full).
pub const LOST_STACK: u64 = 1;

/// The id of a user stack that was gone before it could be taken: its thread had gone on.
pub const GONE_STACK: u64 = 2;

/// The first id of a stack that was sent.
pub const FIRST_STACK: u64 = 3;

/// Why the walk of a stack ended; the `end` of a [`StackRecord`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackEnd {
    /// It reached the thread's first frame.
    Complete = 0,
    /// It followed the chain of frame pointers, which does not say whether it was whole.
    FramePointerChain = 1,
    /// There were more frames than [`crate::limits::USER_FRAMES_MAX`].
    TooDeep = 2,
    /// No unwind table was loaded for the process yet.
    NoProcessTable = 3,
    /// The address lies in no executable mapping that is known of the process.
    NoMapping = 4,
    /// The mapped file has no unwind table, and will not get one.
    NoFileTable = 5,
    /// The file's unwind table says nothing of this address.
    NoRow = 6,
    /// The table has a rule that the kernel side cannot evaluate.
    UnsupportedRule = 7,
    /// Stack memory could not be read (paged out, or the walk had gone astray).
    ReadFailed = 8,
    /// The next frame did not lie above this one.
    NotAscending = 9,
    /// The thread's user registers could not be had.
    NoRegisters = 10,
    /// The kernel could not walk the stack at all.
    WalkFailed = 11,
    /// The mapped file's unwind table is not loaded yet.
    TableNotReady = 12,
    /// The return address was 0: some begin a thread's stack so, but so does memory that was taken for a frame.
    ReturnAddressZero = 13,
}

/// What begins every record in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// Which record follows: a [`RecordKind`].
    pub kind: u32,
    /// For [`RecordKind::Stack`] and [`RecordKind::Snapshot`]: why the walk ended, a [`StackEnd`]. Otherwise 0.
    pub end: u32,
}

/// The kinds of record in the ring buffer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A [`StackRecord`].
    Stack = 1,
    /// A [`crate::events::process::ProcessSeen`].
    ProcessSeen = 2,
    /// A [`StackSnapshot`].
    Snapshot = 3,
    /// A [`crate::wait::Waker`].
    Waker = 4,
}

/// A stack's frames, sent the first time that the stack is seen. The record in the ring buffer ends after `frames_count`
/// frames; `N` is the most that there can be.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackRecord<const N: usize> {
    /// Kind [`RecordKind::Stack`], and why the walk ended.
    pub header: RecordHeader,
    /// A 64-bit hash of the frames and the end: what [`StackKey`] refers to.
    pub id: u64,
    /// Frames that follow.
    pub frames_count: u64,
    /// Innermost first; marked with [`FRAME_EXACT`] and [`FRAME_BY_POINTER`] if they are user frames.
    pub frames: [u64; N],
}

/// Bytes of a [`StackRecord`] before its frames.
pub const STACK_RECORD_HEADER_BYTES: usize = 24;

/// A piece of a thread's stack and its registers, sent instead of a [`StackRecord`] when the walk met something that user
/// space has yet to supply: user space walks it as soon as it can. The record in the ring buffer ends after `stack_bytes`
/// bytes of `stack`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackSnapshot {
    /// Kind [`RecordKind::Snapshot`], and why the kernel's walk ended.
    pub header: RecordHeader,
    /// A number that no other stack has: what [`StackKey`] refers to.
    pub id: u64,
    /// The process image.
    pub image: ImageKey,
    /// The user registers: `struct pt_regs` (x86-64) or `struct user_pt_regs` (aarch64), as many words as that has.
    pub registers: [u64; crate::limits::SNAPSHOT_REGISTERS_MAX],
    /// Bytes that follow.
    pub stack_bytes: u64,
    /// The stack's memory, from [`crate::limits::SNAPSHOT_BELOW_BYTES`] below the stack pointer on (zeroes, where that could
    /// not be read). Empty if nothing could be read at the stack pointer itself.
    pub stack: [u8; crate::limits::SNAPSHOT_STACK_BYTES_MAX],
}

/// Bytes of a [`StackSnapshot`] before its stack.
pub const SNAPSHOT_HEADER_BYTES: usize = 40 + 8 * crate::limits::SNAPSHOT_REGISTERS_MAX;

const _: () = assert!(core::mem::offset_of!(StackSnapshot, stack) == SNAPSHOT_HEADER_BYTES, "nothing lies in between");

/// What is counted apart by the collectors that count stacks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackKey {
    /// When the process started, in nanoseconds of the boot-time clock: with `tgid` it names a process for good.
    pub started_ns: u64,
    /// The id of the thread's cgroup in the unified hierarchy (the inode number of its folder).
    pub cgroup_id: u64,
    /// Id of the user stack, or [`NO_STACK`], [`LOST_STACK`] or [`GONE_STACK`].
    pub user_stack: u64,
    /// Id of the kernel stack, or [`NO_STACK`], or [`LOST_STACK`].
    pub kernel_stack: u64,
    /// For collectors of waits, who ended this one: the id of a [`crate::wait::Waker`], or one of the constants beside it.
    /// Otherwise 0.
    pub waker: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// How often the process has called `exec`: addresses of two images never mix.
    pub exec_id: u32,
    /// For collectors of waits, what was waited for: a [`crate::wait::WaitState`], and possibly
    /// [`crate::wait::WAIT_IS_SHORT`]. Otherwise 0.
    pub state: u32,
    /// Always 0: nothing may be left undefined in a key.
    pub reserved: u32,
    /// The thread's name, NUL-padded.
    pub comm: [u8; COMM_BYTES],
}

/// What is added up for a [`StackKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackValue {
    /// Samples or events.
    pub count: u64,
    /// Their summed weight in the collector's own unit (nanoseconds, cycles, bytes).
    pub weight: u64,
}

/// Names an image of a process in the kernel's maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageKey {
    /// When the process started, in nanoseconds of the boot-time clock.
    pub started_ns: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// How often the process has called `exec`.
    pub exec_id: u32,
}
