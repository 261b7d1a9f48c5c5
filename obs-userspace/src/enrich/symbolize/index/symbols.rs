//! All symbols of a file as ranges that do not overlap, each with the name that [`super::super::symbols::find`] would
//! give to its addresses.

use std::{fs::File, iter::Peekable, rc::Rc};

use object::elf;

use super::pieces::{Content, Reader};
use crate::enrich::symbolize::{
    bytes::for_each_entry,
    elf::ElfHeaders,
    reason::FileError,
    symbols::{self, SYMBOL_NAME_BYTES_MAX, Symbol},
};

/// Most symbols of a file that is indexed: they are sorted in memory, 20 bytes each.
pub(super) const SYMBOLS_MAX: u64 = 600_000;

/// Most times that symbols are looked at, in all: real ones hardly overlap.
const WORK_MAX: u64 = 50_000_000;

/// Most ranges that lie within each other.
const NESTED_MAX: usize = 64;

/// Addresses that have the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) name: Rc<str>,
}

/// A symbol, packed: `SYMBOLS_MAX` of them are in memory.
#[derive(Clone, Copy, Debug)]
struct Packed {
    start: [u32; 2],
    size: u32,
    name: u32,
    section: u16,
    binding: u8,
    table: u8,
}

impl Packed {
    fn new(symbol: &Symbol) -> Self {
        let Symbol { start, size, binding, section, name, table } = *symbol;
        #[allow(clippy::cast_possible_truncation, reason = "two halves")]
        let start = [(start >> 32) as u32, start as u32];
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        Self { start, size, name, section, binding, table: u8::try_from(table).unwrap_or(u8::MAX) }
    }

    fn start(&self) -> u64 {
        u64::from(self.start[0]) << 32 | u64::from(self.start[1])
    }

    /// Behind its last byte; it has at least one.
    fn end(&self) -> u64 {
        self.start().saturating_add(self.size.max(1).into())
    }

    fn unpack(&self) -> Symbol {
        let Self { start: _, size, name, section, binding, table } = *self;
        Symbol { start: self.start(), size: size.into(), binding, section, name, table: table.into() }
    }
}

/// The ranges of one file's symbols, in ascending order.
pub(super) struct Ranges<'a> {
    headers: &'a ElfHeaders,
    symbols: Vec<Packed>,
    names: Vec<Content>,
    /// The group of symbols with the same start that comes next.
    next: usize,
    /// Groups that have begun; the one that began last counts, while it reaches beyond the position.
    open: Vec<Open>,
    /// The symbol of the full table that began last; those without size reach to the next one.
    nearest: Option<Packed>,
    position: u64,
    /// Symbols looked at so far.
    work: u64,
}

/// Symbols with the same start: the first one, the one behind the last, and where the longest ends.
#[derive(Clone, Copy, Debug)]
struct Open {
    first: usize,
    behind: usize,
    end: u64,
}

impl<'a> Ranges<'a> {
    /// # Errors
    /// If the tables cannot be read or exceed a limit.
    pub(super) fn new(file: &Rc<File>, headers: &'a ElfHeaders) -> Result<Self, FileError> {
        let mut found: Vec<Packed> = Vec::new();
        let mut names = Vec::new();
        for (kind, what) in [(elf::SHT_SYMTAB, "symbol table"), (elf::SHT_DYNSYM, "dynamic symbol table")] {
            let Some(table) = headers.sections.iter().find(|section| section.kind == kind) else { continue };
            let Some(text) = headers.sections.get(table.link as usize) else { continue };
            let index = names.len();
            names.push(Content::new(file, text.content()));
            let entry_bytes = if headers.is_64_bit { 24 } else { 16 };
            for_each_entry(&**file, what, table.content(), entry_bytes, |entry| {
                let Some(symbol) = symbols::decode(entry, headers, index) else { return Ok(()) };
                if found.len() as u64 >= SYMBOLS_MAX {
                    return Err(FileError::TooLarge { what, size: table.content().1 / 24, max: SYMBOLS_MAX });
                }
                // A table of exported symbols alone does not tell where one without size ends; see `nearest`.
                let is_full = kind == elf::SHT_SYMTAB;
                found.push(Packed {
                    table: u8::from(is_full) << 7 | Packed::new(&symbol).table,
                    ..Packed::new(&symbol)
                });
                Ok(())
            })?;
        }
        // Stable, for of equal symbols the first ones in the table count.
        found.sort_by_key(Packed::start);
        found.shrink_to_fit();
        Ok(Self { headers, symbols: found, names, next: 0, open: Vec::new(), nearest: None, position: 0, work: 0 })
    }

    /// Where the group of symbols ends that begins at `first`.
    fn group_end(&self, first: usize) -> usize {
        let start = self.symbols[first].start();
        first + self.symbols[first..].iter().take_while(|symbol| symbol.start() == start).count()
    }

    /// Names the addresses from the position on, as far as nothing changes.
    fn step(&mut self) -> Result<Option<Option<Named>>, FileError> {
        let position = self.position;
        let upcoming = self.symbols.get(self.next).map(Packed::start);
        if upcoming.is_some_and(|start| start <= position) {
            let first = self.next;
            self.next = self.group_end(first);
            let group = &self.symbols[first..self.next];
            self.nearest = group.iter().find(|symbol| symbol.table & 0x80 != 0).copied().or(self.nearest);
            let end = group.iter().map(Packed::end).max().unwrap_or_default();
            while self.open.pop_if(|open| open.end <= position).is_some() {}
            if self.open.len() >= NESTED_MAX {
                self.open.remove(0);
            }
            self.open.push(Open { first, behind: self.next, end });
            return Ok(Some(None));
        }
        let limit = upcoming.unwrap_or(u64::MAX);
        while let Some(Open { first, behind, end: _ }) = self.open.last().copied() {
            self.work += (behind - first) as u64;
            if self.work > WORK_MAX {
                return Err(FileError::Malformed("symbols overlap without end"));
            }
            let covering = || self.symbols[first..behind].iter().filter(|symbol| symbol.end() > position);
            let Some(end) = covering().map(Packed::end).min() else {
                self.open.pop();
                continue;
            };
            let mut aliases = Vec::new();
            for symbol in covering() {
                symbols::add_alias(&mut aliases, &Packed { table: symbol.table & 0x7f, ..*symbol }.unpack());
            }
            let end = end.min(limit);
            self.position = end;
            return Ok(Some(self.name(position, end, &aliases)?));
        }
        let Some(nearest) = self.nearest.filter(|nearest| nearest.size == 0) else {
            return Ok(upcoming.map(|start| {
                self.position = start;
                None
            }));
        };
        let section = self.headers.sections.get(usize::from(nearest.section));
        let reach = section.filter(|section| section.is_executable() && section.contains(position));
        let end = reach.map_or(0, |section| section.address.saturating_add(section.size)).min(limit);
        self.nearest = self.nearest.filter(|_| end == limit);
        if end <= position {
            return Ok(upcoming.map(|start| {
                self.position = start;
                None
            }));
        }
        self.position = end;
        let symbol = Packed { table: nearest.table & 0x7f, ..nearest }.unpack();
        Ok(Some(self.name(position, end, &[symbol])?))
    }

    fn name(&self, start: u64, end: u64, symbols: &[Symbol]) -> Result<Option<Named>, FileError> {
        let text = |symbol: &Symbol| {
            let Some(names) = self.names.get(symbol.table) else { return Ok(None) };
            let failed = || FileError::Read { what: "symbol name", source: std::io::Error::other("cannot be read") };
            let reader = Reader::new(names).at(symbol.name as usize);
            let name = reader.and_then(|mut reader| reader.until_nul(SYMBOL_NAME_BYTES_MAX));
            if names.has_failed() {
                return Err(failed());
            }
            Ok(name.ok())
        };
        let name = symbols::best_of(symbols, text)?;
        Ok(name.map(|name| Named { start, end, name: name.into() }))
    }
}

impl Iterator for Ranges<'_> {
    type Item = Result<Named, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Ends: each step goes on to another group, or to a higher position.
        loop {
            match self.step() {
                Ok(Some(Some(named))) => return Some(Ok(named)),
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Ranges of two sources: those of the second where the first has none.
pub(super) struct Layered<F: Iterator, S: Iterator> {
    first: Peekable<F>,
    second: Peekable<S>,
    /// What is left of a range of the second that the first interrupts.
    rest: Option<Named>,
    /// Where the last range of the first ended.
    reached: u64,
}

impl<F, S> Layered<F, S>
where
    F: Iterator<Item = Result<Named, FileError>>,
    S: Iterator<Item = Result<Named, FileError>>,
{
    pub(super) fn new(first: F, second: S) -> Self {
        Self { first: first.peekable(), second: second.peekable(), rest: None, reached: 0 }
    }

    fn take_first(&mut self) -> Option<Result<Named, FileError>> {
        let taken = self.first.next();
        if let Some(Ok(named)) = &taken {
            self.reached = named.end;
        }
        taken
    }

    /// What is left of the second's next range behind what the first has covered.
    fn take_second(&mut self) -> Option<Result<Named, FileError>> {
        loop {
            let named = match self.rest.take().map(Ok).or_else(|| self.second.next())? {
                Ok(named) => named,
                Err(error) => return Some(Err(error)),
            };
            let start = named.start.max(self.reached);
            if start < named.end {
                return Some(Ok(Named { start, ..named }));
            }
        }
    }
}

impl<F, S> Iterator for Layered<F, S>
where
    F: Iterator<Item = Result<Named, FileError>>,
    S: Iterator<Item = Result<Named, FileError>>,
{
    type Item = Result<Named, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let below = match self.take_second() {
            Some(Ok(named)) => named,
            Some(Err(error)) => return Some(Err(error)),
            None => return self.take_first(),
        };
        let above = match self.first.peek() {
            Some(Ok(above)) => above,
            Some(Err(_)) => return self.take_first(),
            None => return Some(Ok(below)),
        };
        if above.start <= below.start {
            self.rest = Some(below);
            return self.take_first();
        }
        if above.start < below.end {
            let middle = above.start;
            self.rest = Some(Named { start: middle, ..below.clone() });
            return Some(Ok(Named { end: middle, ..below }));
        }
        Some(Ok(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(start: u64, end: u64, name: &str) -> Result<Named, FileError> {
        Ok(Named { start, end, name: name.into() })
    }

    fn layered(first: &[(u64, u64)], second: &[(u64, u64)]) -> Vec<(u64, u64, String)> {
        let ranges = |ranges: &[(u64, u64)], name: &'static str| {
            ranges.iter().map(|(start, end)| named(*start, *end, name)).collect::<Vec<_>>()
        };
        let both = Layered::new(ranges(first, "first").into_iter(), ranges(second, "second").into_iter());
        both.map(|named| named.map(|named| (named.start, named.end, named.name.to_string())).unwrap()).collect()
    }

    #[test]
    fn the_second_shows_where_the_first_has_nothing() {
        let all = |ranges: &[(u64, u64, &str)]| -> Vec<(u64, u64, String)> {
            ranges.iter().map(|(start, end, name)| (*start, *end, (*name).to_owned())).collect()
        };
        assert_eq!(
            layered(&[(10, 20), (30, 40)], &[(0, 50)]),
            all(&[(0, 10, "second"), (10, 20, "first"), (20, 30, "second"), (30, 40, "first"), (40, 50, "second")])
        );
        // One range over several.
        assert_eq!(
            layered(&[(10, 45)], &[(20, 30), (30, 40), (40, 50), (60, 70)]),
            all(&[(10, 45, "first"), (45, 50, "second"), (60, 70, "second")])
        );
        assert_eq!(layered(&[], &[(1, 2)]), all(&[(1, 2, "second")]));
        assert_eq!(layered(&[(1, 2)], &[]), all(&[(1, 2, "first")]));
    }
}
