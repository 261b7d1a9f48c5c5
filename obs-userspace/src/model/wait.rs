//! Waits: what threads wait for while they do not run, and who wakes them.

use std::sync::Arc;

use super::{process::ProcessKey, stack::Stack};

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
    /// For nothing: it ran.
    Running,
}

impl WaitState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Sleep,
        Self::Lock,
        Self::BlockIo,
        Self::Network,
        Self::PageFault,
        Self::Kernel,
        Self::RunQueue,
        Self::Preempted,
        Self::Throttled,
        Self::Running,
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
            Self::Running => "[on CPU]",
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

/// Who ended a wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Waker {
    /// A thread.
    Thread(Arc<WakerThread>),
    /// An interrupt: of a timer or a device.
    Interrupt,
    /// A thread, of which nothing is known any more.
    Lost,
}

/// A thread that woke another, and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WakerThread {
    /// The process image.
    pub process: ProcessKey,
    /// The thread's name.
    pub thread_name: Arc<str>,
    /// Its user stack, if it has one.
    pub user: Option<Arc<Stack>>,
    /// Its kernel stack.
    pub kernel: Option<Arc<Stack>>,
}
