//! The writer: appends windows, and makes blocks of journals. What is too old or too much goes as `retention` says.

mod retention;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Window,
    block::Block,
    error::{FileError, StoreError, WindowError},
    folder::{Folder, Lock, Name},
    frame::{FileHeader, FileKind},
    journal::Journal,
    limits::DAMAGE_MAX,
    reader::Reader,
    seal,
    too_large::{self, SamplesDropped},
    window::Kept,
};

const SECOND_NS: u64 = 1_000_000_000;

/// How much is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Blocks whose last window ended so many seconds before the newest one began are removed.
    pub retention_seconds: u64,
    /// When all files together are larger, the oldest blocks are removed. In bytes.
    pub retention_bytes: u64,
    /// Blocks that are so many seconds old lose their windows and keep the roll-up of ten minutes. As long as
    /// `retention_seconds` or longer: never.
    pub windows_seconds: u64,
    /// How many seconds a block covers, counted from 1970.
    pub block_seconds: u32,
    /// `/proc/sys/kernel/random/boot_id`: a block never holds processes of two starts of the machine, whose boot-time
    /// clocks, and so whose process keys, have nothing to do with each other.
    pub boot_id: [u8; 16],
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention_seconds: 7 * 24 * 3600,
            retention_bytes: 256 << 20,
            windows_seconds: 7 * 24 * 3600,
            block_seconds: 7200,
            boot_id: [0; 16],
        }
    }
}

/// What an opening found and cleaned up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Windows' bytes that were cut off because they were not whole.
    pub torn_bytes: u64,
    /// In how many journals.
    pub torn_files: u64,
    /// Half-written files that were removed.
    pub temporary_removed: u64,
    /// Journals that were removed because their block was finished.
    pub superseded_removed: u64,
    /// Journals of an earlier run that were made into blocks.
    pub sealed: u64,
    /// What cannot be read, or not be removed, and why, up to a bound; it is left as it is.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// What became of one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Bytes that were written.
    pub bytes: u64,
    /// Different (process, thread, stack) that were written.
    pub samples: u64,
    /// Points of series that were written.
    pub points: u64,
    /// Events that were written.
    pub events: u64,
    /// Events that were left out because there were more than [`limits::WINDOW_EVENTS_MAX`](super::limits::WINDOW_EVENTS_MAX).
    pub events_dropped: u64,
    /// Collectors whose samples were left out because the window was too large for any block, and the sums of the first values of
    /// those samples.
    pub samples_dropped: Vec<SamplesDropped>,
}

/// What the writer did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Windows that were appended.
    pub windows: u64,
    /// Windows that could not be appended.
    pub windows_failed: u64,
    /// Events that were left out.
    pub events_dropped: u64,
    /// Bytes that were written, journals and blocks together.
    pub bytes_written: u64,
    /// Blocks that were made.
    pub blocks_sealed: u64,
    /// Journals that could not be made into blocks; they stay readable, and the next block tries again.
    pub seals_failed: u64,
    /// Blocks that were removed because of their age.
    pub blocks_expired: u64,
    /// Blocks that were removed because of the size of all.
    pub blocks_evicted: u64,
    /// How often a file could not be removed; it is tried again with the next block.
    pub removals_failed: u64,
    /// Blocks that lost their windows and keep the roll-up.
    pub blocks_thinned: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// A file that is not being written any more.
#[derive(Clone, Copy, Debug)]
struct Finished {
    name: Name,
    bytes: u64,
    /// Of blocks that can be read: when the first window began, the last one ended, and whether the windows are gone.
    times: Option<(u64, u64, bool)>,
    /// A journal whose block could not be made yet.
    is_waiting: bool,
}

/// The writer of a state folder. There is one at a time.
pub struct Store {
    folder: Arc<Folder>,
    reader: Reader,
    _lock: Lock,
    options: StoreOptions,
    journal: Option<Journal>,
    /// In ascending order of their sequence. Files of newer versions are not among them.
    finished: Vec<Finished>,
    next_sequence: u64,
    recovery: Recovery,
    stats: StoreStats,
}

impl Store {
    /// Opens a state folder for writing, makes it if there is none, and cleans up what an earlier run left.
    ///
    /// # Errors
    ///
    /// When another process writes it, or the operating system refuses. Damaged files are no error: see [`Recovery`].
    pub fn open(state_dir: &Path, mut options: StoreOptions) -> Result<Self, StoreError> {
        options.block_seconds = options.block_seconds.max(1);
        let folder = Folder::new(state_dir);
        folder.create_all()?;
        let lock = Lock::take(state_dir)?;
        let folder = Arc::new(folder);
        let mut store = Self {
            reader: Reader::of_folder(Arc::clone(&folder)),
            folder,
            _lock: lock,
            options,
            journal: None,
            finished: Vec::new(),
            next_sequence: 1,
            recovery: Recovery::default(),
            stats: StoreStats::default(),
        };
        store.recover()?;
        Ok(store)
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        let listing = folder.list()?;
        let mut taken = 0;
        for (path, name) in listing.misnamed() {
            taken = taken.max(name.counted());
            self.note(path, &"it has a name of the history's files, and is none");
        }
        for path in &listing.temporary {
            match folder.remove(path) {
                Ok(()) => self.recovery.temporary_removed += 1,
                Err(error) => {
                    taken = taken.max(Name::of_path(path).map_or(0, Name::counted));
                    self.note(path, &error);
                }
            }
        }
        for name in &listing.superseded {
            let block = folder.open(Name { kind: FileKind::Block, ..*name }).and_then(Block::open);
            // If the block is damaged, it is made again.
            let is_there = match block {
                Ok(_) => true,
                Err(FileError::NewerVersion { .. }) => false,
                Err(_) => seal::seal(&folder, *name).is_ok(),
            };
            if is_there {
                let path = folder.path(*name);
                match folder.remove(&path) {
                    Ok(()) => self.recovery.superseded_removed += 1,
                    Err(error) => self.note(&path, &error),
                }
            }
        }
        let newest = listing.files.iter().map(|name| name.counted()).max().unwrap_or(0);
        self.next_sequence = newest.max(taken) + 1;
        while listing.files.iter().any(|name| name.sequence == self.next_sequence) {
            self.next_sequence += 1;
        }
        for name in listing.files {
            match name.kind {
                FileKind::Block => self.take_block(name),
                FileKind::Journal => self.take_journal(name, name.sequence == newest),
            }
        }
        folder.sync()?;
        self.retain();
        Ok(())
    }

    fn take_block(&mut self, name: Name) {
        let opened = self.folder.open(name).and_then(Block::open);
        let bytes = self.folder.length(name);
        match opened {
            Ok(block) => {
                let times = (block.index.started_unix_ns, block.index.ended_unix_ns, block.header.is_coarse);
                self.finished.push(Finished { name, bytes, times: Some(times), is_waiting: false });
            }
            Err(error @ FileError::NewerVersion { .. }) => self.note(&self.folder.path(name), &error),
            Err(error) => self.set_aside(name, &error),
        }
    }

    /// Goes on with the newest journal, if it is of this start of the machine; makes blocks of the others.
    fn take_journal(&mut self, name: Name, is_newest: bool) {
        let header = self.folder.open(name).and_then(|file| FileHeader::read(&file));
        let header = match header {
            Ok(header) if header.kind == FileKind::Journal && header.sequence == name.sequence => header,
            Ok(_) => return self.set_aside(name, &FileError::NotOurs("its header contradicts its name")),
            Err(error @ FileError::NewerVersion { .. }) => return self.note(&self.folder.path(name), &error),
            Err(error) => return self.set_aside(name, &error),
        };
        let (journal, torn_bytes) = match Journal::recover(&self.folder, name) {
            Ok(recovered) => recovered,
            Err(StoreError::Seal { cause, .. }) => return self.set_aside(name, &cause),
            Err(error) => {
                self.note(&self.folder.path(name), &error);
                return self.leave(name, true);
            }
        };
        self.recovery.torn_bytes += torn_bytes;
        self.recovery.torn_files += u64::from(torn_bytes > 0);
        match journal {
            Some(journal) if journal.is_empty() => {
                if let Err(error) = self.folder.remove(&journal.path) {
                    self.note(&journal.path, &error);
                    self.leave(name, true);
                }
            }
            Some(journal) if is_newest && header.boot_id == self.options.boot_id => self.journal = Some(journal),
            Some(_) | None => {
                self.seal(name);
                self.recovery.sealed += 1;
            }
        }
    }

    /// Leaves a file that cannot be read as it is, until it goes with its neighbours.
    fn set_aside(&mut self, name: Name, error: &FileError) {
        self.note(&self.folder.path(name), error);
        self.leave(name, name.kind == FileKind::Journal && matches!(error, FileError::Read(_)));
    }

    /// Leaves a file as it is; a journal that is waiting is made into a block with the next one.
    fn leave(&mut self, name: Name, is_waiting: bool) {
        let bytes = self.folder.length(name);
        self.finished.push(Finished { name, bytes, times: None, is_waiting });
    }

    fn note(&mut self, path: &Path, why: &impl ToString) {
        if self.recovery.unreadable.len() < DAMAGE_MAX {
            self.recovery.unreadable.push((path.to_owned(), why.to_string()));
        }
    }

    /// Keeps history for another time, its single windows for another one, and both in other bounds, from the next block on.
    pub fn set_retention(&mut self, seconds: u64, windows_seconds: u64, bytes: u64) {
        self.options.retention_seconds = seconds;
        self.options.windows_seconds = windows_seconds;
        self.options.retention_bytes = bytes;
    }

    /// What the opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// What was done since.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let journal = self.journal.as_ref().map_or(0, |journal| journal.bytes);
        StoreStats {
            bytes: journal + self.finished.iter().map(|file| file.bytes).sum::<u64>(),
            files: self.finished.len() as u64 + u64::from(self.journal.is_some()),
            ..self.stats
        }
    }

    /// A reader of this folder, for any thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Appends a window. It survives the end of this process from now on, and that of the machine after [`flush`](Self::flush).
    ///
    /// Begins another block where the window asks for it: another two hours, the clock set back, no room in the tables. Of a window
    /// that no block has room for, only the heaviest samples are kept.
    /// Making the finished journal into a block takes some tenths of a second.
    ///
    /// # Errors
    ///
    /// When the window contradicts itself, or is too large even without samples, or the operating system refuses. Everything before
    /// is unharmed, and the next window may succeed.
    pub fn append(&mut self, window: &Window) -> Result<Appended, StoreError> {
        let appended = self.try_append(window);
        match &appended {
            Ok(appended) => {
                self.stats.windows += 1;
                self.stats.events_dropped += appended.events_dropped;
                self.stats.bytes_written += appended.bytes;
            }
            Err(_) => self.stats.windows_failed += 1,
        }
        appended
    }

    fn try_append(&mut self, window: &Window) -> Result<Appended, StoreError> {
        let block_ns = u64::from(self.options.block_seconds) * SECOND_NS;
        if self.journal.as_ref().is_some_and(|journal| !journal.takes(window, block_ns, &self.options.boot_id)) {
            self.rotate()?;
        }
        let mut outcome = self.append_to_journal(window);
        let mut samples_dropped = Vec::new();
        if is_too_large(&outcome) {
            let refused = |why| StoreError::Window { started_unix_ns: window.started_unix_ns, why };
            let (fitted, dropped) = too_large::fit(window).map_err(refused)?;
            // What was cut takes little, and has found most of it in the tables if the window before was like it.
            if !dropped.is_empty() {
                outcome = self.append_to_journal(&fitted);
            }
            if is_too_large(&outcome) {
                self.rotate()?;
                outcome = self.append_to_journal(&fitted);
            }
            samples_dropped = dropped;
        }
        let (kept, bytes) = outcome?;
        Ok(Appended {
            bytes,
            samples: kept.samples,
            points: kept.points,
            events: kept.events,
            events_dropped: kept.events_dropped,
            samples_dropped,
        })
    }

    /// Appends a window to the journal, which is begun if there is none.
    fn append_to_journal(&mut self, window: &Window) -> Result<(Kept, u64), StoreError> {
        let journal = match &mut self.journal {
            Some(journal) => journal,
            None => {
                let journal = Journal::create(&self.folder, self.next_sequence, self.options.boot_id)?;
                self.next_sequence += 1;
                self.journal.insert(journal)
            }
        };
        journal.append(window)
    }

    /// Waits until everything that was appended is on the disk.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.journal.as_mut().map_or(Ok(()), Journal::flush)
    }

    /// Makes a block of the journal that is being written; the next window begins another one.
    ///
    /// # Errors
    ///
    /// When the journal is empty, and cannot be removed.
    pub fn rotate(&mut self) -> Result<(), StoreError> {
        let Some(mut journal) = self.journal.take() else { return Ok(()) };
        if journal.is_empty() {
            return self.folder.remove(&journal.path);
        }
        // If it cannot be synced here, it cannot be made into a block either, and that is counted.
        let _ = journal.flush();
        let name = journal.name;
        drop(journal);
        let waiting: Vec<Name> = self.finished.extract_if(.., |file| file.is_waiting).map(|file| file.name).collect();
        for name in waiting {
            self.seal(name);
        }
        self.seal(name);
        self.finished.sort_unstable_by_key(|file| file.name);
        self.retain();
        Ok(())
    }

    /// Makes a block of a journal. If that fails, the journal stays and is tried again with the next one.
    fn seal(&mut self, journal: Name) {
        match seal::seal(&self.folder, journal) {
            Ok(bytes) => {
                self.stats.blocks_sealed += 1;
                self.stats.bytes_written += bytes;
                self.take_block(Name { kind: FileKind::Block, ..journal });
                if self.folder.remove(&self.folder.path(journal)).is_err() {
                    // It is superseded: readers do not see it, and the next start tries again.
                    self.stats.seals_failed += 1;
                }
            }
            Err(StoreError::Seal { path, cause: cause @ FileError::Damaged { .. } }) => {
                tracing::error!(path = %path.display(), %cause, "a journal is damaged: it stays as it is, and what is behind the damage is lost");
                self.stats.seals_failed += 1;
                self.leave(journal, false);
            }
            Err(error) => {
                tracing::warn!(%error, "a block could not be made: its journal stays, can be read, and is tried again with the next");
                self.stats.seals_failed += 1;
                self.leave(journal, true);
            }
        }
    }
}

fn is_too_large<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Window { why: WindowError::TooLarge { .. }, .. }))
}
