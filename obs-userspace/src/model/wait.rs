//! Waits: what threads wait for while they do not run.

/// For what a thread waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitState {
    /// For something that another process or a timer does: it slept, and a signal would have woken it.
    Sleep,
    /// For a futex: a lock, a condition variable, the end of another thread.
    Lock,
    /// For a block device.
    BlockIo,
    /// In a system call on a socket.
    Network,
    /// For memory that it touched, though for no block device.
    PageFault,
    /// For something in the kernel, so that no signal would have woken it.
    Kernel,
    /// For a CPU, after it was woken or made.
    RunQueue,
    /// For a CPU, which another thread was given.
    Preempted,
    /// For its cgroup's next period: the quota of CPU time was used up.
    Throttled,
}

impl WaitState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Sleep,
        Self::Lock,
        Self::BlockIo,
        Self::Network,
        Self::PageFault,
        Self::Kernel,
        Self::RunQueue,
        Self::Preempted,
        Self::Throttled,
    ];

    /// What stands for it as the innermost frame of a stack.
    #[must_use]
    pub fn frame(self) -> &'static str {
        match self {
            Self::Sleep => "[sleep]",
            Self::Lock => "[lock]",
            Self::BlockIo => "[block I/O]",
            Self::Network => "[network]",
            Self::PageFault => "[page fault]",
            Self::Kernel => "[in the kernel]",
            Self::RunQueue => "[run queue]",
            Self::Preempted => "[pre-empted]",
            Self::Throttled => "[throttled]",
        }
    }
}

/// A kind of wait that is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wait {
    /// For what.
    pub state: WaitState,
    /// Whether it was too short for a stack to be taken.
    pub is_short: bool,
}
