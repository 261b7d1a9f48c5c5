//! Makes small ELF images of one or more executable segments and the sections that are given, and call frame
//! information for them.
#![allow(dead_code, unreachable_pub, reason = "each test and fuzz target includes it, and uses a part of it")]

const HEADER_BYTES: usize = 64;
const PROGRAM_BYTES: usize = 56;
const SECTION_BYTES: usize = 64;

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Parts<'a> {
    /// `e_machine`: 62 for x86-64, 183 for aarch64.
    pub machine: u16,
    /// Executable segments: address and contents.
    pub segments: Vec<(u64, &'a [u8])>,
    /// Sections: name, address, flags, contents.
    pub sections: Vec<(&'a str, u64, u64, &'a [u8])>,
}

/// Lays the parts out as a file.
pub fn image(parts: &Parts<'_>) -> Vec<u8> {
    let mut names = vec![0_u8];
    let mut name_offsets = Vec::new();
    for (name, ..) in &parts.sections {
        name_offsets.push(names.len() as u32);
        names.extend(name.as_bytes());
        names.push(0);
    }
    let strtab_name = names.len() as u32;
    names.extend(b".shstrtab\0");

    let mut file = vec![0; HEADER_BYTES + PROGRAM_BYTES * parts.segments.len()];
    let mut programs = Vec::new();
    for (address, contents) in &parts.segments {
        // As the kernel wants it: alike within a page.
        let lead = (*address % 0x1000 + 0x1000 - file.len() as u64 % 0x1000) % 0x1000;
        file.resize(file.len() + lead as usize, 0);
        let offset = file.len() as u64;
        file.extend(*contents);
        programs.push((offset, *address, contents.len() as u64));
    }
    let mut headers = vec![0; SECTION_BYTES];
    for ((_, address, flags, contents), name) in parts.sections.iter().zip(name_offsets) {
        let offset = append(&mut file, contents);
        headers.extend(section_header(name, 1, *flags, *address, offset, contents.len() as u64));
    }
    let offset = append(&mut file, &names);
    headers.extend(section_header(strtab_name, 3, 0, 0, offset, names.len() as u64));
    let section_count = (headers.len() / SECTION_BYTES) as u16;
    let section_offset = append(&mut file, &headers);

    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend(3_u16.to_le_bytes());
    header.extend(parts.machine.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend((HEADER_BYTES as u64).to_le_bytes());
    header.extend(section_offset.to_le_bytes());
    header.extend(0_u32.to_le_bytes());
    for half in [HEADER_BYTES, PROGRAM_BYTES, programs.len(), SECTION_BYTES] {
        header.extend((half as u16).to_le_bytes());
    }
    header.extend(section_count.to_le_bytes());
    header.extend((section_count - 1).to_le_bytes());
    file[..HEADER_BYTES].copy_from_slice(&header);
    for (index, (offset, address, bytes)) in programs.into_iter().enumerate() {
        let mut program = Vec::new();
        program.extend(1_u32.to_le_bytes());
        program.extend(5_u32.to_le_bytes());
        for word in [offset, address, address, bytes, bytes, 0x1000] {
            program.extend(word.to_le_bytes());
        }
        let at = HEADER_BYTES + PROGRAM_BYTES * index;
        file[at..at + PROGRAM_BYTES].copy_from_slice(&program);
    }
    file
}

fn append(file: &mut Vec<u8>, contents: &[u8]) -> u64 {
    file.resize(file.len().next_multiple_of(16), 0);
    let offset = file.len() as u64;
    file.extend(contents);
    offset
}

fn section_header(name: u32, kind: u32, flags: u64, address: u64, offset: u64, bytes: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(name.to_le_bytes());
    header.extend(kind.to_le_bytes());
    for word in [flags, address, offset, bytes, 0, 1, 0] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// Makes a section of call frame information, entry by entry.
#[derive(Clone, Debug, Default)]
pub struct Cfi {
    /// The address of the section; 0 for `.debug_frame`.
    pub address: u64,
    /// Whether it is a `.debug_frame`.
    pub debug: bool,
    /// The section so far.
    pub bytes: Vec<u8>,
    cie: usize,
}

impl Cfi {
    /// An empty `.eh_frame` at an address.
    pub fn eh_frame(address: u64) -> Self {
        Self { address, ..Self::default() }
    }

    /// An empty `.debug_frame`.
    pub fn debug_frame() -> Self {
        Self { debug: true, ..Self::default() }
    }

    /// Adds what the functions after it have in common. The alignment factors are 1 and -8.
    pub fn cie(mut self, augmentation: &str, ra: u8, instructions: &[u8]) -> Self {
        self.cie = self.bytes.len();
        let id = if self.debug { u32::MAX } else { 0 };
        let mut entry = id.to_le_bytes().to_vec();
        entry.push(1);
        entry.extend(augmentation.as_bytes());
        entry.extend([0, 1, 0x78, ra]);
        if augmentation.starts_with('z') {
            // 4 signed bytes relative to where they stand.
            entry.extend([1, 0x1b]);
        }
        entry.extend(instructions);
        self.push(&entry);
        self
    }

    /// Adds a function.
    pub fn function(mut self, start: u64, bytes: u32, instructions: &[u8]) -> Self {
        let at = self.bytes.len() + 4;
        let mut entry = if self.debug { self.cie as u32 } else { (at - self.cie) as u32 }.to_le_bytes().to_vec();
        if self.debug {
            entry.extend(start.to_le_bytes());
            entry.extend(u64::from(bytes).to_le_bytes());
        } else {
            let place = self.address + at as u64 + 4;
            entry.extend((start.wrapping_sub(place) as u32).to_le_bytes());
            entry.extend(bytes.to_le_bytes());
            entry.push(0);
        }
        entry.extend(instructions);
        self.push(&entry);
        self
    }

    fn push(&mut self, entry: &[u8]) {
        self.bytes.extend((entry.len() as u32).to_le_bytes());
        self.bytes.extend(entry);
    }
}

/// `DW_CFA_def_cfa rsp+8; DW_CFA_offset ra at cfa-8`: what every x86-64 function begins with.
pub const X86_64_START: [u8; 5] = [0x0c, 7, 8, 0x90, 1];
/// `DW_CFA_def_cfa sp+0`: what every aarch64 function begins with.
pub const AARCH64_START: [u8; 3] = [0x0c, 31, 0];

/// The address and the contents of a file's section.
pub fn section<'a>(file: &'a [u8], name: &str) -> Option<(u64, &'a [u8])> {
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(*file.get(at..)?.first_chunk()?)));
    let word = |at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let long = |at: usize| Some(u64::from_le_bytes(*file.get(at..)?.first_chunk()?));
    let start = long(0x28)? as usize;
    let header = |index: usize| start + SECTION_BYTES * index;
    let contents = |at: usize| {
        let (offset, bytes) = (long(at + 24)? as usize, long(at + 32)? as usize);
        file.get(offset..offset + bytes)
    };
    let names = contents(header(half(0x3e)?))?;
    let at = (0..half(0x3c)?).map(header).find(|at| {
        let rest = word(*at).and_then(|offset| names.get(offset..)).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    })?;
    Some((long(at + 16)?, contents(at)?))
}
