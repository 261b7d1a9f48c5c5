//! The read side: finds the files that a range of time touches, and lets a query go through them one by one.
//!
//! It reads files only, so it works beside the writer, in its process or another one. Of the journal that grows it keeps the
//! tables and where windows are, so that asking for the last minutes does not cost reading the last hours.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    Range,
    block::{Block, Parts},
    bytes::Parsed,
    error::{FileError, StoreError},
    folder::{Folder, Name},
    frame::{FileHeader, FileKind, FrameReader, ReadAt as _},
    journal::{FIRST_FRAME, Torn, scan},
    query::Notes,
    tables::{Tables, at},
    values::Cell,
    window::{EventRow, WindowView},
};

/// Journals whose tables are kept; there is one, or a few whose blocks could not be made.
const JOURNALS_KEPT_MAX: usize = 2;

/// Answers questions about a state folder. Clones share what they know of the journal.
#[derive(Clone)]
pub struct Reader {
    folder: Arc<Folder>,
    journals: Arc<Mutex<Vec<JournalState>>>,
    is_ended: Arc<AtomicBool>,
}

impl Reader {
    /// Opens a state folder for reading; whether another process writes it does not matter.
    ///
    /// # Errors
    ///
    /// When it cannot be listed.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let reader = Self::of_folder(Arc::new(Folder::new(state_dir)));
        reader.folder.list()?;
        Ok(reader)
    }

    pub(super) fn of_folder(folder: Arc<Folder>) -> Self {
        Self { folder, journals: Arc::default(), is_ended: Arc::default() }
    }

    /// The same, whose questions end as if their time were over once the flag is set.
    pub(crate) fn ended_by(self, is_ended: Arc<AtomicBool>) -> Self {
        Self { is_ended, ..self }
    }

    /// Goes through the files that a range touches. What cannot be read is noted and left out.
    pub(super) fn visit(
        &self,
        plan: &Visit,
        notes: &mut Notes,
        mut visit: impl FnMut(&mut Source<'_>, &mut Notes) -> Result<(), FileError>,
    ) -> Result<(), StoreError> {
        let mut files = self.folder.list()?.files;
        if plan.newest_first {
            files.reverse();
        }
        for name in files {
            let is_over = plan.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_over || self.is_ended.load(Ordering::Relaxed) {
                notes.is_timed_out = true;
                break;
            }
            let outcome = match name.kind {
                FileKind::Journal => self.visit_journal(name, plan, notes, &mut visit),
                FileKind::Block => self.visit_block(name, plan, notes, &mut visit),
            };
            match outcome {
                Ok(()) => {}
                // Retention removed it since it was listed.
                Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => notes.damage(name.text(), error.to_string()),
            }
        }
        Ok(())
    }

    fn visit_block(
        &self,
        name: Name,
        plan: &Visit,
        notes: &mut Notes,
        visit: &mut impl FnMut(&mut Source<'_>, &mut Notes) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut block = Block::open(self.folder.open(name)?)?;
        if !plan.range.touches(block.index.started_unix_ns, block.index.ended_unix_ns) {
            return Ok(());
        }
        block.load(plan.parts)?;
        notes.files_read += 1;
        visit(&mut Source::Block(Box::new(block)), notes)
    }

    fn visit_journal(
        &self,
        name: Name,
        plan: &Visit,
        notes: &mut Notes,
        visit: &mut impl FnMut(&mut Source<'_>, &mut Notes) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let file = match self.folder.open(name) {
            Ok(file) => file,
            // Its block was finished since it was listed.
            Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                return self.visit_block(Name { kind: FileKind::Block, ..name }, plan, notes, visit);
            }
            Err(error) => return Err(error),
        };
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        let position = journals.iter().position(|state| state.name == name).unwrap_or_else(|| {
            if journals.len() == JOURNALS_KEPT_MAX {
                journals.remove(0);
            }
            journals.push(JournalState::new(name));
            journals.len() - 1
        });
        let state = &mut journals[position];
        state.refresh(&file)?;
        if let Some(lost) = state.lost.as_ref().filter(|lost| plan.range.touches(lost.from_unix_ns, lost.to_unix_ns)) {
            notes.damage(name.text(), lost.why.clone());
        }
        let (Some(first), Some(last)) = (state.windows.first(), state.windows.last()) else { return Ok(()) };
        if !plan.range.touches(first.started_unix_ns, last.started_unix_ns.saturating_add(last.duration_ns)) {
            return Ok(());
        }
        notes.files_read += 1;
        visit(&mut Source::Journal { state, file, frames: FrameReader::default() }, notes)
    }
}

/// Which files a query goes through, and how.
pub(super) struct Visit {
    pub(super) range: Range,
    pub(super) parts: Parts,
    pub(super) newest_first: bool,
    pub(super) deadline: Option<Instant>,
}

/// Where a window of a journal is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    offset: u64,
    started_unix_ns: u64,
    duration_ns: u64,
}

/// What is known of a journal that may still grow.
pub(super) struct JournalState {
    name: Name,
    header: Option<FileHeader>,
    tables: Tables,
    windows: Vec<Place>,
    whole: u64,
    /// A frame is whole but wrong: nothing behind it can be read.
    is_broken: bool,
    /// Windows behind damage.
    lost: Option<Lost>,
}

/// Windows of a journal that cannot be read: about when they were, and why.
struct Lost {
    from_unix_ns: u64,
    to_unix_ns: u64,
    why: String,
}

impl JournalState {
    fn new(name: Name) -> Self {
        let tables = Tables::default();
        Self { name, header: None, tables, windows: Vec::new(), whole: FIRST_FRAME, is_broken: false, lost: None }
    }

    /// Takes up what was appended.
    fn refresh(&mut self, file: &File) -> Result<(), FileError> {
        let header = FileHeader::read(file)?;
        if header.kind != FileKind::Journal {
            return Err(FileError::NotOurs("it is a block under the name of a journal"));
        }
        let length = file.length().map_err(FileError::Read)?;
        if self.header != Some(header) || length < self.whole {
            *self = Self { header: Some(header), ..Self::new(self.name) };
        }
        if self.is_broken || length == self.whole {
            return Ok(());
        }
        let windows = &mut self.windows;
        let before = self.tables.lengths();
        let scanned = scan(file, self.whole, &mut self.tables, |offset, view, _| {
            windows.push(Place { offset, started_unix_ns: view.started_unix_ns, duration_ns: view.duration_ns });
            Ok(())
        });
        let (whole, torn) = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                // The same windows must not be taken up once more by the next question.
                *self = Self::new(self.name);
                return Err(error);
            }
        };
        // A window that is being written is not whole yet; one that took up tables and failed stays wrong.
        self.is_broken = torn.is_some() && whole == self.whole && self.tables.lengths() != before;
        if let Some(Torn { error, lost_until_unix_ns: Some(to_unix_ns) }) = torn {
            let last_end = |last: &Place| last.started_unix_ns.saturating_add(last.duration_ns);
            let from_unix_ns = self.windows.last().map_or(0, last_end);
            self.lost = Some(Lost { from_unix_ns, to_unix_ns, why: error.to_string() });
            self.is_broken = true;
        }
        self.whole = whole;
        Ok(())
    }
}

/// A file that a query goes through.
pub(super) enum Source<'a> {
    Journal { state: &'a JournalState, file: File, frames: FrameReader },
    Block(Box<Block<File>>),
}

impl Source<'_> {
    pub(super) fn tables(&self) -> &Tables {
        match self {
            Self::Journal { state, .. } => &state.tables,
            Self::Block(block) => &block.tables,
        }
    }

    /// Since which start of the machine its process keys count.
    pub(super) fn boot_id(&self) -> [u8; 16] {
        match self {
            Self::Journal { state, .. } => state.header.map_or([0; 16], |header| header.boot_id),
            Self::Block(block) => block.header.boot_id,
        }
    }

    /// The windows in a range: start and length.
    pub(super) fn windows(&self, range: Range) -> Vec<(u64, u64)> {
        let all: Vec<(u64, u64)> = match self {
            Self::Journal { state, .. } => {
                state.windows.iter().map(|place| (place.started_unix_ns, place.duration_ns)).collect()
            }
            Self::Block(block) => block.times.windows.clone(),
        };
        all.into_iter().filter(|(start, _)| range.contains(*start)).collect()
    }

    /// Visits the samples of wanted keys in a range. Returns whether the range's edges had to be rounded.
    pub(super) fn samples(
        &mut self,
        range: Range,
        wanted: &[bool],
        mut visit: impl FnMut(u32, &[u64]) -> Parsed<()>,
    ) -> Result<bool, FileError> {
        match self {
            Self::Block(block) => block.samples(range, wanted, visit),
            Self::Journal { state, file, frames } => {
                in_windows(state, file, frames, range, |view| {
                    view.samples(&state.tables, |key, values| {
                        if wanted.get(key as usize).copied().unwrap_or_default() { visit(key, values) } else { Ok(()) }
                    })
                })?;
                Ok(false)
            }
        }
    }

    /// Visits the points of wanted series in a range: series, when, how many windows, cell.
    pub(super) fn points(
        &mut self,
        range: Range,
        coarse: bool,
        wanted: &[bool],
        mut visit: impl FnMut(u32, u64, u32, Cell) -> Parsed<()>,
    ) -> Result<(), FileError> {
        match self {
            Self::Block(block) => block.points(range, coarse, wanted, visit),
            Self::Journal { state, file, frames } => in_windows(state, file, frames, range, |view| {
                view.points(&state.tables, |series, cell| {
                    if wanted.get(series as usize).copied().unwrap_or_default() {
                        visit(series, view.started_unix_ns, 1, cell)
                    } else {
                        Ok(())
                    }
                })
            }),
        }
    }

    /// Visits the events of a range.
    pub(super) fn events(
        &mut self,
        range: Range,
        mut visit: impl FnMut(&Tables, EventRow) -> Parsed<()>,
    ) -> Result<(), FileError> {
        match self {
            Self::Block(block) => {
                let tables = std::mem::take(&mut block.tables);
                let outcome = block
                    .events(|event| if range.contains(event.time_unix_ns) { visit(&tables, event) } else { Ok(()) });
                block.tables = tables;
                outcome
            }
            Self::Journal { state, file, frames } => in_windows(state, file, frames, Range::ALL, |view| {
                view.events(
                    |event| {
                        if range.contains(event.time_unix_ns) { visit(&state.tables, event) } else { Ok(()) }
                    },
                )
            }),
        }
    }

    /// Visits the processes that were seen in a range: process, since when, until when. A process may come several times.
    pub(super) fn processes(
        &mut self,
        range: Range,
        mut visit: impl FnMut(u32, u64, u64) -> Parsed<()>,
    ) -> Result<(), FileError> {
        match self {
            Self::Block(block) => {
                for (process, (first, last)) in (0..).zip(&block.times.processes) {
                    if *first < range.to_unix_ns && *last > range.from_unix_ns {
                        let what = visit(process, *first, *last);
                        what.map_err(|what| FileError::Damaged { offset: 0, what })?;
                    }
                }
                Ok(())
            }
            Self::Journal { state, file, frames } => {
                let mut seen: Vec<Option<(u64, u64)>> = vec![None; state.tables.processes.len()];
                in_windows(state, file, frames, range, |view| {
                    let end = view.started_unix_ns.saturating_add(view.duration_ns);
                    let mut see = |process: u32| {
                        if let Some(times) = seen.get_mut(process as usize) {
                            let first = times.map_or(view.started_unix_ns, |(first, _)| first);
                            *times = Some((first, end));
                        }
                    };
                    view.samples(&state.tables, |key, _| {
                        see(at(&state.tables.keys, key)?.process);
                        Ok(())
                    })?;
                    view.events(|event| {
                        event.process.get().into_iter().for_each(&mut see);
                        Ok(())
                    })?;
                    view.processes(|process| {
                        see(process);
                        Ok(())
                    })
                })?;
                for (process, times) in (0..).zip(seen) {
                    if let Some((first, last)) = times {
                        visit(process, first, last).map_err(|what| FileError::Damaged { offset: 0, what })?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Visits the windows of a journal that begin in a range.
fn in_windows(
    state: &JournalState,
    file: &File,
    frames: &mut FrameReader,
    range: Range,
    mut visit: impl FnMut(&WindowView<'_>) -> Parsed<()>,
) -> Result<(), FileError> {
    for place in state.windows.iter().filter(|place| range.contains(place.started_unix_ns)) {
        let damaged = |what| FileError::Damaged { offset: place.offset, what };
        let (_, raw) = frames.read(file, place.offset, state.whole)?;
        visit(&WindowView::parse(raw).map_err(damaged)?).map_err(damaged)?;
    }
    Ok(())
}
