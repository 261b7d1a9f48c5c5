//! What a loader and the table builder have to know of an ELF image.

use crate::error::ElfError;
use crate::limits::{BUILD_ID_BYTES_MAX, EXECUTABLE_SEGMENTS_MAX, NOTES_MAX, STUB_SECTIONS_MAX};
use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _, SectionTable};

type Header = elf::FileHeader64<LE>;
type SegmentHeader = elf::ProgramHeader64<LE>;
type Sections<'a> = SectionTable<'a, Header>;

/// The processors whose stacks are unwound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// AMD64, 64-bit mode.
    X86_64,
    /// ARM, 64-bit mode.
    Aarch64,
}

/// A segment of the file that is mapped executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutableSegment {
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Where it begins in the file's own addresses.
    pub address: u64,
    /// Bytes that the file has of it.
    pub bytes: u64,
}

/// What names the contents of a file, whatever its path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BuildId {
    /// The linker's hash (`NT_GNU_BUILD_ID`).
    Gnu(Vec<u8>),
    /// Go's own text, when there is no other.
    Go(Vec<u8>),
}

/// A section or a part of a segment: its bytes, and where they stand in the file's own addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) address: u64,
    pub(crate) data: &'a [u8],
}

/// `.debug_frame` as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DebugFrame<'a> {
    Plain(&'a [u8]),
    /// The compression method (`ch_type`), the inflated length, and the compressed bytes.
    Compressed(u32, u64, &'a [u8]),
}

/// An ELF image whose headers have been read: a file that is mapped into memory, or a vDSO's bytes.
#[derive(Clone, Debug)]
pub struct ElfImage<'a> {
    data: &'a [u8],
    machine: Machine,
    /// Where the kernel begins to execute it; `None` for most libraries.
    entry: Option<u64>,
    segments: Vec<ExecutableSegment>,
    build_id: Option<BuildId>,
    pub(crate) eh_frame: Option<Block<'a>>,
    pub(crate) eh_frame_hdr: Option<Block<'a>>,
    pub(crate) debug_frame: Option<DebugFrame<'a>>,
    pub(crate) text_address: Option<u64>,
    pub(crate) got_address: Option<u64>,
    pub(crate) pclntab: Option<Block<'a>>,
    /// Where the stubs of the procedure linkage table stand.
    pub(crate) stubs: Vec<std::ops::Range<u64>>,
    go: bool,
}

/// What must be added to a file's own addresses to get those of a process that maps it executable, from `mapping_start`
/// and at `mapping_file_offset` of the file. Only executable segments count: linkers let segments share a page of the
/// file, and another segment's bias gives stacks that look right and are wrong.
///
/// `None` when no executable segment holds that part of the file.
#[must_use]
pub fn load_bias(segments: &[ExecutableSegment], mapping_start: u64, mapping_file_offset: u64) -> Option<u64> {
    // The kernel rounds a segment's offset down to a page. Page sizes: 4, 16 and 64 KiB.
    let begins = |page_bytes: u64| {
        segments.iter().find(|segment| segment.file_offset & !(page_bytes - 1) == mapping_file_offset)
    };
    let holds = || {
        segments.iter().find(|segment| {
            mapping_file_offset >= segment.file_offset && mapping_file_offset - segment.file_offset < segment.bytes
        })
    };
    let segment = begins(4 << 10).or_else(holds).or_else(|| begins(16 << 10)).or_else(|| begins(64 << 10))?;
    let address = segment.address.wrapping_add(mapping_file_offset).wrapping_sub(segment.file_offset);
    Some(mapping_start.wrapping_sub(address))
}

impl<'a> ElfImage<'a> {
    /// Reads the headers of an ELF image. The bytes are borrowed: map a file rather than reading it. Sections are
    /// optional; a stripped section table costs nothing but `.debug_frame`.
    ///
    /// # Errors
    /// When the image is not one that could be executed on a supported processor.
    pub fn parse(data: &'a [u8]) -> Result<Self, ElfError> {
        let header = Header::parse(data).map_err(|_| ElfError::Malformed("no valid ELF header"))?;
        if !header.is_little_endian() {
            return Err(ElfError::Malformed("big-endian"));
        }
        let machine = match header.e_machine(LE) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            other => return Err(ElfError::UnsupportedMachine(other)),
        };
        let programs =
            header.program_headers(LE, data).map_err(|_| ElfError::Malformed("program headers out of bounds"))?;
        // A section table that cannot be read is not needed to execute the file.
        let sections = header.sections(LE, data).unwrap_or_default();
        let mut image = Self {
            data,
            machine,
            entry: Some(header.e_entry(LE)).filter(|entry| *entry != 0),
            segments: executable_segments(programs, data.len() as u64)?,
            build_id: build_id(programs, &sections, data),
            eh_frame: None,
            eh_frame_hdr: None,
            debug_frame: None,
            text_address: None,
            got_address: None,
            pclntab: None,
            stubs: Vec::new(),
            go: false,
        };
        image.find_sections(&sections);
        image.find_unwind_segment(programs);
        Ok(image)
    }

    /// The processor that the image is for.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The executable segments, in address order and without overlaps.
    #[must_use]
    pub fn executable_segments(&self) -> &[ExecutableSegment] {
        &self.segments
    }

    /// The file's build id, if it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// The file's own address at which it is executed first; `None` for most libraries.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        self.entry
    }

    /// Whether the Go toolchain made it: it has Go's own function table.
    #[must_use]
    pub fn is_go(&self) -> bool {
        self.go
    }

    /// What must be added to the file's own addresses to get those of a process; see [`load_bias`].
    #[must_use]
    pub fn load_bias(&self, mapping_start: u64, mapping_file_offset: u64) -> Option<u64> {
        load_bias(&self.segments, mapping_start, mapping_file_offset)
    }

    /// The bytes of the file at an address of its executable segments, up to the segment's end.
    pub(crate) fn code_at(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self.segments.iter().find(|s| address >= s.address && address - s.address < s.bytes)?;
        let start = segment.file_offset + (address - segment.address);
        let end = segment.file_offset + segment.bytes;
        self.data.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    fn find_sections(&mut self, sections: &Sections<'a>) {
        for section in sections.iter() {
            let Ok(name) = sections.section_name(LE, section) else { continue };
            let address = section.sh_addr(LE);
            let block = || match section.data(LE, self.data) {
                Ok(data) if !data.is_empty() => Some(Block { address, data }),
                _ => None,
            };
            match name {
                b".eh_frame" => self.eh_frame = self.eh_frame.or(block()),
                b".eh_frame_hdr" => self.eh_frame_hdr = self.eh_frame_hdr.or(block()),
                b".debug_frame" => self.debug_frame = self.debug_frame.or(debug_frame(section, self.data)),
                b".zdebug_frame" => self.debug_frame = self.debug_frame.or(zdebug_frame(section, self.data)),
                b".text" => self.text_address = Some(address),
                b".got" => self.got_address = Some(address),
                b".gopclntab" | b".data.rel.ro.gopclntab" => {
                    self.pclntab = self.pclntab.or(block());
                    self.go = true;
                }
                b".go.buildinfo" => self.go = true,
                b".plt" | b".plt.got" | b".plt.sec" | b".iplt" if self.stubs.len() < STUB_SECTIONS_MAX => {
                    self.stubs.push(address..address.saturating_add(section.sh_size(LE)));
                }
                _ => {}
            }
        }
    }

    /// Finds `.eh_frame` by way of its program header, which stays when sections are stripped.
    fn find_unwind_segment(&mut self, programs: &'a [SegmentHeader]) {
        if self.eh_frame_hdr.is_none() {
            self.eh_frame_hdr = programs.iter().find(|p| p.p_type(LE) == elf::PT_GNU_EH_FRAME).and_then(|p| {
                let data = p.data(LE, self.data).ok()?;
                (!data.is_empty()).then_some(Block { address: p.p_vaddr(LE), data })
            });
        }
        let (None, Some(hdr)) = (self.eh_frame, self.eh_frame_hdr) else { return };
        let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(hdr.address);
        let Ok(parsed) = gimli::EhFrameHdr::new(hdr.data, gimli::LittleEndian).parse(&bases, 8) else { return };
        let Ok(address) = parsed.eh_frame_ptr().direct() else { return };
        let load = programs.iter().filter(|p| p.p_type(LE) == elf::PT_LOAD);
        self.eh_frame = load.into_iter().find_map(|p| {
            let inside = usize::try_from(address.checked_sub(p.p_vaddr(LE))?).ok()?;
            let data = p.data(LE, self.data).ok()?.get(inside..)?;
            (!data.is_empty()).then_some(Block { address, data })
        });
    }
}

fn executable_segments(programs: &[SegmentHeader], file_bytes: u64) -> Result<Vec<ExecutableSegment>, ElfError> {
    let mut segments = Vec::new();
    for program in programs {
        if program.p_type(LE) != elf::PT_LOAD || program.p_flags(LE) & elf::PF_X == 0 {
            continue;
        }
        let file_offset = program.p_offset(LE);
        let address = program.p_vaddr(LE);
        let bytes = program.p_filesz(LE).min(file_bytes.saturating_sub(file_offset)).min(u64::MAX - address);
        if bytes == 0 {
            continue;
        }
        if segments.len() == EXECUTABLE_SEGMENTS_MAX {
            return Err(ElfError::TooManySegments);
        }
        segments.push(ExecutableSegment { file_offset, address, bytes });
    }
    segments.sort_by_key(|segment| segment.address);
    // What overlaps belongs to the segment that begins first.
    let mut end = 0;
    for segment in &mut segments {
        let cut = end.max(segment.address) - segment.address;
        let cut = cut.min(segment.bytes);
        segment.address += cut;
        segment.file_offset += cut;
        segment.bytes -= cut;
        end = end.max(segment.address + segment.bytes);
    }
    segments.retain(|segment| segment.bytes > 0);
    if segments.is_empty() { Err(ElfError::NoExecutableSegment) } else { Ok(segments) }
}

fn debug_frame<'a>(section: &elf::SectionHeader64<LE>, data: &'a [u8]) -> Option<DebugFrame<'a>> {
    if section.sh_flags(LE) & u64::from(elf::SHF_COMPRESSED) == 0 {
        return section.data(LE, data).ok().filter(|data| !data.is_empty()).map(DebugFrame::Plain);
    }
    let (header, offset, bytes) = section.compression(LE, data).ok()??;
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    Some(DebugFrame::Compressed(header.ch_type.get(LE), header.ch_size.get(LE), data.get(start..end)?))
}

/// GNU's older form: "ZLIB", the inflated length in big-endian order, and zlib's bytes.
fn zdebug_frame<'a>(section: &elf::SectionHeader64<LE>, data: &'a [u8]) -> Option<DebugFrame<'a>> {
    let rest = section.data(LE, data).ok()?.strip_prefix(b"ZLIB")?;
    let (bytes, rest) = rest.split_first_chunk::<8>()?;
    Some(DebugFrame::Compressed(elf::ELFCOMPRESS_ZLIB, u64::from_be_bytes(*bytes), rest))
}

fn build_id(programs: &[SegmentHeader], sections: &Sections<'_>, data: &[u8]) -> Option<BuildId> {
    let of_programs = programs.iter().filter_map(|program| program.notes(LE, data).ok().flatten());
    let of_sections = sections.iter().filter_map(|section| section.notes(LE, data).ok().flatten());
    let mut go = None;
    let mut left = NOTES_MAX;
    for notes in of_programs.chain(of_sections) {
        match build_id_in(notes, &mut left, &mut go) {
            Some(gnu) => return Some(BuildId::Gnu(gnu)),
            None if left == 0 => break,
            None => {}
        }
    }
    go.map(BuildId::Go)
}

fn build_id_in(mut notes: NoteIterator<'_, Header>, left: &mut usize, go: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
    while let (Ok(Some(note)), true) = (notes.next(), *left > 0) {
        *left -= 1;
        let id = note.desc();
        if id.is_empty() || id.len() > BUILD_ID_BYTES_MAX {
            continue;
        }
        match (note.name(), note.n_type(LE)) {
            (b"GNU", elf::NT_GNU_BUILD_ID) => return Some(id.to_vec()),
            (b"Go", elf::NT_GO_BUILD_ID) => *go = Some(id.to_vec()),
            _ => {}
        }
    }
    None
}
