//! Keeps the kernel's unwinder supplied: tells it the mappings of processes that are measured, and loads the tables of
//! the files that they map, as many as fit.
//!
//! A process is told at once. A file's table is built when the first stack leads through it: such a stack arrives as a
//! snapshot, which is walked here as soon as its tables are there. Tables are shared by all processes that map the same
//! file.

mod files;
mod snapshots;
mod worker;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use obs_common::{
    stack::ImageKey,
    unwind_map::{FILE_NONE, Mapping as WireMapping},
};

use self::{
    files::{FileIdentity, Files, KnownFile, TableState},
    snapshots::{Snapshots, Wait},
    worker::{Built, Origin, Worker},
};
use crate::{
    enrich::{
        process::{Code, Ledger, Mapping, MappingTable},
        symbolize::vdso_image,
    },
    kernel::{
        load::KernelError,
        unwind::{Full, TableArrays, UnwindMaps},
    },
    model::{
        process::ProcessKey,
        stack::{Stack, StackSnapshot},
    },
};

/// Epochs for which a table that nobody uses is kept when room is needed.
const IDLE_EPOCHS_MIN: u32 = 2;

/// Epochs after which it is tried again whether there is room for a table.
const REFUSED_EPOCHS: u32 = 30;

/// Shortest time between two looks at all files for those that the kernel side missed.
const ASK_MISSED_PAUSE: Duration = Duration::from_millis(20);

/// What the unwinder's supply did.
#[derive(Clone, Copy, Debug, Default)]
struct SupplyCounts {
    /// Tables taken away to make room.
    tables_evicted: u64,
    /// Tables that did not fit.
    tables_refused: u64,
    /// Processes that found no room.
    processes_refused: u64,
    /// Mappings of files that found no number.
    files_refused: u64,
}

/// What a process image was told.
struct Told {
    mappings: Arc<MappingTable>,
    files: Vec<FileIdentity>,
}

/// The supply.
pub(super) struct Supply {
    maps: UnwindMaps,
    worker: Worker,
    files: Files,
    told: HashMap<ProcessKey, Told>,
    snapshots: Snapshots,
    takes_snapshots: bool,
    asked_missed: Instant,
    counts: SupplyCounts,
}

impl Supply {
    /// Begins supplying an unwinder. `wake` is called from another thread when [`Supply::load_built`] has work.
    pub(super) fn start(mut maps: UnwindMaps, wake: impl Fn() + Send + 'static) -> anyhow::Result<Self> {
        let mut snapshots = Snapshots::new();
        maps.begin_epoch()?;
        maps.allow_snapshots(snapshots.allowance())?;
        Ok(Self {
            maps,
            worker: Worker::start(wake).context("cannot start a thread")?,
            files: Files::default(),
            told: HashMap::new(),
            snapshots,
            takes_snapshots: true,
            asked_missed: Instant::now(),
            counts: SupplyCounts::default(),
        })
    }

    /// Tells the kernel side where these process images have their code, as far as that changed.
    pub(super) fn tell(
        &mut self,
        ledger: &Ledger,
        keys: impl IntoIterator<Item = ProcessKey>,
    ) -> Result<(), KernelError> {
        for key in keys {
            let Some(mappings) = ledger.mappings(key) else { continue };
            if mappings.is_empty() || self.told.get(&key).is_some_and(|told| Arc::ptr_eq(&told.mappings, mappings)) {
                continue;
            }
            let mappings = Arc::clone(mappings);
            ledger.hold_mapped_files(key);
            let wire: Vec<WireMapping> = mappings.iter().filter_map(|mapping| self.wire(mapping)).collect();
            match self.maps.set_process(image_key(key), &wire)? {
                Ok(()) => {
                    let files = self.files.take(files_of(&mappings));
                    let before = self.told.insert(key, Told { mappings, files });
                    self.release(before);
                    self.snapshots.process_was_told(key);
                }
                Err(Full) => self.counts.processes_refused += 1,
            }
        }
        Ok(())
    }

    /// Forgets a process image that has ended.
    pub(super) fn forget(&mut self, key: ProcessKey) {
        let told = self.told.remove(&key);
        self.release(told);
        self.snapshots.forget(key);
        self.maps.remove_process(&image_key(key));
    }

    fn release(&mut self, told: Option<Told>) {
        if let Some(Told { files, .. }) = told {
            self.files.release(&files, self.maps.epoch());
        }
    }

    /// Loads the tables that are finished.
    pub(super) fn load_built(&mut self) -> Result<(), KernelError> {
        while let Some(Built { file, table }) = self.worker.next() {
            let state = match table {
                Ok(table) => self.load(file, &table)?,
                Err(reason) => {
                    if let Some(KnownFile { origin: Origin::File(code), .. }) = self.files.get(file) {
                        tracing::debug!(path = %code.path, %reason, "no unwind table");
                    }
                    TableState::Impossible
                }
            };
            if state == TableState::Impossible {
                self.maps.set_never(file)?;
            }
            if let Some(known) = self.files.get_mut(file) {
                known.state = state;
            }
        }
        Ok(())
    }

    /// Walks these snapshots and the earlier ones that lacked something, and hands on every stack that is final.
    pub(super) fn walk(
        &mut self,
        snapshots: Vec<StackSnapshot>,
        mut done: impl FnMut(u64, Option<Stack>),
    ) -> Result<(), KernelError> {
        let walked = self.snapshots.walk(&self.maps, snapshots, &mut done);
        for file in walked.files_wanted {
            self.ask(file);
        }
        if walked.are_short && self.asked_missed.elapsed() >= ASK_MISSED_PAUSE {
            self.asked_missed = Instant::now();
            self.ask_missed()?;
        }
        for key in walked.processes_settled {
            self.maps.settle_process(image_key(key))?;
        }
        let allowance = if self.takes_snapshots { self.snapshots.allowance() } else { 0 };
        self.maps.allow_snapshots(allowance)
    }

    /// Whether the kernel side may send snapshots from the next walk on.
    pub(super) fn take_snapshots(&mut self, wanted: bool) {
        self.takes_snapshots = wanted;
    }

    /// Whether some snapshots wait for a table that is being built.
    pub(super) fn has_unfinished(&self) -> bool {
        let is_coming = |file: u32| self.files.get(file).is_some_and(|known| known.state == TableState::Asked);
        self.snapshots.waits().any(|wait| matches!(wait, Wait::Table(file) if is_coming(file)))
    }

    /// Walks what is left as far as it goes.
    pub(super) fn finish(&mut self, mut done: impl FnMut(u64, Option<Stack>)) {
        self.snapshots.finish(&self.maps, &mut done);
    }

    /// Whether there are snapshots of this process image.
    pub(super) fn walks(&self, key: ProcessKey) -> bool {
        self.snapshots.has(key)
    }

    /// Once in a while: asks for tables that the kernel side missed without sending a snapshot, and lets go of files that
    /// nobody uses.
    pub(super) fn begin_epoch(&mut self) -> Result<(), KernelError> {
        self.ask_missed()?;
        let epoch = self.maps.epoch();
        for file in self.files.forget_idle(epoch) {
            self.maps.clear_table(file)?;
            self.maps.clear_never(file)?;
        }
        for (file, known) in self.files.iter_mut() {
            if let TableState::Refused { epoch: refused } = known.state
                && epoch.wrapping_sub(refused) >= REFUSED_EPOCHS
            {
                known.state = TableState::Absent;
                self.maps.clear_never(file)?;
            }
        }
        self.maps.begin_epoch()
    }

    fn ask_missed(&mut self) -> Result<(), KernelError> {
        let epoch = self.maps.epoch();
        for used in self.maps.uses(self.files.numbers())? {
            if !used.is_loaded && used.epoch == epoch {
                self.ask(used.file);
            }
        }
        Ok(())
    }

    /// What a reader of the recording should know of the supply, one sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let SupplyCounts { tables_refused, tables_evicted, processes_refused, files_refused } = self.counts;
        let count = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        [
            count(tables_refused, "unwind tables did not fit into their memory: stacks through those files are cut"),
            count(tables_evicted, "unwind tables were taken away to make room for others"),
            count(processes_refused, "times the mappings of a process did not fit: its stacks are cut"),
            count(files_refused, "mappings of files are unwound by frame pointer: too many files are in use at a time"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn load(&mut self, file: u32, table: &obs_unwind::UnwindTable) -> Result<TableState, KernelError> {
        let Ok(first_page) = u32::try_from(table.first_page()) else { return Ok(TableState::Impossible) };
        let arrays = TableArrays { first_page, pages: table.pages(), rows: table.rows(), rules: table.rules() };
        loop {
            match self.maps.set_table(file, &arrays)? {
                Ok(()) => return Ok(TableState::Loaded),
                Err(Full) if self.evict()? => {}
                Err(Full) => {
                    self.counts.tables_refused += 1;
                    self.maps.set_never(file)?;
                    return Ok(TableState::Refused { epoch: self.maps.epoch() });
                }
            }
        }
    }

    /// Takes away the table that was used least recently. False if all were used just now.
    fn evict(&mut self) -> Result<bool, KernelError> {
        let epoch = self.maps.epoch();
        let uses = self.maps.uses(self.files.numbers())?;
        let idle = |used_epoch: u32| epoch.wrapping_sub(used_epoch);
        let oldest = uses.iter().filter(|used| used.is_loaded).max_by_key(|used| idle(used.epoch));
        let Some(oldest) = oldest.filter(|used| idle(used.epoch) >= IDLE_EPOCHS_MIN) else { return Ok(false) };
        self.maps.clear_table(oldest.file)?;
        self.counts.tables_evicted += 1;
        if let Some(known) = self.files.get_mut(oldest.file) {
            known.state = TableState::Absent;
        }
        Ok(true)
    }

    /// A mapping as the kernel side reads it; `None` for what user code never runs in.
    fn wire(&mut self, mapping: &Mapping) -> Option<WireMapping> {
        let (start, end) = (mapping.start, mapping.end);
        let by_pointer = WireMapping { start, end, bias: 0, file: FILE_NONE, reserved: 0 };
        let identity = match &mapping.code {
            Code::Vsyscall => return None,
            code => identity_of(code),
        };
        let Some(identity) = identity else { return Some(by_pointer) };
        let origin = || match &mapping.code {
            Code::File(file) => Origin::File(Arc::clone(file)),
            Code::Vdso | Code::Anonymous | Code::Vsyscall => Origin::Vdso(vdso_image().unwrap_or_default().into()),
        };
        let Some(file) = self.files.number(identity, origin, self.maps.epoch()) else {
            self.counts.files_refused += 1;
            return Some(by_pointer);
        };
        let known = self.files.get(file)?;
        match obs_unwind::load_bias(&known.segments, start, mapping.file_offset) {
            Some(bias) => Some(WireMapping { start, end, bias, file, reserved: 0 }),
            None => Some(by_pointer),
        }
    }

    /// Has a table built, unless that was done or is of no use.
    fn ask(&mut self, file: u32) {
        let Some(known) = self.files.get_mut(file) else { return };
        if known.state == TableState::Absent && self.worker.ask(file, known.origin.clone()) {
            known.state = TableState::Asked;
        }
    }
}

fn identity_of(code: &Code) -> Option<FileIdentity> {
    match code {
        Code::File(file) => Some(FileIdentity::of(file)),
        Code::Vdso => Some(FileIdentity::Vdso),
        Code::Anonymous | Code::Vsyscall => None,
    }
}

/// What a process maps of files, each once.
fn files_of(mappings: &MappingTable) -> Vec<FileIdentity> {
    let mut files: Vec<FileIdentity> = mappings.iter().filter_map(|mapping| identity_of(&mapping.code)).collect();
    files.sort_unstable();
    files.dedup();
    files
}

fn image_key(key: ProcessKey) -> ImageKey {
    ImageKey { started_ns: key.started_ns, tgid: key.pid, exec_id: key.exec_id }
}
