//! Every bound of the store, by name. What is beyond one when written is refused, cut or counted; when read, it is damage.

/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

/// Seconds that a bucket of the roll-up covers, aligned to multiples of it since 1970.
pub const BUCKET_SECONDS: u64 = 600;
pub(super) const BUCKET_NS: u64 = BUCKET_SECONDS * 1_000_000_000;

/// Most bytes of a frame, compressed and not.
pub(super) const FRAME_BYTES_MAX: usize = 8 << 20;
/// Most bytes of a string; a longer one is cut at a character's boundary when it is written.
pub const STRING_BYTES_MAX: usize = 4096;
/// Most bytes of all strings of a block.
pub(super) const STRINGS_BYTES_MAX: usize = 4 << 20;
/// Most entries of a block's tables.
pub(super) const STRINGS_MAX: usize = 1 << 17;
pub(super) const MODULES_MAX: usize = 1 << 14;
pub(super) const FRAMES_MAX: usize = 1 << 17;
pub(super) const NODES_MAX: usize = 1 << 18;
pub(super) const PROCESSES_MAX: usize = 1 << 16;
pub(super) const KINDS_MAX: usize = 1 << 8;
pub(super) const KEYS_MAX: usize = 1 << 17;
pub(super) const SERIES_MAX: usize = 1 << 16;
/// Most value types of a profile.
pub(super) const VALUE_TYPES_MAX: usize = 8;
/// Most labels of a series or of an event, and most attributes of a process.
pub(super) const LABELS_MAX: usize = 64;
/// Most labels and attributes of a table together.
pub(super) const LABELS_TOTAL_MAX: usize = 1 << 19;
/// Most frames of a stack; the innermost ones are kept, and the stack is marked as too deep.
pub const STACK_FRAMES_MAX: usize = 1024;
/// Most buckets of one histogram: at 8 per doubling, from 1 ns to 584 years.
pub const HISTOGRAM_BUCKETS_MAX: usize = 512;
/// Most buckets of all histograms of a block.
pub(super) const BUCKETS_MAX: u64 = 1 << 19;
/// Most windows of a block.
pub(super) const WINDOWS_MAX: usize = 1 << 13;
/// Most samples, and most points of series, of a block.
pub(super) const ENTRIES_MAX: u64 = 1 << 22;
/// Most events of one window; those that are left out are counted.
pub const WINDOW_EVENTS_MAX: usize = 10_000;
/// Most events of a block.
pub(super) const EVENTS_MAX: u64 = 1 << 20;
/// A journal that is longer is made into a block.
pub(super) const JOURNAL_BYTES_MAX: u64 = 32 << 20;
/// A table that is fuller than this share of its bound makes the next window begin a new block.
pub(super) const TABLE_FILL: (usize, usize) = (1, 2);

/// Memory that the tables of the open journal may take, roughly: beyond it the next window begins a new block.
pub(super) const TABLES_MEMORY_BYTES_MAX: usize = 5 << 20;

/// Entries that are sorted at once when a journal is made into a block: what bounds its memory.
pub(super) const CHUNK_ENTRIES: usize = 1 << 15;
/// Most chunks of a block, over all sections.
pub(super) const CHUNKS_MAX: usize = 1 << 12;

/// Most files of blocks in a folder; the oldest go first.
pub(super) const FILES_MAX: usize = 1 << 14;
/// How often a listing of the folder is repeated until two agree.
pub(super) const LISTINGS_MAX: usize = 8;
/// Most damaged files that a report names; the others are counted.
pub(super) const DAMAGE_MAX: usize = 32;
