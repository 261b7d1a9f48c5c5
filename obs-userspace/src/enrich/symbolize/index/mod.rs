//! An index of all names of an ELF file, on disk: made once, then searched with a few small reads.
//!
//! It says of any address what [`super::file`] would find in the file itself: the symbol (or stub, or function of the
//! debug information), what was inlined there, and the lines. [`build`] makes it from the ELF file and its debug
//! information, reading both in pieces; what it must keep meanwhile is bounded, and goes with the number of functions.
//! What exceeds a bound gives no index, and the file is read anew in each run.
//!
//! **Invariant:** an index that is damaged gives [`pages::Damaged`], never a wrong name.

mod builder;
mod debug;
mod files;
mod format;
mod functions;
mod lines;
mod lookup;
mod pages;
mod paint;
mod pieces;
mod symbols;
#[cfg(test)]
mod tests;

use std::{fs::File, io, rc::Rc};

pub(super) use self::lookup::Index;
pub use self::pages::INDEX_BYTES_MAX;
use self::{
    builder::Builder,
    debug::{Debug, Sections},
    files::Files,
    pages::PageWriter,
    symbols::{Layered, Named, Ranges},
};
use super::{elf::ElfHeaders, plt, reason::FileError};

/// What stands behind the name of a stub's target.
const STUB_MARK: &str = "@plt";

/// A file that an index is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elf<'a> {
    pub(super) file: &'a File,
    pub(super) headers: &'a ElfHeaders,
}

/// What an index is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// The file itself.
    pub(super) main: Elf<'a>,
    /// Its separate debug information.
    pub(super) separate: Option<Elf<'a>>,
    /// Which of the two has DWARF that is to be read.
    pub(super) dwarf: Option<Elf<'a>>,
    /// What the DWARF refers to.
    pub(super) supplementary: Option<Elf<'a>>,
}

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// The ELF file cannot be read, or exceeds a limit.
    #[error(transparent)]
    File(#[from] FileError),
    /// The index cannot be written.
    #[error("cannot write an index: {0}")]
    Write(#[from] io::Error),
    /// Debug information contradicts itself: concerns one unit only.
    #[error("damaged debug information: {0}")]
    Dwarf(#[from] gimli::Error),
}

/// Makes an index in an empty file. `identity` is what [`Index::open`] will ask for. `scratch` gives an empty file
/// without a name, in which compressed sections are unpacked.
///
/// # Errors
/// If a file cannot be read, the index not be written, or a limit is exceeded.
pub(super) fn build(
    sources: &Sources<'_>,
    identity: &str,
    index: File,
    scratch: &dyn Fn() -> io::Result<File>,
) -> Result<(), BuildError> {
    let Sources { main, separate, dwarf, supplementary } = sources;
    let mut builder = Builder::new(PageWriter::new(index), &main.headers.segments);
    write_symbols(&mut builder, main, separate.as_ref(), dwarf.is_some())?;
    if let Some(dwarf) = dwarf {
        let sections = Sections::open(&shared(dwarf)?, dwarf.headers, scratch)?;
        let supplementary = supplementary
            .map(|supplementary| Sections::open(&shared(&supplementary)?, supplementary.headers, scratch))
            .transpose()?;
        write_dwarf(&mut builder, &sections, supplementary.as_ref())?;
        if sections.have_failed() || supplementary.as_ref().is_some_and(Sections::have_failed) {
            let source = io::Error::other("reading failed");
            return Err(FileError::Read { what: "debug information", source }.into());
        }
    }
    Ok(builder.finish(identity, main.headers.entry)?)
}

fn shared(elf: &Elf<'_>) -> Result<Rc<File>, FileError> {
    let copy = elf.file.try_clone().map_err(|source| FileError::Read { what: "file", source })?;
    Ok(Rc::new(copy))
}

/// Symbols of the separate debug information, then those of the file itself, then the names of its stubs.
fn write_symbols(
    builder: &mut Builder,
    main: &Elf<'_>,
    separate: Option<&Elf<'_>>,
    has_dwarf: bool,
) -> Result<(), BuildError> {
    let of_main = Ranges::new(&shared(main)?, main.headers)?;
    let of_separate = separate.map(|separate| Ranges::new(&shared(separate)?, separate.headers)).transpose()?;
    let stubs = plt::all(main.file, main.headers).unwrap_or_else(|error| {
        tracing::debug!(%error, "no names for a file's stubs");
        Vec::new()
    });
    let stubs = stubs.into_iter().map(|(range, name)| {
        Ok(Named { start: range.start, end: range.end, name: format!("{name}{STUB_MARK}").into() })
    });
    let of_separate = of_separate.into_iter().flatten();
    builder.symbols(Layered::new(Layered::new(of_separate, of_main), stubs), has_dwarf)
}

fn write_dwarf(builder: &mut Builder, sections: &Sections, supplementary: Option<&Sections>) -> Result<(), BuildError> {
    let mut debug = Debug::new(sections, supplementary)?;
    for index in 0..debug.unit_count() {
        debug.spend(debug::WORK_BETWEEN_LOOKS)?;
        let mut files = Files::new(builder);
        let written = debug.unit(index).map_err(BuildError::from).and_then(|unit| {
            // Of a damaged unit, what was read before the damage is kept; lines do not depend on functions.
            let functions = functions::write(builder, &mut debug, &unit, &mut files);
            let lines = lines::write(builder, &debug, &unit, &mut files);
            if matches!(functions, Ok(()) | Err(BuildError::Dwarf(_))) { lines.and(functions) } else { functions }
        });
        match written {
            Ok(()) => {}
            Err(BuildError::Dwarf(error)) => tracing::debug!(%error, index, "a unit's debug information is damaged"),
            Err(error @ (BuildError::File(_) | BuildError::Write(_))) => return Err(error),
        }
        builder.end_unit(&files.into_paths())?;
    }
    Ok(())
}
