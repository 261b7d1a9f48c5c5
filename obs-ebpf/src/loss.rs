//! Counts what the programs did and what they lost.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use obs_common::counters::{KERNEL_COUNTERS, KernelCounter};

/// One slot per [`KernelCounter`]; user space sums over the CPUs.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(KERNEL_COUNTERS, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: KernelCounter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU, on which a program of one kind does not interrupt itself.
        unsafe { *slot += 1 };
    }
}
