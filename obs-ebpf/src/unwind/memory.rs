//! Reads the memory of the program whose stack is walked.

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as bpf_probe_read_user_raw};
use core::ffi::c_void;

/// Reads a word of the user's memory.
#[inline(always)]
pub(super) fn read(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

/// Words in a [`Window`]: eight lines of the cache.
const WINDOW_WORDS: usize = 64;

/// Bytes in a line of the cache.
const LINE_BYTES: u64 = 64;

/// [`Window::start`] while it shows nothing: no window begins here, since it would end above all addresses.
const NOWHERE: u64 = !(LINE_BYTES - 1);

/// A piece of the stack: the frames of a stack lie close together, and one read for many costs less than one for each.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// The address of the first word; a whole number of lines.
    start: u64,
    words: [u64; WINDOW_WORDS],
}

impl Window {
    /// Forgets what was read.
    #[inline(always)]
    pub(super) fn close(&mut self) {
        self.start = NOWHERE;
    }

    /// Reads a word of the stack, and what follows it.
    #[inline(always)]
    pub(super) fn read(&mut self, address: u64) -> Option<u64> {
        const BYTES: u64 = WINDOW_WORDS as u64 * 8;
        if address & 7 != 0 {
            return read(address);
        }
        if address.wrapping_sub(self.start) >= BYTES {
            let start = address & !(LINE_BYTES - 1);
            let target = (&raw mut self.words).cast::<c_void>();
            // SAFETY: there is room for so many bytes, and the helper checks the address.
            if unsafe { bpf_probe_read_user_raw(target, BYTES as u32, start as *const c_void) } != 0 {
                // What follows the word may not be there.
                self.close();
                return read(address);
            }
            self.start = start;
        }
        let index = (address.wrapping_sub(self.start) >> 3) as usize & (WINDOW_WORDS - 1);
        // SAFETY: `index` is below the length.
        Some(unsafe { self.words.as_ptr().add(index).read() })
    }
}
