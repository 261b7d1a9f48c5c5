//! Reading at an offset, from a file or from memory, never more than asked for.
//!
//! Files are read, not mapped: whoever owns a mapped file can shorten it, and the next look at its memory kills the reader.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::reason::FileError;

/// Something that can be read at an offset.
pub(super) trait Source {
    /// Reads some bytes at an offset, as `read_at` of [`FileExt`].
    fn read_some(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// How many bytes there are.
    fn length(&self) -> io::Result<u64>;
}

impl Source for File {
    fn read_some(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Source for [u8] {
    fn read_some(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Reads exactly `length` bytes.
///
/// # Errors
/// If reading fails, the source ends before, or `length` is above `max`.
pub(super) fn read_exact(
    source: &(impl Source + ?Sized),
    what: &'static str,
    offset: u64,
    length: u64,
    max: u64,
) -> Result<Vec<u8>, FileError> {
    if length > max {
        return Err(FileError::TooLarge { what, size: length, max });
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| FileError::Malformed(what))?];
    if read_up_to(source, what, offset, &mut bytes)? < bytes.len() {
        return Err(FileError::Malformed(what));
    }
    Ok(bytes)
}

/// Fills as much of a buffer as there is.
///
/// # Errors
/// If reading fails.
pub(super) fn read_up_to(
    source: &(impl Source + ?Sized),
    what: &'static str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, FileError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(position) = offset.checked_add(filled as u64) else { break };
        match source.read_some(position, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(FileError::Read { what, source }),
        }
    }
    Ok(filled)
}

/// Hands a table's entries to `visit`, in chunks of bounded size. Stops at the source's end.
///
/// # Errors
/// If reading fails, or `visit` does.
pub(super) fn for_each_entry(
    source: &(impl Source + ?Sized),
    what: &'static str,
    (offset, length): (u64, u64),
    entry_bytes: usize,
    mut visit: impl FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    const CHUNK_BYTES: usize = 64 << 10;
    let mut chunk = vec![0; CHUNK_BYTES - CHUNK_BYTES % entry_bytes];
    let end = offset.saturating_add(length).min(source.length().map_err(|source| FileError::Read { what, source })?);
    let mut position = offset;
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(chunk.len());
        let filled = read_up_to(source, what, position, &mut chunk[..wanted])?;
        for entry in chunk[..filled].chunks_exact(entry_bytes) {
            visit(entry)?;
        }
        if filled < wanted || filled < entry_bytes {
            break;
        }
        position += filled as u64;
    }
    Ok(())
}

/// The little-endian number of two bytes at an offset; 0 behind the end.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// The little-endian number of four bytes at an offset; 0 behind the end.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The little-endian number of eight bytes at an offset; 0 behind the end.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The text that ends with the first NUL (or the end), with bytes that are not UTF-8 replaced.
pub(super) fn text_until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_do_not_straddle_chunks() {
        let bytes: Vec<u8> = (0..30_000_u32).flat_map(|number| [number.to_le_bytes(); 6].concat()).collect();
        let mut numbers = Vec::new();
        for_each_entry(bytes.as_slice(), "test", (24, bytes.len() as u64), 24, |entry| {
            numbers.push((u32_at(entry, 0), u32_at(entry, 20)));
            Ok(())
        })
        .unwrap();
        assert_eq!(numbers, (1..30_000).map(|number| (number, number)).collect::<Vec<_>>());
    }

    #[test]
    fn hostile_sizes() {
        let bytes = [1_u8; 10].as_slice();
        assert!(matches!(read_exact(bytes, "x", 0, u64::MAX, 100), Err(FileError::TooLarge { .. })));
        assert!(matches!(read_exact(bytes, "x", 8, 3, 100), Err(FileError::Malformed(_))));
        assert!(matches!(read_exact(bytes, "x", u64::MAX, 3, 100), Err(FileError::Malformed(_))));
        let mut count = 0;
        for_each_entry(bytes, "x", (u64::MAX - 1, u64::MAX), 4, |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        for_each_entry(bytes, "x", (0, u64::MAX), 4, |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(count, 2);
        assert_eq!((u16_at(bytes, 9), u32_at(bytes, 7), u64_at(bytes, usize::MAX)), (0, 0, 0));
    }
}
