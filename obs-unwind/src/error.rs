//! Why a file has no unwind table.

use crate::limits;
use obs_common::unwind_row::{PAGES_MAX, ROWS_MAX, RULES_MAX};

/// Why an ELF image cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Its header or program headers cannot be read.
    #[error("not a readable 64-bit little-endian ELF image: {0}")]
    Malformed(&'static str),
    /// It is for another processor.
    #[error("ELF machine {0} is neither x86-64 (62) nor aarch64 (183)")]
    UnsupportedMachine(u16),
    /// Nothing in it is ever executed.
    #[error("it has no executable segment")]
    NoExecutableSegment,
    /// It has more executable segments than [`limits::EXECUTABLE_SEGMENTS_MAX`].
    #[error("it has more than {} executable segments", limits::EXECUTABLE_SEGMENTS_MAX)]
    TooManySegments,
}

/// Why no unwind table could be made of an ELF image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Neither `.eh_frame` nor `.debug_frame` nor Go's function table says anything of its code.
    #[error("it has no call frame information: build it with -fasynchronous-unwind-tables, or keep its frame pointers")]
    NoInformation,
    /// As above, but there is a `.debug_frame` that is compressed in a way that is not read.
    #[error("its only call frame information, .debug_frame, is compressed with method {0} (1, zlib, is read)")]
    UnsupportedCompression(u32),
    /// The covered code spans more than [`PAGES_MAX`] pages.
    #[error("its code spans {pages} pages of 4 KiB, more than {}", PAGES_MAX)]
    SpanTooLong {
        /// Pages from the first covered address to the last.
        pages: u64,
    },
    /// The table would have more than [`ROWS_MAX`] rows.
    #[error("it needs more than {} rows", ROWS_MAX)]
    TooManyRows,
    /// The table would have more than [`RULES_MAX`] different rules.
    #[error("it needs more than {} different rules", RULES_MAX)]
    TooManyRules,
    /// A section has more than [`limits::FDES_MAX`] function descriptions.
    #[error("it has more than {} function descriptions", limits::FDES_MAX)]
    TooManyFunctions,
    /// The inflated `.debug_frame` would be larger than [`limits::DEBUG_FRAME_BYTES_MAX`].
    #[error("its .debug_frame is longer than {} bytes when inflated", limits::DEBUG_FRAME_BYTES_MAX)]
    DebugFrameTooLong,
}
