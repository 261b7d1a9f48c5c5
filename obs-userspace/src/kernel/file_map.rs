//! A file's bytes as memory, safe from its owner.
//!
//! Whoever may write a mapped file can shorten it, and the next look at a page that is gone raises SIGBUS, which would end
//! obs. Here such a page reads as zeroes instead: a handler puts an empty page in its place, and whoever parses the bytes
//! finds them malformed. Other SIGBUS signals do what they did before.

use std::{
    fs::File,
    io,
    ops::Deref,
    os::fd::AsFd as _,
    ptr,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Most files that are mapped at a time.
const FILES_MAX: usize = 16;

/// Largest file that is mapped.
pub const FILE_BYTES_MAX: u64 = 8 << 30;

/// Where mapped files begin and end; a slot is free while its beginning is 0.
static REGIONS: [(AtomicUsize, AtomicUsize); FILES_MAX] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; FILES_MAX];

/// The bytes of a file. They may change while they are read: parse them as what an enemy wrote.
pub struct FileMap {
    bytes: *mut u8,
    length: usize,
    slot: usize,
}

impl FileMap {
    /// Maps a whole file.
    ///
    /// # Errors
    /// If it is empty or too large, if it cannot be mapped, or if too many are mapped already.
    pub fn new(file: &File) -> io::Result<Self> {
        install_handler()?;
        let length = file.metadata()?.len();
        if length == 0 || length > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("its length is {length} bytes; 1 to {FILE_BYTES_MAX} can be read")));
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let slot = REGIONS
            .iter()
            .position(|(start, _)| start.compare_exchange(0, usize::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        let slot = slot.ok_or_else(|| io::Error::other(format!("{FILES_MAX} files are mapped already")))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let mapped = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file.as_fd(), 0) };
        let (start, end) = &REGIONS[slot];
        let bytes = match mapped {
            Ok(bytes) => bytes.cast::<u8>(),
            Err(error) => {
                start.store(0, Ordering::Release);
                return Err(error.into());
            }
        };
        end.store(bytes.addr() + length, Ordering::Release);
        start.store(bytes.addr(), Ordering::Release);
        Ok(Self { bytes, length, slot })
    }

    /// Lets the memory of everything read so far go; it comes back from the file when it is read again.
    pub fn release(&self) {
        // SAFETY: the mapping is private and never written: dropping its pages changes nothing that can be read.
        let _ = unsafe { madvise(self.bytes.cast(), self.length, Advice::LinuxDontNeed) };
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped for as long as this value lives, and the handler keeps it readable. That its content
        // may change under a reader is the price; nothing here depends on two reads being equal.
        unsafe { std::slice::from_raw_parts(self.bytes, self.length) }
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and nothing borrows it any more.
        let _ = unsafe { munmap(self.bytes.cast(), self.length) };
        REGIONS[self.slot].0.store(0, Ordering::Release);
    }
}

// SAFETY: the bytes are only read, and the mapping belongs to this value alone.
unsafe impl Send for FileMap {}

/// The handler that was there before; written once, before the signal can reach ours.
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    INSTALL.call_once(|| {
        // SAFETY: zeroes are a valid `sigaction`; the handler is async-signal-safe; both structures outlive the calls.
        let installed = unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = handle_missing_page as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) == 0 && {
                let _ = PREVIOUS.set(previous);
                libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) == 0
            }
        };
        FAILED.store(usize::from(!installed), Ordering::Release);
    });
    if FAILED.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(io::Error::other("SIGBUS cannot be handled")) }
}

/// Puts an empty page where a mapped file has lost one.
extern "C" fn handle_missing_page(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure to a handler that asked for one.
    let address = unsafe { (*info).si_addr() }.addr();
    let is_ours = REGIONS.iter().any(|(start, end)| {
        let start = start.load(Ordering::Acquire);
        start != 0
            && start != usize::MAX
            && start <= address
            && address < end.load(Ordering::Acquire).next_multiple_of(page())
    });
    if is_ours {
        let page = page();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies inside a mapping of ours that is only ever read; replacing it leaves it readable.
        let replaced =
            unsafe { libc::mmap((address & !(page - 1)) as *mut libc::c_void, page, libc::PROT_READ, flags, -1, 0) };
        if replaced != libc::MAP_FAILED {
            return;
        }
    }
    // Not ours: as if we had never been here. The faulting instruction runs again and meets the earlier handler.
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: the structure was filled by the kernel.
        unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
    }
}

/// Bytes of a page; a constant of the process that the C library keeps, so a handler may ask.
fn page() -> usize {
    // SAFETY: the call takes a number and returns one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_shrinks_reads_as_zeroes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 4 * page()]).unwrap();
        let map = FileMap::new(&file).unwrap();
        assert_eq!((map.len(), map[0], map[3 * page()]), (4 * page(), 7, 7));
        file.set_len(page() as u64).unwrap();
        map.release();
        assert_eq!((map[0], map[2 * page()], map[4 * page() - 1]), (7, 0, 0));
    }

    #[test]
    fn slots_come_back_and_are_bounded() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(FileMap::new(&file).is_err(), "an empty file has nothing to map");
        file.write_all(b"x").unwrap();
        for _ in 0..3 * FILES_MAX {
            assert_eq!(&*FileMap::new(&file).unwrap(), b"x");
        }
    }
}
