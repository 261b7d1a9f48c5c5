//! The tables of a block: each string, frame, stack, process and series once, referred to by its position.
//!
//! Entries are written by columns: equal things stand together, which compresses better. A journal's window adds its new
//! entries at the end of each table, a finished block has each table whole. References are checked when they are followed.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_varint, unzigzag, zigzag},
    codes::{self, SeriesKind},
    limits::{
        FRAMES_MAX, KEYS_MAX, KINDS_MAX, LABELS_MAX, LABELS_TOTAL_MAX, MODULES_MAX, NODES_MAX, PROCESSES_MAX,
        SERIES_MAX, STACK_FRAMES_MAX, STRING_BYTES_MAX, STRINGS_BYTES_MAX, STRINGS_MAX, VALUE_TYPES_MAX,
    },
};
use crate::model::{process::ProcessKey, profile::FrameKind};

/// A position in a table, or none: the position plus one, or 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Maybe(pub(super) u32);

impl Maybe {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn some(index: u32) -> Self {
        Self(index + 1)
    }

    pub(super) fn get(self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// Where code lives. Texts are positions in the strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ModuleEntry {
    pub(super) path: u32,
    pub(super) build_id: Maybe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FrameEntry {
    pub(super) function: Maybe,
    pub(super) kind: FrameKind,
    pub(super) module: Maybe,
    pub(super) address: u64,
    pub(super) file: Maybe,
    pub(super) line: u32,
}

/// A stack is its innermost node; each node leads to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeEntry {
    pub(super) parent: Maybe,
    pub(super) frame: u32,
}

/// A process image, and what was known of it: names and values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProcessEntry {
    pub(super) key: ProcessKey,
    pub(super) attributes: Box<[(u32, u32)]>,
}

/// What a profile's values mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct KindEntry {
    pub(super) collector: u32,
    pub(super) value_types: Box<[(u32, u32)]>,
    pub(super) period: Option<((u32, u32), u64)>,
}

/// What a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyEntry {
    pub(super) kind: u32,
    pub(super) process: u32,
    pub(super) thread: u32,
    pub(super) stack: Maybe,
    pub(super) cut: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesEntry {
    pub(super) kind: SeriesKind,
    pub(super) name: u32,
    pub(super) labels: Box<[(u32, u32)]>,
}

/// Strings one behind the other.
#[derive(Debug, Default)]
pub(super) struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: u32) -> Parsed<&str> {
        let index = index as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        let end = self.ends.get(index).map(|end| *end as usize);
        end.and_then(|end| self.text.get(start..end)).ok_or(Malformed("it refers to a string that is not there"))
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.ends.len() as u32).map(|index| self.get(index).unwrap_or_default())
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> Parsed<()> {
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
        if self.text.len() + text.len() > STRINGS_BYTES_MAX {
            return Err(Malformed("its strings are longer than they may be"));
        }
        self.text.push_str(text);
        self.ends.push(self.text.len() as u32);
        Ok(())
    }
}

/// All tables, as read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) strings: Strings,
    pub(super) modules: Vec<ModuleEntry>,
    pub(super) frames: Vec<FrameEntry>,
    pub(super) nodes: Vec<NodeEntry>,
    pub(super) processes: Vec<ProcessEntry>,
    pub(super) kinds: Vec<KindEntry>,
    pub(super) keys: Vec<KeyEntry>,
    pub(super) series: Vec<SeriesEntry>,
    /// Of each node that was read, how many frames its stack has.
    depths: Vec<u16>,
    /// Labels, attributes and value types so far.
    pairs: usize,
}

pub(super) fn at<T>(table: &[T], index: u32) -> Parsed<&T> {
    table.get(index as usize).ok_or(Malformed("it refers to an entry that is not there"))
}

/// What is written of each table: an iterator over entries.
pub(super) fn put_strings<'a>(out: &mut Vec<u8>, strings: impl ExactSizeIterator<Item = &'a str> + Clone) {
    put_varint(out, strings.len() as u64);
    for text in strings.clone() {
        put_varint(out, text.len() as u64);
    }
    for text in strings {
        out.extend_from_slice(text.as_bytes());
    }
}

pub(super) fn put_code<'a>(
    out: &mut Vec<u8>,
    modules: impl ExactSizeIterator<Item = &'a ModuleEntry> + Clone,
    frames: impl ExactSizeIterator<Item = &'a FrameEntry> + Clone,
) {
    put_varint(out, modules.len() as u64);
    modules.clone().for_each(|entry| put_varint(out, entry.path.into()));
    modules.for_each(|entry| put_varint(out, entry.build_id.0.into()));
    put_varint(out, frames.len() as u64);
    put_deltas(out, frames.clone().map(|entry| entry.function.0));
    frames.clone().for_each(|entry| out.push(codes::of_frame_kind(entry.kind)));
    frames.clone().for_each(|entry| put_varint(out, entry.module.0.into()));
    frames.clone().for_each(|entry| put_varint(out, entry.address));
    put_deltas(out, frames.clone().map(|entry| entry.file.0));
    frames.for_each(|entry| put_varint(out, entry.line.into()));
}

/// `before` is how many nodes the table had.
pub(super) fn put_stacks<'a>(
    out: &mut Vec<u8>,
    before: usize,
    nodes: impl ExactSizeIterator<Item = &'a NodeEntry> + Clone,
) {
    put_varint(out, nodes.len() as u64);
    for (index, entry) in (before as u64..).zip(nodes.clone()) {
        // A child mostly follows its parent: 0.
        put_varint(out, index - u64::from(entry.parent.0));
    }
    put_planes(out, &nodes.map(|entry| entry.frame));
}

pub(super) fn put_who<'a>(
    out: &mut Vec<u8>,
    processes: impl ExactSizeIterator<Item = &'a ProcessEntry> + Clone,
    kinds: impl ExactSizeIterator<Item = &'a KindEntry> + Clone,
    keys: impl ExactSizeIterator<Item = &'a KeyEntry> + Clone,
) {
    put_varint(out, processes.len() as u64);
    put_deltas(out, processes.clone().map(|entry| entry.key.pid));
    let mut before = 0_u64;
    for entry in processes.clone() {
        put_varint(out, zigzag(entry.key.started_ns.wrapping_sub(before) as i64));
        before = entry.key.started_ns;
    }
    put_deltas(out, processes.clone().map(|entry| entry.key.exec_id));
    processes.for_each(|entry| put_pairs(out, &entry.attributes));
    put_varint(out, kinds.len() as u64);
    for KindEntry { collector, value_types, period } in kinds {
        put_varint(out, (*collector).into());
        put_pairs(out, value_types);
        out.push(u8::from(period.is_some()));
        if let Some(((name, unit), value)) = period {
            put_varint(out, (*name).into());
            put_varint(out, (*unit).into());
            put_varint(out, *value);
        }
    }
    put_varint(out, keys.len() as u64);
    put_deltas(out, keys.clone().map(|entry| entry.kind));
    put_deltas(out, keys.clone().map(|entry| entry.process));
    put_deltas(out, keys.clone().map(|entry| entry.thread));
    put_deltas(out, keys.clone().map(|entry| entry.stack.0));
    keys.for_each(|entry| out.push(entry.cut));
}

pub(super) fn put_series<'a>(out: &mut Vec<u8>, series: impl ExactSizeIterator<Item = &'a SeriesEntry> + Clone) {
    put_varint(out, series.len() as u64);
    series.clone().for_each(|entry| out.push(codes::of_series_kind(entry.kind)));
    series.clone().for_each(|entry| put_varint(out, entry.name.into()));
    series.for_each(|entry| put_pairs(out, &entry.labels));
}

/// The bytes of all numbers by their rank, the lowest first: how many there are of each, then they. Bytes of one rank are
/// alike, and those of different ranks are not.
fn put_planes(out: &mut Vec<u8>, numbers: &(impl Iterator<Item = u32> + Clone)) {
    let width = numbers.clone().max().map_or(0, |max| 4 - max.leading_zeros() / 8);
    out.push(width as u8);
    for rank in 0..width {
        out.extend(numbers.clone().map(|number| (number >> (8 * rank)) as u8));
    }
}

fn planes(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<u32>> {
    let mut numbers = vec![0; count];
    let width = cursor.u8()?;
    if width > 4 {
        return Err(Malformed("a number has more than 32 bits"));
    }
    for rank in 0..width {
        for (number, byte) in numbers.iter_mut().zip(cursor.take(count)?) {
            *number |= u32::from(*byte) << (8 * rank);
        }
    }
    Ok(numbers)
}

/// Each number as the difference from the one before.
fn put_deltas(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>) {
    let mut before = 0;
    for number in numbers {
        put_varint(out, zigzag(i64::from(number) - before));
        before = number.into();
    }
}

fn deltas(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<u32>> {
    let mut before = 0_i64;
    let next = |_| {
        before = before.wrapping_add(unzigzag(cursor.varint()?));
        u32::try_from(before).map_err(|_| Malformed("a number has more than 32 bits"))
    };
    (0..count).map(next).collect()
}

fn put_pairs(out: &mut Vec<u8>, pairs: &[(u32, u32)]) {
    put_varint(out, pairs.len() as u64);
    for (name, value) in pairs {
        put_varint(out, (*name).into());
        put_varint(out, (*value).into());
    }
}

/// How many entries are added, if so many fit.
fn added(cursor: &mut Cursor<'_>, present: usize, max: usize) -> Parsed<usize> {
    cursor.count(max - present.min(max))
}

fn column<'a, T>(cursor: &mut Cursor<'a>, count: usize, read: impl Fn(&mut Cursor<'a>) -> Parsed<T>) -> Parsed<Vec<T>> {
    (0..count).map(|_| read(cursor)).collect()
}

fn maybes(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<Maybe>> {
    column(cursor, count, |cursor| cursor.u32().map(Maybe))
}

impl Tables {
    #[allow(clippy::too_many_arguments, reason = "one per table")]
    pub(super) fn of(
        strings: Strings,
        modules: Vec<ModuleEntry>,
        frames: Vec<FrameEntry>,
        nodes: Vec<NodeEntry>,
        processes: Vec<ProcessEntry>,
        kinds: Vec<KindEntry>,
        keys: Vec<KeyEntry>,
        series: Vec<SeriesEntry>,
    ) -> Self {
        Self { strings, modules, frames, nodes, processes, kinds, keys, series, depths: Vec::new(), pairs: 0 }
    }

    pub(super) fn read_strings(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let count = added(cursor, self.strings.len(), STRINGS_MAX)?;
        let lengths = column(cursor, count, |cursor| cursor.number(STRING_BYTES_MAX))?;
        self.strings.ends.reserve_exact(count);
        lengths.into_iter().try_for_each(|length| self.strings.add(cursor.take(length)?))
    }

    pub(super) fn read_code(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let count = added(cursor, self.modules.len(), MODULES_MAX)?;
        let paths = column(cursor, count, Cursor::u32)?;
        let build_ids = maybes(cursor, count)?;
        self.modules.extend(paths.into_iter().zip(build_ids).map(|(path, build_id)| ModuleEntry { path, build_id }));
        let count = added(cursor, self.frames.len(), FRAMES_MAX)?;
        let functions = deltas(cursor, count)?;
        let kinds = column(cursor, count, |cursor| codes::frame_kind(cursor.u8()?))?;
        let modules = maybes(cursor, count)?;
        let addresses = column(cursor, count, Cursor::varint)?;
        let files = deltas(cursor, count)?;
        self.frames.reserve_exact(count);
        for ((((function, kind), module), address), file) in
            functions.into_iter().zip(kinds).zip(modules).zip(addresses).zip(files)
        {
            let line = cursor.u32()?;
            let (function, file) = (Maybe(function), Maybe(file));
            self.frames.push(FrameEntry { function, kind, module, address, file, line });
        }
        Ok(())
    }

    pub(super) fn read_stacks(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let before = self.nodes.len();
        let count = added(cursor, before, NODES_MAX)?;
        // The caller stands before the called, so that no stack is endless.
        let parent = |index| Ok(Maybe((index - cursor.number(index)?) as u32));
        let parents = (before..before + count).map(parent).collect::<Parsed<Vec<Maybe>>>()?;
        let frames = planes(cursor, count)?;
        self.nodes.reserve_exact(count);
        self.depths.reserve_exact(count);
        for (parent, frame) in parents.into_iter().zip(frames) {
            self.depths.push(self.depth_below(parent)?);
            self.nodes.push(NodeEntry { parent, frame });
        }
        Ok(())
    }

    /// How deep a node is whose caller is that one. Answers hold each stack as a whole: without a bound a small file of long
    /// chains would take all memory.
    fn depth_below(&self, parent: Maybe) -> Parsed<u16> {
        let above = parent.get().map_or(Ok(0), |parent| at(&self.depths, parent).copied())?;
        if usize::from(above) < STACK_FRAMES_MAX {
            Ok(above + 1)
        } else {
            Err(Malformed("a stack is deeper than stacks may be"))
        }
    }

    pub(super) fn read_who(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let count = added(cursor, self.processes.len(), PROCESSES_MAX)?;
        let pids = deltas(cursor, count)?;
        let mut before = 0_u64;
        let mut next = |_| {
            before = before.wrapping_add(unzigzag(cursor.varint()?) as u64);
            Ok(before)
        };
        let starts = (0..count).map(&mut next).collect::<Parsed<Vec<u64>>>()?;
        let exec_ids = deltas(cursor, count)?;
        self.processes.reserve_exact(count);
        for ((pid, started_ns), exec_id) in pids.into_iter().zip(starts).zip(exec_ids) {
            let attributes = self.read_pairs(cursor, LABELS_MAX)?;
            self.processes.push(ProcessEntry { key: ProcessKey { pid, started_ns, exec_id }, attributes });
        }
        for _ in 0..added(cursor, self.kinds.len(), KINDS_MAX)? {
            let collector = cursor.u32()?;
            let value_types = self.read_pairs(cursor, VALUE_TYPES_MAX)?;
            if value_types.is_empty() {
                return Err(Malformed("a profile has no value type"));
            }
            let period = match cursor.u8()? {
                0 => None,
                1 => Some(((cursor.u32()?, cursor.u32()?), cursor.varint()?)),
                _ => return Err(Malformed("a profile's period is neither there nor not")),
            };
            self.kinds.push(KindEntry { collector, value_types, period });
        }
        let count = added(cursor, self.keys.len(), KEYS_MAX)?;
        let kinds = deltas(cursor, count)?;
        let processes = deltas(cursor, count)?;
        let threads = deltas(cursor, count)?;
        let stacks = deltas(cursor, count)?;
        self.keys.reserve_exact(count);
        for (((kind, process), thread), stack) in kinds.into_iter().zip(processes).zip(threads).zip(stacks) {
            let cut = cursor.u8()?;
            codes::cut(cut)?;
            at(&self.kinds, kind)?;
            at(&self.processes, process)?;
            self.keys.push(KeyEntry { kind, process, thread, stack: Maybe(stack), cut });
        }
        Ok(())
    }

    pub(super) fn read_series(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let count = added(cursor, self.series.len(), SERIES_MAX)?;
        let kinds = column(cursor, count, |cursor| codes::series_kind(cursor.u8()?))?;
        let names = column(cursor, count, Cursor::u32)?;
        self.series.reserve_exact(count);
        for (kind, name) in kinds.into_iter().zip(names) {
            let labels = self.read_pairs(cursor, LABELS_MAX)?;
            self.series.push(SeriesEntry { kind, name, labels });
        }
        Ok(())
    }

    fn read_pairs(&mut self, cursor: &mut Cursor<'_>, max: usize) -> Parsed<Box<[(u32, u32)]>> {
        let count = cursor.count(max)?;
        self.pairs += count;
        if self.pairs > LABELS_TOTAL_MAX {
            return Err(Malformed("it has more labels than it may have"));
        }
        (0..count).map(|_| Ok((cursor.u32()?, cursor.u32()?))).collect()
    }

    /// How many entries each table has.
    pub(super) fn lengths(&self) -> [usize; 8] {
        let Self { strings, modules, frames, nodes, processes, kinds, keys, series, depths: _, pairs: _ } = self;
        [
            strings.len(),
            modules.len(),
            frames.len(),
            nodes.len(),
            processes.len(),
            kinds.len(),
            keys.len(),
            series.len(),
        ]
    }

    /// Follows every reference of every table.
    pub(super) fn check(&self) -> Parsed<()> {
        let Self { strings, modules, frames, nodes, processes, kinds, keys, series, depths: _, pairs: _ } = self;
        let text = |index: u32| strings.get(index).map(drop);
        let maybe = |index: Maybe| index.get().map_or(Ok(()), text);
        let texts = |pairs: &[(u32, u32)]| pairs.iter().try_for_each(|(name, value)| text(*name).and(text(*value)));
        for ModuleEntry { path, build_id } in modules {
            text(*path).and(maybe(*build_id))?;
        }
        for FrameEntry { function, kind: _, module, address: _, file, line: _ } in frames {
            maybe(*function).and(maybe(*file))?;
            module.get().map_or(Ok(()), |module| at(modules, module).map(drop))?;
        }
        nodes.iter().try_for_each(|node| at(frames, node.frame).map(drop))?;
        processes.iter().try_for_each(|process| texts(&process.attributes))?;
        for KindEntry { collector, value_types, period } in kinds {
            text(*collector).and(texts(value_types))?;
            period.as_ref().map_or(Ok(()), |(pair, _)| texts(&[*pair]))?;
        }
        for KeyEntry { kind, process, thread, stack, cut: _ } in keys {
            at(kinds, *kind).map(drop).and(at(processes, *process).map(drop)).and(text(*thread))?;
            stack.get().map_or(Ok(()), |node| at(nodes, node).map(drop))?;
        }
        series.iter().try_for_each(|series| text(series.name).and(texts(&series.labels)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads nodes of which each calls the one behind it, in two parts as two windows would add them.
    fn read_chain(depth: usize) -> Parsed<Tables> {
        let nodes: Vec<NodeEntry> =
            (0..depth as u32).map(|index| NodeEntry { parent: Maybe(index), frame: 0 }).collect();
        let (first, second) = nodes.split_at(depth / 2);
        let mut tables = Tables::default();
        for (before, part) in [(0, first), (first.len(), second)] {
            let mut raw = Vec::new();
            put_stacks(&mut raw, before, part.iter());
            tables.read_stacks(&mut Cursor::new(&raw))?;
        }
        Ok(tables)
    }

    #[test]
    fn a_stack_that_is_deeper_than_stacks_may_be_is_damage() {
        assert_eq!(read_chain(STACK_FRAMES_MAX).map(|tables| tables.nodes.len()), Ok(STACK_FRAMES_MAX));
        assert_eq!(read_chain(STACK_FRAMES_MAX + 1).err(), Some(Malformed("a stack is deeper than stacks may be")));
    }

    #[test]
    fn a_string_that_is_longer_than_strings_may_be_is_damage() {
        let read = |length| {
            let mut raw = Vec::new();
            put_strings(&mut raw, std::iter::once(&*"x".repeat(length)));
            Tables::default().read_strings(&mut Cursor::new(&raw))
        };
        assert_eq!(read(STRING_BYTES_MAX), Ok(()));
        assert_eq!(read(STRING_BYTES_MAX + 1), Err(Malformed("a number is beyond its bound")));
    }
}
