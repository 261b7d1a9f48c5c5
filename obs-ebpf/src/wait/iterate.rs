//! Threads that wait already when a recording begins, and still when it ends: they pass no tracepoint, so a program looks at every
//! thread that there is.

use aya_ebpf::{
    bindings::{seq_file, task_struct},
    helpers::generated::bpf_seq_write,
    macros::map,
    maps::PerCpuArray,
};
use obs_common::{
    stack::NO_STACK,
    wait::{NO_WAKER, UnfinishedWait, WAIT_IS_SHORT, Wait, WaitState},
};

use super::{
    COUNTS_RUNNING, WAITS,
    count::{count_short, is_short, key_without_stacks, parts_ns},
    end_of_life, follow, now_ns, state,
    unseen::end_unseen,
    user_registers, wait_since,
};
use crate::{filter, process, stack, task::Task};

/// What a program is given that runs for each thread: `struct bpf_iter__task`.
#[repr(C)]
pub struct TaskIteration {
    meta: *const IterationMeta,
    task: *const task_struct,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct IterationMeta {
    output: *mut seq_file,
}

impl TaskIteration {
    /// The thread; `None` behind the last one.
    ///
    /// # Safety
    /// `this` is the context of an iterator over threads.
    #[inline(always)]
    #[must_use]
    pub unsafe fn task(this: *const Self) -> Option<Task> {
        // SAFETY: the caller's promise.
        let task = unsafe { (*this).task };
        (!task.is_null()).then(|| Task::from_argument(task))
    }

    /// Where to write.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn output(this: *const Self) -> *mut seq_file {
        // SAFETY: the caller's promise.
        unsafe { (*(*this).meta).output }
    }
}

/// The record being made.
#[map]
static UNFINISHED_SCRATCH: PerCpuArray<UnfinishedWait> = PerCpuArray::with_max_entries(1, 0);

/// Begins to follow a thread that is there already: it waits, or it runs if that counts.
#[inline(always)]
pub fn begun(task: Task) {
    if task.tid() == 0 || task.is_dead() || !filter::admits_other(task) {
        return;
    }
    let state = if task.is_on_cpu() {
        WaitState::Running
    } else if task.is_runnable() {
        WaitState::RunQueue
    } else {
        state(task)
    };
    if state == WaitState::Running && COUNTS_RUNNING.load() == 0 {
        return;
    }
    // So that its unwind table is there when its wait ends.
    process::announce(task, &task.image());
    follow(task.tid(), &wait_since(task, state, now_ns()));
}

/// Writes what a thread does that is not over, and follows it no more. Nothing else of this object may run any more.
///
/// # Safety
/// `context` is the context of an iterator over threads.
#[inline(always)]
pub unsafe fn unfinished(context: *const TaskIteration, task: Task) {
    let tid = task.tid();
    let Some(wait) = WAITS.get_ptr_mut(tid) else { return };
    let now_ns = now_ns();
    // Before it is asked whether it runs: if it begins to after this, the count tells.
    let runs = task.runs();
    if task.is_on_cpu() {
        end_unseen(task, wait, now_ns);
    }
    // SAFETY: the value stays valid while the program runs.
    let this = unsafe { *wait };
    end_of_life(now_ns);
    count_short(task, wait);
    // What is left behind is of threads that are gone.
    let _ = WAITS.remove(tid);
    if this.since_ns == 0 {
        return;
    }
    let Some(record) = UNFINISHED_SCRATCH.get_ptr_mut(0) else { return };
    let Wait { user_stack, cgroup_id, state, .. } = this;
    let (blocked_ns, queued_ns) = parts_ns(&this, now_ns);
    let mut key = key_without_stacks(task, cgroup_id);
    let mut has_registers = false;
    key.waker = NO_WAKER;
    key.state = state;
    if state != WaitState::Running as u32 {
        if is_short(blocked_ns, queued_ns) {
            key.state |= WAIT_IS_SHORT;
        } else {
            process::announce(task, &task.image());
            key.kernel_stack = stack::kernel_of(task);
            key.user_stack = user_stack;
            let registers = if user_stack == NO_STACK { user_registers(task) } else { None };
            if let Some(registers) = registers {
                has_registers = true;
                // SAFETY: the record is this CPU's.
                unsafe { registers.copy_to(&raw mut (*record).registers) };
            }
        }
    }
    // SAFETY: the record is this CPU's, and the helper reads no more than it.
    unsafe {
        (*record).key = key;
        (*record).blocked_ns = blocked_ns;
        (*record).queued_ns = queued_ns;
        (*record).runs = runs;
        (*record).tid = tid;
        (*record).has_registers = u32::from(has_registers);
        bpf_seq_write(TaskIteration::output(context), record.cast(), size_of::<UnfinishedWait>() as u32);
    }
}
