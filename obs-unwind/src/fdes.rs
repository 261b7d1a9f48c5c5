//! Reads the function descriptions (FDEs) of one section in the order of their addresses.

use crate::cfi::{Evaluator, Fault, Fde, Prepared, Reader, State};
use crate::elf::Block;
use crate::error::BuildError;
use crate::limits::{CIES_CACHED_MAX, FDES_MAX};
use gimli::{CieOrFde, UnwindSection};
use obs_common::unwind_row::Rule;
use std::collections::HashMap;

/// A function's description, and the addresses that it is used for: from its start to its end, or to the start of the
/// next description if that comes first (which is what a search for the nearest start would find).
pub(crate) struct Piece<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    fde: Fde<'a>,
    initial: Result<State, Fault>,
}

/// What reading came across.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Descriptions that cannot be read.
    pub(crate) unreadable: u64,
    /// Descriptions that begin within another one.
    pub(crate) overlapping: u64,
}

/// Where a description is, for sorting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    start: u64,
    offset: usize,
}

/// The order in which descriptions are read.
enum Order<'a> {
    /// The search table that the linker made, which was found to be sorted and true.
    Header { table: SearchTable<'a>, next: usize },
    /// Places that were collected and sorted: 16 bytes each.
    Sorted { places: Vec<Place>, next: usize },
}

/// Reads one section in address order.
pub(crate) struct Ordered<'a, S: UnwindSection<Reader<'a>>> {
    evaluator: Evaluator<'a, S>,
    cies: HashMap<usize, Prepared<'a>>,
    order: Order<'a>,
    ahead: Option<Piece<'a>>,
    pub(crate) findings: Findings,
}

impl<'a, S: UnwindSection<Reader<'a>>> Ordered<'a, S> {
    /// Prepares to read a section; `header` is its search table, if it has one.
    pub(crate) fn new(
        evaluator: Evaluator<'a, S>,
        section: Block<'a>,
        header: Option<Block<'a>>,
    ) -> Result<Self, BuildError> {
        let mut this = Self {
            evaluator,
            cies: HashMap::new(),
            order: Order::Sorted { places: Vec::new(), next: 0 },
            ahead: None,
            findings: Findings::default(),
        };
        this.order = match header.and_then(|header| SearchTable::of(header, section)) {
            Some(table) if table.len() <= FDES_MAX => Order::Header { table, next: 0 },
            Some(_) => return Err(BuildError::TooManyFunctions),
            None => Order::Sorted { places: this.collect()?, next: 0 },
        };
        this.ahead = this.read();
        Ok(this)
    }

    /// Whether the linker's search table gave the order.
    pub(crate) fn by_header(&self) -> bool {
        matches!(self.order, Order::Header { .. })
    }

    /// Descriptions in the section.
    pub(crate) fn len(&self) -> usize {
        match &self.order {
            Order::Header { table, .. } => table.len(),
            Order::Sorted { places, .. } => places.len(),
        }
    }

    /// The next description, cut where the one after it begins.
    pub(crate) fn next_piece(&mut self) -> Option<Piece<'a>> {
        loop {
            let mut piece = self.ahead.take()?;
            self.ahead = self.read();
            if let Some(ahead) = &self.ahead
                && ahead.start < piece.end
            {
                self.findings.overlapping += 1;
                piece.end = ahead.start;
            }
            if piece.start < piece.end {
                return Some(piece);
            }
        }
    }

    /// Evaluates a piece within `[start, end)`; see [`Evaluator::rows`].
    pub(crate) fn rows<E>(
        &self,
        piece: &Piece<'a>,
        within: (u64, u64),
        sink: impl FnMut(u64, Rule) -> Result<(), E>,
    ) -> Result<Option<(u64, Fault)>, E> {
        self.evaluator.rows(&piece.fde, piece.initial, within, sink)
    }

    /// Reads the next description that covers anything.
    fn read(&mut self) -> Option<Piece<'a>> {
        loop {
            let offset = match &mut self.order {
                Order::Header { table, next } => {
                    let offset = table.offset(*next)?;
                    *next += 1;
                    offset
                }
                Order::Sorted { places, next } => {
                    let place = places.get(*next)?;
                    *next += 1;
                    place.offset
                }
            };
            match self.parse_at(offset) {
                Some(piece) if piece.start < piece.end => return Some(piece),
                Some(_) => {}
                None => self.findings.unreadable += 1,
            }
        }
    }

    fn parse_at(&mut self, offset: usize) -> Option<Piece<'a>> {
        let partial = self.evaluator.section.partial_fde_from_offset(&self.evaluator.bases, offset.into()).ok()?;
        parse(&self.evaluator, &mut self.cies, &partial)
    }

    fn collect(&mut self) -> Result<Vec<Place>, BuildError> {
        let mut places = Vec::new();
        let bases = self.evaluator.bases.clone();
        let mut entries = self.evaluator.section.entries(&bases);
        loop {
            match entries.next() {
                Ok(Some(CieOrFde::Cie(_))) => {}
                Ok(Some(CieOrFde::Fde(partial))) => match parse(&self.evaluator, &mut self.cies, &partial) {
                    Some(piece) if piece.start < piece.end => {
                        if places.len() == FDES_MAX {
                            return Err(BuildError::TooManyFunctions);
                        }
                        places.push(Place { start: piece.start, offset: partial.offset() });
                    }
                    Some(_) => {}
                    None => self.findings.unreadable += 1,
                },
                Ok(None) => break,
                // The entries after one that cannot be read cannot be found.
                Err(_) => {
                    self.findings.unreadable += 1;
                    break;
                }
            }
        }
        places.sort_unstable();
        Ok(places)
    }
}

/// Parses a description, with its CIE from the cache.
fn parse<'a, S: UnwindSection<Reader<'a>>>(
    evaluator: &Evaluator<'a, S>,
    cies: &mut HashMap<usize, Prepared<'a>>,
    partial: &gimli::PartialFrameDescriptionEntry<'_, S, Reader<'a>>,
) -> Option<Piece<'a>> {
    let offset: usize = gimli::UnwindOffset::into(partial.cie_offset());
    if !cies.contains_key(&offset) {
        let cie = evaluator.section.cie_from_offset(&evaluator.bases, partial.cie_offset()).ok()?;
        if cies.len() == CIES_CACHED_MAX {
            cies.clear();
        }
        cies.insert(offset, evaluator.prepare(cie));
    }
    let prepared = cies.get(&offset)?;
    let fde = partial.parse(|_, _, _| Ok(prepared.cie.clone())).ok()?;
    let start = fde.initial_address();
    let end = start.checked_add(fde.len())?;
    Some(Piece { start, end, initial: prepared.initial, fde })
}

/// The search table in `.eh_frame_hdr`, in the one form that linkers make: pairs of a start address and the address of
/// its description, both 4 signed bytes relative to the header, sorted.
struct SearchTable<'a> {
    pairs: &'a [[u8; 8]],
    header_address: u64,
    section_address: u64,
}

impl<'a> SearchTable<'a> {
    const VERSION: u8 = 1;
    const FORM: u8 = gimli::DW_EH_PE_datarel.0 | gimli::DW_EH_PE_sdata4.0;

    /// The table, if it holds every description of the section, in order, with the addresses that the descriptions have
    /// themselves. Anything else is no error: the descriptions are sorted instead.
    fn of(header: Block<'a>, section: Block<'a>) -> Option<Self> {
        let (fixed, rest) = header.data.split_first_chunk::<12>()?;
        let form =
            [Self::VERSION, gimli::DW_EH_PE_pcrel.0 | gimli::DW_EH_PE_sdata4.0, gimli::DW_EH_PE_udata4.0, Self::FORM];
        if fixed[..4] != form {
            return None;
        }
        let count = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as usize;
        let (pairs, _) = rest.as_chunks::<8>();
        let this =
            Self { pairs: pairs.get(..count)?, header_address: header.address, section_address: section.address };
        (count > 0 && this.is_true_of(section.data)).then_some(this)
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn pair(&self, index: usize) -> Option<(u64, u64)> {
        let [a, b, c, d, e, f, g, h] = *self.pairs.get(index)?;
        let address = |bytes| self.header_address.wrapping_add_signed(i64::from(i32::from_le_bytes(bytes)));
        Some((address([a, b, c, d]), address([e, f, g, h])))
    }

    fn offset(&self, index: usize) -> Option<usize> {
        let (_, entry) = self.pair(index)?;
        usize::try_from(entry.wrapping_sub(self.section_address)).ok()
    }

    /// Checks the order, each start against the description's own (in the usual form: 4 bytes relative to where they
    /// stand, right after the length and the CIE's place), and that no description is missing.
    fn is_true_of(&self, section: &[u8]) -> bool {
        let mut previous = None;
        for index in 0..self.len() {
            let (Some((start, entry)), Some(offset)) = (self.pair(index), self.offset(index)) else { return false };
            let field = offset.checked_add(8).and_then(|at| section.get(at..)?.first_chunk::<4>());
            let Some(field) = field else { return false };
            let own = entry.wrapping_add(8).wrapping_add_signed(i64::from(i32::from_le_bytes(*field)));
            if own != start || previous.is_some_and(|previous| previous >= start) {
                return false;
            }
            previous = Some(start);
        }
        count_descriptions(section) == Some(self.len())
    }
}

/// Counts the descriptions of an `.eh_frame` by their lengths alone; `None` when that cannot be done.
fn count_descriptions(section: &[u8]) -> Option<usize> {
    let mut rest = section;
    let mut count = 0;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            break;
        }
        // 0xffff_ffff announces the 64-bit form, which no linker uses here.
        let entry = after.get(..length)?;
        let (cie, _) = entry.split_first_chunk::<4>()?;
        count += usize::from(*cie != [0; 4]);
        rest = &after[length..];
    }
    Some(count)
}
