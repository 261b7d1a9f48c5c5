//! How long system calls take, by their number.

use aya_ebpf::{Global, macros::map, maps::Array};
use obs_common::{
    latency::{LatencySource, LatencyStart},
    limits::SYSTEM_CALLS_MAX,
};

use super::{LATENCY_STARTS, add, begin, now_ns, owner_of, thread};
use crate::{filter, task::Task};

/// Whether only the numbers in `LATENCY_CALLS` are asked for.
#[unsafe(no_mangle)]
static LATENCY_CALLS_CHOSEN: Global<u32> = Global::new(0);

/// By number: 1 if it is asked for.
#[map]
static LATENCY_CALLS: Array<u8> = Array::with_max_entries(SYSTEM_CALLS_MAX, 0);

/// The current thread enters a system call.
#[inline(always)]
pub fn enters(number: u64) {
    // A number that no kernel has, among them -1.
    if number >= u64::from(SYSTEM_CALLS_MAX) {
        return;
    }
    if LATENCY_CALLS_CHOSEN.load() != 0 && LATENCY_CALLS.get(number as u32).copied().unwrap_or(0) == 0 {
        return;
    }
    let task = Task::current();
    if !filter::admits(task) {
        return;
    }
    let key = thread(LatencySource::SystemCall, task.tid());
    let start = LatencyStart { owner: owner_of(task), since_ns: now_ns(), other_ns: 0, detail: number };
    match LATENCY_STARTS.get_ptr_mut(key) {
        // SAFETY: the value stays valid while the program runs, and is this thread's.
        Some(known) => unsafe { *known = start },
        None => begin(key, &start),
    }
}

/// The current thread's system call returns.
#[inline(always)]
pub fn returns() {
    let key = thread(LatencySource::SystemCall, Task::current().tid());
    let Some(known) = LATENCY_STARTS.get_ptr_mut(key) else { return };
    // SAFETY: the value stays valid while the program runs, and is this thread's.
    let LatencyStart { owner, since_ns, detail: number, .. } = unsafe { *known };
    // It entered before anybody looked.
    if since_ns == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*known).since_ns = 0 };
    add(LatencySource::SystemCall, owner, number, now_ns().saturating_sub(since_ns));
}

/// A thread ends: some system calls never return.
#[inline(always)]
pub fn forget(task: Task) {
    // Not being in the map is the usual case, not a failure.
    let _ = LATENCY_STARTS.remove(thread(LatencySource::SystemCall, task.tid()));
}
