//! Makes the table of a file from everything that it says of its code.

use crate::cfi::{Evaluator, Fault, Reader};
use crate::elf::{Block, DebugFrame, ElfImage, Machine};
use crate::error::BuildError;
use crate::fdes::{Ordered, Piece};
use crate::gaps::Gaps;
use crate::limits::{DEBUG_FRAME_BYTES_MAX, FUNCTIONS_PER_STEP};
use crate::table::{Assembly, UnwindTable};
use gimli::{BaseAddresses, EndianSlice, LittleEndian, UnwindSection, Vendor};
use obs_common::unwind_row::{CfaKind, RBX, Rule};
use std::borrow::Cow;
use std::io::Read as _;
use std::marker::PhantomData;

/// What building a table came across; no part of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Function descriptions in `.eh_frame` and `.debug_frame`.
    pub functions: u64,
    /// Rows that they have, before any are merged.
    pub rows_read: u64,
    /// Whether the linker's search table gave the order, so that nothing had to be sorted.
    pub ordered_by_header: bool,
    /// Descriptions that could not be read, or made no sense; what they would have covered has no information.
    pub functions_malformed: u64,
    /// Descriptions that exceeded a bound of [`crate::limits`]; what follows the bound has no information.
    pub functions_too_long: u64,
    /// Descriptions that begin within another one, which was cut there.
    pub functions_overlapping: u64,
    /// Gaps between functions that hold nothing but padding, for which the rule of the function before them stands.
    pub gaps_of_padding: u64,
    /// Functions that Go's own table described.
    pub go_functions: u64,
    /// Trampolines and stubs that were recognised by their instructions.
    pub stubs_recognised: u64,
    /// The compression method (`ch_type`) of a `.debug_frame` that is not read.
    pub debug_frame_compression: Option<u32>,
}

impl UnwindTable {
    /// Makes the table of an image.
    ///
    /// `.eh_frame` comes first; `.debug_frame`, and then Go's function table, cover what is left. Heap: the table (4
    /// bytes a row, at most [`obs_common::unwind_row::ROWS_MAX`] rows; its arrays grow by doubling), 16 bytes a function
    /// when a section has to be sorted, at most [`crate::limits::CIES_CACHED_MAX`] CIEs, and `.debug_frame` inflated
    /// when it is compressed, at most [`DEBUG_FRAME_BYTES_MAX`].
    ///
    /// # Errors
    /// When the image describes none of its code, or exceeds a bound.
    pub fn build(image: &ElfImage<'_>) -> Result<(Self, Notes), BuildError> {
        Self::build_in_steps(image, &mut || ())
    }

    /// As [`Self::build`]; calls `step` every [`FUNCTIONS_PER_STEP`] functions. Whoever mapped the image can let the memory
    /// go that was read since: most of the image is read once, from its beginning to its end.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_in_steps(image: &ElfImage<'_>, step: &mut dyn FnMut()) -> Result<(Self, Notes), BuildError> {
        let built = Self::build_following(image, false, step)?;
        let needs_rbx = |rule: &Rule| rule.cfa_kind == CfaKind::Register as u8 && rule.arg == RBX;
        // The few files that find a frame by rbx are small: the dynamic linker, and static programs that contain it.
        if image.machine() == Machine::X86_64 && built.0.rules().iter().any(needs_rbx) {
            return Self::build_following(image, true, step);
        }
        Ok(built)
    }

    fn build_following(
        image: &ElfImage<'_>,
        follow_rbx: bool,
        step: &mut dyn FnMut(),
    ) -> Result<(Self, Notes), BuildError> {
        let mut notes = Notes::default();
        let gaps = Gaps::new(image);
        let debug_frame = match image.debug_frame {
            None => None,
            // Go's says neither where a frame pointer is saved nor which functions end a goroutine's stack.
            Some(_) if gaps.has_information() => None,
            Some(DebugFrame::Plain(data)) => Some(Cow::Borrowed(data)),
            Some(DebugFrame::Compressed(object::elf::ELFCOMPRESS_ZLIB, bytes, data)) => inflate(bytes, data)?,
            Some(DebugFrame::Compressed(method, ..)) => {
                notes.debug_frame_compression = Some(method);
                None
            }
        };
        let bases = BaseAddresses::default();
        let bases = image.text_address.iter().fold(bases, |bases, address| bases.set_text(*address));
        let bases = image.got_address.iter().fold(bases, |bases, address| bases.set_got(*address));
        let mut eh = image.eh_frame.map(|block| eh_frame(image, block, bases.clone(), follow_rbx)).transpose()?;
        let mut debug =
            debug_frame.as_deref().map(|data| debug_frame_of(image, data, bases, follow_rbx)).transpose()?;
        if let Some(eh) = &eh {
            notes.functions += eh.len() as u64;
            notes.ordered_by_header = eh.by_header();
        }
        notes.functions += debug.as_ref().map_or(0, |debug| debug.len() as u64);

        if notes.functions == 0 && !gaps.has_information() {
            return Err(match notes.debug_frame_compression {
                Some(method) => BuildError::UnsupportedCompression(method),
                None => BuildError::NoInformation,
            });
        }
        let mut build = Build { image, table: Assembly::new(), gaps, notes, segment: 0, reached: 0 };
        merge(&mut build, eh.as_mut(), debug.as_mut(), step)?;
        build.finish_segments(u64::MAX)?;

        let Build { table, gaps, mut notes, .. } = build;
        for findings in [eh.map(|eh| eh.findings), debug.map(|debug| debug.findings)].into_iter().flatten() {
            notes.functions_malformed += findings.unreadable;
            notes.functions_overlapping += findings.overlapping;
        }
        notes.gaps_of_padding = gaps.padding;
        notes.go_functions = gaps.go_functions;
        notes.stubs_recognised = gaps.recognised;
        Ok((table.finish()?, notes))
    }
}

type EhFrame<'a> = gimli::EhFrame<Reader<'a>>;
type DebugFrameSection<'a> = gimli::DebugFrame<Reader<'a>>;

const fn vendor(machine: Machine) -> Vendor {
    match machine {
        Machine::X86_64 => Vendor::Default,
        Machine::Aarch64 => Vendor::AArch64,
    }
}

fn eh_frame<'a>(
    image: &ElfImage<'a>,
    block: Block<'a>,
    bases: BaseAddresses,
    follow_rbx: bool,
) -> Result<Ordered<'a, EhFrame<'a>>, BuildError> {
    let mut section = gimli::EhFrame::from(EndianSlice::new(block.data, LittleEndian));
    section.set_address_size(8);
    section.set_vendor(vendor(image.machine()));
    let bases = bases.set_eh_frame(block.address);
    let evaluator = Evaluator { section, bases, machine: image.machine(), follow_rbx, marker: PhantomData };
    Ordered::new(evaluator, block, image.eh_frame_hdr)
}

fn debug_frame_of<'d>(
    image: &ElfImage<'_>,
    data: &'d [u8],
    bases: BaseAddresses,
    follow_rbx: bool,
) -> Result<Ordered<'d, DebugFrameSection<'d>>, BuildError> {
    let mut section = gimli::DebugFrame::from(EndianSlice::new(data, LittleEndian));
    section.set_address_size(8);
    section.set_vendor(vendor(image.machine()));
    let evaluator = Evaluator { section, bases, machine: image.machine(), follow_rbx, marker: PhantomData };
    Ordered::new(evaluator, Block { address: 0, data }, None)
}

/// Inflates within the bound; bytes that cannot be inflated are as good as no section.
fn inflate(bytes: u64, data: &[u8]) -> Result<Option<Cow<'static, [u8]>>, BuildError> {
    if bytes > DEBUG_FRAME_BYTES_MAX {
        return Err(BuildError::DebugFrameTooLong);
    }
    let mut inflated = Vec::new();
    let read = flate2::read::ZlibDecoder::new(data).take(bytes).read_to_end(&mut inflated);
    Ok(read.ok().filter(|read| *read > 0).map(|_| Cow::Owned(inflated)))
}

/// Goes through both sections in address order; where both describe an address, `.eh_frame` does.
fn merge<'a, 'd>(
    build: &mut Build<'_, '_>,
    mut eh: Option<&mut Ordered<'a, EhFrame<'a>>>,
    mut debug: Option<&mut Ordered<'d, DebugFrameSection<'d>>>,
    step: &mut dyn FnMut(),
) -> Result<(), BuildError> {
    let mut eh_next = eh.as_mut().and_then(|eh| eh.next_piece());
    let mut debug_next = debug.as_mut().and_then(|debug| debug.next_piece());
    let mut functions = 0_u32;
    loop {
        functions = functions.wrapping_add(1);
        if functions.is_multiple_of(FUNCTIONS_PER_STEP) {
            step();
        }
        let eh_start = eh_next.as_ref().map(|piece| piece.start);
        match (&eh_next, &debug_next) {
            (Some(piece), other) if other.as_ref().is_none_or(|other| piece.start <= other.start) => {
                if let Some(eh) = &mut eh {
                    build.piece(eh, piece, piece.end)?;
                    eh_next = eh.next_piece();
                }
            }
            (_, Some(piece)) => {
                if let Some(debug) = &mut debug {
                    build.piece(debug, piece, piece.end.min(eh_start.unwrap_or(u64::MAX)))?;
                    debug_next = debug.next_piece();
                }
            }
            (_, None) => return Ok(()),
        }
    }
}

/// The state of the walk through a file's executable segments.
struct Build<'e, 'a> {
    image: &'e ElfImage<'a>,
    table: Assembly,
    gaps: Gaps<'e, 'a>,
    notes: Notes,
    /// The segment that the walk is in.
    segment: usize,
    /// The address up to which the segment is done.
    reached: u64,
}

impl Build<'_, '_> {
    /// Adds a description's rows, up to `end`, as far as they lie in executable segments and after what was added.
    fn piece<'s, S: UnwindSection<Reader<'s>>>(
        &mut self,
        section: &Ordered<'s, S>,
        piece: &Piece<'s>,
        end: u64,
    ) -> Result<(), BuildError> {
        let mut start = piece.start.max(self.reached);
        while start < end {
            self.finish_segments(start)?;
            let Some(segment) = self.image.executable_segments().get(self.segment) else { return Ok(()) };
            let segment_end = segment.address + segment.bytes;
            let low = start.max(segment.address);
            let high = end.min(segment_end);
            if low >= high {
                return Ok(());
            }
            self.gaps.fill(self.reached.max(segment.address), low, &mut self.table)?;
            let (table, notes) = (&mut self.table, &mut self.notes);
            let fault = section.rows(piece, (low, high), |address, rule| {
                notes.rows_read += 1;
                table.push(address, rule)
            })?;
            match fault {
                None => {}
                Some((from, fault)) => {
                    self.table.push(from, Rule::default())?;
                    match fault {
                        Fault::Malformed => self.notes.functions_malformed += 1,
                        Fault::TooLong => self.notes.functions_too_long += 1,
                    }
                }
            }
            self.table.push(high, Rule::default())?;
            self.reached = high;
            start = high;
        }
        Ok(())
    }

    /// Fills what is left of the segments that end before an address.
    fn finish_segments(&mut self, before: u64) -> Result<(), BuildError> {
        while let Some(segment) = self.image.executable_segments().get(self.segment) {
            let end = segment.address + segment.bytes;
            if end > before {
                return Ok(());
            }
            self.gaps.fill(self.reached.max(segment.address), end, &mut self.table)?;
            self.table.push(end, Rule::default())?;
            self.reached = self.reached.max(end);
            self.segment += 1;
        }
        Ok(())
    }
}
