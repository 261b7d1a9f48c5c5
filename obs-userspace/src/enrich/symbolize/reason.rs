//! Why an address has no name, and what went wrong with a file.

use std::{io, sync::Arc};

use crate::enrich::process::OpenError;

/// Why an address has no name. Every frame without a name has exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoSymbol {
    /// Its process had ended before it could be examined.
    UnknownProcess,
    /// It lies in no executable mapping of its process.
    NoMapping,
    /// The file that was mapped does not exist any more.
    FileGone,
    /// The file's name belongs to another file now.
    FileReplaced,
    /// The file could not be read.
    FileUnreadable,
    /// What is mapped is not an ELF file that we can read, or is damaged.
    NotElf,
    /// The file exceeds a limit of ours.
    TooLarge,
    /// The file has no symbol that covers the address: most often because it is stripped.
    Stripped,
    /// A just-in-time compiler's code, and no perf map names it.
    JitWithoutMap,
    /// A just-in-time compiler's code, which its perf map does not name.
    NotInPerfMap,
    /// The kernel hides its addresses from us.
    KernelHidden,
    /// The kernel's symbols could not be read.
    KernelUnreadable,
    /// The kernel has no symbol there.
    KernelUnknown,
}

impl NoSymbol {
    /// A short phrase for people and summaries.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::UnknownProcess => "process ended before it could be examined",
            Self::NoMapping => "address in no mapping",
            Self::FileGone => "file gone",
            Self::FileReplaced => "file replaced",
            Self::FileUnreadable => "file unreadable",
            Self::NotElf => "not a readable ELF file",
            Self::TooLarge => "file exceeds limits",
            Self::Stripped => "no symbol covers the address (stripped)",
            Self::JitWithoutMap => "just-in-time code without perf map",
            Self::NotInPerfMap => "just-in-time code not in perf map",
            Self::KernelHidden => "kernel addresses hidden",
            Self::KernelUnreadable => "kernel symbols unreadable",
            Self::KernelUnknown => "no kernel symbol at address",
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::UnknownProcess => {
                "start the program with `obs record … -- CMD`, so that it is known from its first instruction"
            }
            Self::NoMapping => "nothing: the code was unmapped before it could be looked up",
            Self::FileGone | Self::FileReplaced => "restart the program, so that it runs the file that is installed",
            Self::FileUnreadable => "run obs as root, or with the capabilities that `obs doctor` names",
            Self::NotElf => "nothing, if the program makes its code itself",
            Self::TooLarge => "strip the file's debug information into a separate file",
            Self::Stripped => "install the package's debug symbols, or build without stripping",
            Self::JitWithoutMap => "start the program with its perf map switched on (e.g. `node --perf-basic-prof`)",
            Self::NotInPerfMap => "nothing, if the code was discarded before it was written to the map",
            Self::KernelHidden => "set kernel.kptr_restrict to 0 or 1, and run obs with the capability SYSLOG",
            Self::KernelUnreadable => "check that the kernel has /proc/kallsyms (CONFIG_KALLSYMS)",
            Self::KernelUnknown => "nothing: the code was unloaded, or has no symbol",
        }
    }
}

/// What went wrong with a file as a whole.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// It is not an ELF file of a kind that we read.
    #[error("not an ELF file for x86 or aarch64: {0}")]
    NotElf(&'static str),
    /// It contradicts itself.
    #[error("damaged ELF file: {0}")]
    Malformed(&'static str),
    /// It exceeds one of our limits.
    #[error("{what} is {size}, more than the {max} that obs reads")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        max: u64,
    },
    /// Its build id is not the one of the file that was mapped.
    #[error("{path} has another build id than the file that was mapped")]
    Replaced {
        /// The file.
        path: Arc<str>,
    },
}

impl FileError {
    /// The reason that every address in the file has no name.
    #[must_use]
    pub fn reason(&self) -> NoSymbol {
        match self {
            Self::Open(OpenError::Gone { .. }) => NoSymbol::FileGone,
            Self::Open(OpenError::Replaced { .. }) | Self::Replaced { .. } => NoSymbol::FileReplaced,
            Self::Open(OpenError::Unreadable { .. }) | Self::Read { .. } => NoSymbol::FileUnreadable,
            Self::Open(OpenError::NotRegular { .. }) | Self::NotElf(_) | Self::Malformed(_) => NoSymbol::NotElf,
            Self::TooLarge { .. } => NoSymbol::TooLarge,
        }
    }
}
