//! Sections of an ELF file for gimli, read in pieces: memory does not go with their size, and nothing is mapped.
//!
//! Each section keeps a bounded number of pieces. A compressed section is unpacked into a file without a name first.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    rc::Rc,
};

use gimli::{LittleEndian, ReaderOffsetId};
use object::elf;

use crate::enrich::symbolize::{
    bytes::{read_exact, u32_at, u64_at},
    elf::{ElfHeaders, Section},
    reason::FileError,
};

/// Bytes of a piece.
const PIECE_BYTES: usize = 8 << 10;

/// Pieces that are kept of a section: 1 MiB.
const PIECES_KEPT: usize = 128;

/// Most bytes of memory that unpacking Zstandard may take, as a power of two.
const ZSTANDARD_WINDOW_LOG_MAX: u32 = 23;

/// A piece, and its number.
type Kept = Option<(usize, Rc<[u8]>)>;

/// A part of a file that is read in pieces.
pub(super) struct Content {
    file: Option<Rc<File>>,
    offset: u64,
    length: usize,
    kept: RefCell<Vec<Kept>>,
    /// How often a piece was asked for.
    visits: Cell<u64>,
    /// Whether reading failed otherwise than by the file's end: then what gimli says of the rest is no fault of the file.
    failed: Cell<bool>,
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file: _, offset, length, kept: _, visits: _, failed } = self;
        formatter.debug_struct("Content").field("at", offset).field("length", length).field("failed", failed).finish()
    }
}

impl Content {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Self {
            file: None,
            offset: 0,
            length: 0,
            kept: RefCell::default(),
            visits: Cell::new(0),
            failed: Cell::new(false),
        }
    }

    /// A part of a file.
    pub(super) fn new(file: &Rc<File>, (offset, length): (u64, u64)) -> Self {
        let length = usize::try_from(length).unwrap_or(0);
        Self { file: Some(Rc::clone(file)), offset, length, ..Self::empty() }
    }

    /// A section as it is when unpacked. `scratch` gives an empty file without a name.
    ///
    /// # Errors
    /// If it is compressed and cannot be unpacked.
    pub(super) fn of_section(
        file: &Rc<File>,
        headers: &ElfHeaders,
        section: &Section,
        scratch: &dyn Fn() -> io::Result<File>,
    ) -> Result<Self, FileError> {
        if section.flags & u64::from(elf::SHF_COMPRESSED) == 0 {
            return Ok(Self::new(file, section.content()));
        }
        let (offset, length) = section.content();
        let header_bytes = if headers.is_64_bit { 24 } else { 12 };
        let header = read_exact(&**file, "compression header", offset, header_bytes, 24)?;
        let size = if headers.is_64_bit { u64_at(&header, 8) } else { u64::from(u32_at(&header, 4)) };
        let packed =
            Packed { file, at: offset.saturating_add(header_bytes), left: length.saturating_sub(header_bytes) };
        let failed = |source| FileError::Read { what: "compressed debug information", source };
        let mut unpacked = scratch().map_err(failed)?;
        let written = match u32_at(&header, 0) {
            elf::ELFCOMPRESS_ZLIB => copy(flate2::read::ZlibDecoder::new(packed).take(size), &mut unpacked),
            elf::ELFCOMPRESS_ZSTD => zstd::stream::read::Decoder::new(packed).and_then(|mut decoder| {
                decoder.window_log_max(ZSTANDARD_WINDOW_LOG_MAX)?;
                copy(decoder.take(size), &mut unpacked)
            }),
            _ => return Err(FileError::Malformed("unknown compression of debug information")),
        };
        if written.map_err(failed)? != size {
            return Err(FileError::Malformed("compressed debug information is shorter than it says"));
        }
        Ok(Self::new(&Rc::new(unpacked), (0, size)))
    }

    /// Whether the file could not be read.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// How often a piece was asked for: what reading has cost so far.
    pub(super) fn visits(&self) -> u64 {
        self.visits.get()
    }

    fn piece(&self, number: usize) -> gimli::Result<Rc<[u8]>> {
        self.visits.set(self.visits.get() + 1);
        let mut kept = self.kept.borrow_mut();
        if kept.is_empty() {
            kept.resize(PIECES_KEPT.min(self.length / PIECE_BYTES + 1), None);
        }
        let slot = number % kept.len();
        if let Some((known, piece)) = &kept[slot]
            && *known == number
        {
            return Ok(Rc::clone(piece));
        }
        let start = number * PIECE_BYTES;
        let file = self.file.as_ref().ok_or(gimli::Error::Io)?;
        // Almost always nobody else holds the piece that goes, and its memory serves again.
        let old = kept[slot].take().map(|(_, piece)| piece).filter(|piece| piece.len() == PIECE_BYTES);
        let wanted = self.length.saturating_sub(start).min(PIECE_BYTES);
        let mut piece = old.filter(|_| wanted == PIECE_BYTES).unwrap_or_else(|| vec![0; wanted].into());
        if Rc::get_mut(&mut piece).is_none() {
            piece = vec![0; wanted].into();
        }
        let Some(bytes) = Rc::get_mut(&mut piece) else { return Err(gimli::Error::Io) };
        if let Err(error) = file.read_exact_at(bytes, self.offset + start as u64) {
            self.failed.set(self.failed.get() || error.kind() != io::ErrorKind::UnexpectedEof);
            return Err(gimli::Error::Io);
        }
        kept[slot] = Some((number, Rc::clone(&piece)));
        Ok(piece)
    }
}

/// Copies through a small buffer.
fn copy(mut from: impl Read, to: &mut File) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(written),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                written += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The packed bytes of a section.
struct Packed<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A place in a section, and where its part ends.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    content: &'a Content,
    piece: Rc<[u8]>,
    piece_start: usize,
    position: usize,
    end: usize,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..{} of {:?}", self.position, self.end, self.content)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(content: &'a Content) -> Self {
        Self { content, piece: Rc::from([]), piece_start: 0, position: 0, end: content.length }
    }

    /// Where in its section it is.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Goes to another place of the section.
    pub(super) fn at(&self, position: usize) -> gimli::Result<Self> {
        let mut reader = Self { end: self.content.length, ..self.clone() };
        if position > reader.end {
            return Err(self.ended());
        }
        reader.position = position;
        Ok(reader)
    }

    /// The bytes before the next NUL, at most so many.
    pub(super) fn until_nul(&mut self, bytes_max: usize) -> gimli::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < bytes_max && self.position < self.end {
            let part = self.some()?;
            let part = &part[..part.len().min(bytes_max - bytes.len())];
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                bytes.extend(&part[..end]);
                break;
            }
            bytes.extend(part);
            self.position += part.len();
        }
        Ok(bytes)
    }

    fn ended(&self) -> gimli::Error {
        gimli::Error::UnexpectedEof(gimli::Reader::offset_id(self))
    }

    /// The bytes from here that are at hand: at least one, if it is not at its end.
    fn some(&mut self) -> gimli::Result<&[u8]> {
        if self.position >= self.end {
            return Err(self.ended());
        }
        let at = self.position.wrapping_sub(self.piece_start);
        if at >= self.piece.len() {
            let number = self.position / PIECE_BYTES;
            self.piece = self.content.piece(number)?;
            self.piece_start = number * PIECE_BYTES;
        }
        let at = self.position - self.piece_start;
        let length = (self.end - self.position).min(self.piece.len() - at);
        Ok(&self.piece[at..at + length])
    }
}

impl gimli::Reader for Reader<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.end - self.position
    }

    fn empty(&mut self) {
        self.end = self.position;
    }

    fn truncate(&mut self, length: usize) -> gimli::Result<()> {
        if length > self.len() {
            return Err(self.ended());
        }
        self.end = self.position + length;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.position.saturating_sub(base.position)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.position as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let position = usize::try_from(id.0).ok()?;
        (self.position..=self.end).contains(&position).then(|| position - self.position)
    }

    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let mut reader = self.clone();
        loop {
            let part = reader.some()?;
            if let Some(at) = part.iter().position(|known| *known == byte) {
                return Ok(reader.position + at - self.position);
            }
            let length = part.len();
            reader.position += length;
        }
    }

    fn skip(&mut self, length: usize) -> gimli::Result<()> {
        if length > self.len() {
            return Err(self.ended());
        }
        self.position += length;
        Ok(())
    }

    fn split(&mut self, length: usize) -> gimli::Result<Self> {
        let mut first = self.clone();
        first.truncate(length)?;
        self.position += length;
        Ok(first)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        /// Most bytes that gimli is given at once: names and paths.
        const SLICE_BYTES_MAX: usize = 1 << 20;
        if self.len() > SLICE_BYTES_MAX {
            return Err(self.ended());
        }
        let mut bytes = vec![0; self.len()];
        self.clone().read_slice(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        let bytes = self.to_slice()?.into_owned();
        String::from_utf8(bytes).map(Cow::Owned).map_err(|_| gimli::Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        Ok(Cow::Owned(String::from_utf8_lossy(&self.to_slice()?).into_owned()))
    }

    #[inline]
    fn read_slice(&mut self, buffer: &mut [u8]) -> gimli::Result<()> {
        let length = buffer.len();
        let at = self.position.wrapping_sub(self.piece_start);
        if length <= self.end - self.position
            && let Some(bytes) = at.checked_add(length).and_then(|end| self.piece.get(at..end))
        {
            buffer.copy_from_slice(bytes);
            self.position += length;
            return Ok(());
        }
        self.read_slowly(buffer)
    }

    #[inline]
    fn read_u8(&mut self) -> gimli::Result<u8> {
        let at = self.position.wrapping_sub(self.piece_start);
        if self.position < self.end
            && let Some(byte) = self.piece.get(at)
        {
            self.position += 1;
            return Ok(*byte);
        }
        let mut byte = [0];
        self.read_slowly(&mut byte)?;
        Ok(byte[0])
    }
}

impl Reader<'_> {
    #[cold]
    fn read_slowly(&mut self, mut buffer: &mut [u8]) -> gimli::Result<()> {
        if buffer.len() > self.end - self.position {
            return Err(self.ended());
        }
        while !buffer.is_empty() {
            let part = self.some()?;
            let (now, later) = buffer.split_at_mut(part.len().min(buffer.len()));
            now.copy_from_slice(&part[..now.len()]);
            self.position += now.len();
            buffer = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gimli::Reader as _;

    use super::*;

    fn content(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Content::new(&Rc::new(file), (3, bytes.len() as u64 - 3))
    }

    #[test]
    fn reads_across_pieces() {
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES as u32).flat_map(u32::to_le_bytes).collect();
        let content = content(&bytes);
        let bytes = &bytes[3..];
        let mut reader = Reader::new(&content);
        let mut at = 0;
        for length in (1..2_000).cycle() {
            let Some(expected) = bytes.get(at..at + length) else { break };
            let mut buffer = vec![0; length];
            reader.read_slice(&mut buffer).unwrap();
            assert_eq!(buffer, expected);
            at += length;
        }
        assert_eq!(reader.len(), bytes.len() - at);
        let mut reader = reader.at(PIECE_BYTES - 2).unwrap();
        assert_eq!(reader.read_u32().unwrap(), u32_at(bytes, PIECE_BYTES - 2));
        assert_eq!(reader.find(0xff).unwrap(), bytes[PIECE_BYTES + 2..].iter().position(|byte| *byte == 0xff).unwrap());
        assert!(reader.skip(usize::MAX).is_err() && reader.split(bytes.len()).is_err());
        let mut rest = reader.split(10).unwrap();
        assert!(
            rest.read_u64().is_ok() && rest.read_u32().is_err() && rest.read_u16().is_ok() && rest.read_u8().is_err()
        );
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let content = Content::new(&Rc::new(file.try_clone().unwrap()), (0, 100));
        file.set_len(10).unwrap();
        assert_eq!(Reader::new(&content).read_u8(), Err(gimli::Error::Io));
        assert!(!content.has_failed());
    }
}
