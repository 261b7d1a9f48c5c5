//! Waits: where threads do not run, for how long, and what for.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros make public items of the programs below, and pass them their contexts"
)]

use aya_ebpf::{EbpfContext as _, bindings::task_struct, macros::btf_tracepoint, programs::BtfTracePointContext};
use obs_ebpf::{
    filter,
    task::Task,
    wait::{self, iterate::TaskIteration},
};

/// Runs on each switch from one thread to another, while the first is still the current one.
#[btf_tracepoint(function = "sched_switch")]
pub fn offcpu_switch(context: BtfTracePointContext) -> i32 {
    let is_preempted = context.arg::<u64>(0) != 0;
    let previous = Task::from_argument(context.arg::<*const task_struct>(1));
    let next = Task::from_argument(context.arg::<*const task_struct>(2));
    wait::switch(is_preempted, previous, next);
    0
}

/// Runs when a thread is woken, in whatever wakes it.
#[btf_tracepoint(function = "sched_waking")]
pub fn offcpu_waking(context: BtfTracePointContext) -> i32 {
    wait::wake(context.as_ptr(), Task::from_argument(context.arg::<*const task_struct>(0)));
    0
}

/// Runs when a thread that has just been made is given to a CPU.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn offcpu_new(context: BtfTracePointContext) -> i32 {
    wait::begin_new(Task::from_argument(context.arg::<*const task_struct>(0)));
    0
}

/// Runs at the end of each switch, as the thread that was switched to; only some kernels have it.
#[btf_tracepoint(function = "sched_exit_tp")]
pub fn offcpu_resumed(_context: BtfTracePointContext) -> i32 {
    wait::take_user_stack();
    0
}

/// Runs when a system call is about to return; where there is nothing at the end of a switch.
#[btf_tracepoint(function = "sys_exit")]
pub fn offcpu_return(_context: BtfTracePointContext) -> i32 {
    wait::take_user_stack();
    0
}

/// Chooses the children of chosen processes.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn offcpu_fork(context: BtfTracePointContext) -> i32 {
    let parent = Task::from_argument(context.arg::<*const task_struct>(0));
    let child = Task::from_argument(context.arg::<*const task_struct>(1));
    filter::follow_fork(parent, child);
    0
}

/// Chooses processes that were to be chosen when they execute a program.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn offcpu_exec(_context: BtfTracePointContext) -> i32 {
    let task = Task::current();
    if filter::follow_exec(task) {
        wait::begin_chosen(task);
    }
    0
}

/// Forgets chosen processes that are over.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn offcpu_exit(context: BtfTracePointContext) -> i32 {
    filter::forget(Task::from_argument(context.arg::<*const task_struct>(0)));
    0
}

/// Runs for each thread when a recording begins.
///
/// # Safety
/// The kernel gives it the context of an iterator over threads.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn offcpu_begun(context: *const TaskIteration) -> i32 {
    // SAFETY: as the kernel promises.
    if let Some(task) = unsafe { TaskIteration::task(context) } {
        wait::iterate::begun(task);
    }
    0
}

/// Runs for each thread when a recording has ended.
///
/// # Safety
/// The kernel gives it the context of an iterator over threads.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn offcpu_unfinished(context: *const TaskIteration) -> i32 {
    // SAFETY: as the kernel promises.
    unsafe {
        if let Some(task) = TaskIteration::task(context) {
            wait::iterate::unfinished(context, task);
        }
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives some of the helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
