//! Measures how long things take and adds it up in histograms, one for each key.
//!
//! What began is in [`LATENCY_STARTS`] until it ends; a histogram takes it then. Each source is a module, and each knows when its
//! things begin and end and whom they are for. Only programs of sources that are asked for are attached.
//!
//! **Invariant:** what finds no room among the keys is counted under `~other` of its source, which user space makes first.

pub mod block;
pub mod calls;
pub mod faults;
pub mod interrupts;
pub mod scheduling;
pub mod tcp;

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LruHashMap},
};
use obs_common::{
    counters::KernelCounter,
    histogram::{LATENCY_SLOTS, LatencyHistogram, LatencySlot, latency_slot},
    latency::{BY_CGROUP, BY_PROCESS, DETAIL_OTHER, LatencyKey, LatencyOwner, LatencySource, LatencyStart},
    limits::{LATENCY_COUNTS_MAX, LATENCY_KEYS_MAX, LATENCY_OWNERS_MAX, LATENCY_STARTS_MAX},
};

use crate::{
    counts::{atomic_add, atomic_add_u32},
    filter, loss,
    task::Task,
    verifier::{forget, forget_u32},
};

/// A bit for each [`LatencySource`] that is asked for.
#[unsafe(no_mangle)]
static LATENCY_SOURCES: Global<u32> = Global::new(0);
/// What is part of the key, besides the detail.
#[unsafe(no_mangle)]
static LATENCY_BY: Global<u32> = Global::new(0);

/// Whom something is for that is left out. No process has this id.
const LEFT_OUT: LatencyOwner = LatencyOwner { tgid: u32::MAX, ..LatencyOwner::NOBODY };

#[map]
static LATENCIES: HashMap<LatencyKey, LatencyHistogram> = HashMap::with_max_entries(LATENCY_KEYS_MAX, 0);
#[map]
static LATENCY_COUNTS: HashMap<LatencyKey, u64> = HashMap::with_max_entries(LATENCY_COUNTS_MAX, 0);
/// By thread ([`thread`]) or by the address of a request or socket: no two of these are alike.
#[map]
static LATENCY_STARTS: HashMap<u64, LatencyStart> = HashMap::with_max_entries(LATENCY_STARTS_MAX, 0);
/// Whom a request or a socket is for, by its address: what happens to it later happens in anybody's context.
#[map]
static LATENCY_OWNERS: LruHashMap<u64, LatencyOwner> = LruHashMap::with_max_entries(LATENCY_OWNERS_MAX, 0);
/// Slot 0: what a key begins with, and nobody writes. It would not fit on the stack.
#[map]
static LATENCY_EMPTY: Array<LatencyHistogram> = Array::with_max_entries(1, 0);

/// The time. Not that of the boot-time clock: requests of block devices have theirs from this one.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether a source is asked for.
#[inline(always)]
fn measures(source: LatencySource) -> bool {
    LATENCY_SOURCES.load() & source.bit() != 0
}

/// A key of `LATENCY_STARTS`: a thread in one of the sources. Addresses have their upper bits set, threads have not.
#[inline(always)]
fn thread(source: LatencySource, tid: u32) -> u64 {
    u64::from(source as u32) << 32 | u64::from(tid)
}

/// Whether anybody asks whom things are for. It costs something to find out.
#[inline(always)]
fn needs_owner() -> bool {
    LATENCY_BY.load() != 0 || filter::is_selective()
}

/// Whom a task's things are for, as far as the key tells.
#[inline(always)]
fn owner_of(task: Task) -> LatencyOwner {
    let by = LATENCY_BY.load();
    let mut owner = LatencyOwner::NOBODY;
    if by & BY_CGROUP != 0 {
        owner.cgroup_id = task.cgroup_id();
    }
    if by & BY_PROCESS != 0 {
        let image = task.image();
        owner.tgid = image.tgid;
        owner.started_ns = image.started_ns;
    }
    owner
}

/// Whom something of the current task's is for; `None` if it is not asked for.
#[inline(always)]
fn current_owner() -> Option<LatencyOwner> {
    let task = Task::current();
    if filter::admits(task) { Some(owner_of(task)) } else { None }
}

/// The same, to be remembered: where what nobody is known of is asked for, what is left out has to be known as such.
#[inline(always)]
fn owner_to_remember() -> Option<LatencyOwner> {
    match current_owner() {
        None if !filter::chooses() => Some(LEFT_OUT),
        owner => owner,
    }
}

/// Whom something is for, by its address; `None` if it is not asked for.
#[inline(always)]
fn remembered_owner(address: u64) -> Option<LatencyOwner> {
    if !needs_owner() {
        return Some(LatencyOwner::NOBODY);
    }
    match LATENCY_OWNERS.get_ptr(address) {
        Some(known) => {
            // SAFETY: the value stays valid while the program runs.
            let owner = unsafe { *known };
            if owner.tgid == LEFT_OUT.tgid { None } else { Some(owner) }
        }
        None if filter::chooses() => None,
        None => Some(LatencyOwner::NOBODY),
    }
}

/// Remembers whom something is for, by its address.
#[inline(always)]
fn remember_owner(address: u64, owner: LatencyOwner) {
    // The oldest goes when there is no room.
    let _ = LATENCY_OWNERS.insert(address, owner, 0);
}

/// Remembers whom something new of the current task's is for, by its address.
#[inline(always)]
fn remember_new(address: u64) {
    match owner_to_remember() {
        Some(owner) => remember_owner(address, owner),
        // What was here before may have been somebody's, and may have gone without a word.
        None => forget_owner(address),
    }
}

/// Forgets whom something was for.
#[inline(always)]
fn forget_owner(address: u64) {
    // Not being in the map is usual, not a failure.
    let _ = LATENCY_OWNERS.remove(address);
}

/// Notes that something begins.
#[inline(always)]
fn begin(key: u64, start: &LatencyStart) {
    if LATENCY_STARTS.insert(key, start, 0).is_err() {
        loss::count(KernelCounter::LostWaitsFull);
    }
}

/// Counts a duration.
#[inline(always)]
fn add(source: LatencySource, owner: LatencyOwner, detail: u64, duration_ns: u64) {
    let mut key = LatencyKey { owner, detail, source: source as u32, reserved: 0 };
    let mut value = LATENCIES.get_ptr_mut(key);
    if value.is_none()
        && let Some(empty) = LATENCY_EMPTY.get_ptr(0)
    {
        // It fails when another CPU was quicker, or when there is no room.
        // SAFETY: the element of an array, which nobody writes. By reference: it is larger than a program's stack.
        let empty = unsafe { &*empty };
        let _ = LATENCIES.insert(key, empty, u64::from(BPF_NOEXIST));
        value = LATENCIES.get_ptr_mut(key);
        if value.is_none() {
            key.owner = LatencyOwner::NOBODY;
            key.detail = DETAIL_OTHER;
            value = LATENCIES.get_ptr_mut(key);
        }
    }
    match value {
        Some(value) => increase(value, duration_ns),
        None => loss::count(KernelCounter::LostCountsFull),
    }
}

#[inline(always)]
fn increase(value: *mut LatencyHistogram, duration_ns: u64) {
    // SAFETY: the pointer is into a map value that stays valid while the program runs; the additions are atomic because other CPUs
    // may count the same key.
    unsafe {
        atomic_add(&raw mut (*value).sum_ns, duration_ns);
        // What the compiler knows of the duration would save it a check that the verifier wants to see.
        let slot = match latency_slot(forget(duration_ns)) {
            LatencySlot::Zero => {
                atomic_add(&raw mut (*value).zero_count, 1);
                return;
            }
            LatencySlot::Slot(slot) => slot,
            LatencySlot::Over => {
                atomic_add(&raw mut (*value).over_count, 1);
                LATENCY_SLOTS as u32 - 1
            }
        };
        let slot = forget_u32(slot);
        if slot < LATENCY_SLOTS as u32 {
            atomic_add_u32((&raw mut (*value).slots).cast::<u32>().add(slot as usize), 1);
        }
    }
}

/// Counts events that have no duration.
#[inline(always)]
fn count(source: LatencySource, owner: LatencyOwner, detail: u64, amount: u64) {
    let mut key = LatencyKey { owner, detail, source: source as u32, reserved: 0 };
    let mut value = LATENCY_COUNTS.get_ptr_mut(key);
    if value.is_none() {
        // As above.
        let _ = LATENCY_COUNTS.insert(key, 0, u64::from(BPF_NOEXIST));
        value = LATENCY_COUNTS.get_ptr_mut(key);
        if value.is_none() {
            key.owner = LatencyOwner::NOBODY;
            key.detail = DETAIL_OTHER;
            value = LATENCY_COUNTS.get_ptr_mut(key);
        }
    }
    match value {
        // SAFETY: as in `increase`.
        Some(value) => unsafe { atomic_add(value, amount) },
        None => loss::count(KernelCounter::LostCountsFull),
    }
}
