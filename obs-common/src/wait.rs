//! What a thread waits for, and what the kernel side keeps of threads that do not run.

use crate::{
    limits::{COMM_BYTES, SNAPSHOT_REGISTERS_MAX},
    stack::{ImageKey, RecordHeader, StackKey},
};

/// What a thread waits for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitState {
    /// For something that another process or a timer does: it sleeps, and a signal would wake it.
    Sleep = 1,
    /// For a futex: a lock, a condition variable, the end of another thread.
    Lock = 2,
    /// For a block device.
    BlockIo = 3,
    /// In a system call on a socket.
    Network = 4,
    /// For memory that it touched, though for no block device.
    PageFault = 5,
    /// For something in the kernel, so that no signal would wake it.
    Kernel = 6,
    /// For a CPU, after it was woken or made.
    RunQueue = 7,
    /// For a CPU, which another thread was given.
    Preempted = 8,
    /// For its cgroup's next period: the quota of CPU time is used up.
    Throttled = 9,
    /// For nothing: it runs.
    Running = 10,
}

/// Set in the state of a wait that was too short for a stack.
pub const WAIT_IS_SHORT: u32 = 1 << 16;

/// What is known of a thread that does not run; the value of the map `WAITS`, by thread id.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Since when it has not run, in nanoseconds of the monotonic clock. While it runs: since when it has, if that counts too, and
    /// otherwise 0.
    pub since_ns: u64,
    /// When it was woken; 0 if it was not yet.
    pub woken_ns: u64,
    /// How long it had run in its life at `since_ns`, in nanoseconds, by the scheduler's account.
    pub run_time_ns: u64,
    /// Its user stack, if that could be had at once; otherwise `NO_STACK`.
    pub user_stack: u64,
    /// The id of its cgroup in the unified hierarchy.
    pub cgroup_id: u64,
    /// Who woke it, if that is asked for and it waited for long: the id of a [`Waker`], or [`NO_WAKER`].
    pub waker: u64,
    /// For what it waits: a [`WaitState`].
    pub state: u32,
    /// How often its process had called `exec` when it had the first of `short`.
    pub exec_id: u32,
    /// Its last waits that were too short for a stack, until they are counted.
    pub short: ShortWaits,
}

/// Waits of one thread for the same thing that were too short for a stack. Adding them up here costs less than counting each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ShortWaits {
    /// How long they were, until it was woken, in nanoseconds.
    pub blocked_ns: u64,
    /// How long it waited for a CPU after them, in nanoseconds.
    pub queued_ns: u64,
    /// For what it waited: a [`WaitState`].
    pub state: u32,
    /// How many.
    pub count: u32,
}

impl ShortWaits {
    /// None.
    pub const NONE: Self = Self { blocked_ns: 0, queued_ns: 0, state: 0, count: 0 };
}

/// Nobody woke the thread yet, or nobody asked who did.
pub const NO_WAKER: u64 = 0;

/// An interrupt woke the thread: a timer, a device.
pub const WAKER_INTERRUPT: u64 = 1;

/// Who woke a thread, sent the first time that it is seen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waker {
    /// Kind [`crate::stack::RecordKind::Waker`].
    pub header: RecordHeader,
    /// A 64-bit hash of all that follows: what [`StackKey`] refers to.
    pub id: u64,
    /// The process image.
    pub image: ImageKey,
    /// Id of the user stack.
    pub user_stack: u64,
    /// Id of the kernel stack.
    pub kernel_stack: u64,
    /// The thread's name, NUL-padded.
    pub comm: [u8; COMM_BYTES],
}

/// A wait that is over, of the thread that now runs on a CPU, whose user stack is still to be taken.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FinishedWait {
    /// The thread; 0 if there is none.
    pub tid: u32,
    /// For what it waited: a [`WaitState`].
    pub state: u32,
    /// Where it entered the kernel: the user stack is this one while these are the same.
    pub ip: u64,
    /// The stack pointer there.
    pub sp: u64,
    /// The process image.
    pub image: ImageKey,
    /// The id of the thread's cgroup in the unified hierarchy.
    pub cgroup_id: u64,
    /// Where in the kernel it waited.
    pub kernel_stack: u64,
    /// How long, until it was woken, in nanoseconds.
    pub blocked_ns: u64,
    /// How long it then waited for a CPU, in nanoseconds.
    pub queued_ns: u64,
    /// Who woke it: see [`Wait::waker`].
    pub waker: u64,
    /// The thread's name, NUL-padded.
    pub comm: [u8; COMM_BYTES],
}

/// A wait that has not ended when the recording does, as it is read from an iterator over all threads.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnfinishedWait {
    /// Who waits, for what, and the stacks that are known.
    pub key: StackKey,
    /// How long so far, until it was woken, in nanoseconds.
    pub blocked_ns: u64,
    /// How long it has waited for a CPU since, in nanoseconds.
    pub queued_ns: u64,
    /// How often it had been given a CPU in its life, by the scheduler's account: as long as this does not change, its stack does not.
    /// [`u64::MAX`] if this kernel does not count it.
    pub runs: u64,
    /// The thread.
    pub tid: u32,
    /// 1 if `registers` say where its user stack begins, which is still to be taken; otherwise 0.
    pub has_registers: u32,
    /// The user registers, as in [`crate::stack::StackSnapshot`].
    pub registers: [u64; SNAPSHOT_REGISTERS_MAX],
}
