//! Captures the stacks of the interrupted task and sends each different one once.
//!
//! **Boundary:** collectors see stack ids only. How frames are found is this module's business alone.

use aya_ebpf::{
    bindings::BPF_F_USER_STACK,
    helpers::generated::bpf_get_stack,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    counters::KernelCounter,
    limits::{KERNEL_FRAMES_MAX, STACKS_SENT_MAX, USER_FRAMES_MAX},
    stack::{FRAME_EXACT, LOST_STACK, NO_STACK, RecordHeader, RecordKind, STACK_RECORD_HEADER_BYTES, StackEnd, StackRecord},
};

use crate::{
    loss,
    ring::{self, Wake},
};

/// The record being made; too large for the 512 bytes of a program's own stack.
#[map]
static STACK_SCRATCH: PerCpuArray<StackRecord<USER_FRAMES_MAX>> = PerCpuArray::with_max_entries(1, 0);

/// Ids of stacks that user space has been sent.
#[map]
static STACKS_SENT: LruHashMap<u64, u8> = LruHashMap::with_max_entries(STACKS_SENT_MAX, 0);

/// The kernel stack of the interrupted context, which must be in kernel mode.
///
/// # Safety
/// `context` is the context of a program type that `bpf_get_stack` takes.
#[inline(always)]
#[must_use]
pub unsafe fn kernel(context: *mut c_void) -> u64 {
    let Some(record) = STACK_SCRATCH.get_ptr_mut(0) else { return LOST_STACK };
    // SAFETY: the record is this CPU's; the helper writes at most the given number of bytes.
    let bytes = unsafe {
        let frames = (&raw mut (*record).frames).cast::<c_void>();
        bpf_get_stack(context, frames, (KERNEL_FRAMES_MAX * 8) as u32, 0)
    };
    let (frames, end) = if bytes > 0 { (bytes as u64 / 8, StackEnd::Complete) } else { (0, StackEnd::WalkFailed) };
    publish(record, frames, end)
}

/// The user stack of the current task, which must have one.
///
/// # Safety
/// `context` is the context of a program type that `bpf_get_stack` takes.
#[inline(always)]
#[must_use]
pub unsafe fn user(context: *mut c_void) -> u64 {
    let Some(record) = STACK_SCRATCH.get_ptr_mut(0) else { return LOST_STACK };
    // SAFETY: the record is this CPU's; the helper writes at most the given number of bytes.
    let bytes = unsafe {
        let frames = (&raw mut (*record).frames).cast::<c_void>();
        bpf_get_stack(context, frames, (USER_FRAMES_MAX * 8) as u32, u64::from(BPF_F_USER_STACK))
    };
    if bytes <= 0 {
        return publish(record, 0, StackEnd::WalkFailed);
    }
    // SAFETY: the first frame lies inside the record.
    unsafe { (*record).frames[0] |= FRAME_EXACT };
    publish(record, bytes as u64 / 8, StackEnd::FramePointerChain)
}

/// Gives the record its id and sends it unless that was done.
#[inline(always)]
fn publish(record: *mut StackRecord<USER_FRAMES_MAX>, frames_count: u64, end: StackEnd) -> u64 {
    if frames_count > USER_FRAMES_MAX as u64 {
        return LOST_STACK;
    }
    let id = hash(record, frames_count, end);
    if STACKS_SENT.get_ptr(id).is_some() {
        return id;
    }
    // SAFETY: the record is this CPU's scratch space.
    unsafe {
        (*record).header = RecordHeader { kind: RecordKind::Stack as u32, end: end as u32 };
        (*record).id = id;
        (*record).frames_count = frames_count;
    }
    let size_bytes = STACK_RECORD_HEADER_BYTES as u64 + frames_count * 8;
    if !ring::send(record, size_bytes, Wake::Later) {
        loss::count(KernelCounter::LostStackRingFull);
        return LOST_STACK;
    }
    // If this fails the stack is sent again, which is harmless.
    let _ = STACKS_SENT.insert(id, 1, 0);
    id
}

/// A 64-bit hash of the frames and the end; never [`NO_STACK`] or [`LOST_STACK`].
#[inline(always)]
fn hash(record: *const StackRecord<USER_FRAMES_MAX>, frames_count: u64, end: StackEnd) -> u64 {
    // Multiply and fold, one odd constant (2^64 / golden ratio): each frame reaches all bits of the sum.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = (end as u64 + 1).wrapping_mul(MULTIPLIER) ^ frames_count;
    for index in 0..USER_FRAMES_MAX {
        if index as u64 >= frames_count {
            break;
        }
        // SAFETY: `index` is below the length of `frames`.
        let frame = unsafe { (&raw const (*record).frames).cast::<u64>().add(index).read() };
        sum = (sum ^ frame).wrapping_mul(MULTIPLIER);
        sum ^= sum >> 29;
    }
    if sum <= LOST_STACK { sum + LOST_STACK + 1 } else { sum }
}

const _: () = assert!(NO_STACK < LOST_STACK, "the two reserved ids come first");
const _: () = assert!(KERNEL_FRAMES_MAX <= USER_FRAMES_MAX, "both kinds share the scratch space");
