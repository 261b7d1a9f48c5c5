//! What waits add up to: each is counted by what the thread waited for, long ones by their stacks, short ones together.

use obs_common::{
    limits::SHORT_WAITS_TOGETHER_MAX,
    stack::{GONE_STACK, NO_STACK, StackKey, StackValue},
    wait::{FinishedWait, NO_WAKER, ShortWaits, WAIT_IS_SHORT, Wait, WaitState},
};

use super::WAIT_THRESHOLD_NS;
use crate::{counts, registers::Registers, task::Task};

/// Adds a short wait to those that wait to be counted.
#[inline(always)]
pub(super) fn add_short(task: Task, wait: *mut Wait, more: ShortWaits) {
    let exec_id = task.image().exec_id;
    // SAFETY: the value of a map stays valid while the program runs, and is this thread's.
    unsafe {
        let ShortWaits { state, count, .. } = (*wait).short;
        if count > 0 && (state != more.state || count >= SHORT_WAITS_TOGETHER_MAX || (*wait).exec_id != exec_id) {
            count_short(task, wait);
        }
        (*wait).exec_id = exec_id;
        (*wait).short.state = more.state;
        (*wait).short.count += more.count;
        (*wait).short.blocked_ns += more.blocked_ns;
        (*wait).short.queued_ns += more.queued_ns;
    }
}

/// Counts the short waits of a thread that wait for it.
#[inline(always)]
pub(super) fn count_short(task: Task, wait: *mut Wait) {
    // SAFETY: as above.
    let Wait { cgroup_id, exec_id, short, .. } = unsafe { *wait };
    if short.count == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*wait).short = ShortWaits::NONE };
    let mut key = key_without_stacks(task, cgroup_id);
    // Of the program that it ran then.
    key.exec_id = exec_id;
    let parts = [(short.state, short.blocked_ns), (WaitState::RunQueue as u32, short.queued_ns)];
    for (state, weight) in parts {
        if weight > 0 {
            key.state = state | WAIT_IS_SHORT;
            counts::add_all(&key, StackValue { count: u64::from(short.count), weight });
        }
    }
}

/// How long a thread waited until it was woken, and how long for a CPU since, in nanoseconds.
#[inline(always)]
pub(super) fn parts_ns(wait: &Wait, now_ns: u64) -> (u64, u64) {
    let Wait { since_ns, woken_ns, state, .. } = *wait;
    let is_runnable = state >= WaitState::RunQueue as u32;
    let until_ns = if is_runnable || woken_ns == 0 || woken_ns > now_ns { now_ns } else { woken_ns };
    // It may have been woken just before it could begin to wait.
    let blocked_ns = until_ns.saturating_sub(since_ns);
    (blocked_ns, now_ns.saturating_sub(since_ns).saturating_sub(blocked_ns))
}

/// Whether a wait of these parts gets no stack.
#[inline(always)]
pub(super) fn is_short(blocked_ns: u64, queued_ns: u64) -> bool {
    let threshold_ns = WAIT_THRESHOLD_NS.load();
    blocked_ns < threshold_ns && queued_ns < threshold_ns
}

/// The key of what a thread does that has no stack.
#[inline(always)]
pub(super) fn key_without_stacks(task: Task, cgroup_id: u64) -> StackKey {
    let image = task.image();
    StackKey {
        started_ns: image.started_ns,
        cgroup_id,
        user_stack: NO_STACK,
        kernel_stack: NO_STACK,
        waker: NO_WAKER,
        tgid: image.tgid,
        exec_id: image.exec_id,
        state: 0,
        reserved: 0,
        comm: task.comm(),
    }
}

/// Counts the wait whose user stack was to be had, if this is still the one.
///
/// # Safety
/// `finished` is this CPU's.
#[inline(always)]
pub(super) unsafe fn count_finished(finished: *mut FinishedWait, registers: Option<Registers>, user_stack: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let (ip, sp) = ((*finished).ip, (*finished).sp);
        // It may have left that system call meanwhile, without coming by: a signal's handler returned, a program was executed.
        let is_same = registers.is_some_and(|registers| registers.ip() == ip && registers.sp() == sp);
        count(finished, if is_same { user_stack } else { GONE_STACK });
        (*finished).tid = 0;
    }
}

/// Counts both parts of a wait.
///
/// # Safety
/// `finished` is this CPU's.
#[inline(always)]
pub(super) unsafe fn count(finished: *const FinishedWait, user_stack: u64) {
    // SAFETY: the caller's promise.
    let FinishedWait { image, cgroup_id, kernel_stack, blocked_ns, queued_ns, waker, comm, state, .. } =
        unsafe { *finished };
    let mut key = StackKey {
        started_ns: image.started_ns,
        cgroup_id,
        user_stack,
        kernel_stack,
        waker,
        tgid: image.tgid,
        exec_id: image.exec_id,
        state: 0,
        reserved: 0,
        comm,
    };
    count_parts(&mut key, state, blocked_ns, queued_ns);
}

/// Counts both parts of a wait that was long.
#[inline(always)]
pub(super) fn count_parts(key: &mut StackKey, state: u32, blocked_ns: u64, queued_ns: u64) {
    count_part(key, state, blocked_ns);
    key.waker = NO_WAKER;
    // A pause for a CPU that is short gives no reason to look at the stack before it.
    if queued_ns < WAIT_THRESHOLD_NS.load() {
        key.user_stack = NO_STACK;
        key.kernel_stack = NO_STACK;
        count_part(key, WaitState::RunQueue as u32 | WAIT_IS_SHORT, queued_ns);
    } else {
        count_part(key, WaitState::RunQueue as u32, queued_ns);
    }
}

#[inline(always)]
pub(super) fn count_part(key: &mut StackKey, state: u32, wait_ns: u64) {
    if wait_ns > 0 {
        key.state = state;
        counts::add(key, wait_ns);
    }
}
