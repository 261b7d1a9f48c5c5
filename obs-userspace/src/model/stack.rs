//! Stacks as captured: addresses, and how each was found.

use serde::Serialize;

/// The frames of one stack, as captured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Innermost (leaf) first.
    pub frames: Box<[StackFrame]>,
    /// Why the walk ended.
    pub end: StackEnd,
}

/// One captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackFrame {
    /// The address, in the address space of the process (or of the kernel).
    pub address: u64,
    /// Whether `address` was being executed. Otherwise it is a return address: the call lies just before it.
    pub exact: bool,
    /// Whether the frame was found by following the frame pointer rather than by an unwind table.
    pub by_frame_pointer: bool,
}

impl StackFrame {
    /// The address to look up: a return address may already belong to the next function.
    #[must_use]
    pub fn lookup_address(&self) -> u64 {
        if self.exact { self.address } else { self.address.saturating_sub(1) }
    }
}

/// Why the walk of a stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StackEnd {
    /// It reached the thread's first frame.
    Complete,
    /// It followed the chain of frame pointers, whose end does not tell whether it was whole.
    FramePointerChain,
    /// There were more frames than are kept.
    TooDeep,
    /// No unwind table was loaded for the process yet.
    NoProcessTable,
    /// An address lay in no known executable mapping of the process.
    NoMapping,
    /// The mapped file had no unwind table loaded.
    NoFileTable,
    /// The file's unwind table says nothing of the address.
    NoRow,
    /// The table has a rule that the kernel side cannot evaluate.
    UnsupportedRule,
    /// Stack memory could not be read.
    ReadFailed,
    /// The next frame did not lie above this one.
    NotAscending,
    /// The thread's user registers could not be had.
    NoRegisters,
    /// The kernel could not walk the stack at all.
    WalkFailed,
    /// The stack was captured but lost on its way to user space.
    Lost,
}

impl StackEnd {
    /// A short phrase for people: what stands in `[cut: …]` and in summaries.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::FramePointerChain => "broken frame-pointer chain",
            Self::TooDeep => "too deep",
            Self::NoProcessTable => "no unwind table yet",
            Self::NoMapping => "address in no mapping",
            Self::NoFileTable => "file without unwind table",
            Self::NoRow => "no unwind information at address",
            Self::UnsupportedRule => "unsupported unwind rule",
            Self::ReadFailed => "stack memory unreadable",
            Self::NotAscending => "stack not ascending",
            Self::NoRegisters => "no user registers",
            Self::WalkFailed => "walk failed",
            Self::Lost => "stack lost in ring buffer",
        }
    }
}
