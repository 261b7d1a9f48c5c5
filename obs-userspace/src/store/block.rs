//! A finished block: its index, and the sections that a query needs, each read when it is asked for.

use super::{
    Range,
    bytes::{Cursor, Malformed, Parsed, put_varint},
    error::FileError,
    event_chunk,
    frame::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FileKind, FrameReader, ReadAt, Section},
    limits::{BUCKET_NS, CHUNKS_MAX, PROCESSES_MAX, VALUE_TYPES_MAX, WINDOWS_MAX},
    point_chunk,
    sample_chunk::{self, Factors},
    tables::Tables,
    values::Cell,
    window::EventRow,
};

/// The last bytes of a block: where its index is, a checksum of that, and an ending magic.
pub(super) const TRAILER_BYTES: usize = 16;
const TRAILER_MAGIC: [u8; 4] = *b"OBSE";

pub(super) fn put_trailer(out: &mut Vec<u8>, index_offset: u64) {
    let offset = index_offset.to_le_bytes();
    out.extend_from_slice(&offset);
    out.extend_from_slice(&crc32fast::hash(&offset).to_le_bytes());
    out.extend_from_slice(&TRAILER_MAGIC);
}

/// A frame of a block, and which keys or series are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) section: Section,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) first: u32,
    pub(super) end: u32,
}

impl Chunk {
    /// Whether any of the wanted keys or series is in it.
    fn has_any(&self, wanted: &[bool]) -> bool {
        let end = (self.end as usize).min(wanted.len());
        wanted.get(self.first as usize..end).is_some_and(|run| run.contains(&true))
    }
}

/// What a block says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// When its first window began and its last one ended.
    pub(super) started_unix_ns: u64,
    pub(super) ended_unix_ns: u64,
    pub(super) windows: u64,
    pub(super) samples: u64,
    pub(super) points: u64,
    pub(super) events: u64,
    pub(super) chunks: Vec<Chunk>,
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { started_unix_ns, ended_unix_ns, windows, samples, points, events, chunks } = self;
        let mut out = Vec::new();
        let length = ended_unix_ns.saturating_sub(*started_unix_ns);
        for number in [*started_unix_ns, length, *windows, *samples, *points, *events, chunks.len() as u64] {
            put_varint(&mut out, number);
        }
        for Chunk { section, offset, bytes, first, end } in chunks {
            out.push(section.code());
            for number in [*offset, *bytes, (*first).into(), (end - first).into()] {
                put_varint(&mut out, number);
            }
        }
        out
    }

    fn parse(raw: &[u8]) -> Parsed<Self> {
        const RANGE: Malformed = Malformed("the index has numbers beyond their bounds");
        let mut cursor = Cursor::new(raw);
        let started_unix_ns = cursor.varint()?;
        let ended_unix_ns = started_unix_ns.checked_add(cursor.varint()?).ok_or(RANGE)?;
        let (windows, samples) = (cursor.varint()?, cursor.varint()?);
        let (points, events) = (cursor.varint()?, cursor.varint()?);
        let mut chunks = Vec::new();
        for _ in 0..cursor.count(CHUNKS_MAX)? {
            let section = Section::from_code(cursor.u8()?)?;
            let (offset, bytes, first) = (cursor.varint()?, cursor.varint()?, cursor.u32()?);
            let end = first.checked_add(cursor.u32()?).ok_or(RANGE)?;
            offset.checked_add(bytes).ok_or(RANGE)?;
            chunks.push(Chunk { section, offset, bytes, first, end });
        }
        cursor.end()?;
        Ok(Self { started_unix_ns, ended_unix_ns, windows, samples, points, events, chunks })
    }
}

/// When the windows were, how values follow from each other, and when each process was seen first and last.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// Start and length, in ascending order.
    pub(super) windows: Vec<(u64, u64)>,
    /// Per kind of profile.
    pub(super) factors: Vec<Factors>,
    /// Per process: start of the first and end of the last window that has it.
    pub(super) processes: Vec<(u64, u64)>,
}

impl Times {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { windows, factors, processes } = self;
        let mut out = Vec::new();
        let base = windows.first().map_or(0, |(start, _)| *start);
        put_varint(&mut out, base);
        put_varint(&mut out, windows.len() as u64);
        let mut before = base;
        for (start, _) in windows {
            put_varint(&mut out, start - before);
            before = *start;
        }
        windows.iter().for_each(|(_, duration)| put_varint(&mut out, *duration));
        put_varint(&mut out, factors.len() as u64);
        for kind in factors {
            put_varint(&mut out, kind.len() as u64);
            kind.iter().for_each(|factor| put_varint(&mut out, factor.map_or(0, |factor| factor + 1)));
        }
        put_varint(&mut out, processes.len() as u64);
        processes.iter().for_each(|(first, _)| put_varint(&mut out, first.saturating_sub(base)));
        processes.iter().for_each(|(first, last)| put_varint(&mut out, last.saturating_sub(*first)));
        out
    }

    fn parse(raw: &[u8], kinds_max: usize) -> Parsed<Self> {
        const LATE: Malformed = Malformed("a time is beyond what numbers can be");
        let mut cursor = Cursor::new(raw);
        let base = cursor.varint()?;
        let count = cursor.count(WINDOWS_MAX)?;
        let mut windows = Vec::with_capacity(count);
        let mut start = base;
        for _ in 0..count {
            start = start.checked_add(cursor.varint()?).ok_or(LATE)?;
            windows.push((start, 0_u64));
        }
        for (start, duration) in &mut windows {
            *duration = cursor.varint()?;
            start.checked_add(*duration).ok_or(LATE)?;
        }
        let mut factors = Vec::new();
        for _ in 0..cursor.count(kinds_max)? {
            let count = cursor.count(VALUE_TYPES_MAX)?;
            factors.push((0..count).map(|_| Ok(cursor.varint()?.checked_sub(1))).collect::<Parsed<_>>()?);
        }
        let count = cursor.count(PROCESSES_MAX)?;
        let firsts = (0..count).map(|_| base.checked_add(cursor.varint()?).ok_or(LATE)).collect::<Parsed<Vec<_>>>()?;
        let mut processes = Vec::with_capacity(count);
        for first in firsts {
            processes.push((first, first.checked_add(cursor.varint()?).ok_or(LATE)?));
        }
        cursor.end()?;
        Ok(Self { windows, factors, processes })
    }

    /// The buckets of the roll-up: each with its first window and the one behind its last.
    pub(super) fn buckets(&self) -> Vec<(usize, usize)> {
        let mut buckets: Vec<(usize, usize)> = Vec::new();
        let mut current = None;
        for (index, (start, _)) in self.windows.iter().enumerate() {
            let number = Some(start / BUCKET_NS);
            match buckets.last_mut() {
                Some((_, end)) if number == current => *end = index + 1,
                _ => buckets.push((index, index + 1)),
            }
            current = number;
        }
        buckets
    }
}

/// Which of a block's tables a query needs; strings and who is there are always read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) code: bool,
    pub(super) series: bool,
}

impl Parts {
    pub(super) const ALL: Self = Self { code: true, series: true };
}

/// A block, open for reading.
pub(super) struct Block<S> {
    source: S,
    pub(super) header: FileHeader,
    pub(super) index: Index,
    pub(super) tables: Tables,
    pub(super) times: Times,
    frames: FrameReader,
}

impl<S: ReadAt> Block<S> {
    /// Reads the header and the index. Tables are empty until [`load`](Self::load).
    pub(super) fn open(source: S) -> Result<Self, FileError> {
        let header = FileHeader::read(&source)?;
        if header.kind != FileKind::Block {
            return Err(FileError::NotOurs("it is a journal under the name of a block"));
        }
        let length = source.length().map_err(FileError::Read)?;
        let damaged = |offset, what| FileError::Damaged { offset, what: Malformed(what) };
        let least = (FILE_HEADER_BYTES + FRAME_HEADER_BYTES + TRAILER_BYTES) as u64;
        if length < least {
            return Err(damaged(length, "it is shorter than a block can be"));
        }
        let end = length - TRAILER_BYTES as u64;
        let mut trailer = [0; TRAILER_BYTES];
        source.read_at(&mut trailer, end).map_err(FileError::Read)?;
        let (mut offset, mut expected) = ([0; 8], Vec::new());
        offset.copy_from_slice(&trailer[..8]);
        let index_offset = u64::from_le_bytes(offset);
        put_trailer(&mut expected, index_offset);
        if trailer[..] != expected[..] {
            return Err(damaged(end, "its last bytes are wrong: it is not whole"));
        }
        let mut frames = FrameReader::default();
        let (frame, raw) = frames.read(&source, index_offset, end)?;
        let what = |what| FileError::Damaged { offset: index_offset, what };
        if frame.section != Section::Index || index_offset + frame.frame_bytes() != end {
            return Err(what(Malformed("its index is not where it should be")));
        }
        let index = Index::parse(raw).map_err(what)?;
        if index.chunks.iter().any(|chunk| chunk.offset + chunk.bytes > index_offset) {
            return Err(what(Malformed("a frame lies behind the index")));
        }
        Ok(Self { source, header, index, tables: Tables::default(), times: Times::default(), frames })
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// Reads the tables that are needed, once.
    pub(super) fn load(&mut self, parts: Parts) -> Result<(), FileError> {
        self.tables = Tables::default();
        self.table(Section::Strings, Tables::read_strings)?;
        if parts.code {
            self.table(Section::Code, Tables::read_code)?;
            self.table(Section::Stacks, Tables::read_stacks)?;
        }
        self.table(Section::Who, Tables::read_who)?;
        if parts.series {
            self.table(Section::Series, Tables::read_series)?;
        }
        let kinds = self.tables.kinds.len();
        let mut times = None;
        self.frames_of(Section::Windows, |_, raw| {
            times = Some(Times::parse(raw, kinds)?);
            Ok(())
        })?;
        self.times = times.unwrap_or_default();
        let wrong = |what| Err(FileError::Damaged { offset: 0, what: Malformed(what) });
        let factors_of = |kind: usize| self.times.factors.get(kind).map(Vec::len);
        if (0..kinds).any(|kind| factors_of(kind) != Some(self.tables.kinds[kind].value_types.len() - 1)) {
            return wrong("a kind of profile lacks the relations of its values");
        }
        if self.times.processes.len() != self.tables.processes.len() {
            return wrong("a process lacks its times");
        }
        Ok(())
    }

    fn table(
        &mut self,
        section: Section,
        read: impl Fn(&mut Tables, &mut Cursor<'_>) -> Parsed<()>,
    ) -> Result<(), FileError> {
        let mut tables = std::mem::take(&mut self.tables);
        let outcome = self.frames_of(section, |_, raw| {
            let mut cursor = Cursor::new(raw);
            read(&mut tables, &mut cursor)?;
            cursor.end()
        });
        self.tables = tables;
        outcome
    }

    /// Visits the frames of a section, in their order.
    fn frames_of(
        &mut self,
        section: Section,
        mut visit: impl FnMut(&Chunk, &[u8]) -> Parsed<()>,
    ) -> Result<(), FileError> {
        for chunk in self.index.chunks.iter().filter(|chunk| chunk.section == section) {
            read_chunk(&mut self.frames, &self.source, chunk, &mut visit)?;
        }
        Ok(())
    }

    /// Visits the samples of wanted keys in a range: key, values. Where a bucket of the roll-up lies wholly in the range, it
    /// stands for its windows. Returns whether the range's edges are those of buckets because the windows are gone.
    pub(super) fn samples(
        &mut self,
        range: Range,
        wanted: &[bool],
        mut visit: impl FnMut(u32, &[u64]) -> Parsed<()>,
    ) -> Result<bool, FileError> {
        let plan = Plan::of(&self.times, range, self.header.is_coarse);
        let is_wanted = |key: u32| wanted.get(key as usize).copied().unwrap_or_default();
        let (tables, factors) = (&self.tables, &self.times.factors);
        for (section, slots) in [(Section::SamplesCoarse, &plan.buckets), (Section::SamplesFine, &plan.windows)] {
            if !slots.contains(&true) {
                continue;
            }
            for chunk in self.index.chunks.iter().filter(|chunk| chunk.section == section) {
                if !chunk.has_any(wanted) {
                    continue;
                }
                read_chunk(&mut self.frames, &self.source, chunk, &mut |_, raw| {
                    sample_chunk::read(raw, tables, factors, slots.len(), is_wanted, |key, slot, values| {
                        if slots[slot] { visit(key, values) } else { Ok(()) }
                    })
                })?;
            }
        }
        Ok(plan.is_rounded)
    }

    /// Visits the points of wanted series in a range: series, when, how many windows, cell. Of one series in ascending order.
    /// With `coarse`, or where the windows are gone, a point is a bucket of the roll-up.
    pub(super) fn points(
        &mut self,
        range: Range,
        coarse: bool,
        wanted: &[bool],
        mut visit: impl FnMut(u32, u64, u32, Cell) -> Parsed<()>,
    ) -> Result<(), FileError> {
        let is_coarse = coarse || self.header.is_coarse;
        let is_wanted = |series: u32| wanted.get(series as usize).copied().unwrap_or_default();
        let starts: Vec<u64> = if is_coarse {
            self.times.buckets().iter().map(|(first, _)| self.times.windows[*first].0).collect()
        } else {
            self.times.windows.iter().map(|(start, _)| *start).collect()
        };
        let section = if is_coarse { Section::PointsCoarse } else { Section::PointsFine };
        let tables = &self.tables;
        for chunk in self.index.chunks.iter().filter(|chunk| chunk.section == section) {
            if !chunk.has_any(wanted) {
                continue;
            }
            read_chunk(&mut self.frames, &self.source, chunk, &mut |_, raw| {
                point_chunk::read(raw, tables, is_coarse, starts.len(), is_wanted, |series, slot, windows, cell| {
                    if range.contains(starts[slot]) { visit(series, starts[slot], windows, cell) } else { Ok(()) }
                })
            })?;
        }
        Ok(())
    }

    /// Visits all events.
    pub(super) fn events(&mut self, mut visit: impl FnMut(EventRow) -> Parsed<()>) -> Result<(), FileError> {
        let base = self.index.started_unix_ns;
        self.frames_of(Section::Events, |_, raw| event_chunk::read(raw, base, &mut visit))
    }

    /// Visits all samples of a section: key, slot, values.
    pub(super) fn all_samples(
        &mut self,
        section: Section,
        mut visit: impl FnMut(u32, usize, &[u64]) -> Parsed<()>,
    ) -> Result<(), FileError> {
        let slots = if section.is_fine() { self.times.windows.len() } else { self.times.buckets().len() };
        for chunk in self.index.chunks.iter().filter(|chunk| chunk.section == section) {
            read_chunk(&mut self.frames, &self.source, chunk, &mut |chunk, raw| {
                sample_chunk::read(
                    raw,
                    &self.tables,
                    &self.times.factors,
                    slots,
                    |_| true,
                    |key, slot, values| {
                        if !(chunk.first..chunk.end).contains(&key) {
                            return Err(Malformed("a sample is not where the index says"));
                        }
                        visit(key, slot, values)
                    },
                )
            })?;
        }
        Ok(())
    }
}

fn read_chunk(
    frames: &mut FrameReader,
    source: &impl ReadAt,
    chunk: &Chunk,
    visit: &mut impl FnMut(&Chunk, &[u8]) -> Parsed<()>,
) -> Result<(), FileError> {
    let damaged = |what| FileError::Damaged { offset: chunk.offset, what };
    let (frame, raw) = frames.read(source, chunk.offset, chunk.offset + chunk.bytes)?;
    if frame.section != chunk.section || frame.frame_bytes() != chunk.bytes {
        return Err(damaged(Malformed("a frame is not what the index says")));
    }
    visit(chunk, raw).map_err(damaged)
}

/// Which buckets and which windows a range needs.
struct Plan {
    buckets: Vec<bool>,
    windows: Vec<bool>,
    is_rounded: bool,
}

impl Plan {
    fn of(times: &Times, range: Range, is_coarse: bool) -> Self {
        let buckets = times.buckets();
        let mut plan =
            Self { buckets: vec![false; buckets.len()], windows: vec![false; times.windows.len()], is_rounded: false };
        let is_inside = |window: usize| times.windows.get(window).is_some_and(|(start, _)| range.contains(*start));
        for (bucket, (first, end)) in buckets.into_iter().enumerate() {
            let inside = (first..end).filter(|window| is_inside(*window)).count();
            if inside == end - first {
                plan.buckets[bucket] = true;
            } else if inside > 0 && is_coarse {
                plan.buckets[bucket] = is_inside(first);
                plan.is_rounded = true;
            } else if inside > 0 {
                (first..end).for_each(|window| plan.windows[window] = is_inside(window));
            }
        }
        plan
    }
}
