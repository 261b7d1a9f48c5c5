//! What can go wrong with the store: what was attempted, on what, why it failed, what to do.
//!
//! Each text is whole: it names its cause. So none of them has a `source`, which whoever prints a chain of causes would tell once
//! more.

use std::{io, path::PathBuf};

use super::{bytes::Malformed, limits::VERSION};

/// Why a file cannot be read. The file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("reading it failed: {0}")]
    Read(io::Error),
    /// It was written by a newer obs.
    #[error(
        "it is of format version {found}, this obs reads up to {VERSION}: it is left untouched; read it with the obs that \
         wrote it, or remove it if its data is not needed"
    )]
    NewerVersion {
        /// The version in the file.
        found: u16,
    },
    /// It is not what its name says.
    #[error("it is no file of the store: {0}")]
    NotOurs(&'static str),
    /// A part of it is not as it was written.
    #[error("it is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the part begins.
        offset: u64,
        /// In what it is wrong.
        what: Malformed,
    },
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error(
        "cannot open the store in {}: process {owner} uses it; stop that one first, or choose another folder",
        dir.display()
    )]
    Locked {
        /// The state folder.
        dir: PathBuf,
        /// The process id of the owner, or `(unknown)` if it has not written it yet.
        owner: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}{}", path.display(), advice(cause))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// A window cannot be kept, for a reason that lies in it.
    #[error("cannot keep the window that began at {started_unix_ns} ns: {why}")]
    Window {
        /// When it began.
        started_unix_ns: u64,
        /// What is wrong with it.
        why: WindowError,
    },
    /// Compression failed; a mistake of ours or a lack of memory.
    #[error("cannot compress {bytes} bytes: {cause}")]
    Compress {
        /// How much was to be compressed.
        bytes: usize,
        /// What the library said.
        cause: io::Error,
    },
    /// A journal could not be made into a block; it stays as it is and can be read.
    #[error("cannot make a block of {}: {cause}", path.display())]
    Seal {
        /// The journal.
        path: PathBuf,
        /// Why not.
        cause: FileError,
    },
}

/// What is wrong with a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// More than a block can hold.
    #[error("it has more {what} than the {max} that a block holds")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        max: usize,
    },
    /// A profile contradicts itself.
    #[error("its profile {collector} contradicts itself: {what}")]
    Inconsistent {
        /// Which profile.
        collector: String,
        /// In what.
        what: &'static str,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_out_of_room(error) => "; make room on that file system, or lower the store's retention",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a state folder on a file system that can be written",
        io::ErrorKind::PermissionDenied => "; obs must be able to write there, as root or as the folder's owner",
        _ => "",
    }
}

/// Whether it would have worked on a file system with room.
pub(super) fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { action, path, cause }
    }
}
