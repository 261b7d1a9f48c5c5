//! Makes a block of a journal: the same windows by columns, and their roll-up.
//!
//! Memory has a bound: the journal is read once for its tables and how much there is of each key and series, then once for
//! each chunk of them.

use std::{fs::File, io::Write, ops::Range};

use super::{
    block::{Block, Chunk, Index, Times, put_trailer},
    bytes::{Parsed, put_varint},
    error::{FileError, StoreError},
    event_chunk,
    folder::{Folder, Name},
    frame::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FileKind, FrameWriter, ReadAt as _, Section},
    journal::{FIRST_FRAME, Torn, scan, scan_known},
    limits::{CHUNK_ENTRIES, FRAME_BYTES_MAX},
    point_chunk::{FineColumn, put_coarse, put_fine},
    reorder::{Reordered, reorder},
    sample_chunk::{Factors, SampleChunk},
    tables::{KindEntry, Tables, at, put_code, put_series, put_stacks, put_strings, put_who},
    values::Cell,
    window::{EventRow, WindowView},
};

/// A block is written once and read often.
const LEVEL: i32 = 16;
/// So many buckets of a histogram count as much as a point when chunks are measured.
const POINT_BUCKETS: u64 = 2;
/// Events that are compressed together.
const CHUNK_EVENTS: usize = 1 << 14;

/// Writes the block of a journal beside it; the journal stays. Returns the block's length. A window that is torn at the end is
/// left out; of a journal that is damaged before its end no block is made.
pub(super) fn seal(folder: &Folder, journal: Name) -> Result<u64, StoreError> {
    let path = folder.path(journal);
    let unreadable = |cause| StoreError::Seal { path: path.clone(), cause };
    let source = folder.open(journal).map_err(unreadable)?;
    let header = FileHeader::read(&source).map_err(unreadable)?;
    let survey = Survey::of(&source).map_err(unreadable)?;
    let name = Name { sequence: header.sequence, kind: FileKind::Block };
    let file = folder.begin(name)?;
    let header = FileHeader { kind: FileKind::Block, ..header };
    let written = Writer::begin(&file, &header, folder, name).and_then(|writer| survey.write(&source, writer));
    match written.and_then(|length| folder.finish(name, &file).map(|_| length)) {
        Ok(length) => Ok(length),
        Err(error) => {
            folder.abandon(name);
            Err(error)
        }
    }
}

/// Writes the block again without its windows; the roll-up and the events stay. Returns the new length.
pub(super) fn thin(folder: &Folder, name: Name) -> Result<u64, StoreError> {
    let path = folder.path(name);
    let unreadable = |cause| StoreError::Seal { path: path.clone(), cause };
    let source = folder.open(name).map_err(unreadable)?;
    let block = Block::open(source).map_err(unreadable)?;
    let file = folder.begin(name)?;
    let header = FileHeader { is_coarse: true, ..block.header };
    let written = Writer::begin(&file, &header, folder, name).and_then(|mut writer| {
        writer.index = Index { chunks: Vec::new(), ..block.index.clone() };
        for chunk in block.index.chunks.iter().filter(|chunk| !chunk.section.is_fine()) {
            writer.copy(block.source(), chunk)?;
        }
        writer.finish()
    });
    match written.and_then(|length| folder.finish(name, &file).map(|_| length)) {
        Ok(length) => Ok(length),
        Err(error) => {
            folder.abandon(name);
            Err(error)
        }
    }
}

/// Writes frames and keeps the index.
struct Writer<'a> {
    file: &'a File,
    folder: &'a Folder,
    name: Name,
    frames: FrameWriter,
    offset: u64,
    index: Index,
}

impl<'a> Writer<'a> {
    fn begin(file: &'a File, header: &FileHeader, folder: &'a Folder, name: Name) -> Result<Self, StoreError> {
        let frames = FrameWriter::new(LEVEL)?;
        let mut writer = Self { file, folder, name, frames, offset: 0, index: Index::default() };
        writer.write(&header.encode())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = self.file;
        file.write_all(bytes).map_err(StoreError::io("write", self.folder.path(self.name)))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self, section: Section, ids: Range<u32>, raw: &[u8]) -> Result<(), StoreError> {
        let mut frame = Vec::new();
        self.frames.put(&mut frame, section, raw)?;
        self.add(section, ids, &frame)
    }

    fn add(&mut self, section: Section, ids: Range<u32>, frame: &[u8]) -> Result<(), StoreError> {
        let (offset, bytes) = (self.offset, frame.len() as u64);
        self.index.chunks.push(Chunk { section, offset, bytes, first: ids.start, end: ids.end });
        self.write(frame)
    }

    fn copy(&mut self, source: &File, chunk: &Chunk) -> Result<(), StoreError> {
        let mut frame = vec![0; (chunk.bytes as usize).min(FRAME_HEADER_BYTES + FRAME_BYTES_MAX)];
        source.read_at(&mut frame, chunk.offset).map_err(StoreError::io("read", self.folder.path(self.name)))?;
        self.add(chunk.section, chunk.first..chunk.end, &frame)
    }

    fn finish(mut self) -> Result<u64, StoreError> {
        let offset = self.offset;
        let mut end = Vec::new();
        self.frames.put(&mut end, Section::Index, &self.index.encode())?;
        put_trailer(&mut end, offset);
        self.write(&end)?;
        Ok(self.offset)
    }
}

/// What a first reading of the journal learns.
#[derive(Default)]
struct Survey {
    order: Reordered,
    times: Times,
    index: Index,
    /// Per key, how many samples it has.
    samples_of: Vec<u32>,
    /// Per series, how much room its points take.
    points_of: Vec<u32>,
    /// Per kind and value type but the first: what is known of its factor so far.
    relations: Vec<Vec<Relation>>,
}

/// How the values of one type follow from the first type's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Relation {
    /// No sample told it yet.
    #[default]
    Open,
    Factor(u64),
    None,
}

impl Relation {
    fn see(&mut self, first: u64, value: u64) {
        *self = match *self {
            Self::Open if first == 0 && value == 0 => Self::Open,
            Self::Open if first > 0 && value.is_multiple_of(first) && value / first < u64::MAX => {
                Self::Factor(value / first)
            }
            Self::Factor(factor) if first.checked_mul(factor) == Some(value) => Self::Factor(factor),
            Self::Open | Self::Factor(_) | Self::None => Self::None,
        };
    }
}

fn count(counts: &mut Vec<u32>, index: u32, weight: u32) {
    let index = index as usize;
    if counts.len() <= index {
        counts.resize(index + 1, 0);
    }
    counts[index] += weight;
}

fn see(processes: &mut Vec<(u64, u64)>, index: u32, window: (u64, u64)) {
    let index = index as usize;
    if processes.len() <= index {
        processes.resize(index + 1, (u64::MAX, 0));
    }
    let (first, last) = &mut processes[index];
    *first = (*first).min(window.0);
    *last = (*last).max(window.1);
}

impl Survey {
    fn of(source: &File) -> Result<Self, FileError> {
        let mut survey = Self::default();
        let mut tables = Tables::default();
        let (mut seen, mut last_start) = (Vec::new(), 0);
        let Self { times, index, samples_of, points_of, relations, .. } = &mut survey;
        let (_, torn) = scan(source, FIRST_FRAME, &mut tables, |_, view, tables| {
            // First as a whole: of one that is malformed no part may be counted.
            view.check(tables)?;
            // A journal never goes back; where one does, its windows are still read in their order.
            let start = view.started_unix_ns.max(last_start);
            last_start = start;
            let window = (start, start.saturating_add(view.duration_ns));
            times.windows.push((start, window.1 - start));
            view.samples(tables, |key, values| {
                count(samples_of, key, 1);
                index.samples += 1;
                let entry = tables.keys[key as usize];
                see(&mut seen, entry.process, window);
                let kind = entry.kind as usize;
                if relations.len() <= kind {
                    relations.resize_with(kind + 1, Vec::new);
                }
                relations[kind].resize(values.len() - 1, Relation::Open);
                for (relation, value) in relations[kind].iter_mut().zip(&values[1..]) {
                    relation.see(values[0], *value);
                }
                Ok(())
            })?;
            view.processes(|process| {
                see(&mut seen, process, window);
                Ok(())
            })?;
            view.points(tables, |series, cell| {
                count(points_of, series, 1 + (cell.buckets() / POINT_BUCKETS) as u32);
                index.points += 1;
                Ok(())
            })?;
            view.events(|event| {
                index.events += 1;
                if let Some(process) = event.process.get() {
                    see(&mut seen, process, window);
                }
                Ok(())
            })
        })?;
        // The block would be whole, and say nothing of the windows behind the damage.
        if let Some(Torn { error, lost_until_unix_ns: Some(_) }) = torn {
            return Err(error);
        }
        survey.finish(&tables, seen).map_err(|what| FileError::Damaged { offset: FIRST_FRAME, what })?;
        Ok(survey)
    }

    fn finish(&mut self, tables: &Tables, mut seen: Vec<(u64, u64)>) -> Parsed<()> {
        let Self { times, index, samples_of, points_of, relations, .. } = self;
        index.windows = times.windows.len() as u64;
        index.started_unix_ns = times.windows.first().map_or(0, |(start, _)| *start);
        index.ended_unix_ns =
            times.windows.iter().map(|(start, duration)| start + duration).max().unwrap_or(index.started_unix_ns);
        samples_of.resize(tables.keys.len(), 0);
        points_of.resize(tables.series.len(), 0);
        seen.resize(tables.processes.len(), (index.started_unix_ns, index.started_unix_ns));
        times.processes = seen.into_iter().map(|(first, last)| (first.min(last), last)).collect();
        relations.resize_with(tables.kinds.len(), Vec::new);
        let factors_of = |(relations, kind): (&mut Vec<Relation>, &KindEntry)| -> Factors {
            relations.resize(kind.value_types.len() - 1, Relation::Open);
            let factor = |relation: &Relation| match relation {
                Relation::Open => Some(0),
                Relation::Factor(factor) => Some(*factor),
                Relation::None => None,
            };
            relations.iter().map(factor).collect()
        };
        times.factors = relations.iter_mut().zip(&tables.kinds).map(factors_of).collect();
        self.order = reorder(tables)?;
        self.samples_of = ranked(&self.samples_of, &self.order.key_rank);
        self.points_of = ranked(&self.points_of, &self.order.series_rank);
        Ok(())
    }

    fn write(mut self, source: &File, mut writer: Writer<'_>) -> Result<u64, StoreError> {
        writer.index = std::mem::take(&mut self.index);
        let tables = &self.order.tables;
        let mut raw = Vec::new();
        put_strings(&mut raw, tables.strings.iter());
        writer.frame(Section::Strings, 0..0, &raw)?;
        raw.clear();
        put_code(&mut raw, tables.modules.iter(), tables.frames.iter());
        writer.frame(Section::Code, 0..0, &raw)?;
        raw.clear();
        put_stacks(&mut raw, 0, tables.nodes.iter());
        writer.frame(Section::Stacks, 0..0, &raw)?;
        raw.clear();
        put_who(&mut raw, tables.processes.iter(), tables.kinds.iter(), tables.keys.iter());
        writer.frame(Section::Who, 0..0, &raw)?;
        raw.clear();
        put_series(&mut raw, tables.series.iter());
        writer.frame(Section::Series, 0..0, &raw)?;
        writer.frame(Section::Windows, 0..0, &self.times.encode())?;
        self.write_events(source, &mut writer)?;
        self.write_samples(source, &mut writer)?;
        self.write_points(source, &mut writer)?;
        writer.finish()
    }

    /// Reads the journal again. It was read before: it is as it was, for nothing is appended to it any more.
    fn scan_again(
        &self,
        source: &File,
        writer: &Writer<'_>,
        mut visit: impl FnMut(u32, &WindowView<'_>) -> Parsed<()>,
    ) -> Result<(), StoreError> {
        let unreadable = |cause| StoreError::Seal { path: writer.folder.path(writer.name), cause };
        let mut window = 0;
        scan_known(source, self.times.windows.len(), |view| {
            window += 1;
            visit(window - 1, view)
        })
        .map_err(unreadable)
    }

    fn write_events(&self, source: &File, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        if writer.index.events == 0 {
            return Ok(());
        }
        let base = writer.index.started_unix_ns;
        let mut events: Vec<EventRow> = Vec::new();
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        self.scan_again(source, writer, |_, view| {
            view.events(|mut event| {
                let string = |index: &mut u32| at(&self.order.string_rank, *index).map(|rank| *index = *rank);
                string(&mut event.name)?;
                for (name, value) in &mut event.labels {
                    string(name).and(string(value))?;
                }
                events.push(event);
                if events.len() == CHUNK_EVENTS {
                    chunks.push(event_chunk::encode(base, &events));
                    events.clear();
                }
                Ok(())
            })
        })?;
        if !events.is_empty() {
            chunks.push(event_chunk::encode(base, &events));
        }
        chunks.iter().try_for_each(|raw| writer.frame(Section::Events, 0..0, raw))
    }

    fn write_samples(&self, source: &File, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let bucket_of = self.bucket_of();
        let types = self.order.tables.kinds.iter().map(|kind| kind.value_types.len()).max().unwrap_or(0);
        let mut coarse = SampleChunk { values: vec![Vec::new(); types], ..SampleChunk::default() };
        for keys in chunks(&self.samples_of) {
            let fine = self.gather_samples(source, writer, keys.clone(), types)?;
            let encoded = fine.encode(&self.order.tables, &self.times.factors);
            writer.frame(Section::SamplesFine, keys.clone(), &wrong(encoded, writer)?)?;
            if coarse.slots.len() + fine.slots.len() > CHUNK_ENTRIES && !coarse.counts.is_empty() {
                self.flush_coarse(&mut coarse, writer)?;
            }
            roll_up(&fine, &bucket_of, &mut coarse);
        }
        self.flush_coarse(&mut coarse, writer)
    }

    fn flush_coarse(&self, coarse: &mut SampleChunk, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        if coarse.counts.is_empty() {
            return Ok(());
        }
        let end = coarse.first_key + coarse.counts.len() as u32;
        let encoded = wrong(coarse.encode(&self.order.tables, &self.times.factors), writer)?;
        writer.frame(Section::SamplesCoarse, coarse.first_key..end, &encoded)?;
        let values = vec![Vec::new(); coarse.values.len()];
        *coarse = SampleChunk { first_key: end, values, ..SampleChunk::default() };
        Ok(())
    }

    /// Per window, its bucket.
    fn bucket_of(&self) -> Vec<u32> {
        let mut bucket_of = vec![0; self.times.windows.len()];
        for (bucket, (first, end)) in (0..).zip(self.times.buckets()) {
            bucket_of[first..end].fill(bucket);
        }
        bucket_of
    }

    /// Reads the samples of a run of keys, and sorts them by key as they come.
    fn gather_samples(
        &self,
        source: &File,
        writer: &Writer<'_>,
        keys: Range<u32>,
        types: usize,
    ) -> Result<SampleChunk, StoreError> {
        let counts = self.samples_of[keys.start as usize..keys.end as usize].to_vec();
        let mut next = starts(&counts);
        let total = counts.iter().map(|count| *count as usize).sum();
        let mut chunk =
            SampleChunk { first_key: keys.start, counts, slots: vec![0; total], values: vec![vec![0; total]; types] };
        self.scan_again(source, writer, |window, view| {
            view.samples(&self.order, |key, values| {
                let key = *at(&self.order.key_rank, key)?;
                if keys.contains(&key) {
                    let place = &mut next[(key - keys.start) as usize];
                    chunk.slots[*place] = window;
                    chunk.values.iter_mut().zip(values).for_each(|(column, value)| column[*place] = *value);
                    *place += 1;
                }
                Ok(())
            })
        })?;
        Ok(chunk)
    }

    fn write_points(&self, source: &File, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let bucket_of = self.bucket_of();
        let kind_of = |position: u32| self.order.tables.series[position as usize].kind;
        for positions in chunks(&self.points_of) {
            let mut columns: Vec<(Vec<u32>, FineColumn)> =
                positions.clone().map(|position| (Vec::new(), FineColumn::new(kind_of(position)))).collect();
            self.scan_again(source, writer, |window, view| {
                view.points(&self.order, |series, cell: Cell| {
                    let position = *at(&self.order.series_rank, series)?;
                    if positions.contains(&position) {
                        let (slots, column) = &mut columns[(position - positions.start) as usize];
                        slots.push(window);
                        column.push(cell);
                    }
                    Ok(())
                })
            })?;
            let (mut fine, mut coarse) = (Vec::new(), Vec::new());
            for raw in [&mut fine, &mut coarse] {
                put_varint(raw, positions.start.into());
                put_varint(raw, positions.len() as u64);
            }
            for (position, (slots, column)) in positions.clone().zip(&columns) {
                put_fine(&mut fine, slots, column);
                let rows = column.roll_up(slots, |slot| bucket_of[slot as usize]);
                put_coarse(&mut coarse, kind_of(position), &rows);
            }
            writer.frame(Section::PointsFine, positions.clone(), &fine)?;
            writer.frame(Section::PointsCoarse, positions, &coarse)?;
        }
        Ok(())
    }
}

/// The same numbers in another order.
fn ranked(numbers: &[u32], rank: &[u32]) -> Vec<u32> {
    let mut ranked = vec![0; rank.len()];
    numbers.iter().zip(rank).for_each(|(number, rank)| ranked[*rank as usize] = *number);
    ranked
}

/// Where the entries of each key begin.
fn starts(counts: &[u32]) -> Vec<usize> {
    let mut next = 0;
    let start = |count: &u32| {
        let start = next;
        next += *count as usize;
        start
    };
    counts.iter().map(start).collect()
}

/// Runs of keys or series whose entries together fit into a chunk; at least one each.
fn chunks(counts: &[u32]) -> Vec<Range<u32>> {
    let mut runs = Vec::new();
    let (mut start, mut entries) = (0, 0);
    for (index, count) in (0..).zip(counts) {
        let size = *count as usize + 1;
        if index > start && entries + size > CHUNK_ENTRIES {
            runs.push(start..index);
            (start, entries) = (index, 0);
        }
        entries += size;
    }
    if (start as usize) < counts.len() {
        runs.push(start..counts.len() as u32);
    }
    runs
}

/// Adds the windows of each bucket up.
fn roll_up(fine: &SampleChunk, bucket_of: &[u32], coarse: &mut SampleChunk) {
    let mut place = 0;
    for count in &fine.counts {
        let before = coarse.slots.len();
        for _ in 0..*count {
            let bucket = bucket_of[fine.slots[place] as usize];
            let is_same = coarse.slots.len() > before && coarse.slots.last() == Some(&bucket);
            if !is_same {
                coarse.slots.push(bucket);
            }
            for (sums, column) in coarse.values.iter_mut().zip(&fine.values) {
                match sums.last_mut() {
                    Some(sum) if is_same => *sum = sum.saturating_add(column[place]),
                    _ => sums.push(column[place]),
                }
            }
            place += 1;
        }
        coarse.counts.push((coarse.slots.len() - before) as u32);
    }
}

fn wrong<T>(parsed: Parsed<T>, writer: &Writer<'_>) -> Result<T, StoreError> {
    parsed.map_err(|what| StoreError::Seal {
        path: writer.folder.path(writer.name),
        cause: FileError::Damaged { offset: FILE_HEADER_BYTES as u64, what },
    })
}
