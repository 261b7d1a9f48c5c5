//! The file that windows are appended to: one frame per window, each with what it adds to the tables.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf};

use super::{
    Window,
    bytes::{Malformed, Parsed},
    error::{FileError, StoreError, WindowError},
    folder::{Folder, Name},
    frame::{
        FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FileKind, FrameReader, FrameWriter, ReadAt, Section,
        is_like_window,
    },
    interner::Interner,
    limits::{BUCKETS_MAX, ENTRIES_MAX, EVENTS_MAX, FRAME_BYTES_MAX, JOURNAL_BYTES_MAX, WINDOWS_MAX},
    tables::Tables,
    window::{self, Kept, WindowView},
};

/// Windows are small: more effort would not make them much smaller, and a block replaces them within hours.
const LEVEL: i32 = 3;

/// Where a journal's first frame begins.
pub(super) const FIRST_FRAME: u64 = FILE_HEADER_BYTES as u64;

/// Frames that are looked for behind damage: after so many that only look like one it is given up.
const LOOKALIKES_MAX: usize = 256;
/// Bytes that are looked through at once for a frame.
const PIECE_BYTES: usize = 4096;

/// What follows the last whole window of a journal.
#[derive(Debug)]
pub(super) struct Torn {
    /// What is wrong with it.
    pub(super) error: FileError,
    /// When the last window behind it ended, if there are any that look valid. Then it is no end that a crash tore, but damage:
    /// those windows are lost, for nobody knows what the one between added to the tables.
    pub(super) lost_until_unix_ns: Option<u64>,
}

/// Visits the windows of a journal, from a frame on, up to the first frame that is not whole. Each one's additions are in the tables when it is
/// visited. Returns where the last whole frame ends and, if more follows, what is wrong with it.
///
/// What the visitor finds malformed counts as not whole.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn scan(
    source: &(impl ReadAt + ?Sized),
    from: u64,
    tables: &mut Tables,
    mut visit: impl FnMut(u64, &WindowView<'_>, &Tables) -> Parsed<()>,
) -> Result<(u64, Option<Torn>), FileError> {
    let end = source.length().map_err(FileError::Read)?;
    let mut frames = FrameReader::default();
    let mut offset = from;
    let torn = |offset, error| {
        let lost_until_unix_ns = last_end_behind(source, offset, end)?;
        Ok((offset, Some(Torn { error, lost_until_unix_ns })))
    };
    while offset < end {
        let (frame, raw) = match frames.read(source, offset, end) {
            Ok(read) => read,
            Err(error @ FileError::Read(_)) => return Err(error),
            Err(error) => return torn(offset, error),
        };
        let damaged = |what| FileError::Damaged { offset, what };
        if frame.section != Section::Window {
            return torn(offset, damaged(Malformed("a frame of a journal is no window")));
        }
        let view = match WindowView::parse(raw).and_then(|view| view.add_to(tables).map(|()| view)) {
            Ok(view) => view,
            Err(what) => return torn(offset, damaged(what)),
        };
        if let Err(what) = visit(offset, &view, tables) {
            return torn(offset, damaged(what));
        }
        offset += frame.frame_bytes();
    }
    Ok((offset, None))
}

/// When the last window ended whose frame is somewhere behind a place; `None` if there is none.
fn last_end_behind(source: &(impl ReadAt + ?Sized), from: u64, end: u64) -> Result<Option<u64>, FileError> {
    let (mut frames, mut piece) = (FrameReader::default(), [0; PIECE_BYTES]);
    let (mut offset, mut lookalikes, mut last_end) = (from + 1, 0, None);
    while offset + FRAME_HEADER_BYTES as u64 <= end && lookalikes < LOOKALIKES_MAX {
        let piece = &mut piece[..PIECE_BYTES.min((end - offset) as usize)];
        source.read_at(piece, offset).map_err(FileError::Read)?;
        let Some(found) = piece.windows(FRAME_HEADER_BYTES).position(is_like_window) else {
            offset += (piece.len() - FRAME_HEADER_BYTES + 1) as u64;
            continue;
        };
        offset += found as u64;
        match frames.read(source, offset, end) {
            Ok((frame, raw)) => {
                if let Ok(view) = WindowView::parse(raw) {
                    last_end = last_end.max(Some(view.started_unix_ns.saturating_add(view.duration_ns)));
                }
                offset += frame.frame_bytes();
            }
            Err(error @ FileError::Read(_)) => return Err(error),
            Err(_) => {
                lookalikes += 1;
                offset += 1;
            }
        }
    }
    Ok(last_end)
}

/// Visits so many windows of a journal from its beginning, of which the tables are already known.
///
/// # Errors
///
/// When the file cannot be read, or is not as it was.
pub(super) fn scan_known(
    source: &(impl ReadAt + ?Sized),
    windows: usize,
    mut visit: impl FnMut(&WindowView<'_>) -> Parsed<()>,
) -> Result<(), FileError> {
    let end = source.length().map_err(FileError::Read)?;
    let mut frames = FrameReader::default();
    let mut offset = FILE_HEADER_BYTES as u64;
    for _ in 0..windows {
        let (frame, raw) = frames.read(source, offset, end)?;
        let damaged = |what| FileError::Damaged { offset, what };
        visit(&WindowView::parse(raw).map_err(damaged)?).map_err(damaged)?;
        offset += frame.frame_bytes();
    }
    Ok(())
}

/// How full a journal is, and when it is.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    windows: usize,
    entries: u64,
    buckets: u64,
    events: u64,
    first_started_unix_ns: u64,
    last_started_unix_ns: u64,
}

impl Extent {
    fn add(&mut self, started_unix_ns: u64, kept: &Kept) {
        if self.windows == 0 {
            self.first_started_unix_ns = started_unix_ns;
        }
        self.windows += 1;
        self.last_started_unix_ns = started_unix_ns;
        self.entries += kept.samples + kept.points;
        self.buckets += kept.buckets;
        self.events += kept.events;
    }
}

/// Reads all of a journal: where its last whole frame ends, its tables, how full it is, what is wrong behind that.
fn measure(file: &File) -> Result<(u64, Tables, Extent, Option<Torn>), FileError> {
    let (mut tables, mut extent) = (Tables::default(), Extent::default());
    let (whole, torn) = scan(file, FIRST_FRAME, &mut tables, |_, view, tables| {
        extent.add(view.started_unix_ns, &view.check(tables)?);
        Ok(())
    })?;
    Ok((whole, tables, extent, torn))
}

/// A journal that is open for appending.
pub(super) struct Journal {
    file: File,
    pub(super) path: PathBuf,
    pub(super) name: Name,
    boot_id: [u8; 16],
    tables: Interner,
    frames: FrameWriter,
    pub(super) bytes: u64,
    extent: Extent,
    is_synced: bool,
    /// Behind the last window stands a part of one that failed, and could not be cut off.
    is_torn: bool,
}

impl Journal {
    /// Makes a journal without windows: under a temporary name, synced, then renamed.
    pub(super) fn create(folder: &Folder, sequence: u64, boot_id: [u8; 16]) -> Result<Self, StoreError> {
        let name = Name { sequence, kind: FileKind::Journal };
        let header = FileHeader { kind: FileKind::Journal, is_coarse: false, sequence, boot_id };
        let (file, path) = folder.create(name, &header.encode())?;
        let (tables, extent, frames) = (Interner::default(), Extent::default(), FrameWriter::new(LEVEL)?);
        Ok(Self {
            file,
            path,
            name,
            boot_id,
            tables,
            frames,
            bytes: FILE_HEADER_BYTES as u64,
            extent,
            is_synced: true,
            is_torn: false,
        })
    }

    /// Opens a journal of an earlier run to go on with it: cuts off what is torn at its end. Returns how many bytes that were,
    /// and `None` for the journal if its entries cannot be gone on with. One that is damaged before its end is left as it is: that
    /// is an error.
    pub(super) fn recover(folder: &Folder, name: Name) -> Result<(Option<Self>, u64), StoreError> {
        let path = folder.path(name);
        let file = folder.open_for_writing(name)?;
        let unreadable = |cause| StoreError::Seal { path: path.clone(), cause };
        let header = FileHeader::read(&file).map_err(unreadable)?;
        let length = file.length().map_err(StoreError::io("read the length of", &path))?;
        let (mut whole, mut tables, mut extent, torn) = measure(&file).map_err(unreadable)?;
        if let Some(torn) = torn {
            if torn.lost_until_unix_ns.is_some() {
                return Err(unreadable(torn.error));
            }
            file.set_len(whole).map_err(StoreError::io("cut the torn end off", &path))?;
            file.sync_all().map_err(StoreError::io("sync", &path))?;
            // Again, for the tables may have taken up a part of what was cut.
            (whole, tables, extent, _) = measure(&file).map_err(unreadable)?;
        }
        let frames = FrameWriter::new(LEVEL)?;
        let journal = Interner::of_tables(&tables).map(|tables| Self {
            file,
            path: path.clone(),
            name,
            boot_id: header.boot_id,
            tables,
            frames,
            bytes: whole,
            extent,
            is_synced: true,
            is_torn: false,
        });
        Ok((journal, length - whole))
    }

    /// Whether a window belongs into this journal's block, as far as time and room go.
    pub(super) fn takes(&self, window: &Window, block_ns: u64, boot_id: &[u8; 16]) -> bool {
        let Extent { windows, entries, buckets, events, first_started_unix_ns, last_started_unix_ns } = self.extent;
        self.boot_id == *boot_id
            && (windows == 0
                || (window.started_unix_ns >= last_started_unix_ns
                    && window.started_unix_ns / block_ns == first_started_unix_ns / block_ns
                    && windows < WINDOWS_MAX
                    && entries < ENTRIES_MAX / 2
                    && buckets < BUCKETS_MAX / 2
                    && events < EVENTS_MAX / 2
                    && self.bytes < JOURNAL_BYTES_MAX
                    && !self.tables.is_full()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.extent.windows == 0
    }

    /// Appends a window with one write. On failure the file is cut back and the tables are as before; if even that fails, it is
    /// cut before the next window, or by the next opening.
    pub(super) fn append(&mut self, window: &Window) -> Result<(Kept, u64), StoreError> {
        let refused = |why| StoreError::Window { started_unix_ns: window.started_unix_ns, why };
        let mark = self.tables.mark();
        let (raw, kept) = window::encode(window, &mut self.tables).map_err(refused)?;
        let written = self.write(&raw, &refused);
        match written {
            Ok(bytes) => {
                self.bytes += bytes;
                self.extent.add(window.started_unix_ns, &kept);
                self.is_synced = false;
                Ok((kept, bytes))
            }
            Err(error) => {
                self.tables.roll_back(&mark);
                Err(error)
            }
        }
    }

    fn write(&mut self, raw: &[u8], refused: &impl Fn(WindowError) -> StoreError) -> Result<u64, StoreError> {
        if raw.len() > FRAME_BYTES_MAX {
            return Err(refused(WindowError::TooLarge { what: "bytes", max: FRAME_BYTES_MAX }));
        }
        let mut frame = Vec::new();
        self.frames.put(&mut frame, Section::Window, raw)?;
        if self.is_torn {
            self.cut().map_err(StoreError::io("cut the torn end off", &self.path))?;
        }
        self.file.write_all_at(&frame, self.bytes).map_err(|source| {
            // What was written of it is no frame: it must not stand before the next one.
            let action = match self.cut() {
                Ok(()) => "append a window to",
                Err(_) => "append a window to, or cut the torn end off,",
            };
            StoreError::io(action, &self.path)(source)
        })?;
        Ok(frame.len() as u64)
    }

    /// Cuts off what stands behind the last window.
    fn cut(&mut self) -> io::Result<()> {
        self.is_torn = true;
        self.file.set_len(self.bytes)?;
        self.is_torn = false;
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        if !self.is_synced {
            self.file.sync_data().map_err(StoreError::io("sync", &self.path))?;
            self.is_synced = true;
        }
        Ok(())
    }
}
