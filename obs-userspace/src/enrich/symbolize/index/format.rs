//! The form of an index: numbers of variable length, texts, and tables of ranges.
//!
//! An index is a pool of texts and blocks, in the order in which they were met, and tables that lead into it:
//!
//! | table | entry | leads to |
//! |---|---|---|
//! | symbols | range | block of up to 32 ranges, each with a name |
//! | functions | range of a DWARF function | its name, if no symbol has one, and what was inlined into it |
//! | lines | range | block of up to 128 rows: address, file, line |
//! | units | offset | file names of a unit, as offsets |
//!
//! Offsets count from the beginning of the index; 0 is none.

use std::rc::Rc;

use super::pages::{Damaged, Fields, PAGE_BYTES, PageReader};
use crate::enrich::symbolize::bytes::{u32_at, u64_at};

/// Most bytes of a text.
const TEXT_BYTES_MAX: u64 = 8 << 10;

/// Bytes of an entry of a table of ranges: start, length, and offset with [`OVERLAPS`].
pub(super) const RANGE_BYTES: u64 = 16;

/// In an entry's offset: ranges that begin before this one may reach into it, or beyond.
pub(super) const OVERLAPS: u32 = 1 << 31;

/// In a row of lines: there is none up to the next row. (A row whose file is unknown still is one.)
pub(super) const GAP_FILE: u32 = u32::MAX;

/// How many ranges that overlap are looked at.
const OVERLAPPING_MAX: usize = 64;

/// Where a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) offset: u64,
    pub(super) count: u64,
}

/// What the header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) symbols: Table,
    pub(super) functions: Table,
    pub(super) lines: Table,
    pub(super) units: Table,
    /// The file's entry point.
    pub(super) entry: u64,
}

impl Contents {
    pub(super) fn to_fields(self) -> Fields {
        let Self { symbols, functions, lines, units, entry } = self;
        let mut fields = Fields::default();
        fields[0] = entry;
        for (pair, table) in fields[1..].chunks_exact_mut(2).zip([symbols, functions, lines, units]) {
            pair.copy_from_slice(&[table.offset, table.count]);
        }
        fields
    }

    pub(super) fn from_fields(fields: &Fields) -> Self {
        let table = |index: usize| Table { offset: fields[index], count: fields[index + 1] };
        Self { entry: fields[0], symbols: table(1), functions: table(3), lines: table(5), units: table(7) }
    }
}

/// An entry of a table of ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: u32,
    /// Where its block is; 0 if there is nothing to say.
    pub(super) block: u32,
}

impl Range {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.length.into())
    }

    pub(super) fn encode(&self) -> [u8; RANGE_BYTES as usize] {
        let mut bytes = [0; RANGE_BYTES as usize];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..].copy_from_slice(&self.block.to_le_bytes());
        bytes
    }
}

/// An entry of a table, which must be below its count.
fn entry(pages: &mut PageReader, table: Table, index: u64) -> Result<Range, Damaged> {
    let mut bytes = [0; RANGE_BYTES as usize];
    pages.read(table.offset.saturating_add(index.saturating_mul(RANGE_BYTES)), &mut bytes)?;
    Ok(Range { start: u64_at(&bytes, 0), length: u32_at(&bytes, 8), block: u32_at(&bytes, 12) })
}

/// The ranges that hold an address, the one that starts closest before it first, until `visit` takes one.
pub(super) fn find<T>(
    pages: &mut PageReader,
    table: Table,
    address: u64,
    mut visit: impl FnMut(&mut PageReader, Range) -> Result<Option<T>, Damaged>,
) -> Result<Option<T>, Damaged> {
    let (mut low, mut high) = (0, table.count);
    while low < high {
        let middle = low + (high - low) / 2;
        if entry(pages, table, middle)?.start <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for _ in 0..OVERLAPPING_MAX {
        let Some(index) = low.checked_sub(1) else { break };
        low = index;
        let range = entry(pages, table, index)?;
        let plain = Range { block: range.block & !OVERLAPS, ..range };
        if address < range.end()
            && let Some(found) = visit(pages, plain)?
        {
            return Ok(Some(found));
        }
        if range.block & OVERLAPS == 0 {
            break;
        }
    }
    Ok(None)
}

/// Appends a number, seven bits a byte, the lowest first.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 0x80")]
    bytes.push(number as u8);
}

/// Appends a difference.
pub(super) fn put_difference(bytes: &mut Vec<u8>, from: u64, to: u64) {
    put(bytes, fold(to.wrapping_sub(from).cast_signed()));
}

/// A number with a sign as one without, small if it is close to 0.
pub(super) fn fold(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// The reverse of [`fold`].
pub(super) fn unfold(number: u64) -> i64 {
    ((number >> 1) ^ (number & 1).wrapping_neg()).cast_signed()
}

/// Reads numbers and bytes, one behind the other.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pages: &'a mut PageReader,
    page: Rc<[u8; PAGE_BYTES]>,
    within: usize,
    offset: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(pages: &'a mut PageReader, offset: u64) -> Result<Self, Damaged> {
        let (page, within) = pages.page(offset)?;
        Ok(Self { pages, page, within, offset })
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        if self.within == PAGE_BYTES {
            (self.page, self.within) = self.pages.page(self.offset)?;
        }
        let byte = self.page[self.within];
        self.within += 1;
        self.offset += 1;
        Ok(byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged("number"))
    }

    pub(super) fn small_number(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.number()?).map_err(|_| Damaged("number"))
    }

    /// The number that lies at a stored difference from another one.
    pub(super) fn difference(&mut self, from: u64) -> Result<u64, Damaged> {
        Ok(from.wrapping_add_signed(unfold(self.number()?)))
    }

    /// A text, behind its length.
    pub(super) fn text(&mut self) -> Result<String, Damaged> {
        let length = self.number()?;
        if length > TEXT_BYTES_MAX {
            return Err(Damaged("length of a text"));
        }
        let bytes = (0..length).map(|_| self.byte()).collect::<Result<Vec<u8>, Damaged>>()?;
        String::from_utf8(bytes).map_err(|_| Damaged("text"))
    }
}

/// Appends a text, cut to what may be stored.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX as usize)];
    put(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}
