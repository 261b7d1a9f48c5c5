//! The headers of an ELF file: what is where, and which file it is.

use object::elf;

use super::{
    bytes::{Source, read_exact, text_until_nul, u16_at, u32_at, u64_at},
    reason::FileError,
};
use crate::model::process::BuildId;

/// Most sections of a file that is read. `-ffunction-sections` objects have more, but are never mapped.
const SECTIONS_MAX: u64 = 16_384;

/// Most program headers of a file that is read.
const SEGMENTS_MAX: u64 = 1_024;

/// Most bytes of the table of section names.
const SECTION_NAMES_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of a section or segment of notes.
const NOTES_BYTES_MAX: u64 = 64 << 10;

/// Most bytes of `.gnu_debuglink`: a file name and a checksum.
const DEBUG_LINK_BYTES_MAX: u64 = 4_096;

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) file_bytes: u64,
    pub(super) is_executable: bool,
}

/// A section.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) link: u32,
    pub(super) entry_bytes: u64,
}

impl Section {
    pub(super) fn is_executable(&self) -> bool {
        self.flags & u64::from(elf::SHF_EXECINSTR) != 0
    }

    pub(super) fn contains(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.size
    }

    /// Where its content is in the file; empty for sections that have none.
    pub(super) fn content(&self) -> (u64, u64) {
        (self.offset, if self.kind == elf::SHT_NOBITS { 0 } else { self.size })
    }
}

/// The headers.
#[derive(Clone, Debug)]
pub(super) struct ElfHeaders {
    pub(super) machine: Machine,
    pub(super) is_64_bit: bool,
    pub(super) entry: u64,
    pub(super) segments: Vec<Segment>,
    pub(super) sections: Vec<Section>,
    pub(super) build_id: Option<BuildId>,
}

/// How the fields of the two classes of ELF file lie.
struct Layout {
    header_bytes: u64,
    entry: usize,
    segment_table: usize,
    section_table: usize,
    /// Offset of `e_phentsize`; `e_phnum`, `e_shentsize`, `e_shnum`, `e_shstrndx` follow.
    counts: usize,
    segment_bytes: u64,
    section_bytes: u64,
}

const LAYOUT_32: Layout = Layout {
    header_bytes: 52,
    entry: 24,
    segment_table: 28,
    section_table: 32,
    counts: 42,
    segment_bytes: 32,
    section_bytes: 40,
};

const LAYOUT_64: Layout = Layout {
    header_bytes: 64,
    entry: 24,
    segment_table: 32,
    section_table: 40,
    counts: 54,
    segment_bytes: 56,
    section_bytes: 64,
};

impl ElfHeaders {
    /// Reads the headers of a file.
    ///
    /// # Errors
    /// If it cannot be read, is not an ELF file of a known machine, contradicts itself or is above a limit.
    pub(super) fn read(source: &(impl Source + ?Sized)) -> Result<Self, FileError> {
        let ident = read_exact(source, "ELF identification", 0, 16, 16).map_err(|error| match error {
            FileError::Malformed(_) => FileError::NotElf("too short"),
            other => other,
        })?;
        if !ident.starts_with(&elf::ELFMAG) {
            return Err(FileError::NotElf("does not begin as one"));
        }
        if ident[5] != elf::ELFDATA2LSB {
            return Err(FileError::NotElf("big-endian"));
        }
        let (is_64_bit, layout) = match ident[4] {
            elf::ELFCLASS32 => (false, LAYOUT_32),
            elf::ELFCLASS64 => (true, LAYOUT_64),
            _ => return Err(FileError::NotElf("unknown class")),
        };
        let header = read_exact(source, "ELF header", 0, layout.header_bytes, layout.header_bytes)?;
        let machine = match u16_at(&header, 18) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_386 => Machine::X86,
            elf::EM_AARCH64 => Machine::Aarch64,
            elf::EM_ARM => Machine::Arm,
            _ => return Err(FileError::NotElf("unknown machine")),
        };
        let word =
            |bytes: &[u8], offset| if is_64_bit { u64_at(bytes, offset) } else { u64::from(u32_at(bytes, offset)) };
        let (mut segment_count, mut section_count, mut names_index) = (
            u64::from(u16_at(&header, layout.counts + 2)),
            u64::from(u16_at(&header, layout.counts + 6)),
            u32::from(u16_at(&header, layout.counts + 8)),
        );
        let section_table = word(&header, layout.section_table);
        if section_table != 0
            && (section_count == 0 || segment_count == u64::from(elf::PN_XNUM) || names_index == 0xffff)
        {
            // Numbers that do not fit stand in the first section's header.
            let first = read_exact(source, "first section header", section_table, layout.section_bytes, 64)?;
            let first = section(&first, is_64_bit);
            section_count = if section_count == 0 { first.size } else { section_count };
            names_index = if names_index == 0xffff { first.link } else { names_index };
            if segment_count == u64::from(elf::PN_XNUM) {
                return Err(FileError::TooLarge { what: "program headers", size: segment_count, max: SEGMENTS_MAX });
            }
        }
        if segment_count > SEGMENTS_MAX {
            return Err(FileError::TooLarge { what: "program headers", size: segment_count, max: SEGMENTS_MAX });
        }
        if section_count > SECTIONS_MAX {
            return Err(FileError::TooLarge { what: "section headers", size: section_count, max: SECTIONS_MAX });
        }
        segment_count = if word(&header, layout.segment_table) == 0 { 0 } else { segment_count };
        let segment_bytes = segment_count * layout.segment_bytes;
        let table =
            read_exact(source, "program headers", word(&header, layout.segment_table), segment_bytes, segment_bytes)?;
        let mut segments = Vec::new();
        let mut notes = Vec::new();
        for entry in table.chunks_exact(usize::try_from(layout.segment_bytes).unwrap_or(1)) {
            let (flags, offset, address, file_bytes) = if is_64_bit {
                (u32_at(entry, 4), u64_at(entry, 8), u64_at(entry, 16), u64_at(entry, 32))
            } else {
                let number = |offset| u64::from(u32_at(entry, offset));
                (u32_at(entry, 24), number(4), number(8), number(16))
            };
            let is_executable = flags & elf::PF_X != 0;
            match u32_at(entry, 0) {
                elf::PT_LOAD => segments.push(Segment { address, offset, file_bytes, is_executable }),
                elf::PT_NOTE => notes.push((offset, file_bytes)),
                _ => {}
            }
        }
        let mut headers = Self {
            machine,
            is_64_bit,
            entry: word(&header, layout.entry),
            segments,
            sections: Vec::new(),
            build_id: None,
        };
        // A file without sections, or with damaged ones, still has its build id and its addresses.
        match read_sections(source, is_64_bit, (section_table, section_count), layout.section_bytes, names_index) {
            Ok(sections) => headers.sections = sections,
            Err(error @ FileError::Read { .. }) => return Err(error),
            Err(error) => tracing::debug!(%error, "sections of a file cannot be read"),
        }
        // A file of separate debug information has its notes in a section only.
        let in_sections = headers.sections.iter().filter(|section| section.kind == elf::SHT_NOTE).map(Section::content);
        headers.build_id = notes.iter().copied().chain(in_sections).find_map(|(offset, length)| {
            build_id_in(&read_exact(source, "notes", offset, length, NOTES_BYTES_MAX).ok()?)
        });
        Ok(headers)
    }

    /// The section of a name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The address at which a byte of the file is meant to lie, as `readelf` shows addresses. Where two segments share a
    /// page of the file, the executable one is meant.
    pub(super) fn address_of(&self, file_offset: u64) -> Option<u64> {
        let within =
            |segment: &&Segment| file_offset >= segment.offset && file_offset - segment.offset < segment.file_bytes;
        let executable = self.segments.iter().filter(|segment| segment.is_executable).find(within);
        let segment = executable.or_else(|| self.segments.iter().find(within))?;
        Some((file_offset - segment.offset).wrapping_add(segment.address))
    }

    /// The name and checksum of the file of separate debug information that this one refers to.
    pub(super) fn debug_link(&self, source: &(impl Source + ?Sized)) -> Option<(String, u32)> {
        let (offset, length) = self.section(".gnu_debuglink")?.content();
        let content = read_exact(source, ".gnu_debuglink", offset, length, DEBUG_LINK_BYTES_MAX).ok()?;
        let name = text_until_nul(&content);
        let checksum_at = (name.len() + 1).next_multiple_of(4);
        (content.len() >= checksum_at + 4 && !name.is_empty()).then(|| (name, u32_at(&content, checksum_at)))
    }
}

fn section(entry: &[u8], is_64_bit: bool) -> Section {
    let number = |offset| u64::from(u32_at(entry, offset));
    let kind = u32_at(entry, 4);
    let name = String::new();
    if is_64_bit {
        Section {
            name,
            kind,
            flags: u64_at(entry, 8),
            address: u64_at(entry, 16),
            offset: u64_at(entry, 24),
            size: u64_at(entry, 32),
            link: u32_at(entry, 40),
            entry_bytes: u64_at(entry, 56),
        }
    } else {
        Section {
            name,
            kind,
            flags: number(8),
            address: number(12),
            offset: number(16),
            size: number(20),
            link: u32_at(entry, 24),
            entry_bytes: number(36),
        }
    }
}

fn read_sections(
    source: &(impl Source + ?Sized),
    is_64_bit: bool,
    (table, count): (u64, u64),
    entry_bytes: u64,
    names_index: u32,
) -> Result<Vec<Section>, FileError> {
    if table == 0 {
        return Ok(Vec::new());
    }
    let bytes = read_exact(source, "section headers", table, count * entry_bytes, SECTIONS_MAX * entry_bytes)?;
    let entries: Vec<&[u8]> = bytes.chunks_exact(usize::try_from(entry_bytes).unwrap_or(1)).collect();
    let mut sections: Vec<Section> = entries.iter().map(|entry| section(entry, is_64_bit)).collect();
    let names = sections.get(names_index as usize).ok_or(FileError::Malformed("no table of section names"))?;
    let (offset, length) = names.content();
    let names = read_exact(source, "section names", offset, length, SECTION_NAMES_BYTES_MAX)?;
    for (section, entry) in sections.iter_mut().zip(&entries) {
        section.name = text_until_nul(names.get(u32_at(entry, 0) as usize..).unwrap_or_default());
        // Names may overlap; without this, hostile ones could take as much memory as the table squared.
        section.name.truncate(section.name.floor_char_boundary(64));
    }
    Ok(sections)
}

fn build_id_in(mut notes: &[u8]) -> Option<BuildId> {
    // Ends: every note has at least 12 bytes.
    while notes.len() >= 12 {
        let (name_bytes, value_bytes, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let value_at = 12 + name_bytes.checked_next_multiple_of(4)?;
        let end = value_at.checked_add(value_bytes)?;
        let (name, value) = (notes.get(12..12 + name_bytes)?, notes.get(value_at..end)?);
        if kind == elf::NT_GNU_BUILD_ID && name == b"GNU\0" {
            return BuildId::new(value);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_headers_are_what_readelf_shows() {
        let path = std::env::current_exe().unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let headers = ElfHeaders::read(&file).unwrap();
        assert!(headers.is_64_bit);
        let Ok(output) = std::process::Command::new("readelf").arg("-nhSW").arg(&path).output() else { return };
        let text = String::from_utf8(output.stdout).unwrap();
        let after = |label: &str| text.split_once(label).unwrap().1.split_whitespace().next().unwrap().to_owned();
        assert_eq!(headers.build_id.clone().unwrap().to_string(), after("Build ID:"));
        assert_eq!(format!("{:#x}", headers.entry), after("Entry point address:"));
        assert_eq!(headers.sections.len().to_string(), after("Number of section headers:"));
        let section = headers.section(".text").unwrap();
        let shown = text.lines().find(|line| line.contains(" .text ")).unwrap();
        assert!(
            shown.contains(&format!("{:016x} {:06x} {:06x}", section.address, section.offset, section.size)),
            "{shown}"
        );
        assert_eq!(headers.address_of(section.offset + 5), Some(section.address + 5));
        assert_eq!(headers.address_of(u64::MAX), None);
    }

    #[test]
    fn not_elf() {
        for bytes in [b"".as_slice(), b"#!/bin/sh\necho hello world\n", &[0; 100]] {
            assert!(matches!(ElfHeaders::read(bytes), Err(FileError::NotElf(_))));
        }
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Whatever the bytes behind a valid identification: an answer or a typed error, soon.
            #[test]
            fn damaged_headers(
                patches in proptest::collection::vec((16_usize..4_096, any::<u64>()), 1..32),
                length in 0_usize..8_192,
            ) {
                let mut bytes = std::fs::read("/proc/self/exe").unwrap();
                bytes.truncate(65_536);
                for (place, value) in patches {
                    bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
                }
                let _ = ElfHeaders::read(bytes.as_slice());
                bytes.truncate(length);
                let _ = ElfHeaders::read(bytes.as_slice());
            }

            #[test]
            fn hostile_notes(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
                let _ = build_id_in(&bytes);
            }
        }
    }
}
