//! All names that are wanted of one file.

use std::{collections::HashMap, fs::File, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use super::{
    FileError, Indexing, NamedFrame, Names, NoSymbol, REMEMBERED_NAMES_MAX, SymbolizerOptions,
    cache::{self, DiskCache},
    debug_file::{self, DebugFile},
    demangle::{demangle, presentable},
    dwarf::{self, DwarfFrames},
    elf::ElfHeaders,
    index::{Elf, Index, Sources},
    indexer::Indexer,
    plt, symbols,
};
use crate::{enrich::process::CodeFile, model::process::BuildId};

/// How far from a program's entry point code is still taken for its first function, in bytes: all C libraries' is shorter
/// than 64.
pub(super) const START_BYTES_MAX: u64 = 48;

/// Most files of which is remembered in how many batches they were.
const FILES_MAX: usize = 8_192;

/// What that first function is called.
pub(super) const START_NAME: &str = "_start";

/// What was found of a file.
#[derive(Debug)]
pub(super) struct FileNames {
    pub(super) build_id: Option<BuildId>,
    /// Address as `readelf` shows it, and names, for each offset that was asked for, in the same order.
    pub(super) places: Vec<(u64, Names)>,
}

/// Which content of which file: what was found of one is true of it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// What names were looked up in: in an index there are more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    content: Content,
    is_indexed: bool,
}

/// Names of earlier batches: at most [`REMEMBERED_NAMES_MAX`], in two generations, of which the older one is let go when
/// the younger is full. And how far each file is, for [`FILES_MAX`] files.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    younger: HashMap<(Source, u64), Names>,
    older: HashMap<(Source, u64), Names>,
    files: HashMap<Content, Progress>,
}

/// How far a file is on its way to an index.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// In how many batches it was.
    batches: u32,
    /// Whether its index was asked for.
    is_asked: bool,
    /// Whether it has one.
    is_indexed: bool,
}

/// What names are looked up with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) options: &'a SymbolizerOptions,
    pub(super) cache: Option<&'a DiskCache>,
    pub(super) indexer: Option<&'a Indexer>,
}

impl Remembered {
    /// Notes that a file is in a batch.
    fn count_batch(&mut self, content: Content) -> Progress {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&content) {
            self.files.clear();
        }
        let progress = self.files.entry(content).or_default();
        progress.batches = progress.batches.saturating_add(1);
        *progress
    }

    /// Notes that these files have an index now.
    pub(super) fn note_indexed(&mut self, contents: impl Iterator<Item = Content>) {
        for content in contents {
            if let Some(progress) = self.files.get_mut(&content) {
                progress.is_indexed = true;
            }
        }
    }

    fn get(&mut self, source: Source, address: u64) -> Option<Names> {
        let key = (source, address);
        if let Some(names) = self.younger.get(&key) {
            return Some(names.clone());
        }
        let names = self.older.remove(&key)?;
        self.insert(source, address, names.clone());
        Some(names)
    }

    fn insert(&mut self, source: Source, address: u64, names: Names) {
        if self.younger.len() >= REMEMBERED_NAMES_MAX / 2 {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert((source, address), names);
    }
}

/// Names for some offsets of a file, which must ascend.
///
/// # Errors
/// If the file cannot be opened or read, is not the one that was mapped, or is not an ELF file.
pub(super) fn names(
    code: &Arc<CodeFile>,
    offsets: &[u64],
    means: &Means<'_>,
    remembered: &mut Remembered,
) -> Result<FileNames, FileError> {
    let Means { options, cache, indexer } = *means;
    let opened = code.open()?;
    let file = opened.file();
    let headers = read_headers(code, file)?;
    let (content, is_roots) = content_of(file)?;
    let mut progress = remembered.count_batch(content);
    let makes_index = options.reads_dwarf && options.indexing == Indexing::AtOnce;
    let source = Source { content, is_indexed: progress.is_indexed || makes_index };
    let addresses: Vec<Option<u64>> = offsets.iter().map(|offset| headers.address_of(*offset)).collect();
    let mut known: HashMap<u64, Names> =
        addresses.iter().flatten().filter_map(|address| Some((*address, remembered.get(source, *address)?))).collect();
    let mut missing: Vec<u64> =
        addresses.iter().flatten().copied().filter(|address| !known.contains_key(address)).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let reading = Reading { code, file, headers: &headers, options, makes_index };
        let (found, is_of_index) = reading.all(&missing, cache, content, is_roots)?;
        progress.is_indexed = is_of_index;
        // An index that is gone is made anew.
        progress.is_asked &= is_of_index || !source.is_indexed;
        let source = Source { is_indexed: is_of_index || source.is_indexed, ..source };
        for (address, names) in found {
            remembered.insert(source, address, names.clone());
            known.insert(address, names);
        }
    }
    if let (Indexing::Aside { from_batch, .. }, Some(indexer)) = (options.indexing, indexer)
        && !progress.is_indexed
        && !progress.is_asked
        && options.reads_dwarf
        && progress.batches >= from_batch
    {
        progress.is_asked = indexer.ask(content, code);
    }
    remembered.files.insert(content, progress);
    let places = offsets.iter().zip(addresses).map(|(offset, address)| match address {
        Some(address) => (address, known.get(&address).cloned().unwrap_or(Err(NoSymbol::Stripped))),
        // In no segment: the file is not what was mapped there, or is damaged.
        None => (*offset, Err(NoSymbol::NotElf)),
    });
    Ok(FileNames { places: places.collect(), build_id: headers.build_id.clone() })
}

/// Makes a file's index, unless there is one. Whether there is one now.
///
/// # Errors
/// As [`names`].
pub(super) fn make_index(code: &CodeFile, options: &SymbolizerOptions, cache: &DiskCache) -> Result<bool, FileError> {
    let opened = code.open()?;
    let headers = read_headers(code, opened.file())?;
    let (content, is_roots) = content_of(opened.file())?;
    let reading = Reading { code, file: opened.file(), headers: &headers, options, makes_index: true };
    let Some(key) = reading.key(content, is_roots) else { return Ok(false) };
    Ok(reading.index(cache, &key, reading.debug_file().as_ref()).is_some())
}

fn read_headers(code: &CodeFile, file: &File) -> Result<ElfHeaders, FileError> {
    let headers = ElfHeaders::read(file)?;
    if code.build_id.is_some() && code.build_id != headers.build_id {
        return Err(FileError::Replaced { path: Arc::clone(&code.path) });
    }
    Ok(headers)
}

/// Which content a file has, and whether only root can have put it there.
fn content_of(file: &File) -> Result<(Content, bool), FileError> {
    let status = file.metadata().map_err(|source| FileError::Read { what: "file status", source })?;
    let content = Content {
        device: status.dev(),
        inode: status.ino(),
        bytes: status.size(),
        changed: (status.ctime(), status.ctime_nsec()),
    };
    Ok((content, status.uid() == 0 && status.mode() & 0o022 == 0))
}

/// A name without anything else, demangled.
pub(super) fn plain(name: &str) -> Arc<[NamedFrame]> {
    plain_as_is(&demangle(name))
}

/// A name without anything else, as it is.
pub(super) fn plain_as_is(name: &str) -> Arc<[NamedFrame]> {
    [NamedFrame { function: name.into(), source: None, is_inlined: false }].as_slice().into()
}

/// A file that is being read.
struct Reading<'a> {
    code: &'a CodeFile,
    file: &'a File,
    headers: &'a ElfHeaders,
    options: &'a SymbolizerOptions,
    /// Whether its index is made if there is none, and DWARF read where there cannot be one.
    makes_index: bool,
}

impl Reading<'_> {
    /// Names for some addresses, which must ascend: from the file's index, or from the file where there is none. And which
    /// of the two it was.
    fn all(
        &self,
        addresses: &[u64],
        cache: Option<&DiskCache>,
        content: Content,
        is_roots: bool,
    ) -> Result<(Vec<(u64, Names)>, bool), FileError> {
        let debug = self.debug_file();
        if let (Some(cache), Some(key)) = (cache, self.key(content, is_roots)) {
            // A second time if the index was damaged.
            for _ in 0..2 {
                let Some(mut index) = self.index(cache, &key, debug.as_ref()) else { break };
                let found: Result<Vec<(u64, Names)>, _> = addresses
                    .iter()
                    .map(|address| index.frames(*address).map(|frames| (*address, named(frames))))
                    .collect();
                match found {
                    Ok(found) => return Ok((found, true)),
                    Err(error) => {
                        tracing::debug!(path = %self.code.path, %error, "an index is made anew");
                        cache.remove(&key);
                    }
                }
            }
        }
        Ok((self.read(addresses, debug.as_ref())?, false))
    }

    /// The file's separate debug information, if it has none itself.
    fn debug_file(&self) -> Option<DebugFile> {
        let folders = &self.options.debug_folders;
        let find = || debug_file::find(self.file, self.headers, Path::new(&*self.code.path), folders);
        (!dwarf::has_dwarf(self.headers)).then(find).flatten()
    }

    /// The file's index, which is made if there is none and it is to be.
    fn index(&self, cache: &DiskCache, key: &str, debug: Option<&DebugFile>) -> Option<Index> {
        let has_dwarf = dwarf::has_dwarf(self.headers);
        let main = Elf { file: self.file, headers: self.headers };
        let separate = debug.map(DebugFile::elf);
        let dwarf = match separate {
            Some(separate) if dwarf::has_dwarf(separate.headers) => Some(separate),
            _ => has_dwarf.then_some(main),
        };
        let supplementary =
            dwarf.and_then(|dwarf| debug_file::supplementary(dwarf.file, dwarf.headers, &self.options.debug_folders));
        // With other sources, there may be other names.
        let identity = format!(
            "{key}\ndwarf {has_dwarf}, separate {}, supplementary {}",
            debug.is_some(),
            supplementary.is_some()
        );
        if let Some(index) = cache.load(key, &identity) {
            return Some(index);
        }
        if !self.makes_index {
            return None;
        }
        let is_light = |elf: &Elf<'_>| {
            let weighed = dwarf::weigh(elf.file, elf.headers);
            if let Err(error) = &weighed {
                tracing::info!(path = %self.code.path, %error, "no inlined functions and source lines for a file");
            }
            weighed.is_ok()
        };
        let supplementary = supplementary.as_ref().map(DebugFile::elf).filter(is_light);
        cache.make(key, &identity, &Sources { main, separate, dwarf: dwarf.filter(is_light), supplementary })
    }

    /// Under which key names are kept on disk. A build id is only a claim of whoever made the file: what is not root's
    /// own, or has none, is kept for that very file alone, so that nobody can give names to another's code.
    fn key(&self, content: Content, is_roots: bool) -> Option<String> {
        let Content { device, inode, bytes, changed: (seconds, nanoseconds) } = content;
        let key = match &self.headers.build_id {
            Some(build_id) if is_roots => format!("{build_id}-{bytes:x}"),
            Some(build_id) => format!("{build_id}-{bytes:x}-{device:x}-{inode:x}-{seconds:x}-{nanoseconds:x}"),
            None => format!("none-{bytes:x}-{device:x}-{inode:x}-{seconds:x}-{nanoseconds:x}"),
        };
        cache::is_key(&key).then_some(key)
    }

    /// Reads names from the file and its separate debug information.
    fn read(&self, addresses: &[u64], debug: Option<&DebugFile>) -> Result<Vec<(u64, Names)>, FileError> {
        let mut found: Vec<Option<String>> = vec![None; addresses.len()];
        if let Some(debug) = debug {
            match symbols::find(&debug.file, &debug.headers, addresses) {
                Ok(symbols) => found = symbols.into_iter().map(|symbol| symbol.map(|symbol| symbol.name)).collect(),
                Err(error) => {
                    tracing::debug!(path = %self.code.path, %error, "no symbols from separate debug information");
                }
            }
        }
        for (found, symbol) in found.iter_mut().zip(symbols::find(self.file, self.headers, addresses)?) {
            if found.is_none() {
                *found = symbol.map(|symbol| symbol.name);
            }
        }
        let mut lines = self.dwarf(addresses, debug);
        let stubs: Vec<u64> =
            addresses.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(address, _)| *address).collect();
        let stubs = plt::find(self.file, self.headers, &stubs).unwrap_or_else(|error| {
            tracing::debug!(path = %self.code.path, %error, "no names for a file's stubs");
            HashMap::new()
        });
        let frames = addresses.iter().zip(found).enumerate().map(|(index, (address, symbol))| {
            let lines = lines.get_mut(index).and_then(Option::take);
            let entry_distance = address.wrapping_sub(self.headers.entry);
            let name = symbol.map(|symbol| demangle(&symbol)).or_else(|| {
                let stub = stubs.get(address).map(|name| format!("{}@plt", demangle(name)));
                // A stripped program still says where it starts.
                let start =
                    || (self.headers.entry != 0 && entry_distance < START_BYTES_MAX).then(|| START_NAME.to_owned());
                stub.or_else(|| lines.as_ref()?.function.as_deref().map(demangle)).or_else(start)
            });
            (*address, named(frames(name, lines)))
        });
        Ok(frames.collect())
    }

    fn dwarf(&self, addresses: &[u64], debug: Option<&DebugFile>) -> Vec<Option<DwarfFrames>> {
        if !self.makes_index {
            return Vec::new();
        }
        let (file, headers) = match debug {
            Some(debug) if dwarf::has_dwarf(&debug.headers) => (&debug.file, &debug.headers),
            _ if dwarf::has_dwarf(self.headers) => (self.file, self.headers),
            _ => return Vec::new(),
        };
        dwarf::find(file, headers, &self.options.debug_folders, addresses).unwrap_or_else(|error| {
            tracing::info!(path = %self.code.path, %error, "no inlined functions and source lines for a file");
            Vec::new()
        })
    }
}

/// No frames: there is no name.
fn named(frames: Arc<[NamedFrame]>) -> Names {
    if frames.is_empty() { Err(NoSymbol::Stripped) } else { Ok(frames) }
}

/// Puts together what the symbol tables and DWARF say, innermost first. The function that was not inlined goes by its
/// symbol's name, which tells apart what the compiler split or cloned, and is the one that people know.
fn frames(name: Option<String>, lines: Option<DwarfFrames>) -> Arc<[NamedFrame]> {
    let Some(name) = name else { return Arc::from([]) };
    let source = |source: Option<(String, u32)>| source.map(|(file, line)| (presentable(&file).into(), line));
    let (outer_source, inlined) = lines.map_or((None, Vec::new()), |lines| (lines.source, lines.inlined));
    let outer = NamedFrame { function: name.into(), source: source(outer_source), is_inlined: false };
    inlined
        .into_iter()
        .rev()
        .map(|(name, place)| NamedFrame { function: demangle(&name).into(), source: source(place), is_inlined: true })
        .chain([outer])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_names_are_bounded_and_used_ones_stay() {
        let content = Content { device: 1, inode: 2, bytes: 3, changed: (4, 5) };
        let source = Source { content, is_indexed: true };
        let mut remembered = Remembered::default();
        let names = || Ok(plain_as_is("x"));
        remembered.insert(source, 0, names());
        for address in 1..200_000 {
            remembered.insert(source, address, names());
            assert!(remembered.get(source, 0).is_some());
        }
        assert!(remembered.younger.len() + remembered.older.len() <= REMEMBERED_NAMES_MAX);
        assert_eq!(remembered.get(source, 1), None);
        let changed = Source { content: Content { changed: (4, 6), ..content }, ..source };
        assert_eq!(remembered.get(changed, 0), None, "the file has changed");
        assert_eq!(remembered.get(Source { is_indexed: false, ..source }, 0), None, "there may be more names now");
    }

    #[test]
    fn files_are_counted_up_to_a_bound() {
        let content = |inode| Content { device: 1, inode, bytes: 3, changed: (4, 5) };
        let mut remembered = Remembered::default();
        let mut batches = |inode| {
            let Progress { batches, is_indexed, .. } = remembered.count_batch(content(inode));
            remembered.note_indexed([content(7), content(9)].into_iter());
            assert!(remembered.files.len() <= FILES_MAX && !remembered.files.contains_key(&content(9)));
            (batches, is_indexed)
        };
        assert_eq!([7, 8, 7, 7].map(&mut batches), [(1, false), (1, false), (2, true), (3, true)]);
        assert!((0..3 * FILES_MAX as u64).all(|inode| batches(inode + 100) == (1, false)));
    }

    #[test]
    fn inlined_functions_come_first() {
        let at = |line| Some(("a.c".to_owned(), line));
        let lines = DwarfFrames {
            function: Some("f".to_owned()),
            source: at(1),
            inlined: vec![("g".to_owned(), at(2)), ("h".to_owned(), at(3))],
        };
        let frames = frames(Some("f.part.0".to_owned()), Some(lines));
        let shown: Vec<_> = frames.iter().map(|f| (&*f.function, f.source.as_ref().unwrap().1, f.is_inlined)).collect();
        assert_eq!(shown, [("h", 3, true), ("g", 2, true), ("f.part.0", 1, false)]);
    }
}
