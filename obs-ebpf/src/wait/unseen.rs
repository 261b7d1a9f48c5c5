//! Switches that no program saw: some hosts' kernels run none while certain threads run, not even for the switch to the next one. The
//! scheduler's own account of a thread's time tells what happened.

use obs_common::{
    stack::{GONE_STACK, NO_STACK},
    wait::{ShortWaits, Wait, WaitState},
};

use super::{
    count::{add_short, count_part, count_parts, is_short, key_without_stacks, parts_ns},
    runs_since,
};
use crate::task::Task;

/// Ends the wait of a thread that has run since and that nobody saw begin to. When that was follows from how long it has run; what interrupts and a
/// hypervisor took meanwhile is not in that account, and so part of the wait. The stack of then is gone.
#[inline(always)]
pub(super) fn end_unseen(task: Task, wait: *mut Wait, now_ns: u64) {
    // SAFETY: the value of a map stays valid while the program runs.
    let this = unsafe { *wait };
    let Wait { since_ns, run_time_ns, user_stack, cgroup_id, state, waker, .. } = this;
    if since_ns == 0 || state == WaitState::Running as u32 {
        return;
    }
    let ran_ns = task.run_time_ns().saturating_sub(run_time_ns);
    let began_ns = now_ns.saturating_sub(ran_ns.min(now_ns.saturating_sub(since_ns)));
    let (blocked_ns, queued_ns) = parts_ns(&this, began_ns);
    if is_short(blocked_ns, queued_ns) {
        add_short(task, wait, ShortWaits { blocked_ns, queued_ns, state, count: 1 });
    } else {
        let mut key = key_without_stacks(task, cgroup_id);
        key.user_stack = if user_stack == NO_STACK { GONE_STACK } else { user_stack };
        key.waker = waker;
        count_parts(&mut key, state, blocked_ns, queued_ns);
    }
    runs_since(wait, began_ns);
}

/// Counts for how long a thread has run that ceased to unseen, and now runs again. What it waited for in between is not known.
#[inline(always)]
pub(super) fn begin_unseen(task: Task, wait: *mut Wait, now_ns: u64) {
    // SAFETY: the value of a map stays valid while the program runs.
    let Wait { since_ns, run_time_ns, cgroup_id, .. } = unsafe { *wait };
    let now_run_time_ns = task.run_time_ns();
    let ran_ns = now_run_time_ns.saturating_sub(run_time_ns).min(now_ns.saturating_sub(since_ns));
    count_part(&mut key_without_stacks(task, cgroup_id), WaitState::Running as u32, ran_ns);
    // SAFETY: as above.
    unsafe {
        (*wait).since_ns = now_ns;
        (*wait).run_time_ns = now_run_time_ns;
    }
}
