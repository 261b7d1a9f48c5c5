//! How unwind tables and the mappings of processes lie in the kernel's maps.
//!
//! Everything is in two arrays that user space writes through a memory map: `UNWIND_ARENA`, blocks of 32-bit words, holds
//! the rules, pages and rows of files; `UNWIND_MAPPINGS` holds the executable mappings of processes. What says where in
//! them something lies (`UNWIND_FILES`, `UNWIND_PROCESSES`) is written after it, and taken back before it is reused.

/// Words of 32 bits in one element of the map `UNWIND_ARENA`: small elements would each be rounded up to 8 bytes.
pub const ARENA_BLOCK_WORDS: usize = 1_024;

/// Most files with a table at a time.
pub const FILES_MAX: u32 = 4_096;

/// Most process images with mappings at a time.
pub const PROCESSES_MAX: u32 = 8_192;

/// Most executable mappings over all processes; forked processes share those of their parent.
pub const MAPPINGS_MAX: u32 = 65_536;

/// Halvings of the binary search among the mappings of one process.
pub const MAPPING_SEARCH_STEPS: u32 = 13;

/// Most executable mappings of one process that the search can tell apart.
pub const MAPPINGS_PER_PROCESS_MAX: u32 = 1 << (MAPPING_SEARCH_STEPS - 1);

/// Most rules that each CPU remembers from its last walks; a power of two. Stacks resemble each other, and a rule that is
/// remembered costs one look instead of a search through pages and rows that have long left the caches.
pub const RULES_REMEMBERED: usize = 512;

/// [`Mapping::file`] of memory that belongs to no file with unwind information: what a just-in-time compiler made.
/// Frames in it are found by the frame pointer.
pub const FILE_NONE: u32 = u32::MAX;

/// [`FileTable::pages_count`] of a file that gets no table.
pub const PAGES_NEVER: u32 = u32::MAX;

/// An executable mapping of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What to take off an address to get the file's own address.
    pub bias: u64,
    /// Index into `UNWIND_FILES`, or [`FILE_NONE`].
    pub file: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where the mappings of a process image lie in `UNWIND_MAPPINGS`, sorted by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMappings {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// 1: that an address is in none of them is final, so no snapshot of the stack is worth its cost.
    pub is_settled: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where the table of a file lies in `UNWIND_ARENA`; all positions are in words from the arena's beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileTable {
    /// The page number of the first entry of `pages`; see [`crate::unwind_row`].
    pub first_page: u32,
    /// Entries of `pages`, the closing one not counted. 0: there is no table yet; [`PAGES_NEVER`]: nor will there be one.
    pub pages_count: u32,
    /// Where `pages` begins.
    pub pages_at: u32,
    /// Where `rows` begins.
    pub rows_at: u32,
    /// Where `rules` begins.
    pub rules_at: u32,
    /// Written by the kernel side: `UNWIND_EPOCH` when the table was last used.
    pub used_epoch: u32,
    /// Which of all tables that were ever loaded this is, so that what the kernel side remembers of another one does not count.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}
