//! How long threads do not run: because they wait for something, and because they wait for a CPU.
//!
//! A thread that leaves its CPU is noted with the time and the reason; who wakes it notes when; when it runs again both parts are
//! known. The reasons are those of [`crate::wait`].

use aya_ebpf::bindings::BPF_NOEXIST;
use obs_common::{
    counters::KernelCounter,
    latency::{LatencySource, LatencyStart},
    wait::WaitState,
};

use super::{LATENCY_STARTS, add, measures, now_ns, owner_of, thread};
use crate::{filter, loss, task::Task, wait};

/// Both sources share one start.
#[inline(always)]
fn key(task: Task) -> u64 {
    thread(LatencySource::RunQueue, task.tid())
}

/// A thread, the current one, ceases to run: of its own accord, or because it was pre-empted.
#[inline(always)]
pub fn leaves(task: Task, is_preempted: bool) {
    if task.tid() == 0 {
        return;
    }
    let key = key(task);
    if task.is_dead() {
        // It may never have waited.
        let _ = LATENCY_STARTS.remove(key);
        return;
    }
    if !filter::admits(task) {
        return;
    }
    let detail = reason(task, is_preempted) as u64;
    let start = LatencyStart { owner: owner_of(task), since_ns: now_ns(), other_ns: 0, detail };
    match LATENCY_STARTS.get_ptr_mut(key) {
        // SAFETY: the value stays valid while the program runs. Whoever wakes the thread writes `other_ns` only, and no earlier
        // than the thread's state says so: what stands there otherwise is of a time when it ran.
        Some(known) => unsafe {
            // It ran meanwhile, and nobody told.
            if (*known).since_ns != 0 {
                loss::count(KernelCounter::LostEnd);
            }
            (*known).owner = start.owner;
            (*known).detail = start.detail;
            if !task.is_being_woken() {
                (*known).other_ns = 0;
            }
            (*known).since_ns = start.since_ns;
        },
        None => note(key, &start),
    }
}

#[inline(always)]
fn note(key: u64, start: &LatencyStart) {
    if LATENCY_STARTS.insert(key, start, u64::from(BPF_NOEXIST)).is_err() {
        loss::count(KernelCounter::LostWaitsFull);
    }
}

/// Why it ceases to run. For what it waits is asked only if that is told apart.
#[inline(always)]
fn reason(task: Task, is_preempted: bool) -> WaitState {
    // Who is pre-empted on the way to sleep stays on the run queue, whatever its state says already.
    if is_preempted || task.is_runnable() {
        return if task.is_throttled() { WaitState::Throttled } else { WaitState::Preempted };
    }
    if measures(LatencySource::OffCpu) { wait::state(task) } else { WaitState::Sleep }
}

/// A thread is woken, by the current one or by an interrupt.
#[inline(always)]
pub fn wakes(task: Task) {
    if let Some(start) = LATENCY_STARTS.get_ptr_mut(key(task)) {
        // SAFETY: the value stays valid while the program runs.
        unsafe {
            if (*start).other_ns == 0 {
                (*start).other_ns = now_ns();
            }
        }
    }
}

/// A thread is made, by the current one, and waits for a CPU for the first time.
#[inline(always)]
pub fn is_new(task: Task) {
    if !filter::admits(task) {
        return;
    }
    let detail = WaitState::RunQueue as u64;
    let start = LatencyStart { owner: owner_of(task), since_ns: now_ns(), other_ns: 0, detail };
    // A thread that had this id is gone.
    super::begin(key(task), &start);
}

/// A thread, which is not the current one yet, runs again.
#[inline(always)]
pub fn runs(task: Task) {
    let Some(known) = LATENCY_STARTS.get_ptr_mut(key(task)) else { return };
    // SAFETY: the value stays valid while the program runs.
    let LatencyStart { owner, since_ns, other_ns: woken_ns, detail: state } = unsafe { *known };
    if since_ns == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe {
        (*known).since_ns = 0;
        (*known).other_ns = 0;
    }
    let now_ns = now_ns();
    let all_ns = now_ns.saturating_sub(since_ns);
    if state >= WaitState::RunQueue as u64 {
        if measures(LatencySource::OffCpu) {
            add(LatencySource::OffCpu, owner, state, all_ns);
        }
        if measures(LatencySource::RunQueue) {
            add(LatencySource::RunQueue, owner, state, all_ns);
        }
        return;
    }
    let is_woken = woken_ns != 0 && woken_ns <= now_ns;
    let until_ns = if is_woken { woken_ns } else { now_ns };
    // It may have been woken just before it could begin to wait.
    let blocked_ns = until_ns.saturating_sub(since_ns);
    let queued_ns = all_ns.saturating_sub(blocked_ns);
    if measures(LatencySource::OffCpu) {
        add(LatencySource::OffCpu, owner, state, blocked_ns);
    }
    if is_woken {
        if measures(LatencySource::OffCpu) {
            add(LatencySource::OffCpu, owner, WaitState::RunQueue as u64, queued_ns);
        }
        if measures(LatencySource::RunQueue) {
            add(LatencySource::RunQueue, owner, WaitState::RunQueue as u64, queued_ns);
        }
    }
}
