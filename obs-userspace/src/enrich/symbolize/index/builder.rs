//! What is being written: texts and blocks go to the file at once, tables are kept until the end.

use std::{collections::HashMap, io};

use super::{
    BuildError,
    debug::{Debug, Place},
    format::{Contents, OVERLAPS, RANGE_BYTES, Range, Table, put, put_difference, put_text},
    pages::PageWriter,
    symbols::Named,
};
use crate::enrich::symbolize::{elf::Segment, reason::FileError};

/// Most entries of a table of an index.
const RANGES_MAX: usize = 400_000;

/// Names of which is remembered that they are written already; above, they may be written twice.
const NAMES_REMEMBERED_MAX: usize = 200_000;

/// Paths of which is remembered that they are written already, in bytes.
const PATH_BYTES_REMEMBERED_MAX: usize = 3 << 20;

/// Symbols of a block.
const SYMBOLS_PER_BLOCK: usize = 32;

/// Writes an index.
pub(super) struct Builder {
    writer: PageWriter,
    /// Executable parts of the file: debug information of what the linker has dropped lies elsewhere.
    code: Vec<(u64, u64)>,
    names: HashMap<u64, u32>,
    paths: HashMap<Box<str>, u32>,
    path_bytes: usize,
    symbols: Vec<Range>,
    functions: Vec<Range>,
    lines: Vec<Range>,
    units: Vec<u32>,
    /// Addresses that have symbols: start and length, adjacent ones joined.
    named: Vec<(u64, u64)>,
}

impl Builder {
    pub(super) fn new(writer: PageWriter, segments: &[Segment]) -> Self {
        let code = segments.iter().filter(|segment| segment.is_executable);
        let code = code.map(|segment| (segment.address, segment.address.saturating_add(segment.file_bytes))).collect();
        Self {
            writer,
            code,
            names: HashMap::new(),
            paths: HashMap::new(),
            path_bytes: 0,
            symbols: Vec::new(),
            functions: Vec::new(),
            lines: Vec::new(),
            units: Vec::new(),
            named: Vec::new(),
        }
    }

    /// The end of the executable part in which an address lies, if it lies in one.
    pub(super) fn code_end(&self, address: u64) -> Option<u64> {
        self.code.iter().find(|(start, end)| (*start..*end).contains(&address)).map(|(_, end)| *end)
    }

    /// Whether symbols give names to all addresses from `start` to `end`.
    pub(super) fn is_named(&self, start: u64, end: u64) -> bool {
        let index = self.named.partition_point(|(known, _)| *known <= start);
        let before = index.checked_sub(1).and_then(|index| self.named.get(index));
        before.is_some_and(|(known, length)| known.saturating_add(*length) >= end)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u32, BuildError> {
        Ok(self.writer.append(bytes)?)
    }

    fn text(&mut self, text: &str) -> Result<u32, BuildError> {
        let mut bytes = Vec::with_capacity(text.len() + 2);
        put_text(&mut bytes, text);
        self.append(&bytes)
    }

    /// Writes a name of the debug information, unless it was written before. 0 if it is empty.
    pub(super) fn name(&mut self, debug: &Debug<'_>, place: Option<Place>) -> Result<u32, BuildError> {
        let Some(place) = place else { return Ok(0) };
        let key = place.key();
        if let Some(known) = self.names.get(&key) {
            return Ok(*known);
        }
        let text = debug.read(place).unwrap_or_default();
        let offset = if text.is_empty() { 0 } else { self.text(&String::from_utf8_lossy(&text))? };
        if self.names.len() >= NAMES_REMEMBERED_MAX {
            self.names.clear();
        }
        self.names.insert(key, offset);
        Ok(offset)
    }

    /// Writes a path, unless it was written before.
    pub(super) fn path(&mut self, path: &str) -> Result<u32, BuildError> {
        if let Some(known) = self.paths.get(path) {
            return Ok(*known);
        }
        let offset = self.text(path)?;
        if self.path_bytes >= PATH_BYTES_REMEMBERED_MAX {
            self.paths.clear();
            self.path_bytes = 0;
        }
        self.path_bytes += path.len();
        self.paths.insert(path.into(), offset);
        Ok(offset)
    }

    /// Writes the ranges of symbols, which must ascend and not overlap. With `debug`, they are remembered for
    /// [`Self::is_named`].
    pub(super) fn symbols(
        &mut self,
        ranges: impl Iterator<Item = Result<Named, FileError>>,
        has_debug: bool,
    ) -> Result<(), BuildError> {
        let mut block: Vec<(Named, u32)> = Vec::with_capacity(SYMBOLS_PER_BLOCK);
        for named in ranges {
            let named = named?;
            if named.start >= named.end {
                continue;
            }
            if has_debug {
                match self.named.last_mut() {
                    Some((start, length)) if start.saturating_add(*length) == named.start => {
                        *length += named.end - named.start;
                    }
                    _ => self.named.push((named.start, named.end - named.start)),
                }
            }
            // A symbol that others lie within has several ranges.
            let known = block.iter().rev().find(|(known, _)| known.name == named.name);
            let name = match known {
                Some((_, name)) => *name,
                None => self.text(&named.name)?,
            };
            let begin = block.first().map_or(named.start, |(first, _)| first.start);
            if block.len() >= SYMBOLS_PER_BLOCK || named.end - begin > u32::MAX.into() {
                self.symbol_block(&block)?;
                block.clear();
            }
            block.push((named, name));
        }
        self.symbol_block(&block)
    }

    fn symbol_block(&mut self, block: &[(Named, u32)]) -> Result<(), BuildError> {
        let (Some((first, _)), Some((last, _))) = (block.first(), block.last()) else { return Ok(()) };
        let (start, end) = (first.start, last.end);
        let mut bytes = Vec::with_capacity(block.len() * 6);
        put(&mut bytes, block.len() as u64);
        let (mut position, mut previous) = (start, 0);
        for (named, name) in block {
            put(&mut bytes, named.start - position);
            put(&mut bytes, named.end - named.start);
            put_difference(&mut bytes, previous, u64::from(*name));
            (position, previous) = (named.end, u64::from(*name));
        }
        let block = self.append(&bytes)?;
        push(&mut self.symbols, start, end, block)
    }

    /// Adds a range of a function. `block` is 0 if there is nothing to say of it but that it is there.
    pub(super) fn function(&mut self, start: u64, end: u64, block: u32) -> Result<(), BuildError> {
        push(&mut self.functions, start, end, block)
    }

    pub(super) fn line_block(&mut self, start: u64, end: u64, block: u32) -> Result<(), BuildError> {
        push(&mut self.lines, start, end, block)
    }

    /// The number of the unit that begins.
    pub(super) fn unit_number(&self) -> u64 {
        self.units.len() as u64
    }

    /// Ends a unit: writes the list of its paths.
    pub(super) fn end_unit(&mut self, paths: &[u32]) -> Result<(), BuildError> {
        let bytes: Vec<u8> = paths.iter().flat_map(|path| path.to_le_bytes()).collect();
        let list = if bytes.is_empty() { 0 } else { self.append(&bytes)? };
        self.units.push(list);
        Ok(())
    }

    /// Writes the tables and the header.
    pub(super) fn finish(mut self, identity: &str, entry: u64) -> io::Result<()> {
        self.names = HashMap::new();
        self.paths = HashMap::new();
        let functions = settle(std::mem::take(&mut self.functions), true);
        let lines = settle(std::mem::take(&mut self.lines), false);
        let symbols = std::mem::take(&mut self.symbols);
        let contents = Contents {
            symbols: self.table(&symbols)?,
            functions: self.table(&functions)?,
            lines: self.table(&lines)?,
            units: {
                let offset = self.writer.position();
                for unit in &self.units {
                    self.writer.append(&unit.to_le_bytes())?;
                }
                Table { offset, count: self.units.len() as u64 }
            },
            entry,
        };
        self.writer.finish(identity, &contents.to_fields())
    }

    fn table(&mut self, ranges: &[Range]) -> io::Result<Table> {
        // So that no entry straddles two pages.
        while !self.writer.position().is_multiple_of(RANGE_BYTES) {
            self.writer.append(&[0])?;
        }
        let offset = self.writer.position();
        for range in ranges {
            self.writer.append(&range.encode())?;
        }
        Ok(Table { offset, count: ranges.len() as u64 })
    }
}

fn push(ranges: &mut Vec<Range>, start: u64, end: u64, block: u32) -> Result<(), BuildError> {
    if ranges.len() >= RANGES_MAX {
        let (size, max) = (ranges.len() as u64, RANGES_MAX as u64);
        return Err(FileError::TooLarge { what: "number of ranges in an index", size, max }.into());
    }
    let length = u32::try_from(end.saturating_sub(start)).unwrap_or(u32::MAX);
    ranges.push(Range { start, length, block });
    Ok(())
}

/// Sorts ranges, and marks those that others overlap. Of equal ones, the first is meant: the linker keeps the first of
/// several equal functions, and debug information of the others may still be there. Those that say nothing are left out,
/// unless they hide another one.
fn settle(mut ranges: Vec<Range>, leaves_empty_out: bool) -> Vec<Range> {
    // Stable. Of ranges with the same start, the last one is looked at first: the shortest.
    ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.length)));
    ranges.dedup_by_key(|range| (range.start, range.length));
    let mut end = 0;
    for range in &mut ranges {
        if range.start < end {
            range.block |= OVERLAPS;
        }
        end = end.max(range.end());
    }
    if leaves_empty_out {
        ranges.retain(|range| range.block != 0);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, length: u32, block: u32) -> Range {
        Range { start, length, block }
    }

    #[test]
    fn the_first_of_equal_ranges_is_meant_and_overlaps_are_marked() {
        let ranges = vec![
            range(100, 50, 1),
            range(100, 50, 2),
            range(120, 10, 0),
            range(200, 10, 0),
            range(10, 10, 3),
            range(150, 50, 4),
        ];
        let expected = [range(10, 10, 3), range(100, 50, 1), range(120, 10, OVERLAPS), range(150, 50, 4)];
        assert_eq!(settle(ranges, true), expected);
    }
}
