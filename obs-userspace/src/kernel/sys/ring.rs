//! The ring through which the kernel hands over perf records.

use std::{
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya_obj::generated::perf_event_mmap_page;

use super::SysError;

/// Bytes of a record's header: type, misc, size.
pub const RECORD_HEADER_BYTES: usize = 8;

/// Memory shared with the kernel, released when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut libc::c_void,
    length_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(super) fn new(fd: BorrowedFd<'_>, length_bytes: usize) -> Result<Self, SysError> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: a fresh mapping at an address of the kernel's choice takes nothing away from anybody.
        let base = unsafe {
            mmap(std::ptr::null_mut(), length_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        };
        match base {
            Ok(base) => Ok(Self { base, length_bytes }),
            Err(source) => Err(SysError::new(format!("mapping {length_bytes} bytes shared with the kernel"), source)),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapped exactly these bytes, and hands out no reference to them.
        let released = unsafe { rustix::mm::munmap(self.base, self.length_bytes) };
        debug_assert!(released.is_ok(), "a mapping of our own can be released");
    }
}

/// What a ring held that no reader can follow. The ring has been emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a perf ring held {unread_bytes} bytes that are no records; they were skipped")]
pub struct BrokenRing {
    /// Bytes that were skipped.
    pub unread_bytes: u64,
}

/// The ring of one event, from which only this reads.
#[derive(Debug)]
pub struct PerfRing {
    mapping: Mapping,
    data_start: usize,
    data_bytes: usize,
    /// What was in the ring, out of the kernel's reach.
    copy: Vec<u8>,
}

impl PerfRing {
    /// Maps a ring of `data_bytes` (a power of two, and whole pages) to the event.
    ///
    /// # Errors
    ///
    /// Another size; too much locked memory (`EPERM` without the privilege and above `kernel.perf_event_mlock_kb`).
    pub fn new(event: BorrowedFd<'_>, data_bytes: usize) -> Result<Self, SysError> {
        let page_bytes = super::page_bytes();
        if !data_bytes.is_power_of_two() || data_bytes < page_bytes {
            return Err(SysError::invalid("mapping a perf ring", "its size must be a power of two and whole pages"));
        }
        let mapping = Mapping::new(event, page_bytes + data_bytes)?;
        Ok(Self { mapping, data_start: page_bytes, data_bytes, copy: Vec::new() })
    }

    /// Memory shared with the kernel, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.mapping.length_bytes
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the first page of the mapping is a `perf_event_mmap_page`; `offset` is that of one of its u64 fields
        // (see the two callers), aligned, and written by the kernel and by us with atomic operations only.
        unsafe { AtomicU64::from_ptr(self.mapping.base.byte_add(offset).cast()) }
    }

    fn head(&self) -> &AtomicU64 {
        self.position(std::mem::offset_of!(perf_event_mmap_page, data_head))
    }

    fn tail(&self) -> &AtomicU64 {
        self.position(std::mem::offset_of!(perf_event_mmap_page, data_tail))
    }

    /// Takes every record out of the ring and shows it, header included, to `take`.
    ///
    /// # Errors
    ///
    /// [`BrokenRing`] for lengths that contradict one another; records before that were shown.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), BrokenRing> {
        // Acquire: the records were written before the head was moved over them.
        let head = self.head().load(Ordering::Acquire);
        let tail = self.tail().load(Ordering::Relaxed);
        let waiting = head.wrapping_sub(tail);
        let broken = BrokenRing { unread_bytes: waiting };
        let length = usize::try_from(waiting).ok().filter(|length| *length <= self.data_bytes);
        let Some(length) = length else {
            self.tail().store(head, Ordering::Release);
            return Err(broken);
        };
        self.copy.clear();
        self.copy.reserve(length);
        let start = tail as usize & (self.data_bytes - 1);
        let first = length.min(self.data_bytes - start);
        // SAFETY: both parts lie in the ring (`start + first` and `length - first` are at most `data_bytes`), the kernel does
        // not write between tail and head before we move the tail, and `copy` has room for `length` bytes.
        unsafe {
            let data = self.mapping.base.cast::<u8>().add(self.data_start);
            let copy = self.copy.as_mut_ptr();
            data.add(start).copy_to_nonoverlapping(copy, first);
            data.copy_to_nonoverlapping(copy.add(first), length - first);
            self.copy.set_len(length);
        }
        // Release: the copy is done before the kernel may write there again.
        self.tail().store(head, Ordering::Release);
        split_records(&self.copy, &mut take)
    }
}

/// Cuts bytes into records by the lengths in their headers.
fn split_records(mut bytes: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), BrokenRing> {
    while !bytes.is_empty() {
        let broken = BrokenRing { unread_bytes: bytes.len() as u64 };
        let size = bytes.get(6..RECORD_HEADER_BYTES).and_then(|size| size.first_chunk::<2>()).ok_or(broken)?;
        let size = usize::from(u16::from_ne_bytes(*size));
        if size < RECORD_HEADER_BYTES || size > bytes.len() {
            return Err(broken);
        }
        let (record, rest) = bytes.split_at(size);
        take(record);
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8]) -> (Vec<usize>, Result<(), BrokenRing>) {
        let mut sizes = Vec::new();
        let outcome = split_records(bytes, &mut |record: &[u8]| sizes.push(record.len()));
        (sizes, outcome)
    }

    fn record(size: u16) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(size).max(RECORD_HEADER_BYTES)];
        bytes[6..8].copy_from_slice(&size.to_ne_bytes());
        bytes
    }

    #[test]
    fn records_are_cut_by_their_lengths() {
        assert_eq!(split(&[]), (vec![], Ok(())));
        assert_eq!(split(&[record(8), record(24), record(16)].concat()), (vec![8, 24, 16], Ok(())));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        assert_eq!(split(&[record(8), record(0)].concat()), (vec![8], Err(BrokenRing { unread_bytes: 8 })));
        assert_eq!(split(&record(24)[..16]), (vec![], Err(BrokenRing { unread_bytes: 16 })));
        assert_eq!(split(&[1, 2, 3]), (vec![], Err(BrokenRing { unread_bytes: 3 })));
    }
}
