//! The envelope of everything on disk: a file's header, and frames with length and checksum.

use std::{fs::File, io, os::unix::fs::FileExt};

use zstd::zstd_safe::CParameter;

use super::{
    bytes::{Malformed, Parsed, UNFINISHED},
    error::{FileError, StoreError},
    limits::{BUCKET_SECONDS, FRAME_BYTES_MAX, VERSION},
};

pub(super) const FILE_HEADER_BYTES: usize = 48;
pub(super) const FRAME_HEADER_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"OBSSTORE";

/// Something that can be read at any place: a file, or bytes in memory.
pub trait ReadAt {
    /// Fills the buffer from that place on.
    ///
    /// # Errors
    ///
    /// When there is not that much, or the operating system refuses.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// How much there is, in bytes.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let source = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Which of the two kinds of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum FileKind {
    /// Windows as they came; grows.
    Journal,
    /// Finished, by columns; never changes.
    Block,
}

impl FileKind {
    fn code(self) -> u8 {
        match self {
            Self::Journal => 1,
            Self::Block => 2,
        }
    }
}

/// What every file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) kind: FileKind,
    /// A block from which the windows were removed, leaving the roll-up.
    pub(super) is_coarse: bool,
    /// The number that is also in its name.
    pub(super) sequence: u64,
    /// Since which start of the machine its boot-time clock counts.
    pub(super) boot_id: [u8; 16],
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let Self { kind, is_coarse, sequence, boot_id } = *self;
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = kind.code();
        bytes[11] = u8::from(is_coarse);
        bytes[12..16].copy_from_slice(&(BUCKET_SECONDS as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        bytes[24..40].copy_from_slice(&boot_id);
        let checksum = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a file.
    pub(super) fn read(source: &(impl ReadAt + ?Sized)) -> Result<Self, FileError> {
        let mut bytes = [0; FILE_HEADER_BYTES];
        source.read_at(&mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::NotOurs("it is shorter than a header"),
            _ => FileError::Read(error),
        })?;
        // Magic and version stand at the same place in every version, the rest need not.
        if bytes[..8] != MAGIC {
            return Err(FileError::NotOurs("it does not begin with OBSSTORE"));
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found > VERSION {
            return Err(FileError::NewerVersion { found });
        }
        let damaged = |what| FileError::Damaged { offset: 0, what: Malformed(what) };
        if bytes[44..] != crc32fast::hash(&bytes[..44]).to_le_bytes() {
            return Err(damaged("the header's checksum is wrong"));
        }
        if found == 0 {
            return Err(damaged("there is no version 0"));
        }
        if bytes[12..16] != (BUCKET_SECONDS as u32).to_le_bytes() {
            return Err(damaged("its roll-up is of another length"));
        }
        let kind = match bytes[10] {
            1 => FileKind::Journal,
            2 => FileKind::Block,
            _ => return Err(damaged("it is of no known kind")),
        };
        let is_coarse = match bytes[11] {
            0 => false,
            1 => true,
            _ => return Err(damaged("it has unknown flags")),
        };
        let (mut sequence, mut boot_id) = ([0; 8], [0; 16]);
        sequence.copy_from_slice(&bytes[16..24]);
        boot_id.copy_from_slice(&bytes[24..40]);
        Ok(Self { kind, is_coarse, sequence: u64::from_le_bytes(sequence), boot_id })
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Section {
    Window,
    Strings,
    Code,
    Stacks,
    Who,
    Series,
    Windows,
    Events,
    SamplesCoarse,
    PointsCoarse,
    SamplesFine,
    PointsFine,
    Index,
}

impl Section {
    /// In the order of their codes, from 1.
    pub(super) const ALL: [Self; 13] = [
        Self::Window,
        Self::Strings,
        Self::Code,
        Self::Stacks,
        Self::Who,
        Self::Series,
        Self::Windows,
        Self::Events,
        Self::SamplesCoarse,
        Self::PointsCoarse,
        Self::SamplesFine,
        Self::PointsFine,
        Self::Index,
    ];

    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(super) fn from_code(code: u8) -> Parsed<Self> {
        let index = usize::from(code).checked_sub(1);
        index.and_then(|index| Self::ALL.get(index)).copied().ok_or(Malformed("a frame is of no known kind"))
    }

    /// What it is called where sizes are told.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Window => "windows as they came",
            Self::Strings => "strings",
            Self::Code => "frames",
            Self::Stacks => "stacks",
            Self::Who => "processes and samples' keys",
            Self::Series => "series' labels",
            Self::Windows => "times",
            Self::Events => "events",
            Self::SamplesCoarse => "samples, roll-up",
            Self::PointsCoarse => "points, roll-up",
            Self::SamplesFine => "samples",
            Self::PointsFine => "points",
            Self::Index => "index",
        }
    }

    /// Whether it holds windows as they came, which the roll-up can stand for.
    pub(super) fn is_fine(self) -> bool {
        matches!(self, Self::SamplesFine | Self::PointsFine)
    }
}

/// How a frame's contents are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Plain,
    Zstd,
}

/// What stands before a frame's contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) section: Section,
    stored_bytes: usize,
    raw_bytes: usize,
    codec: Codec,
    checksum: u32,
}

impl FrameHeader {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Parsed<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (stored_bytes, raw_bytes) = (word(0) as usize, word(4) as usize);
        if stored_bytes > FRAME_BYTES_MAX || raw_bytes > FRAME_BYTES_MAX {
            return Err(Malformed("a frame is longer than frames may be"));
        }
        let codec = match bytes[9] {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            _ => return Err(Malformed("a frame is stored in no known way")),
        };
        if bytes[10..12] != [0, 0] {
            return Err(Malformed("a frame has unknown flags"));
        }
        Ok(Self { section: Section::from_code(bytes[8])?, stored_bytes, raw_bytes, codec, checksum: word(12) })
    }

    /// The frame's length with its header.
    pub(super) fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES + self.stored_bytes) as u64
    }
}

/// Whether this could be the header of a window's frame, as far as its fixed bytes tell.
pub(super) fn is_like_window(header: &[u8]) -> bool {
    matches!(header.get(8..12), Some([section, 0 | 1, 0, 0]) if *section == Section::Window.code())
}

/// How far back a compressed frame may refer, and how much is remembered for that, as powers of two: what bounds the memory
/// of compression, at one megabyte.
const WINDOW_LOG: u32 = 18;
const TABLE_LOG: u32 = 16;

/// Makes frames.
pub(super) struct FrameWriter {
    compressor: zstd::bulk::Compressor<'static>,
}

impl FrameWriter {
    pub(super) fn new(level: i32) -> Result<Self, StoreError> {
        let error = |cause| StoreError::Compress { bytes: 0, cause };
        let mut compressor = zstd::bulk::Compressor::new(level).map_err(error)?;
        for parameter in
            [CParameter::WindowLog(WINDOW_LOG), CParameter::HashLog(TABLE_LOG), CParameter::ChainLog(TABLE_LOG)]
        {
            compressor.set_parameter(parameter).map_err(error)?;
        }
        Ok(Self { compressor })
    }

    /// Appends a frame. Returns its length.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, section: Section, raw: &[u8]) -> Result<usize, StoreError> {
        let error = |cause| StoreError::Compress { bytes: raw.len(), cause };
        if raw.len() > FRAME_BYTES_MAX {
            return Err(error(io::ErrorKind::FileTooLarge.into()));
        }
        let compressed = self.compressor.compress(raw).map_err(error)?;
        let (codec, stored) = if compressed.len() < raw.len() { (1, &compressed[..]) } else { (0, raw) };
        put_stored(out, section, codec, raw.len(), stored);
        Ok(FRAME_HEADER_BYTES + stored.len())
    }
}

fn put_stored(out: &mut Vec<u8>, section: Section, codec: u8, raw_bytes: usize, stored: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(&(raw_bytes as u32).to_le_bytes());
    out.extend_from_slice(&[section.code(), codec, 0, 0]);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out[start..]);
    hasher.update(stored);
    out.extend_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(stored);
}

/// Reads one frame after another; its buffers are used again.
#[derive(Default)]
pub(super) struct FrameReader {
    stored: Vec<u8>,
    raw: Vec<u8>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl FrameReader {
    /// Reads the frame that begins at `offset` and ends at `end` or before: its header and contents.
    pub(super) fn read(
        &mut self,
        source: &(impl ReadAt + ?Sized),
        offset: u64,
        end: u64,
    ) -> Result<(FrameHeader, &[u8]), FileError> {
        let damaged = |what| FileError::Damaged { offset, what };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let available = end.saturating_sub(offset);
        if available < FRAME_HEADER_BYTES as u64 {
            return Err(damaged(UNFINISHED));
        }
        source.read_at(&mut bytes, offset).map_err(FileError::Read)?;
        let header = FrameHeader::parse(&bytes).map_err(damaged)?;
        if header.frame_bytes() > available {
            return Err(damaged(UNFINISHED));
        }
        self.stored.resize(header.stored_bytes, 0);
        source.read_at(&mut self.stored, offset + FRAME_HEADER_BYTES as u64).map_err(FileError::Read)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..12]);
        hasher.update(&self.stored);
        if hasher.finalize() != header.checksum {
            return Err(damaged(Malformed("a frame's checksum is wrong")));
        }
        let raw = match header.codec {
            Codec::Plain => &self.stored,
            Codec::Zstd => {
                self.decompress(header.raw_bytes).map_err(damaged)?;
                &self.raw
            }
        };
        if raw.len() != header.raw_bytes {
            return Err(damaged(Malformed("a frame's contents have another length than it says")));
        }
        Ok((header, raw))
    }

    fn decompress(&mut self, raw_bytes: usize) -> Parsed<()> {
        const FAILED: Malformed = Malformed("a frame's contents cannot be decompressed");
        if self.decompressor.is_none() {
            self.decompressor = Some(zstd::bulk::Decompressor::new().map_err(|_| FAILED)?);
        }
        let decompressor = self.decompressor.as_mut().ok_or(FAILED)?;
        self.raw.clear();
        // No more than this is ever written: `raw_bytes` has a bound.
        self.raw.reserve(raw_bytes);
        decompressor.decompress_to_buffer(&self.stored, &mut self.raw).map_err(|_| FAILED)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: FileHeader =
        FileHeader { kind: FileKind::Journal, is_coarse: false, sequence: 0x0102, boot_id: [7; 16] };

    #[test]
    fn a_header_has_the_bytes_that_the_format_says() {
        let bytes = HEADER.encode();
        assert_eq!(&bytes[..12], b"OBSSTORE\x01\x00\x01\x00");
        assert_eq!(&bytes[12..24], [0x58, 2, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..40], [7; 16]);
        assert_eq!(FileHeader::read(&bytes[..]).unwrap(), HEADER);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let good = HEADER.encode();
        for bit in 0..FILE_HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::read(&bytes[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named_whatever_else_changed() {
        let mut bytes = HEADER.encode();
        bytes[8] = 9;
        bytes[30] ^= 1;
        assert!(matches!(FileHeader::read(&bytes[..]), Err(FileError::NewerVersion { found: 9 })));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_frame_is_found() {
        for raw in [&b"short"[..], &[42; 300][..]] {
            let mut good = Vec::new();
            FrameWriter::new(3).unwrap().put(&mut good, Section::Window, raw).unwrap();
            let mut reader = FrameReader::default();
            let (header, contents) = reader.read(&good[..], 0, good.len() as u64).unwrap();
            assert_eq!((header.section, contents), (Section::Window, raw));
            for bit in 0..good.len() * 8 {
                let mut bytes = good.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(reader.read(&bytes[..], 0, bytes.len() as u64).is_err(), "bit {bit}");
            }
            for length in 0..good.len() {
                assert!(reader.read(&good[..length], 0, length as u64).is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn a_frame_cannot_grow_beyond_what_it_says() {
        let mut bytes = Vec::new();
        FrameWriter::new(3).unwrap().put(&mut bytes, Section::Window, &[0; 1 << 20]).unwrap();
        // The same contents, said to be shorter, with the right checksum.
        let stored = bytes.split_off(FRAME_HEADER_BYTES);
        let mut lying = Vec::new();
        put_stored(&mut lying, Section::Window, 1, 100, &stored);
        let mut reader = FrameReader::default();
        assert!(reader.read(&lying[..], 0, lying.len() as u64).is_err());
        assert!(reader.raw.capacity() < 1 << 16);
    }

    #[test]
    fn codes_of_sections_lead_back() {
        for section in Section::ALL {
            assert_eq!(Section::from_code(section.code()), Ok(section));
        }
        assert!(Section::from_code(0).is_err() && Section::from_code(14).is_err());
    }
}
