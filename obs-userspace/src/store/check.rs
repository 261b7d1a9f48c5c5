//! `obs store check` and `obs store stat`: whether every byte is what it should be, and what there is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Range,
    block::{Block, Parts},
    bytes::{Malformed, Parsed},
    error::{FileError, StoreError},
    folder::{Folder, Name},
    frame::{FILE_HEADER_BYTES, FileHeader, FileKind, ReadAt, Section},
    journal::{FIRST_FRAME, Torn, scan},
    query::{Notes, SeriesInfo},
    tables::Tables,
    values::Cell,
};

/// How a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum FileState {
    /// Everything in it is as it was written.
    Whole,
    /// A journal ends within a window: the agent writes it just now, or ended while it did. The next start cuts it off.
    Unfinished {
        /// Bytes of that window.
        bytes: u64,
    },
    /// It was written by a newer obs and is left untouched.
    Newer {
        /// Why it cannot be read, and what to do.
        reason: String,
    },
    /// It cannot be read, or not wholly.
    Damaged {
        /// Where and how.
        reason: String,
    },
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// How it is.
    #[serde(flatten)]
    pub state: FileState,
    /// What could be read of it.
    #[serde(flatten)]
    pub contents: Contents,
}

/// Counts of what is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// When its first window began and its last one ended, in nanoseconds since 1970; 0 if there is none.
    pub started_unix_ns: u64,
    /// The end of the last window.
    pub ended_unix_ns: u64,
    /// Windows.
    pub windows: u64,
    /// Samples: different (process, thread, stack), counted per window.
    pub samples: u64,
    /// Points of series.
    pub points: u64,
    /// Events.
    pub events: u64,
    /// Different (process, thread, stack).
    pub stacks: u64,
    /// Different series.
    pub series: u64,
    /// Different processes.
    pub processes: u64,
    /// Whether only the roll-up is left.
    pub is_coarse: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Every file of the store.
    pub files: Vec<FileReport>,
    /// Half-written files, which the next start removes.
    pub temporary: Vec<PathBuf>,
    /// Journals whose block is finished, which the next start removes.
    pub superseded: Vec<String>,
    /// Files that are not the store's.
    pub foreign: Vec<PathBuf>,
}

impl CheckReport {
    /// Whether nothing is wrong. What the next start cleans up is not wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.files.iter().all(|file| match file.state {
            FileState::Whole | FileState::Unfinished { .. } => true,
            FileState::Newer { .. } | FileState::Damaged { .. } => false,
        })
    }
}

/// Reads every byte of a state folder and says what is wrong.
///
/// # Errors
///
/// When the folder cannot be listed.
pub fn check(state_dir: &Path) -> Result<CheckReport, StoreError> {
    let folder = Folder::new(state_dir);
    let listing = folder.list()?;
    let files = listing.files.iter().map(|name| check_file(&folder, *name)).collect();
    let superseded = listing.superseded.iter().map(|name| name.text()).collect();
    Ok(CheckReport { files, temporary: listing.temporary, superseded, foreign: listing.foreign })
}

fn check_file(folder: &Folder, name: Name) -> FileReport {
    let mut contents = Contents::default();
    let state = match folder.open(name) {
        Ok(file) => match name.kind {
            FileKind::Journal => check_journal(&file, Some(name.sequence), &mut contents),
            FileKind::Block => check_block(&file, Some(name.sequence), &mut contents).map(|()| FileState::Whole),
        },
        Err(error) => Err(error),
    };
    let state = state.unwrap_or_else(|error| match error {
        FileError::NewerVersion { .. } => FileState::Newer { reason: error.to_string() },
        FileError::Read(_) | FileError::NotOurs(_) | FileError::Damaged { .. } => {
            FileState::Damaged { reason: error.to_string() }
        }
    });
    FileReport { name: name.text(), bytes: folder.length(name), state, contents }
}

/// Reads every byte of a block.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_block_bytes(bytes: &[u8]) -> Result<Contents, FileError> {
    let mut contents = Contents::default();
    check_block(bytes, None, &mut contents).map(|()| contents)
}

/// Reads every byte of a journal.
///
/// # Errors
///
/// Says what is wrong with it, except for a window at its end that is not whole.
pub fn check_journal_bytes(bytes: &[u8]) -> Result<Contents, FileError> {
    let mut contents = Contents::default();
    check_journal(bytes, None, &mut contents).map(|_| contents)
}

fn check_name(header: &FileHeader, sequence: Option<u64>) -> Result<(), FileError> {
    match sequence {
        Some(sequence) if sequence != header.sequence => Err(FileError::NotOurs("its header contradicts its name")),
        _ => Ok(()),
    }
}

fn check_journal(
    source: &(impl ReadAt + ?Sized),
    sequence: Option<u64>,
    contents: &mut Contents,
) -> Result<FileState, FileError> {
    let header = FileHeader::read(source)?;
    if header.kind != FileKind::Journal {
        return Err(FileError::NotOurs("it is a block under the name of a journal"));
    }
    check_name(&header, sequence)?;
    let mut tables = Tables::default();
    let end = source.length().map_err(FileError::Read)?;
    let (whole, torn) = scan(source, FIRST_FRAME, &mut tables, |_, view, tables| {
        if contents.windows == 0 {
            contents.started_unix_ns = view.started_unix_ns;
        }
        contents.windows += 1;
        contents.ended_unix_ns = view.started_unix_ns.saturating_add(view.duration_ns);
        let kept = view.check(tables)?;
        contents.samples += kept.samples;
        contents.points += kept.points;
        contents.events += kept.events;
        Ok(())
    })?;
    count_tables(&tables, contents);
    tables.check().map_err(|what| FileError::Damaged { offset: FILE_HEADER_BYTES as u64, what })?;
    match torn {
        None => Ok(FileState::Whole),
        Some(Torn { error: FileError::Damaged { what, .. }, lost_until_unix_ns: None }) if what.is_unfinished() => {
            Ok(FileState::Unfinished { bytes: end - whole })
        }
        Some(torn) => Err(torn.error),
    }
}

fn count_tables(tables: &Tables, contents: &mut Contents) {
    contents.stacks = tables.keys.len() as u64;
    contents.series = tables.series.len() as u64;
    contents.processes = tables.processes.len() as u64;
}

fn check_block<S: ReadAt>(source: S, sequence: Option<u64>, contents: &mut Contents) -> Result<(), FileError> {
    use Section::{PointsFine, SamplesCoarse, SamplesFine};
    let mut block = Block::open(source)?;
    check_name(&block.header, sequence)?;
    block.load(Parts::ALL)?;
    let wrong = |what| Err(FileError::Damaged { offset: 0, what: Malformed(what) });
    let is_coarse = block.header.is_coarse;
    *contents = Contents {
        started_unix_ns: block.index.started_unix_ns,
        ended_unix_ns: block.index.ended_unix_ns,
        windows: block.index.windows,
        samples: block.index.samples,
        points: block.index.points,
        events: block.index.events,
        is_coarse,
        ..Contents::default()
    };
    count_tables(&block.tables, contents);
    block.tables.check().map_err(|what| FileError::Damaged { offset: 0, what })?;
    if block.times.windows.len() as u64 != contents.windows {
        return wrong("it has not as many windows as it says");
    }
    if is_coarse && block.index.chunks.iter().any(|chunk| matches!(chunk.section, SamplesFine | PointsFine)) {
        return wrong("it has windows that should be gone");
    }

    // The roll-up of samples is the sum of the windows, key by key.
    let width = block.tables.kinds.iter().map(|kind| kind.value_types.len()).max().unwrap_or(1);
    let mut totals = vec![0_u64; block.tables.keys.len() * width];
    let mut samples = 0;
    block.all_samples(SamplesFine, |key, _, values| {
        samples += 1;
        add(&mut totals, key, width, values, u64::wrapping_add)
    })?;
    if !is_coarse && samples != contents.samples {
        return wrong("it has not as many samples as it says");
    }
    block.all_samples(SamplesCoarse, |key, _, values| add(&mut totals, key, width, values, u64::wrapping_sub))?;
    if !is_coarse && totals.iter().any(|total| *total != 0) {
        return wrong("its roll-up is not the sum of its windows");
    }

    let wanted = vec![true; block.tables.series.len()];
    let mut windows = vec![0_u64; wanted.len()];
    let mut points = 0;
    if !is_coarse {
        block.points(Range::ALL, false, &wanted, |series, _, _, _| {
            points += 1;
            windows[series as usize] += 1;
            Ok(())
        })?;
        if points != contents.points {
            return wrong("it has not as many points as it says");
        }
    }
    block.points(Range::ALL, true, &wanted, |series, _, count, _: Cell| {
        windows[series as usize] = windows[series as usize].wrapping_sub(count.into());
        Ok(())
    })?;
    if !is_coarse && windows.iter().any(|windows| *windows != 0) {
        return wrong("its roll-up has other windows than it has");
    }

    let mut events = 0;
    let tables = std::mem::take(&mut block.tables);
    block.events(|event| {
        events += 1;
        event.check(&tables)
    })?;
    if events != contents.events { wrong("it has not as many events as it says") } else { Ok(()) }
}

fn add(totals: &mut [u64], key: u32, width: usize, values: &[u64], combine: impl Fn(u64, u64) -> u64) -> Parsed<()> {
    let start = key as usize * width;
    let sums = totals.get_mut(start..start + width).ok_or(Malformed("a sample has no key"))?;
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = combine(*sum, *value));
    Ok(())
}

/// What there is in a state folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatReport {
    /// Every file, as its index tells it.
    pub files: Vec<FileReport>,
    /// Their bytes together.
    pub bytes: u64,
    /// Their windows together.
    pub windows: u64,
    /// Bytes per window.
    pub bytes_per_window: f64,
    /// Samples, points and events together.
    pub samples: u64,
    /// Points of series.
    pub points: u64,
    /// Events.
    pub events: u64,
    /// Bytes by what they hold.
    pub sections: Vec<(&'static str, u64)>,
    /// Collectors and their value types, as `cpu: samples/count, cpu/nanoseconds`.
    pub collectors: Vec<String>,
    /// Series by name: kind, and how many at most in one block.
    pub series: Vec<(String, String, u64)>,
    /// Names of events.
    pub event_names: Vec<String>,
    /// How complete this is.
    pub notes: Notes,
}

/// Says what there is, from the indices and tables; does not read everything.
///
/// # Errors
///
/// When the folder cannot be listed.
pub fn stat(state_dir: &Path) -> Result<StatReport, StoreError> {
    let folder = Folder::new(state_dir);
    let mut sections = BTreeMap::new();
    let listing = folder.list()?;
    let files: Vec<FileReport> = listing.files.iter().map(|name| stat_file(&folder, *name, &mut sections)).collect();
    let catalog = super::Reader::open(state_dir)?.catalog(Range::ALL, &super::Limits::default())?;
    let sum = |of: fn(&Contents) -> u64| files.iter().map(|file| of(&file.contents)).sum::<u64>();
    let bytes = files.iter().map(|file| file.bytes).sum::<u64>();
    let windows = sum(|contents| contents.windows);
    let value_types = |types: &[crate::model::profile::ValueType]| {
        types.iter().map(|of| format!("{}/{}", of.name, of.unit)).collect::<Vec<_>>().join(", ")
    };
    let kind_text = |info: &SeriesInfo| format!("{:?}", info.kind).to_lowercase();
    Ok(StatReport {
        bytes,
        windows,
        bytes_per_window: if windows == 0 { 0.0 } else { bytes as f64 / windows as f64 },
        samples: sum(|contents| contents.samples),
        points: sum(|contents| contents.points),
        events: sum(|contents| contents.events),
        sections: sections.into_iter().map(|(section, bytes)| (section.name(), bytes)).collect(),
        collectors: catalog
            .collectors
            .iter()
            .map(|of| format!("{}: {}", of.name, value_types(&of.value_types)))
            .collect(),
        series: catalog.series.iter().map(|of| (of.name.to_string(), kind_text(of), of.series_max)).collect(),
        event_names: catalog.events.iter().map(ToString::to_string).collect(),
        notes: catalog.notes,
        files,
    })
}

/// A block's index and tables suffice; a journal has to be read.
fn stat_file(folder: &Folder, name: Name, sections: &mut BTreeMap<Section, u64>) -> FileReport {
    if name.kind == FileKind::Journal {
        let report = check_file(folder, name);
        *sections.entry(Section::Window).or_default() += report.bytes;
        return report;
    }
    let opened = folder.open(name).and_then(Block::open).and_then(|mut block| {
        block.load(Parts { code: false, series: true })?;
        Ok(block)
    });
    let mut contents = Contents::default();
    let state = match opened {
        Ok(block) => {
            contents = Contents {
                started_unix_ns: block.index.started_unix_ns,
                ended_unix_ns: block.index.ended_unix_ns,
                windows: block.index.windows,
                samples: block.index.samples,
                points: block.index.points,
                events: block.index.events,
                is_coarse: block.header.is_coarse,
                ..Contents::default()
            };
            count_tables(&block.tables, &mut contents);
            for chunk in &block.index.chunks {
                *sections.entry(chunk.section).or_default() += chunk.bytes;
            }
            FileState::Whole
        }
        Err(error @ FileError::NewerVersion { .. }) => FileState::Newer { reason: error.to_string() },
        Err(error) => FileState::Damaged { reason: error.to_string() },
    };
    FileReport { name: name.text(), bytes: folder.length(name), state, contents }
}
