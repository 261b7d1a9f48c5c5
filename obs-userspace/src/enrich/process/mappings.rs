//! The executable mappings of one process image.

use std::sync::Arc;

use super::files::CodeFile;
use crate::model::process::MappedRegion;

/// Most executable mappings that are kept of one process image.
pub const MAPPINGS_PER_IMAGE_MAX: usize = 8_192;

/// What an executable mapping holds.
#[derive(Clone, Debug)]
pub enum Code {
    /// A file's code (or a memory file's, which may be a JIT's).
    File(Arc<CodeFile>),
    /// The kernel's virtual shared object.
    Vdso,
    /// The kernel's legacy system call page.
    Vsyscall,
    /// Memory that no file stands behind: a just-in-time compiler's.
    Anonymous,
}

/// Which kind of code a mapping of this name holds. The kernel's names are not paths, and some paths are not files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// A path that can be a file.
    File,
    /// The virtual shared object.
    Vdso,
    /// The legacy system call page.
    Vsyscall,
    /// No file.
    Anonymous,
}

/// Tells from the kernel's name of a mapping what stands behind it.
#[must_use]
pub fn code_kind(path: &str) -> CodeKind {
    // `[uprobes]`, `[heap]`, `[stack]`, `[anon:NAME]`, `[anon_shmem:NAME]` and the like are never files.
    match path {
        "[vdso]" => CodeKind::Vdso,
        "[vsyscall]" => CodeKind::Vsyscall,
        _ if path.starts_with("/dev/") || path.starts_with("/SYSV") || path.starts_with("/anon_hugepage") => {
            CodeKind::Anonymous
        }
        _ if path.starts_with('/') && !path.starts_with("//") => CodeKind::File,
        _ => CodeKind::Anonymous,
    }
}

/// One executable mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it starts, in bytes.
    pub file_offset: u64,
    /// What it holds.
    pub code: Code,
    /// When it was reported, in nanoseconds of the boot-time clock.
    pub since_ns: u64,
}

impl Mapping {
    /// Makes a mapping of a reported region; `None` if the region is empty or inside out.
    #[must_use]
    pub(super) fn new(region: &MappedRegion, code: Code, since_ns: u64) -> Option<Self> {
        (region.start < region.end).then_some(Self {
            start: region.start,
            end: region.end,
            file_offset: region.file_offset,
            code,
            since_ns,
        })
    }

    /// Where in the file an address of this mapping lies.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> u64 {
        address.wrapping_sub(self.start).wrapping_add(self.file_offset)
    }

    /// The part of it from `start` on.
    fn from(&self, start: u64) -> Self {
        Self { start, file_offset: self.offset_of(start), ..self.clone() }
    }

    /// The part of it before `end`.
    fn until(&self, end: u64) -> Self {
        Self { end, ..self.clone() }
    }
}

/// Executable mappings by address; no two overlap, and there are at most [`MAPPINGS_PER_IMAGE_MAX`].
#[derive(Clone, Debug, Default)]
pub struct MappingTable {
    /// Ascending by `start`.
    mappings: Vec<Mapping>,
}

impl MappingTable {
    /// The mapping that covers an address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let behind = self.mappings.partition_point(|mapping| mapping.start <= address);
        self.mappings[..behind].last().filter(|mapping| address < mapping.end)
    }

    /// All mappings, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// Maps something over whatever lies in its range: what is behind is cut or gone, as `mmap` does it. Returns whether
    /// there was room.
    pub(super) fn overlay(&mut self, new: Mapping) -> bool {
        let first = self.mappings.partition_point(|mapping| mapping.end <= new.start);
        let behind = self.mappings.partition_point(|mapping| mapping.start < new.end);
        let mut pieces = Vec::with_capacity(3);
        // No two overlap, so whatever ends before `new` also starts before its end: `first <= behind`.
        let overlapped = &self.mappings[first..behind];
        if let Some(left) = overlapped.first().filter(|left| left.start < new.start) {
            pieces.push(left.until(new.start));
        }
        let new_end = new.end;
        pieces.push(new);
        if let Some(right) = overlapped.last().filter(|right| right.end > new_end) {
            pieces.push(right.from(new_end));
        }
        if self.mappings.len() - overlapped.len() + pieces.len() > MAPPINGS_PER_IMAGE_MAX {
            return false;
        }
        self.mappings.splice(first..behind, pieces);
        true
    }

    /// Lays this table over an older one: where both have something, this one's stays. Returns how many mappings found no
    /// room.
    pub(super) fn underlay(&mut self, older: &Self) -> u64 {
        let newer = std::mem::replace(self, older.clone());
        newer.mappings.into_iter().filter(|mapping| !self.overlay(mapping.clone())).count() as u64
    }

    /// Takes out what was reported at `time_ns` or later.
    pub(super) fn split_off_since(&mut self, time_ns: u64) -> Self {
        let (later, earlier) = std::mem::take(&mut self.mappings).into_iter().partition(|m| m.since_ns >= time_ns);
        self.mappings = earlier;
        Self { mappings: later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, file_offset: u64) -> Mapping {
        Mapping { start, end, file_offset, code: Code::Anonymous, since_ns: start }
    }

    fn shape(table: &MappingTable) -> Vec<(u64, u64, u64)> {
        table.iter().map(|mapping| (mapping.start, mapping.end, mapping.file_offset)).collect()
    }

    #[test]
    fn finds_by_half_open_range() {
        let mut table = MappingTable::default();
        assert!(table.overlay(mapping(0x2000, 0x3000, 0)));
        assert!(table.overlay(mapping(0x1000, 0x1800, 0)));
        let start = |address| table.find(address).map(|mapping| mapping.start);
        assert_eq!(
            [0xfff, 0x1000, 0x17ff, 0x1800, 0x1fff, 0x2000, 0x2fff, 0x3000].map(start),
            [None, Some(0x1000), Some(0x1000), None, None, Some(0x2000), Some(0x2000), None]
        );
    }

    #[test]
    fn a_later_mapping_cuts_the_ones_behind_it() {
        let mut table = MappingTable::default();
        table.overlay(mapping(0x1000, 0x5000, 0x100));
        table.overlay(mapping(0x2000, 0x3000, 0x9000));
        assert_eq!(shape(&table), [(0x1000, 0x2000, 0x100), (0x2000, 0x3000, 0x9000), (0x3000, 0x5000, 0x2100)]);
        table.overlay(mapping(0x1800, 0x4000, 0));
        assert_eq!(shape(&table), [(0x1000, 0x1800, 0x100), (0x1800, 0x4000, 0), (0x4000, 0x5000, 0x3100)]);
        table.overlay(mapping(0, 0x6000, 7));
        assert_eq!(shape(&table), [(0, 0x6000, 7)]);
    }

    #[test]
    fn underlay_keeps_the_newer_where_both_have_something() {
        let mut older = MappingTable::default();
        older.overlay(mapping(0x1000, 0x4000, 0));
        let mut newer = MappingTable::default();
        newer.overlay(mapping(0x2000, 0x3000, 0x77));
        assert_eq!(newer.underlay(&older), 0);
        assert_eq!(shape(&newer), [(0x1000, 0x2000, 0), (0x2000, 0x3000, 0x77), (0x3000, 0x4000, 0x2000)]);
    }

    #[test]
    fn is_bounded() {
        let mut table = MappingTable::default();
        for index in 0..MAPPINGS_PER_IMAGE_MAX as u64 {
            assert!(table.overlay(mapping(index * 0x2000, index * 0x2000 + 0x1000, 0)));
        }
        assert!(!table.overlay(mapping(0x1000, 0x2000, 0)));
        assert!(table.overlay(mapping(0, 0x1000, 5)), "a mapping that takes another's place needs no room");
        assert_eq!(table.find(0).map(|mapping| mapping.file_offset), Some(5));
        assert_eq!(table.find(0x1000).map(|mapping| mapping.start), None);
    }

    #[test]
    fn names_that_are_not_files() {
        for path in [
            "",
            "//anon",
            "[heap]",
            "[stack]",
            "[anon:v8]",
            "[uprobes]",
            "anon_inode:[io_uring]",
            "/dev/zero",
            "/SYSV00000000",
            "/anon_hugepage",
        ] {
            assert_eq!(code_kind(path), CodeKind::Anonymous, "{path}");
        }
        assert_eq!(code_kind("[vdso]"), CodeKind::Vdso);
        assert_eq!(code_kind("[vsyscall]"), CodeKind::Vsyscall);
        assert_eq!(code_kind("/usr/bin/cat"), CodeKind::File);
        assert_eq!(code_kind("/memfd:code"), CodeKind::File);
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn agrees_with_a_page_table(regions in proptest::collection::vec((0u64..64, 1u64..16), 1..40)) {
                let mut table = MappingTable::default();
                let mut pages = [None; 96];
                for (index, (start, length)) in regions.iter().enumerate() {
                    let offset = (index as u64 + 1) * 0x100_0000;
                    table.overlay(mapping(start * 0x1000, (start + length) * 0x1000, offset));
                    for page in *start..start + length {
                        pages[page as usize] = Some(offset + (page - start) * 0x1000);
                    }
                }
                for (page, expected) in pages.iter().enumerate() {
                    let address = page as u64 * 0x1000;
                    prop_assert_eq!(table.find(address).map(|found| found.offset_of(address)), *expected);
                }
            }
        }
    }
}
