//! All names that are wanted of one file.

use std::{collections::HashMap, fs::File, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use super::{
    FileError, NamedFrame, Names, NoSymbol, REMEMBERED_NAMES_MAX, SymbolizerOptions,
    cache::{self, DiskCache},
    debug_file::{self, DebugFile},
    demangle::{demangle, presentable},
    dwarf::{self, DwarfFrames},
    elf::ElfHeaders,
    index::{Elf, Index, Sources},
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
struct Content {
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
    /// Whether its turn has come.
    is_indexed: bool,
}

impl Remembered {
    /// Notes that a file is in a batch. Whether it is to have an index, from now on for good.
    fn is_indexed(&mut self, content: Content, options: &SymbolizerOptions, cache: Option<&DiskCache>) -> bool {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&content) {
            self.files.clear();
        }
        let Progress { batches, is_indexed } = self.files.entry(content).or_default();
        *batches = batches.saturating_add(1);
        let is_old_enough = options.reads_dwarf && *batches >= options.index_from_batch;
        *is_indexed |= is_old_enough && cache.is_none_or(DiskCache::may_make);
        *is_indexed
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
    code: &CodeFile,
    offsets: &[u64],
    options: &SymbolizerOptions,
    cache: Option<&DiskCache>,
    remembered: &mut Remembered,
) -> Result<FileNames, FileError> {
    let opened = code.open()?;
    let file = opened.file();
    let headers = ElfHeaders::read(file)?;
    if code.build_id.is_some() && code.build_id != headers.build_id {
        return Err(FileError::Replaced { path: Arc::clone(&code.path) });
    }
    let status = file.metadata().map_err(|source| FileError::Read { what: "file status", source })?;
    let content = Content {
        device: status.dev(),
        inode: status.ino(),
        bytes: status.size(),
        changed: (status.ctime(), status.ctime_nsec()),
    };
    let source = Source { content, is_indexed: remembered.is_indexed(content, options, cache) };
    let addresses: Vec<Option<u64>> = offsets.iter().map(|offset| headers.address_of(*offset)).collect();
    let mut known: HashMap<u64, Names> =
        addresses.iter().flatten().filter_map(|address| Some((*address, remembered.get(source, *address)?))).collect();
    let mut missing: Vec<u64> =
        addresses.iter().flatten().copied().filter(|address| !known.contains_key(address)).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let is_roots = status.uid() == 0 && status.mode() & 0o022 == 0;
        let is_indexed = source.is_indexed && options.reads_dwarf;
        let reading = Reading { code, file, headers: &headers, options, is_indexed };
        for (address, names) in reading.all(&missing, cache, content, is_roots)? {
            remembered.insert(source, address, names.clone());
            known.insert(address, names);
        }
    }
    let places = offsets.iter().zip(addresses).map(|(offset, address)| match address {
        Some(address) => (address, known.get(&address).cloned().unwrap_or(Err(NoSymbol::Stripped))),
        // In no segment: the file is not what was mapped there, or is damaged.
        None => (*offset, Err(NoSymbol::NotElf)),
    });
    Ok(FileNames { places: places.collect(), build_id: headers.build_id.clone() })
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
    is_indexed: bool,
}

impl Reading<'_> {
    /// Names for some addresses, which must ascend: from the file's index, or from the file where there is none.
    fn all(
        &self,
        addresses: &[u64],
        cache: Option<&DiskCache>,
        content: Content,
        is_roots: bool,
    ) -> Result<Vec<(u64, Names)>, FileError> {
        let has_dwarf = dwarf::has_dwarf(self.headers);
        let folders = &self.options.debug_folders;
        let debug = if has_dwarf {
            None
        } else {
            debug_file::find(self.file, self.headers, Path::new(&*self.code.path), folders)
        };
        if let (Some(cache), Some(key)) = (cache, self.key(content, is_roots)) {
            // A second time if the index was damaged.
            for _ in 0..2 {
                let Some(mut index) = self.index(cache, &key, debug.as_ref(), has_dwarf) else { break };
                let found: Result<Vec<(u64, Names)>, _> = addresses
                    .iter()
                    .map(|address| index.frames(*address).map(|frames| (*address, named(frames))))
                    .collect();
                match found {
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        tracing::debug!(path = %self.code.path, %error, "an index is made anew");
                        cache.remove(&key);
                    }
                }
            }
        }
        self.read(addresses, debug.as_ref(), has_dwarf)
    }

    /// The file's index, which is made if there is none.
    fn index(&self, cache: &DiskCache, key: &str, debug: Option<&DebugFile>, has_dwarf: bool) -> Option<Index> {
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
        if !self.is_indexed {
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
    fn read(
        &self,
        addresses: &[u64],
        debug: Option<&DebugFile>,
        has_dwarf: bool,
    ) -> Result<Vec<(u64, Names)>, FileError> {
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
        let mut lines = self.dwarf(addresses, debug, has_dwarf);
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

    fn dwarf(&self, addresses: &[u64], debug: Option<&DebugFile>, has_dwarf: bool) -> Vec<Option<DwarfFrames>> {
        if !self.is_indexed {
            return Vec::new();
        }
        let (file, headers) = match debug {
            Some(debug) if dwarf::has_dwarf(&debug.headers) => (&debug.file, &debug.headers),
            _ if has_dwarf => (self.file, self.headers),
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
        let options = SymbolizerOptions { index_from_batch: 3, ..SymbolizerOptions::default() };
        let content = |inode| Content { device: 1, inode, bytes: 3, changed: (4, 5) };
        let mut remembered = Remembered::default();
        let mut is_indexed = |inode, options: &SymbolizerOptions| {
            let is_indexed = remembered.is_indexed(content(inode), options, None);
            assert!(remembered.files.len() <= FILES_MAX);
            is_indexed
        };
        assert_eq!([7, 8, 7, 7, 7].map(|inode| is_indexed(inode, &options)), [false, false, false, true, true]);
        // What is known stays known when no more is to be found out.
        let frugal = SymbolizerOptions { reads_dwarf: false, ..options.clone() };
        assert_eq!([7, 8, 8, 8].map(|inode| is_indexed(inode, &frugal)), [true, false, false, false]);
        assert!((0..3 * FILES_MAX as u64).all(|inode| !is_indexed(inode + 100, &options)));
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
