//! Decides in the kernel whether a task is asked for, before anything is paid for it.

use aya_ebpf::{
    Global, bindings::BPF_NOEXIST, helpers::generated::bpf_get_current_ancestor_cgroup_id, macros::map, maps::HashMap,
};
use obs_common::{
    counters::KernelCounter,
    filter::{BY_CGROUP, BY_COMM, BY_TGID, BY_TID, CHOSEN, CHOSEN_AT_EXEC, NOT_SELF},
    limits::{CGROUP_DEPTH_MAX, COMM_BYTES, FILTER_ENTRIES_MAX},
};

use crate::{loss, task::Task};

/// The flags of `obs_common::filter`, fixed at load: tests for what is not asked for cost nothing.
#[unsafe(no_mangle)]
static FILTER_FLAGS: Global<u32> = Global::new(0);
/// The process of obs itself.
#[unsafe(no_mangle)]
static SELF_TGID: Global<u32> = Global::new(0);

#[map]
static FILTER_TGIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_ENTRIES_MAX, 0);
#[map]
static FILTER_TIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_ENTRIES_MAX, 0);
#[map]
static FILTER_COMMS: HashMap<[u8; COMM_BYTES], u8> = HashMap::with_max_entries(FILTER_ENTRIES_MAX, 0);
#[map]
static FILTER_CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(FILTER_ENTRIES_MAX, 0);

/// Whether anything at all is left out.
#[inline(always)]
#[must_use]
pub fn is_selective() -> bool {
    FILTER_FLAGS.load() != 0
}

/// Whether somebody is chosen. Then what is nobody's that is known is not asked for; where only obs itself is left out, it is.
#[inline(always)]
#[must_use]
pub fn chooses() -> bool {
    FILTER_FLAGS.load() & !NOT_SELF != 0
}

/// Whether the current task passes. Kinds of filter are joined by *and*, entries of one kind by *or*.
#[inline(always)]
#[must_use]
pub fn admits(task: Task) -> bool {
    passes(task, in_chosen_cgroup)
}

/// Whether a task passes that need not be the current one.
#[inline(always)]
#[must_use]
pub fn admits_other(task: Task) -> bool {
    passes(task, || is_in_chosen_cgroup(task))
}

#[inline(always)]
fn passes(task: Task, in_chosen_cgroup: impl FnOnce() -> bool) -> bool {
    let flags = FILTER_FLAGS.load();
    if flags & NOT_SELF != 0 && task.tgid() == SELF_TGID.load() {
        return false;
    }
    if flags & BY_TGID != 0 && !is_chosen(task.tgid()) {
        return false;
    }
    if flags & BY_TID != 0 && FILTER_TIDS.get_ptr(task.tid()).is_none() {
        return false;
    }
    if flags & BY_COMM != 0
        && FILTER_COMMS.get_ptr(task.comm()).is_none()
        && FILTER_COMMS.get_ptr(task.leader().comm()).is_none()
    {
        return false;
    }
    flags & BY_CGROUP == 0 || in_chosen_cgroup()
}

/// Whether a process is chosen already.
#[inline(always)]
fn is_chosen(tgid: u32) -> bool {
    // SAFETY: the value stays valid while the program runs.
    FILTER_TGIDS.get_ptr(tgid).is_some_and(|choice| unsafe { *choice } == CHOSEN)
}

/// Whether the current task is in a chosen cgroup or below one.
#[inline(always)]
fn in_chosen_cgroup() -> bool {
    for level in 0..CGROUP_DEPTH_MAX {
        // SAFETY: the helper takes a number and returns one.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            return false;
        }
        if FILTER_CGROUPS.get_ptr(id).is_some() {
            return true;
        }
    }
    false
}

/// Whether a task is in a chosen cgroup or below one.
#[inline(always)]
fn is_in_chosen_cgroup(task: Task) -> bool {
    let mut cgroup = task.cgroup();
    for _ in 0..CGROUP_DEPTH_MAX {
        let Some(this) = cgroup else { return false };
        if this.id().is_some_and(|id| FILTER_CGROUPS.get_ptr(id).is_some()) {
            return true;
        }
        cgroup = this.parent();
    }
    false
}

/// Follows a fork: a child of a chosen process is chosen too.
#[inline(always)]
pub fn follow_fork(parent: Task, child: Task) {
    let (parent, child) = (parent.tgid(), child.tgid());
    if parent == child || FILTER_TGIDS.get_ptr(parent).is_none() {
        return;
    }
    if FILTER_TGIDS.insert(child, CHOSEN, u64::from(BPF_NOEXIST)).is_err() && FILTER_TGIDS.get_ptr(child).is_none() {
        loss::count(KernelCounter::LostFilterFull);
    }
}

/// Chooses a process that was to be chosen when it executes a program, as it does now. Whether it was chosen now.
#[inline(always)]
pub fn follow_exec(task: Task) -> bool {
    let Some(choice) = FILTER_TGIDS.get_ptr_mut(task.tgid()) else { return false };
    // SAFETY: the value stays valid while the program runs.
    unsafe {
        let is_due = *choice == CHOSEN_AT_EXEC;
        if is_due {
            *choice = CHOSEN;
        }
        is_due
    }
}

/// Forgets a process that is over: its id may be given to another.
#[inline(always)]
pub fn forget(task: Task) {
    if task.process_is_over() {
        // Not being in the map is the usual case, not a failure.
        let _ = FILTER_TGIDS.remove(task.tgid());
    }
}
