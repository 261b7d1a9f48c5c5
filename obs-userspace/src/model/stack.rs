//! Stacks as captured: addresses, and how each was found.

use serde::Serialize;

use super::process::ProcessKey;

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

/// A thread's registers and a piece of its stack, to be walked in user space because the kernel side lacked something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackSnapshot {
    /// The collector's number for this stack.
    pub id: u64,
    /// The process image.
    pub process: ProcessKey,
    /// The user registers.
    pub registers: UserRegisters,
    /// Where `memory` begins: at the stack pointer or a little below.
    pub memory_start: u64,
    /// The stack's memory; empty if there was none at the stack pointer.
    pub memory: Box<[u8]>,
}

/// The user registers of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserRegisters {
    /// The instruction pointer.
    pub ip: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer.
    pub fp: u64,
    /// The link register; 0 where there is none.
    pub lr: u64,
    /// The general registers by their DWARF numbers; 0 behind the last.
    pub general: [u64; 31],
}

impl StackSnapshot {
    /// The word at an address, if the snapshot has it.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.memory_start)?).ok()?;
        let bytes = self.memory.get(offset..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
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
    /// The mapped file has no unwind table, and will not get one.
    NoFileTable,
    /// The mapped file's unwind table was not loaded yet.
    TableNotReady,
    /// The file's unwind table says nothing of the address.
    NoRow,
    /// The table has a rule that the kernel side cannot evaluate.
    UnsupportedRule,
    /// Stack memory could not be read.
    ReadFailed,
    /// A frame lies outside of the piece of the stack that was copied to user space: the stack is large, or there are two.
    NotInSnapshot,
    /// The return address was 0, as at some threads' beginnings and in memory that is no frame.
    ReturnAddressZero,
    /// The next frame did not lie above this one.
    NotAscending,
    /// The thread's user registers could not be had.
    NoRegisters,
    /// The kernel could not walk the stack at all.
    WalkFailed,
    /// The stack was captured but lost on its way to user space.
    Lost,
    /// The thread went on before its stack could be taken.
    Gone,
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
            Self::TableNotReady => "unwind table not ready",
            Self::NoRow => "no unwind information at address",
            Self::UnsupportedRule => "unsupported unwind rule",
            Self::ReadFailed => "stack memory unreadable",
            Self::NotInSnapshot => "stack memory not in its snapshot",
            Self::ReturnAddressZero => "return address is zero",
            Self::NotAscending => "stack not ascending",
            Self::NoRegisters => "no user registers",
            Self::WalkFailed => "walk failed",
            Self::Lost => "stack lost in ring buffer",
            Self::Gone => "thread went on",
        }
    }

    /// What a user can do for whole stacks; the same for all stacks that end so. Empty for whole ones.
    #[must_use]
    pub fn advice(self) -> &'static str {
        const WAIT: &str = "it passes; record for longer";
        const REPORT: &str = "the code breaks the convention that it declares, or obs is wrong: please report it";
        match self {
            Self::Complete => "",
            Self::FramePointerChain => {
                "compile with -fno-omit-frame-pointer (node: --interpreted-frames-native-stack; Java: \
                 -XX:+PreserveFramePointer)"
            }
            Self::TooDeep => "the innermost frames are kept; nothing to do but to recurse less",
            Self::NoProcessTable => "it ended before it could be looked at, or too many processes are measured",
            Self::TableNotReady | Self::NotInSnapshot => WAIT,
            Self::NoMapping => {
                "code in memory that obs was not told of; a JIT's often comes with frame pointers as an option"
            }
            Self::NoFileTable => "the file was linked without .eh_frame: rebuild it with -fasynchronous-unwind-tables",
            Self::NoRow => {
                "assembly, generated code (V8's built-in functions), or built with -fno-asynchronous-unwind-tables"
            }
            Self::UnsupportedRule => "a frame of a form that obs does not evaluate: please report it",
            Self::ReadFailed => "the stack was paged out, or its frames contradict their description",
            Self::ReturnAddressZero | Self::NotAscending => REPORT,
            Self::NoRegisters | Self::WalkFailed => "the kernel refused; `obs doctor` may say why",
            Self::Gone => {
                "the wait ended unseen, otherwise than by the return of its system call, or as the recording ended"
            }
            Self::Lost => "sample less often (-F), or fewer processes",
        }
    }
}
