//! Sends a piece of the stack itself where the walk met something that user space has yet to supply.
//!
//! A process that has just started is sampled before its unwind tables can be there. User space walks the snapshot as soon
//! as they are, so the sample is not cut. How many are worth their cost is user space's decision: it hands out a number of
//! them at a time.

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, generated::bpf_probe_read_user},
    macros::map,
    maps::{Array, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    limits::{SNAPSHOT_BELOW_BYTES, SNAPSHOT_PAGE_BYTES, SNAPSHOT_STACK_BYTES_MAX},
    stack::{ImageKey, RecordHeader, RecordKind, SNAPSHOT_HEADER_BYTES, StackEnd, StackSnapshot},
};

use crate::{
    registers::Registers,
    ring::{self, Wake},
    stack::{HASH_SEED, mix, unreserved},
    task::Task,
};

/// The record being made.
#[map]
static SNAPSHOT_SCRATCH: PerCpuArray<StackSnapshot> = PerCpuArray::with_max_entries(1, 0);

/// Slot 0: how many snapshots may still be sent.
#[map]
static SNAPSHOTS_LEFT: Array<u64> = Array::with_max_entries(1, 0);

/// Sends a snapshot and returns its id; `None` if it is not worth it or there is no room.
#[inline(always)]
pub(crate) fn send(task: Task, image: &ImageKey, registers: Registers, end: StackEnd) -> Option<u64> {
    let left = SNAPSHOTS_LEFT.get_ptr_mut(0)?;
    let record = SNAPSHOT_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: an element of an array stays valid. Several CPUs may take the last one: it is a bound of cost, not a count.
    unsafe {
        if *left == 0 {
            return None;
        }
        *left -= 1;
    }
    // SAFETY: the helper takes no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let sum = mix(mix(HASH_SEED, now_ns), u64::from(task.tid()) << 32 | u64::from(image.tgid));
    let id = unreserved(sum);
    // SAFETY: the record is this CPU's scratch space.
    let stack_bytes = unsafe {
        (*record).header = RecordHeader { kind: RecordKind::Snapshot as u32, end: end as u32 };
        (*record).id = id;
        (*record).image = *image;
        registers.copy_to(&raw mut (*record).registers);
        let stack_bytes = read_stack(registers.sp(), &raw mut (*record).stack);
        (*record).stack_bytes = stack_bytes;
        stack_bytes
    };
    // If there is no room, the stack goes as it is, cut.
    ring::send(record, SNAPSHOT_HEADER_BYTES as u64 + stack_bytes, Wake::Now).then_some(id)
}

/// Copies the stack around its pointer, as far as it is in memory and there is room. Returns how many bytes there are.
#[inline(always)]
fn read_stack(sp: u64, stack: *mut [u8; SNAPSHOT_STACK_BYTES_MAX]) -> u64 {
    const PAGE: u64 = SNAPSHOT_PAGE_BYTES as u64;
    const BELOW: u64 = SNAPSHOT_BELOW_BYTES as u64;
    const PAGES_MAX: u64 = SNAPSHOT_STACK_BYTES_MAX as u64 / PAGE;
    // A read that fails gives nothing, so none reaches from a page that is there into one that may not be.
    let first_bytes = PAGE - (sp & (PAGE - 1));
    let read = |offset: u64, bytes: u64| {
        // SAFETY: `offset + bytes` is at most the length of `stack`; the helper checks the address.
        unsafe {
            let target = stack.cast::<u8>().add(offset as usize).cast::<c_void>();
            let source = sp.wrapping_add(offset).wrapping_sub(BELOW) as *const c_void;
            bpf_probe_read_user(target, bytes as u32, source) == 0
        }
    };
    if !read(BELOW, first_bytes) {
        return 0;
    }
    // If it fails it leaves zeroes: these bytes are seldom needed.
    read(0, BELOW);
    let mut bytes = BELOW + first_bytes;
    for _ in 1..PAGES_MAX {
        if !read(bytes, PAGE) {
            break;
        }
        bytes += PAGE;
    }
    bytes
}
