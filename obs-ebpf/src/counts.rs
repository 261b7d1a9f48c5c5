//! Adds up samples by key in two maps that take turns, so that none is lost while user space drains one.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use obs_common::{
    counters::KernelCounter,
    limits::STACK_COUNTS_MAX,
    stack::{StackKey, StackValue},
};

use crate::loss;

/// Slot 0: which of the two maps is being filled, 0 or 1.
#[map]
static COUNTS_ACTIVE: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static COUNTS_0: HashMap<StackKey, StackValue> = HashMap::with_max_entries(STACK_COUNTS_MAX, 0);
#[map]
static COUNTS_1: HashMap<StackKey, StackValue> = HashMap::with_max_entries(STACK_COUNTS_MAX, 0);

/// Adds one sample of a given weight.
#[inline(always)]
pub fn add(key: &StackKey, weight: u64) {
    add_all(key, StackValue { count: 1, weight });
}

/// Adds samples, and their summed weight.
#[inline(always)]
pub fn add_all(key: &StackKey, more: StackValue) {
    let active = COUNTS_ACTIVE.get(0).copied().unwrap_or(0);
    let counted = if active == 0 { add_to(&COUNTS_0, key, more) } else { add_to(&COUNTS_1, key, more) };
    loss::count_all(if counted { KernelCounter::Taken } else { KernelCounter::LostCountsFull }, more.count);
}

#[inline(always)]
fn add_to(map: &HashMap<StackKey, StackValue>, key: &StackKey, more: StackValue) -> bool {
    if let Some(value) = map.get_ptr_mut(key) {
        increase(value, more);
        return true;
    }
    if map.insert(key, more, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    // Another CPU was quicker, or the map is full.
    match map.get_ptr_mut(key) {
        Some(value) => {
            increase(value, more);
            true
        }
        None => false,
    }
}

#[inline(always)]
fn increase(value: *mut StackValue, more: StackValue) {
    // SAFETY: the pointer is into a map value that stays valid while the program runs; the additions are atomic because
    // other CPUs may count the same key.
    unsafe {
        atomic_add(&raw mut (*value).count, more.count);
        atomic_add(&raw mut (*value).weight, more.weight);
    }
}

/// Adds to a value that other CPUs may add to at the same time.
///
/// # Safety
/// `target` is valid and aligned, and is only ever accessed atomically.
#[inline(always)]
pub(crate) unsafe fn atomic_add(target: *mut u64, amount: u64) {
    // The target declares no compare-and-swap, so core offers no `fetch_add`; the instruction itself exists since BPF began.
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise; the instruction touches those eight bytes only.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({target} + 0) += {amount}",
            target = in(reg) target,
            amount = in(reg) amount,
            options(nostack),
        );
    };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        core::sync::atomic::AtomicU64::from_ptr(target).fetch_add(amount, core::sync::atomic::Ordering::Relaxed);
    };
}

/// As [`atomic_add`], of 32 bits.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn atomic_add_u32(target: *mut u32, amount: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise; the instruction touches those four bytes only.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({target} + 0) += w2",
            target = in(reg) target,
            // The compiler knows no halves of registers here; the assembler does.
            in("r2") u64::from(amount),
            options(nostack),
        );
    };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        core::sync::atomic::AtomicU32::from_ptr(target).fetch_add(amount, core::sync::atomic::Ordering::Relaxed);
    };
}
