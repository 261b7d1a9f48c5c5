//! From addresses to names: functions, inlined functions, source lines.
//!
//! Addresses are resolved in batches: first each is turned into (file, offset in the file) by the ledger, then every file
//! is read once for all of its addresses, and let go. So memory goes with the number of different addresses and with the
//! largest file, not with how many files and processes there are; and names are found for processes that have ended.
//!
//! **Invariant:** an address has a name, or exactly one [`NoSymbol`] that says why not; never a name from a file other
//! than the one that was mapped.

mod bytes;
mod cache;
mod debug_file;
mod demangle;
mod dwarf;
mod elf;
mod file;
mod index;
mod indexer;
mod kernel;
mod kernel_code;
mod kernel_table;
mod perf_map;
mod plt;
mod reason;
mod symbols;
mod vdso;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

pub use self::{
    cache::CacheOptions,
    dwarf::{DWARF_BYTES_MAX, DWARF_COPY_BYTES_MAX, DWARF_UNPACKED_BYTES_MAX},
    index::INDEX_BYTES_MAX,
    kernel_code::KernelCode,
    perf_map::{PERF_MAP_BYTES_MAX, PERF_MAP_LINES_MAX},
    reason::{FileError, NoSymbol},
    vdso::image as vdso_image,
};
use self::{cache::DiskCache, file::FileNames, indexer::Indexer};
use super::process::{Code, CodeFile, Places, Unmapped};
use crate::model::{
    process::ProcessKey,
    profile::{FrameKind, Module},
};

/// Most names that are remembered between batches.
pub const REMEMBERED_NAMES_MAX: usize = 65_536;

/// Most files of which is remembered that something was wrong with them.
const PROBLEM_FILES_MAX: usize = 4_096;

/// Bytes between two of the legacy system call page's three entries.
const VSYSCALL_ENTRY_BYTES: u64 = 0x400;

/// How names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct SymbolizerOptions {
    /// The kernel's list of its symbols.
    pub kallsyms: PathBuf,
    /// Folders that hold separate debug information, as `/usr/lib/debug` does.
    pub debug_folders: Vec<PathBuf>,
    /// Whether DWARF is read, for inlined functions and source lines.
    pub reads_dwarf: bool,
    /// When files are indexed.
    pub indexing: Indexing,
    /// Where names are kept from run to run, if they are.
    pub cache: Option<CacheOptions>,
}

/// When a file is indexed of which there is no index yet. Large files take seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Indexing {
    /// With the first batch, which waits for it.
    AtOnce,
    /// Aside, by a thread of its own. Until then the file's symbols are read, and no DWARF.
    Aside {
        /// With how many batches in which the file is. What runs but once is not worth it.
        from_batch: u32,
        /// Most of one CPU that it may take in the long run, 1 being all of it.
        cpu_share_max: f64,
    },
}

impl Default for SymbolizerOptions {
    fn default() -> Self {
        Self {
            kallsyms: "/proc/kallsyms".into(),
            debug_folders: vec!["/usr/lib/debug".into()],
            reads_dwarf: true,
            indexing: Indexing::AtOnce,
            cache: None,
        }
    }
}

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedFrame {
    /// Its demangled name.
    pub function: Arc<str>,
    /// Source file and line, if known.
    pub source: Option<(Arc<str>, u32)>,
    /// Whether it was inlined into the next one.
    pub is_inlined: bool,
}

/// The functions at an address, innermost first; the last one is not inlined. Or why there are none.
pub type Names = Result<Arc<[NamedFrame]>, NoSymbol>;

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where its code lives, if that is known.
    pub module: Option<Arc<Module>>,
    /// The address in the module's own address space, as `readelf` shows it; in the file, where its headers could not be
    /// read; absolute without a module, for the kernel, and for just-in-time code.
    pub address: u64,
    /// Which side it belongs to.
    pub kind: FrameKind,
    /// Its functions.
    pub names: Names,
}

/// Something was wrong with a file as a whole, or it has no names for some addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file, or `[kernel]` and the like.
    pub path: Arc<str>,
    /// Why addresses have no name.
    pub reason: NoSymbol,
    /// How many different addresses.
    pub addresses: u64,
    /// What exactly went wrong, where there is more to say than the reason.
    pub detail: Option<String>,
}

/// Finds names. One batch at a time; what it keeps between batches is bounded by [`REMEMBERED_NAMES_MAX`].
#[derive(Debug)]
pub struct Symbolizer {
    options: SymbolizerOptions,
    cache: Option<DiskCache>,
    /// Where files are indexed aside.
    indexer: Option<Indexer>,
    remembered: file::Remembered,
    kernel_code: KernelCode,
    kernel_functions: kernel::KernelFunctions,
    problems: BTreeMap<(Arc<str>, NoSymbol), FileProblem>,
}

impl Symbolizer {
    /// A symbolizer. If names cannot be kept on disk, it works without, and says so in the log.
    #[must_use]
    pub fn new(options: SymbolizerOptions) -> Self {
        let open = || options.cache.as_ref().map(DiskCache::open).transpose();
        let cache = open().unwrap_or_else(|error| {
            let folder = options.cache.as_ref().map_or(std::path::Path::new(""), |cache| &cache.folder).display();
            tracing::warn!(%folder, %error, "cannot keep names on disk; each run reads them from the files again");
            None
        });
        let indexer = match (options.indexing, open()) {
            (Indexing::Aside { cpu_share_max, .. }, Ok(Some(cache))) => {
                Indexer::start(options.clone(), cache, cpu_share_max)
                    .inspect_err(|error| tracing::warn!(%error, "no inlined functions: a thread cannot be started"))
                    .ok()
            }
            _ => None,
        };
        Self {
            options,
            cache,
            indexer,
            remembered: file::Remembered::default(),
            kernel_code: KernelCode::default(),
            kernel_functions: kernel::KernelFunctions::default(),
            problems: BTreeMap::new(),
        }
    }

    /// Says what is known of code that comes into the kernel and leaves it.
    pub fn set_kernel_code(&mut self, code: KernelCode) {
        self.kernel_code = code;
    }

    /// Whether DWARF is read from now on, for inlined functions and source lines.
    pub fn set_reads_dwarf(&mut self, wanted: bool) {
        self.options.reads_dwarf = wanted;
    }

    /// Resolves addresses of processes. The answers are in the same order.
    pub fn user(&mut self, places: &Places, wanted: &[(ProcessKey, u64)]) -> Vec<Resolved> {
        self.remembered.note_indexed(self.indexer.iter().flat_map(Indexer::done));
        let mut batch = Batch { answers: vec![None; wanted.len()], ..Batch::default() };
        for (index, (key, address)) in wanted.iter().enumerate() {
            let entry = Wanted { index, key: *key, address: *address, offset: *address, is_unmapped: false };
            let has_perf_map = places.perf_map(*key).is_some();
            match places.resolve(*key, *address) {
                Ok(mapping) => {
                    let entry = Wanted { offset: mapping.offset_of(*address), ..entry };
                    match &mapping.code {
                        Code::File(file) => {
                            let of_file = batch.files.entry(Arc::as_ptr(file) as usize);
                            of_file.or_insert_with(|| (Arc::clone(file), Vec::new())).1.push(entry);
                        }
                        Code::Vdso => batch.vdso.push(entry),
                        Code::Vsyscall => batch.answers[index] = Some(vsyscall(&entry)),
                        Code::Anonymous => batch.compiled.entry(*key).or_default().push(entry),
                    }
                }
                // Its compiler may have been writing when the mappings were read: the perf map tells.
                Err(Unmapped::NoMapping) if has_perf_map => {
                    batch.compiled.entry(*key).or_default().push(Wanted { is_unmapped: true, ..entry });
                }
                Err(unmapped) => {
                    let reason = match unmapped {
                        Unmapped::UnknownProcess => NoSymbol::UnknownProcess,
                        Unmapped::NoMapping => NoSymbol::NoMapping,
                    };
                    self.note_problem(&"".into(), reason, 1, None);
                    let names = Err(reason);
                    batch.answers[index] =
                        Some(Resolved { module: None, address: *address, kind: FrameKind::User, names });
                }
            }
        }
        let mut files: Vec<(Arc<CodeFile>, Vec<Wanted>)> = std::mem::take(&mut batch.files).into_values().collect();
        // The same order in every run, so that which of two equal files is read does not vary.
        files.sort_by(|(left, _), (right, _)| left.path.cmp(&right.path));
        for (file, entries) in files {
            self.file(&file, entries, &mut batch);
        }
        self.vdso(&mut batch);
        self.compiled(places, &mut batch);
        if let Some(cache) = &self.cache
            && let Err(error) = cache.make_room()
        {
            tracing::warn!(%error, "cannot keep the names on disk within their limit");
        }
        // Every address was put into exactly one group, and every group answers all of its addresses.
        let unanswered = |entry: &(ProcessKey, u64)| Resolved {
            module: None,
            address: entry.1,
            kind: FrameKind::User,
            names: Err(NoSymbol::NoMapping),
        };
        batch
            .answers
            .into_iter()
            .zip(wanted)
            .map(|(answer, entry)| answer.unwrap_or_else(|| unanswered(entry)))
            .collect()
    }

    /// Resolves addresses of the kernel. The answers are in the same order.
    pub fn kernel(&mut self, wanted: &[u64]) -> Vec<Resolved> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut addresses = wanted.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        let found = self.kernel_functions.find(&self.options.kallsyms, &addresses, &self.kernel_code);
        let mut modules: HashMap<Option<String>, Arc<Module>> = HashMap::new();
        let mut module = |name: Option<String>| {
            let path = match &name {
                Some(name) => format!("[{name}]").into(),
                None => "[kernel]".into(),
            };
            Arc::clone(modules.entry(name).or_insert_with(|| Arc::new(Module { path, build_id: None })))
        };
        let resolved: Vec<Resolved> = found
            .into_iter()
            .zip(&addresses)
            .map(|(found, address)| {
                let (name, names) = match found {
                    Ok(symbol) => {
                        // Rust's names in the kernel are mangled too.
                        let function = demangle::demangle(&symbol.name).into();
                        (
                            symbol.module,
                            Ok([NamedFrame { function, source: None, is_inlined: false }].as_slice().into()),
                        )
                    }
                    Err(reason) => (None, Err(reason)),
                };
                Resolved { module: Some(module(name)), address: *address, kind: FrameKind::Kernel, names }
            })
            .collect();
        for answer in &resolved {
            if let Err(reason) = answer.names {
                self.note_problem(&"[kernel]".into(), reason, 1, None);
            }
        }
        let place = |address: &u64| addresses.binary_search(address).unwrap_or_default();
        wanted.iter().filter_map(|address| resolved.get(place(address)).cloned()).collect()
    }

    /// What went wrong since the symbolizer was made, by file and reason, most addresses first.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem> {
        let mut problems: Vec<FileProblem> = self.problems.values().cloned().collect();
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.addresses));
        problems
    }

    fn file(&mut self, file: &Arc<CodeFile>, entries: Vec<Wanted>, batch: &mut Batch) {
        let mut offsets: Vec<u64> = entries.iter().map(|entry| entry.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let means = file::Means { options: &self.options, cache: self.cache.as_ref(), indexer: self.indexer.as_ref() };
        let found = file::names(file, &offsets, &means, &mut self.remembered);
        let FileNames { build_id, places } = match found {
            Ok(found) => found,
            // A just-in-time compiler may keep its code in a memory file.
            Err(FileError::NotElf(_)) if file.path.starts_with("/memfd:") => {
                for entry in entries {
                    batch.compiled.entry(entry.key).or_default().push(entry);
                }
                return;
            }
            Err(error) => {
                tracing::debug!(path = %file.path, %error, "no names from a file");
                self.note_problem(&file.path, error.reason(), offsets.len() as u64, Some(error.to_string()));
                let build_id = file.build_id.as_ref().map(|build_id| build_id.to_string().into());
                let module = Arc::new(Module { path: Arc::clone(&file.path), build_id });
                for entry in entries {
                    batch.answer(&entry, &module, entry.offset, FrameKind::User, Err(error.reason()));
                }
                return;
            }
        };
        let build_id = build_id.map(|build_id| build_id.to_string().into());
        let module = Arc::new(Module { path: Arc::clone(&file.path), build_id });
        let unnamed = places.iter().filter(|(_, names)| names.is_err()).count() as u64;
        self.note_problem(&file.path, NoSymbol::Stripped, unnamed, None);
        for entry in entries {
            let place = offsets.binary_search(&entry.offset).ok().and_then(|index| places.get(index)).cloned();
            let (address, names) = place.unwrap_or((entry.offset, Err(NoSymbol::NotElf)));
            batch.answer(&entry, &module, address, FrameKind::User, names);
        }
    }

    fn vdso(&mut self, batch: &mut Batch) {
        let entries = std::mem::take(&mut batch.vdso);
        if entries.is_empty() {
            return;
        }
        let module = Arc::new(Module { path: "[vdso]".into(), build_id: None });
        let mut offsets: Vec<u64> = entries.iter().map(|entry| entry.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let found = vdso::image().and_then(|image| {
            let headers = elf::ElfHeaders::read(image.as_slice()).ok()?;
            let addresses: Vec<u64> =
                offsets.iter().map(|offset| headers.address_of(*offset).unwrap_or(*offset)).collect();
            symbols::find(image.as_slice(), &headers, &addresses).ok()
        });
        for entry in entries {
            let symbol =
                offsets.binary_search(&entry.offset).ok().and_then(|index| found.as_ref()?.get(index)?.clone());
            let names = symbol.map(|symbol| file::plain(&symbol.name)).ok_or(NoSymbol::Stripped);
            if names.is_err() {
                self.note_problem(&module.path, NoSymbol::Stripped, 1, None);
            }
            batch.answer(&entry, &module, entry.offset, FrameKind::User, names);
        }
    }

    fn compiled(&mut self, places: &Places, batch: &mut Batch) {
        let module = Arc::new(Module { path: "[jit]".into(), build_id: None });
        for (key, entries) in std::mem::take(&mut batch.compiled) {
            let mut addresses: Vec<u64> = entries.iter().map(|entry| entry.address).collect();
            addresses.sort_unstable();
            addresses.dedup();
            let found = places.perf_map(key).map(|map| {
                perf_map::find(map, &addresses).unwrap_or_else(|error| {
                    tracing::debug!(pid = key.pid, path = map.path, %error, "cannot read a perf map");
                    vec![None; addresses.len()]
                })
            });
            let missing = if found.is_some() { NoSymbol::NotInPerfMap } else { NoSymbol::JitWithoutMap };
            let found = found.unwrap_or_default();
            for entry in entries {
                let name = addresses.binary_search(&entry.address).ok().and_then(|index| found.get(index)?.clone());
                let reason = if entry.is_unmapped { NoSymbol::NoMapping } else { missing };
                if name.is_none() {
                    self.note_problem(&module.path, reason, 1, None);
                }
                let names = name.map(|name| file::plain_as_is(&name)).ok_or(reason);
                batch.answer(&entry, &module, entry.address, FrameKind::Jit, names);
            }
        }
    }

    fn note_problem(&mut self, path: &Arc<str>, reason: NoSymbol, addresses: u64, detail: Option<String>) {
        if addresses == 0 {
            return;
        }
        let key = (Arc::clone(path), reason);
        if self.problems.len() >= PROBLEM_FILES_MAX && !self.problems.contains_key(&key) {
            return;
        }
        let fresh = || FileProblem { path: Arc::clone(path), reason, addresses: 0, detail };
        self.problems.entry(key).or_insert_with(fresh).addresses += addresses;
    }
}

/// An address of a batch.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    index: usize,
    key: ProcessKey,
    address: u64,
    /// Where in its mapping's file it lies.
    offset: u64,
    /// Whether it lies in no mapping that is known.
    is_unmapped: bool,
}

/// A batch, while it is sorted by where its addresses lie, and answered.
#[derive(Debug, Default)]
struct Batch {
    answers: Vec<Option<Resolved>>,
    files: HashMap<usize, (Arc<CodeFile>, Vec<Wanted>)>,
    vdso: Vec<Wanted>,
    compiled: HashMap<ProcessKey, Vec<Wanted>>,
}

impl Batch {
    fn answer(&mut self, wanted: &Wanted, module: &Arc<Module>, address: u64, kind: FrameKind, names: Names) {
        if let Some(answer) = self.answers.get_mut(wanted.index) {
            *answer = Some(Resolved { module: Some(Arc::clone(module)), address, kind, names });
        }
    }
}

fn vsyscall(wanted: &Wanted) -> Resolved {
    let name = match wanted.offset / VSYSCALL_ENTRY_BYTES {
        0 => Some("gettimeofday"),
        1 => Some("time"),
        2 => Some("getcpu"),
        _ => None,
    };
    Resolved {
        module: Some(Arc::new(Module { path: "[vsyscall]".into(), build_id: None })),
        address: wanted.offset,
        kind: FrameKind::User,
        names: name.map(file::plain_as_is).ok_or(NoSymbol::Stripped),
    }
}

#[cfg(test)]
mod tests;
