//! How long interrupts take: the kernel's own, by vector, and the handlers of devices, by the number of the interrupt.
//!
//! They interrupt whoever runs, and are for nobody.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use obs_common::latency::{LatencyOwner, LatencySource};

use super::{add, now_ns};

/// When the interrupt began that is handled on this CPU. Slot 0: software, slot 1: hardware, which may come in the midst of it.
#[map]
static LATENCY_INTERRUPTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

#[inline(always)]
fn slot(source: LatencySource) -> u32 {
    u32::from(source as u32 == LatencySource::HardIrq as u32)
}

/// The handling of an interrupt begins on this CPU.
#[inline(always)]
pub fn begins(source: LatencySource) {
    if let Some(since) = LATENCY_INTERRUPTS.get_ptr_mut(slot(source)) {
        // SAFETY: an element of a per-CPU array; interrupts of one kind do not interrupt each other.
        unsafe { *since = now_ns() };
    }
}

/// The handling of an interrupt ends on this CPU.
#[inline(always)]
pub fn ends(source: LatencySource, number: u32) {
    let Some(place) = LATENCY_INTERRUPTS.get_ptr_mut(slot(source)) else { return };
    // SAFETY: as above.
    let since_ns = unsafe { core::ptr::replace(place, 0) };
    // It began before anybody looked.
    if since_ns != 0 {
        add(source, LatencyOwner::NOBODY, u64::from(number), now_ns().saturating_sub(since_ns));
    }
}
