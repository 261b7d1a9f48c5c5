//! Captures the stacks of the interrupted task and sends each different one once.
//!
//! **Boundary:** collectors see stack ids only. How frames are found is this module's business alone.

use aya_ebpf::{
    helpers::generated::{bpf_get_stack, bpf_get_task_stack},
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    counters::KernelCounter,
    limits::{KERNEL_FRAMES_MAX, STACKS_SENT_MAX, USER_FRAMES_MAX},
    stack::{
        FIRST_STACK, GONE_STACK, ImageKey, LOST_STACK, NO_STACK, RecordHeader, RecordKind, STACK_RECORD_HEADER_BYTES,
        StackEnd, StackRecord,
    },
};

use crate::{
    loss,
    registers::Registers,
    ring::{self, Wake},
    snapshot,
    task::Task,
    unwind::{self, Walked},
};

/// The record being made; too large for the 512 bytes of a program's own stack.
#[map]
static STACK_SCRATCH: PerCpuArray<StackRecord<USER_FRAMES_MAX>> = PerCpuArray::with_max_entries(1, 0);

/// Ids of stacks, and of wakers, that user space has been sent.
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
    publish_kernel(record, bytes)
}

/// The kernel stack of a task that does not run.
#[inline(always)]
#[must_use]
pub fn kernel_of(task: Task) -> u64 {
    let Some(record) = STACK_SCRATCH.get_ptr_mut(0) else { return LOST_STACK };
    // SAFETY: the record is this CPU's; the helper writes at most the given number of bytes.
    let bytes = unsafe {
        let frames = (&raw mut (*record).frames).cast::<c_void>();
        bpf_get_task_stack(task.as_ptr(), frames, (KERNEL_FRAMES_MAX * 8) as u32, 0)
    };
    publish_kernel(record, bytes)
}

/// Publishes the kernel stack in a record, of which a helper says how many bytes it has.
#[inline(always)]
fn publish_kernel(record: *mut StackRecord<USER_FRAMES_MAX>, bytes: i64) -> u64 {
    let (frames_count, end) =
        if bytes > 0 { (bytes as u64 / 8, StackEnd::Complete) } else { (0, StackEnd::WalkFailed) };
    let mut sum = HASH_SEED;
    for index in 0..KERNEL_FRAMES_MAX {
        if index as u64 >= frames_count {
            break;
        }
        // SAFETY: `index` is below the length of `frames`.
        sum = mix(sum, unsafe { (&raw const (*record).frames).cast::<u64>().add(index).read() });
    }
    publish(record, sum, frames_count, end)
}

/// The user stack of the current task, which must have one.
#[inline(always)]
#[must_use]
pub fn user(task: Task, image: &ImageKey) -> u64 {
    match Registers::of(task) {
        Some(registers) => user_from(task, image, registers),
        None => {
            let Some(record) = STACK_SCRATCH.get_ptr_mut(0) else { return LOST_STACK };
            publish(record, HASH_SEED, 0, StackEnd::NoRegisters)
        }
    }
}

/// The user stack of the current task, from its registers.
#[inline(always)]
#[must_use]
pub fn user_from(task: Task, image: &ImageKey, registers: Registers) -> u64 {
    let Some(record) = STACK_SCRATCH.get_ptr_mut(0) else { return LOST_STACK };
    // SAFETY: the record is this CPU's.
    let frames = unsafe { &raw mut (*record).frames };
    let Walked { frames_count, end, is_unsupplied, sum } = unwind::walk(task, image, registers, frames);
    if is_unsupplied && let Some(id) = snapshot::send(task, image, registers, end) {
        return id;
    }
    publish(record, sum, frames_count, end)
}

/// What the sum over the frames of a stack begins with.
pub(crate) const HASH_SEED: u64 = 0x6f62_7300_7374_6163;

/// Adds a frame to the sum by which stacks are told apart.
#[inline(always)]
pub(crate) fn mix(sum: u64, frame: u64) -> u64 {
    // Multiply by an odd constant (2^64 / golden ratio) and fold: each frame reaches all bits of the sum.
    let product = (sum ^ frame).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 29)
}

/// A sum as an id: the lowest numbers mean something else.
#[inline(always)]
pub(crate) fn unreserved(sum: u64) -> u64 {
    if sum < FIRST_STACK { sum + FIRST_STACK } else { sum }
}

/// Whether user space was sent what has this id.
#[inline(always)]
pub(crate) fn was_sent(id: u64) -> bool {
    STACKS_SENT.get_ptr(id).is_some()
}

/// Notes that user space was sent what has this id.
#[inline(always)]
pub(crate) fn note_sent(id: u64) {
    // If this fails it is sent again, which is harmless.
    let _ = STACKS_SENT.insert(id, 1, 0);
}

/// Gives the record its id and sends it unless that was done.
#[inline(always)]
fn publish(record: *mut StackRecord<USER_FRAMES_MAX>, sum: u64, frames_count: u64, end: StackEnd) -> u64 {
    let sum = mix(sum, (end as u64) << 32 | frames_count);
    let id = unreserved(sum);
    if was_sent(id) {
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
    note_sent(id);
    id
}

const _: () = assert!(NO_STACK < FIRST_STACK && LOST_STACK < FIRST_STACK && GONE_STACK < FIRST_STACK);
const _: () = assert!(KERNEL_FRAMES_MAX <= USER_FRAMES_MAX, "both kinds share the scratch space");
