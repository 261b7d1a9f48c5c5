//! The ledger of process images: which programs ran, as which process, with what mapped where.
//!
//! It learns from two sources that complete each other. Events tell of forks, programs started and files mapped as they
//! happen, also of processes that end before anyone could look. `/proc` tells of what was there before, and of what events
//! do not carry (cgroup, executable). Events may come late or out of order, and refer to processes by id and time alone,
//! so every image knows from when to when it was its process's image.
//!
//! Limits: that something was unmapped is not told; its mapping stays until another one covers it.

mod examine;
mod files;
mod image;
mod mappings;
mod perf_map_file;
mod places;
mod procfs;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use self::image::Image;
pub use self::{
    files::{CODE_FILES_MAX, CodeFile, FileTable, HELD_FILES_MAX, OpenError, OpenedFile},
    mappings::{Code, CodeKind, MAPPINGS_PER_IMAGE_MAX, Mapping, MappingTable, code_kind},
    perf_map_file::PerfMapFile,
    places::Places,
    procfs::{MAPS_BYTES_MAX, Procfs, clean_path, parse_maps_line},
};
use crate::model::process::{MappedRegion, ProcessEvent, ProcessInfo, ProcessKey};

/// Most process images that are remembered.
pub const IMAGES_MAX: usize = 16_384;

/// Most images of one process id that are remembered.
const IMAGES_PER_PID_MAX: usize = 1_024;

/// How long an image that ended unmeasured is kept, in nanoseconds: its measurement may still be on its way, which takes
/// milliseconds. On a host that starts thousands a second, each second of it takes megabytes.
const UNMEASURED_GRACE_NS: u64 = 3_000_000_000;

/// How many events lie between two searches for images to let go.
const EVENTS_PER_SWEEP: u64 = 1_024;

/// How far apart the start of a process may be told by two sources, in nanoseconds.
const START_SLACK_NS: u64 = 20_000_000;

/// What the ledger lost or could not learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Images forgotten because there were too many, though they had been measured.
    pub images_evicted: u64,
    /// Mappings that found no room in their image.
    pub mappings_dropped: u64,
    /// Processes that had ended before `/proc` could be read, and of which no event told everything.
    pub processes_missed: u64,
    /// How often a process's mappings were read from `/proc`.
    pub maps_read: u64,
}

/// Why there is no mapping for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// Nothing is known of the process image: it ended before it could be examined.
    UnknownProcess,
    /// The process image had no executable mapping there.
    NoMapping,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    procfs: Procfs,
    files: FileTable,
    images: HashMap<u64, Image>,
    /// Ids of images by process id, in the order of their beginning.
    by_pid: HashMap<u32, Vec<u64>>,
    by_key: HashMap<ProcessKey, u64>,
    /// Measured images whose mappings may have changed since somebody asked; all of them are in `by_key`.
    changed: HashSet<ProcessKey>,
    next_id: u64,
    clock: u64,
    events: u64,
    newest_ns: u64,
    images_max: usize,
    counts: LedgerCounts,
}

impl Ledger {
    /// An empty ledger that looks processes up in `procfs`.
    #[must_use]
    pub fn new(procfs: Procfs) -> Self {
        Self {
            procfs,
            files: FileTable::new(),
            images: HashMap::new(),
            by_pid: HashMap::new(),
            by_key: HashMap::new(),
            changed: HashSet::new(),
            next_id: 0,
            clock: 0,
            events: 0,
            newest_ns: 0,
            images_max: IMAGES_MAX,
            counts: LedgerCounts::default(),
        }
    }

    /// Enters an event.
    pub fn apply(&mut self, event: ProcessEvent) {
        let time_ns = match event {
            ProcessEvent::Seen { key, time_ns, name } => {
                self.seen(key, time_ns, Some(name));
                time_ns
            }
            ProcessEvent::Fork { pid, parent_pid, time_ns } => {
                if pid != parent_pid {
                    self.fork(pid, parent_pid, time_ns);
                }
                time_ns
            }
            ProcessEvent::Exec { pid, name, time_ns } => {
                self.exec(pid, name, time_ns);
                time_ns
            }
            ProcessEvent::Rename { pid, tid, name, time_ns } => {
                if pid == tid
                    && let Some(image) = self.image_at(pid, time_ns)
                {
                    image.name = Some(name);
                }
                time_ns
            }
            ProcessEvent::Mapped { pid, time_ns, region } => {
                self.mapped(pid, time_ns, &region);
                time_ns
            }
            ProcessEvent::ThreadExited { pid, is_leader, time_ns } => {
                self.thread_exited(pid, is_leader, time_ns);
                time_ns
            }
        };
        self.newest_ns = self.newest_ns.max(time_ns);
        self.events += 1;
        if self.events.is_multiple_of(EVENTS_PER_SWEEP) {
            self.forget(|image, newest_ns| {
                image.seen.is_none()
                    && image.ended_ns.is_some_and(|ended_ns| ended_ns + UNMEASURED_GRACE_NS < newest_ns)
            });
        }
    }

    /// Where an address of a process image lies. If it is in no known mapping and the process lives, its mappings are read
    /// again (ever more rarely, if that does not help).
    ///
    /// # Errors
    /// If nothing is known of the image, or it has no executable mapping there.
    pub fn resolve(&mut self, key: ProcessKey, address: u64) -> Result<&Mapping, Unmapped> {
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            // Its announcement was lost: look at once.
            None => self.seen(key, now_ns(), None),
        };
        self.touch(id);
        let has = |ledger: &Self| ledger.images.get(&id).is_some_and(|image| image.mappings.find(address).is_some());
        if !has(self) {
            self.reread(id, key);
        }
        let image = self.images.get(&id).ok_or(Unmapped::UnknownProcess)?;
        match image.mappings.find(address) {
            Some(mapping) => Ok(mapping),
            None if image.mappings.is_empty() => Err(Unmapped::UnknownProcess),
            None => Err(Unmapped::NoMapping),
        }
    }

    /// Looks up the addresses of a stack as soon as it is known, while its process may still live: what is not mapped yet
    /// is looked for, and where code has no file, the perf map that may name it is opened.
    pub fn observe(&mut self, key: ProcessKey, addresses: impl IntoIterator<Item = u64>) {
        let mut is_compiled = false;
        for address in addresses {
            is_compiled |= match self.resolve(key, address).map(|mapping| &mapping.code) {
                Ok(Code::Anonymous) => true,
                // A just-in-time compiler may keep its code in a memory file.
                Ok(Code::File(file)) => file.path.starts_with("/memfd:"),
                // Compilers that never leave memory both writable and executable take the right to execute away while they
                // write; our reading may have fallen into such a moment.
                Err(Unmapped::NoMapping) => true,
                Ok(Code::Vdso | Code::Vsyscall) | Err(Unmapped::UnknownProcess) => false,
            };
        }
        if is_compiled {
            self.hold_perf_map(key);
        }
    }

    /// The perf map of a process image, if it has one that could be opened.
    #[must_use]
    pub fn perf_map(&self, key: ProcessKey) -> Option<Arc<PerfMapFile>> {
        self.images.get(self.by_key.get(&key)?)?.perf_map.clone()
    }

    /// What is known of a process image that was measured.
    #[must_use]
    pub fn info(&self, key: ProcessKey) -> Option<ProcessInfo> {
        Some(self.images.get(self.by_key.get(&key)?)?.info(key))
    }

    /// Forgets every image that ended before a time, and lets go of the files that only they held.
    pub fn forget_exited(&mut self, before_ns: u64) {
        self.forget(|image, _| image.ended_ns.is_some_and(|ended_ns| ended_ns < before_ns));
    }

    /// The executable mappings of a process image that was measured. The same allocation as before means: no change.
    #[must_use]
    pub fn mappings(&self, key: ProcessKey) -> Option<&Arc<MappingTable>> {
        Some(&self.images.get(self.by_key.get(&key)?)?.mappings)
    }

    /// The measured process images that are new or whose mappings may have changed since this was last asked.
    pub fn take_changed(&mut self) -> HashSet<ProcessKey> {
        std::mem::take(&mut self.changed)
    }

    /// Opens the files that a living process image has mapped since it was first measured, so that they can be read when it
    /// is gone.
    pub fn hold_mapped_files(&self, key: ProcessKey) {
        let Some(id) = self.by_key.get(&key) else { return };
        if self.images.get(id).is_some_and(|image| image.ended_ns.is_none()) {
            self.hold_files(*id);
        }
    }

    /// Whether a process image that was measured has ended, or is no longer known.
    #[must_use]
    pub fn has_ended(&self, key: ProcessKey) -> bool {
        self.by_key.get(&key).and_then(|id| self.images.get(id)).is_none_or(|image| image.ended_ns.is_some())
    }

    /// What was lost.
    #[must_use]
    pub fn counts(&self) -> LedgerCounts {
        self.counts
    }

    /// How many images are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether no image is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    fn seen(&mut self, key: ProcessKey, time_ns: u64, name: Option<Arc<str>>) -> u64 {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let id = self.id_at(key.pid, time_ns).filter(|id| {
            // An image that began before this process did belongs to an earlier process of the same id.
            self.images
                .get(id)
                .is_some_and(|image| image.seen.is_none() && image.began_ns + START_SLACK_NS >= key.started_ns)
        });
        let id = id.unwrap_or_else(|| {
            let is_first = self.id_at(key.pid, time_ns).is_none();
            let began_ns = if is_first { key.started_ns.min(time_ns) } else { time_ns };
            self.begin(Image { pid: key.pid, began_ns, is_inferred: true, ..Image::default() })
        });
        self.by_key.insert(key, id);
        self.changed.insert(key);
        self.touch(id);
        let Some(image) = self.images.get_mut(&id) else { return id };
        image.seen = Some((key, time_ns));
        image.name = name.or_else(|| image.name.take());
        let is_whole = image.is_whole;
        let is_read = self.examine(id, key, !is_whole);
        if !is_whole && !is_read {
            self.counts.processes_missed += 1;
        }
        id
    }

    fn fork(&mut self, pid: u32, parent_pid: u32, time_ns: u64) {
        let parent = self.id_at(parent_pid, time_ns).and_then(|id| self.images.get(&id));
        let mut child = Image { pid, began_ns: time_ns, ..Image::default() };
        if let Some(parent) = parent {
            child.mappings = Arc::clone(&parent.mappings);
            child.is_whole = parent.is_whole;
            child.name.clone_from(&parent.name);
            child.executable.clone_from(&parent.executable);
            child.place.clone_from(&parent.place);
        }
        match self.inferred_since(pid, time_ns) {
            Some(id) => self.confirm(id, child),
            None => {
                self.begin(child);
            }
        }
    }

    fn exec(&mut self, pid: u32, name: Arc<str>, time_ns: u64) {
        let program = Image { pid, began_ns: time_ns, is_whole: true, name: Some(name), ..Image::default() };
        let Some(id) = self.id_at(pid, time_ns) else {
            match self.inferred_since(pid, time_ns) {
                Some(inferred) => self.confirm(inferred, program),
                None => {
                    self.begin(program);
                }
            }
            return;
        };
        let Some(before) = self.images.get_mut(&id) else { return };
        // What was mapped since belongs to the new program, even if it was heard of first.
        let later = Arc::new(Arc::make_mut(&mut before.mappings).split_off_since(time_ns));
        self.changed.extend(before.key());
        if before.seen.is_some_and(|(_, seen_ns)| seen_ns >= time_ns) {
            // So was the measurement: this image is the new program, and the old one was never measured.
            before.began_ns = time_ns;
            before.mappings = later;
            before.is_whole = true;
            before.is_inferred = false;
            return;
        }
        let ended_ns = before.ended_ns.replace(time_ns).filter(|ended_ns| *ended_ns > time_ns);
        let read_ns = before.read_ns.filter(|read_ns| *read_ns >= time_ns);
        let place = before.place.clone();
        let program = Image { ended_ns, read_ns, mappings: later, place, ..program };
        match self.inferred_since(pid, time_ns) {
            Some(inferred) => self.confirm(inferred, program),
            None => {
                self.begin(program);
            }
        }
    }

    fn thread_exited(&mut self, pid: u32, is_leader: bool, time_ns: u64) {
        let Some(id) = self.id_at(pid, time_ns) else { return };
        let was_led = self.images.get(&id).is_some_and(|image| !image.is_leaderless);
        if was_led && !is_leader {
            return;
        }
        // Only where the first thread is gone is it worth a look whether others are left.
        let is_over = !self.procfs.has_other_threads(pid);
        if let Some(image) = self.images.get_mut(&id) {
            image.is_leaderless = true;
            if is_over {
                image.ended_ns = Some(time_ns);
            }
        }
    }

    /// The image that began at or after a time, if its beginning was only inferred: an event that overtook its fork or
    /// exec made it.
    fn inferred_since(&self, pid: u32, time_ns: u64) -> Option<u64> {
        let ids = self.by_pid.get(&pid)?.iter().copied();
        let mut later = ids.filter(|id| self.images.get(id).is_some_and(|image| image.began_ns >= time_ns));
        later.next().filter(|id| self.images.get(id).is_some_and(|image| image.is_inferred))
    }

    /// Completes an inferred image with what its fork or exec tells.
    fn confirm(&mut self, id: u64, told: Image) {
        let Some(image) = self.images.get_mut(&id) else { return };
        self.counts.mappings_dropped += Arc::make_mut(&mut image.mappings).underlay(&told.mappings);
        self.changed.extend(image.key());
        image.began_ns = told.began_ns;
        image.is_inferred = false;
        image.is_whole |= told.is_whole;
        image.read_ns = image.read_ns.or(told.read_ns);
        image.name = image.name.take().or(told.name);
        image.executable = image.executable.take().or(told.executable);
        if image.place.path.is_none() {
            image.place = told.place;
        }
    }

    fn mapped(&mut self, pid: u32, time_ns: u64, region: &MappedRegion) {
        let code = self.code(region);
        let Some(mapping) = Mapping::new(region, code, time_ns) else { return };
        let id = self
            .id_at(pid, time_ns)
            .unwrap_or_else(|| self.begin(Image { pid, began_ns: time_ns, is_inferred: true, ..Image::default() }));
        let Some(image) = self.images.get_mut(&id) else { return };
        if image.executable.is_none()
            && let Code::File(file) = &mapping.code
        {
            // A program's own file is the first that the kernel maps.
            image.executable = Some(Arc::clone(&file.path));
        }
        self.changed.extend(image.key());
        let mappings = Arc::make_mut(&mut image.mappings);
        let dropped = if image.read_ns.is_some_and(|read_ns| read_ns >= time_ns) {
            // `/proc` was read after this: where they differ, `/proc` is newer.
            let mut older = MappingTable::default();
            older.overlay(mapping);
            let mut newer = std::mem::take(mappings);
            let dropped = newer.underlay(&older);
            *mappings = newer;
            dropped
        } else {
            u64::from(!mappings.overlay(mapping))
        };
        self.counts.mappings_dropped += dropped;
    }

    fn code(&mut self, region: &MappedRegion) -> Code {
        match code_kind(&region.path) {
            CodeKind::File => Code::File(self.files.intern(&region.path, region.file, region.build_id.as_ref())),
            CodeKind::Vdso => Code::Vdso,
            CodeKind::Vsyscall => Code::Vsyscall,
            CodeKind::Anonymous => Code::Anonymous,
        }
    }

    fn touch(&mut self, id: u64) {
        self.clock += 1;
        if let Some(image) = self.images.get_mut(&id) {
            image.touched = self.clock;
        }
    }

    /// The image that a process had at a time.
    fn id_at(&self, pid: u32, time_ns: u64) -> Option<u64> {
        let ids = self.by_pid.get(&pid)?;
        ids.iter().rev().copied().find(|id| self.images.get(id).is_some_and(|image| image.covers(time_ns)))
    }

    fn image_at(&mut self, pid: u32, time_ns: u64) -> Option<&mut Image> {
        self.id_at(pid, time_ns).and_then(|id| self.images.get_mut(&id))
    }

    /// Enters an image; the one before it ends where it begins.
    fn begin(&mut self, mut image: Image) -> u64 {
        if self.images.len() >= self.images_max {
            self.evict();
        }
        let id = self.next_id;
        self.next_id += 1;
        let siblings = self.by_pid.entry(image.pid).or_default();
        let place = siblings.partition_point(|sibling| {
            self.images.get(sibling).is_some_and(|sibling| sibling.began_ns <= image.began_ns)
        });
        if let Some(before) = place.checked_sub(1).and_then(|index| siblings.get(index))
            && let Some(before) = self.images.get_mut(before)
            && before.ended_ns.is_none_or(|ended_ns| ended_ns > image.began_ns)
        {
            before.ended_ns = Some(image.began_ns);
        }
        if let Some(after) = siblings.get(place).and_then(|after| self.images.get(after)) {
            image.ended_ns = Some(image.ended_ns.map_or(after.began_ns, |ended_ns| ended_ns.min(after.began_ns)));
        }
        siblings.insert(place, id);
        self.clock += 1;
        image.touched = self.clock;
        let is_unmeasured = |id: &&u64| self.images.get(id).is_some_and(|image| image.seen.is_none());
        let oldest = siblings.iter().find(is_unmeasured).or(siblings.first()).copied();
        let oldest = oldest.filter(|_| siblings.len() > IMAGES_PER_PID_MAX);
        self.images.insert(id, image);
        if let Some(oldest) = oldest {
            self.remove(&[oldest]);
        }
        id
    }

    /// Makes room: an eighth goes, first what ended unmeasured, then what ended, then what was not used for longest.
    fn evict(&mut self) {
        let mut order: Vec<(bool, bool, u64, u64)> = self
            .images
            .iter()
            .map(|(id, image)| (image.ended_ns.is_none(), image.seen.is_some(), image.touched, *id))
            .collect();
        order.sort_unstable();
        let going: Vec<u64> = order.iter().take((self.images_max / 8).max(1)).map(|(.., id)| *id).collect();
        self.remove(&going);
    }

    fn forget(&mut self, is_due: impl Fn(&Image, u64) -> bool) {
        let newest_ns = self.newest_ns;
        let due = self.images.iter().filter(|(_, image)| is_due(image, newest_ns));
        let due: Vec<u64> = due.map(|(id, _)| *id).collect();
        let evicted = self.counts.images_evicted;
        self.remove(&due);
        self.counts.images_evicted = evicted;
    }

    fn remove(&mut self, ids: &[u64]) {
        for id in ids {
            let Some(image) = self.images.remove(id) else { continue };
            if let Some((key, _)) = image.seen {
                self.by_key.remove(&key);
                self.changed.remove(&key);
                self.counts.images_evicted += 1;
            }
            if let Some(siblings) = self.by_pid.get_mut(&image.pid) {
                siblings.retain(|sibling| sibling != id);
                if siblings.is_empty() {
                    self.by_pid.remove(&image.pid);
                }
            }
        }
    }
}

/// Now, in nanoseconds of the boot-time clock.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests;
