//! The ring buffer that carries stacks and announcements to user space.

use aya_ebpf::{helpers::generated::bpf_ringbuf_output, macros::map, maps::RingBuf};
use core::ffi::c_void;
use obs_common::limits::RING_BYTES;

use crate::verifier::forget;

#[map]
static RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Whether user space is woken at once or finds the record when it next looks.
#[derive(Clone, Copy)]
pub enum Wake {
    /// `BPF_RB_NO_WAKEUP`.
    Later = 1,
    /// `BPF_RB_FORCE_WAKEUP`.
    Now = 2,
}

/// Sends the first `size_bytes` bytes of a record. False if the buffer was full, or the record is not that large.
#[inline(always)]
#[must_use]
pub fn send<T>(record: *const T, size_bytes: u64, wake: Wake) -> bool {
    let size_bytes = forget(size_bytes);
    if size_bytes > size_of::<T>() as u64 {
        return false;
    }
    let ring = core::ptr::addr_of!(RING).cast_mut().cast::<c_void>();
    // SAFETY: `record` holds `size_bytes` bytes.
    unsafe { bpf_ringbuf_output(ring, record.cast_mut().cast(), size_bytes, wake as u64) == 0 }
}
