//! A file of pages with checksums: written from the front to the back, read anywhere.
//!
//! The first page is the header's; behind the last one lie the checksums of all. A page's number goes into its checksum,
//! so that a page in another's place is noticed too. What is damaged gives [`Damaged`], never other bytes.

use std::{fs::File, io, os::unix::fs::FileExt, rc::Rc};

use crate::enrich::symbolize::bytes::{u32_at, u64_at};

/// Bytes of a page: the least that is read and checked.
pub(super) const PAGE_BYTES: usize = 4_096;

/// Changes whenever the form of an index, or what it says of the same file, does. Others are made anew.
const MAGIC: &[u8; 8] = b"obsidx01";

/// Most bytes of one index, and so of what an offset in it can be.
pub const INDEX_BYTES_MAX: u64 = 32 << 20;

/// Most numbers in a header.
const FIELDS: usize = 16;

/// Where in the first page the text begins that says of what the index is.
const IDENTITY_AT: usize = 24 + FIELDS * 8;

/// Most bytes of that text.
const IDENTITY_BYTES_MAX: usize = 1_024;

/// Pages that are kept while an index is read.
const PAGES_KEPT: usize = 512;

/// What was read is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("damaged index: {0}")]
pub(in super::super) struct Damaged(pub(super) &'static str);

/// The header's numbers: what they mean is the business of [`super::format`].
pub(super) type Fields = [u64; FIELDS];

/// Writes pages.
#[derive(Debug)]
pub(super) struct PageWriter {
    file: File,
    page: Vec<u8>,
    checksums: Vec<u32>,
}

impl PageWriter {
    /// Begins behind the header's page of an empty file.
    pub(super) fn new(file: File) -> Self {
        Self { file, page: Vec::with_capacity(PAGE_BYTES), checksums: vec![0] }
    }

    /// The offset at which the next byte will lie.
    pub(super) fn position(&self) -> u64 {
        (self.checksums.len() * PAGE_BYTES + self.page.len()) as u64
    }

    /// Appends bytes; returns where.
    ///
    /// # Errors
    /// If they cannot be written, or the index gets too large.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<u32> {
        let position = self.position();
        if position + bytes.len() as u64 > INDEX_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the index exceeds its limit"));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PAGE_BYTES - self.page.len()));
            self.page.extend(now);
            bytes = later;
            if self.page.len() == PAGE_BYTES {
                self.flush()?;
            }
        }
        Ok(u32::try_from(position).unwrap_or(u32::MAX))
    }

    /// Fills the page that was begun.
    pub(super) fn align(&mut self) -> io::Result<()> {
        if self.page.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.page.resize(PAGE_BYTES, 0);
        let number = self.checksums.len();
        self.file.write_all_at(&self.page, (number * PAGE_BYTES) as u64)?;
        self.checksums.push(checksum(number, &self.page));
        self.page.clear();
        Ok(())
    }

    /// Writes the checksums and the header. `identity` says of which file the index is, and made from what.
    pub(super) fn finish(mut self, identity: &str, fields: &Fields) -> io::Result<()> {
        if identity.len() > IDENTITY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the identity is too long"));
        }
        self.align()?;
        let table: Vec<u8> = self.checksums[1..].iter().flat_map(|checksum| checksum.to_le_bytes()).collect();
        self.file.write_all_at(&table, (self.checksums.len() * PAGE_BYTES) as u64)?;
        let mut header = Vec::with_capacity(PAGE_BYTES);
        header.extend((self.checksums.len() as u64).to_le_bytes());
        header.extend(checksum(0, &table).to_le_bytes());
        header.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        header.extend(u32::try_from(identity.len()).unwrap_or_default().to_le_bytes());
        header.extend(identity.as_bytes());
        header.resize(PAGE_BYTES - 12, 0);
        let mut page = MAGIC.to_vec();
        page.extend(checksum(0, &header).to_le_bytes());
        page.extend(header);
        self.file.write_all_at(&page, 0)
    }
}

fn checksum(number: usize, bytes: &[u8]) -> u32 {
    let mut checksum = flate2::Crc::new();
    checksum.update(&(number as u64).to_le_bytes());
    checksum.update(bytes);
    checksum.sum()
}

/// Reads pages.
#[derive(Debug)]
pub(super) struct PageReader {
    file: File,
    checksums: Vec<u8>,
    kept: Vec<Option<(usize, Rc<[u8; PAGE_BYTES]>)>>,
}

impl PageReader {
    /// Opens an index, if it is the one of `identity`. `None` if it is of something else or of another version.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn open(file: File, identity: &str) -> Result<Option<(Self, Fields)>, Damaged> {
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0).map_err(|_| Damaged("no header"))?;
        if !page.starts_with(MAGIC) {
            return Ok(None);
        }
        if checksum(0, &page[12..]) != u32_at(&page, 8) {
            return Err(Damaged("header"));
        }
        let pages = usize::try_from(u64_at(&page, 12)).unwrap_or(usize::MAX);
        if pages == 0 || pages > INDEX_BYTES_MAX as usize / PAGE_BYTES + 1 {
            return Err(Damaged("number of pages"));
        }
        let mut fields = [0; FIELDS];
        for (index, field) in fields.iter_mut().enumerate() {
            *field = u64_at(&page, 24 + index * 8);
        }
        let length = (u32_at(&page, IDENTITY_AT) as usize).min(IDENTITY_BYTES_MAX);
        if page[IDENTITY_AT + 4..][..length] != *identity.as_bytes() {
            return Ok(None);
        }
        let mut checksums = vec![0; (pages - 1) * 4];
        file.read_exact_at(&mut checksums, (pages * PAGE_BYTES) as u64).map_err(|_| Damaged("no checksums"))?;
        if checksum(0, &checksums) != u32_at(&page, 20) {
            return Err(Damaged("checksums"));
        }
        Ok(Some((Self { file, checksums, kept: vec![None; PAGES_KEPT] }, fields)))
    }

    /// The page in which an offset lies, and where it lies in it.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub(super) fn page(&mut self, offset: u64) -> Result<(Rc<[u8; PAGE_BYTES]>, usize), Damaged> {
        let number = usize::try_from(offset / PAGE_BYTES as u64).map_err(|_| Damaged("offset"))?;
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below the size of a page")]
        let within = (offset % PAGE_BYTES as u64) as usize;
        let slot = number % PAGES_KEPT;
        if let Some((kept, page)) = &self.kept[slot]
            && *kept == number
        {
            return Ok((Rc::clone(page), within));
        }
        let place = number.checked_sub(1).and_then(|index| self.checksums.get(index * 4..index * 4 + 4));
        let expected = u32_at(place.ok_or(Damaged("offset"))?, 0);
        let mut page = [0; PAGE_BYTES];
        self.file.read_exact_at(&mut page, (number * PAGE_BYTES) as u64).map_err(|_| Damaged("cut short"))?;
        if checksum(number, &page) != expected {
            return Err(Damaged("page"));
        }
        let page = Rc::new(page);
        self.kept[slot] = Some((number, Rc::clone(&page)));
        Ok((page, within))
    }

    /// Fills a buffer.
    ///
    /// # Errors
    /// If there are not so many bytes, or they are damaged.
    pub(super) fn read(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Damaged> {
        while !buffer.is_empty() {
            let (page, within) = self.page(offset)?;
            let (now, later) = buffer.split_at_mut(buffer.len().min(PAGE_BYTES - within));
            now.copy_from_slice(&page[within..within + now.len()]);
            offset += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}
