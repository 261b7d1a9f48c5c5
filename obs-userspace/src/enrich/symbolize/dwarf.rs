//! Inlined functions and source lines from DWARF, by blazesym.
//!
//! blazesym maps what it reads and unpacks compressed sections whole, so a file gets here only after its debug sections
//! have been weighed; and a file that its owner could shorten meanwhile (which kills whoever reads its mapping) is copied
//! first.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use blazesym::symbolize::{
    CodeInfo, Input, Symbolized, Symbolizer,
    source::{Elf, Source as BlazesymSource},
};
use object::elf;

use super::{
    bytes::{read_exact, u32_at, u64_at},
    elf::ElfHeaders,
    reason::FileError,
};

/// Most bytes of debug sections, unpacked, of a file whose DWARF is read.
pub const DWARF_BYTES_MAX: u64 = 128 << 20;

/// Most bytes of compressed debug sections, unpacked: they lie in our own memory.
pub const DWARF_UNPACKED_BYTES_MAX: u64 = 32 << 20;

/// Most bytes of a file that is copied before its DWARF is read.
pub const DWARF_COPY_BYTES_MAX: u64 = 128 << 20;

/// Above so many bytes of debug sections, what was understood of them is let go between portions of addresses.
const DWARF_LARGE_BYTES: u64 = 8 << 20;

/// Addresses of a portion: fewer take less memory, and more time, for the list of units is read for each portion.
const DWARF_PORTION: usize = 256;

/// What DWARF says of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DwarfFrames {
    /// The function's name as written, if DWARF has one.
    pub(super) function: Option<String>,
    /// Where in it the address, or the outermost inlined call, lies.
    pub(super) source: Option<(String, u32)>,
    /// Functions that were inlined, outermost first: name as written, and where in it.
    pub(super) inlined: Vec<(String, Option<(String, u32)>)>,
}

/// Whether a file has DWARF.
pub(super) fn has_dwarf(headers: &ElfHeaders) -> bool {
    let has = |name| headers.section(name).is_some_and(|section| section.content().1 > 0);
    has(".debug_info") && has(".debug_abbrev")
}

/// Inlined functions and lines for some addresses. The answers are in the same order.
///
/// # Errors
/// If the debug sections exceed a limit, or the file cannot be copied or understood.
pub(super) fn find(
    file: &File,
    headers: &ElfHeaders,
    debug_folders: &[PathBuf],
    addresses: &[u64],
) -> Result<Vec<Option<DwarfFrames>>, FileError> {
    let is_large = weigh(file, headers)? > DWARF_LARGE_BYTES;
    let copy = if is_steady(file) { None } else { Some(copy(file)?) };
    let descriptor = copy.as_ref().unwrap_or(file).as_raw_fd();
    let source = BlazesymSource::Elf(Elf::new(format!("/proc/self/fd/{descriptor}")));
    let portion = if is_large { DWARF_PORTION } else { addresses.len().max(1) };
    let mut found = Vec::with_capacity(addresses.len());
    for addresses in addresses.chunks(portion) {
        found.extend(find_portion(&source, debug_folders, addresses)?);
    }
    Ok(found)
}

fn find_portion(
    source: &BlazesymSource<'_>,
    debug_folders: &[PathBuf],
    addresses: &[u64],
) -> Result<Vec<Option<DwarfFrames>>, FileError> {
    // Names are demangled by us, so that they look the same wherever they come from.
    let symbolize = || {
        let builder = Symbolizer::builder().enable_auto_reload(false).enable_demangling(false);
        let symbolizer = builder.set_debug_dirs(Some(debug_folders)).build();
        let found = symbolizer.symbolize(source, Input::VirtOffset(addresses))?;
        Ok::<_, blazesym::Error>(found.into_iter().map(frames).collect())
    };
    // A hostile file may find a bug in the reader; that must cost its own names only.
    match catch_unwind(AssertUnwindSafe(symbolize)) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot read a file's debug information");
            Err(FileError::Malformed("its debug information"))
        }
        Err(_) => Err(FileError::Malformed("its debug information stopped its reader")),
    }
}

fn frames(symbolized: Symbolized<'_>) -> Option<DwarfFrames> {
    let symbol = symbolized.into_sym()?;
    // Without a line, it comes from the symbol table, which we read ourselves.
    let source = source_of(symbol.code_info.as_deref());
    let inlined: Vec<_> = symbol
        .inlined
        .iter()
        .filter(|inlined| !inlined.name.is_empty())
        .map(|inlined| (inlined.name.to_string(), source_of(inlined.code_info.as_ref())))
        .collect();
    let function = (!symbol.name.is_empty()).then(|| symbol.name.to_string());
    (source.is_some() || !inlined.is_empty()).then_some(DwarfFrames { function, source, inlined })
}

fn source_of(code: Option<&CodeInfo<'_>>) -> Option<(String, u32)> {
    let code = code?;
    Some((code.to_path().to_string_lossy().into_owned(), code.line?))
}

/// Refuses files whose debug sections are larger than is good for us. Returns the bytes of those that need no unpacking,
/// or 0 if any does: unpacking twice costs more than it saves.
pub(super) fn weigh(file: &File, headers: &ElfHeaders) -> Result<u64, FileError> {
    let (mut total, mut unpacked) = (0_u64, 0_u64);
    for section in headers.sections.iter().filter(|section| section.name.starts_with(".debug_")) {
        let (offset, packed) = section.content();
        let size = if section.flags & u64::from(elf::SHF_COMPRESSED) == 0 {
            packed
        } else {
            let header = read_exact(file, "compression header", offset, if headers.is_64_bit { 24 } else { 12 }, 24)?;
            let size = if headers.is_64_bit { u64_at(&header, 8) } else { u64::from(u32_at(&header, 4)) };
            unpacked = unpacked.saturating_add(size);
            size
        };
        total = total.saturating_add(size);
    }
    for (what, size, max) in [
        ("its debug information", total, DWARF_BYTES_MAX),
        ("its compressed debug information, unpacked,", unpacked, DWARF_UNPACKED_BYTES_MAX),
    ] {
        if size > max {
            return Err(FileError::TooLarge { what, size, max });
        }
    }
    Ok(if unpacked == 0 { total } else { 0 })
}

/// Whether nobody but root can change a file.
fn is_steady(file: &File) -> bool {
    file.metadata().is_ok_and(|status| status.uid() == 0 && status.mode() & 0o022 == 0)
}

/// Copies a file into memory that only we have.
fn copy(file: &File) -> Result<File, FileError> {
    let failed = |source: io::Error| FileError::Read { what: "file to copy its debug information", source };
    let size = file.metadata().map_err(failed)?.len();
    if size > DWARF_COPY_BYTES_MAX {
        let what = "a file that its owner can change while its debug information is read";
        return Err(FileError::TooLarge { what, size, max: DWARF_COPY_BYTES_MAX });
    }
    let memory = rustix::fs::memfd_create("obs-debug-information", rustix::fs::MemfdFlags::CLOEXEC);
    let mut memory = File::from(memory.map_err(|error| failed(error.into()))?);
    let mut from: &File = file;
    from.rewind().map_err(failed)?;
    io::copy(&mut from.take(DWARF_COPY_BYTES_MAX), &mut memory).map_err(failed)?;
    Ok(memory)
}
