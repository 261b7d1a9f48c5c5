//! The bounds of what this crate reads and keeps. Those that the table's format sets are in
//! [`obs_common::unwind_row`].

/// Most executable segments of one file; real files have one or two.
pub const EXECUTABLE_SEGMENTS_MAX: usize = 64;

/// Most function descriptions (FDEs) of one section. Each costs 16 bytes of heap while a section that has no usable
/// `.eh_frame_hdr` is sorted: 64 MiB at most.
pub const FDES_MAX: usize = 1 << 22;

/// Functions between two calls of the `step` of [`crate::UnwindTable::build_in_steps`]: a megabyte or two of a usual file.
pub const FUNCTIONS_PER_STEP: u32 = 4096;

/// Most call frame instructions of one function description; what follows them has no information.
pub const INSTRUCTIONS_PER_FDE_MAX: u32 = 1 << 20;

/// Most call frame instructions that a CIE (what function descriptions have in common) may begin with.
pub const INSTRUCTIONS_PER_CIE_MAX: u32 = 256;

/// Most states that a function description may put aside with `DW_CFA_remember_state`.
pub const REMEMBERED_STATES_MAX: usize = 32;

/// Most CIEs that are kept parsed at a time, about 200 bytes each; the cache starts anew when it is full.
pub const CIES_CACHED_MAX: usize = 4096;

/// Most operations of one DWARF expression that is looked at.
pub const EXPRESSION_OPERATIONS_MAX: usize = 16;

/// Most bytes that a compressed `.debug_frame` may have when inflated; they are heap while the table is built.
pub const DEBUG_FRAME_BYTES_MAX: u64 = 64 << 20;

/// Most functions that Go's own table (pclntab) may list.
pub const GO_FUNCTIONS_MAX: u32 = 1 << 21;

/// Most steps of the stack pointer within one Go function.
pub const GO_STEPS_PER_FUNCTION_MAX: u32 = 1 << 16;

/// Most bytes of code between two functions that are taken for the padding of the first one.
pub const PADDING_BYTES_MAX: u64 = 64;

/// Most bytes from a file's entry point to the next described function of which all are taken for the start code that has
/// no caller. Of more than that, only the first [`ENTRY_BYTES`] are.
pub const ENTRY_GAP_BYTES_MAX: u64 = 64;

/// See [`ENTRY_GAP_BYTES_MAX`].
pub const ENTRY_BYTES: u64 = 16;

/// Most bytes of undescribed code of one file that are searched for known instructions.
pub const GAP_BYTES_SCANNED_MAX: u64 = 16 << 20;

/// Most sections of stubs (`.plt` and its like) of one file.
pub const STUB_SECTIONS_MAX: usize = 8;

/// Most notes that are looked at for a build id.
pub const NOTES_MAX: usize = 256;

/// Most bytes of a build id that are kept; GNU's have 20.
pub const BUILD_ID_BYTES_MAX: usize = 128;
