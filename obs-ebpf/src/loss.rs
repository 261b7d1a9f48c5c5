//! Counts what the programs did and what they lost.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use obs_common::counters::{KERNEL_COUNTERS, KernelCounter};

use crate::counts::atomic_add;

/// One slot per [`KernelCounter`]; user space sums over the CPUs.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(KERNEL_COUNTERS, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: KernelCounter) {
    count_all(counter, 1);
}

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn count_all(counter: KernelCounter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU, on which a program of one kind does not interrupt itself.
        unsafe { *slot += amount };
    }
}

/// Adds to a counter that programs of several kinds add to, modulo 2^64.
#[inline(always)]
pub fn add(counter: KernelCounter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot stays valid; the addition is atomic, because one kind of program may interrupt another.
        unsafe { atomic_add(slot, amount) };
    }
}
