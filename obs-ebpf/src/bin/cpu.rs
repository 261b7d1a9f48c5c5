//! CPU samples: which stacks were running when a clock (or a hardware counter) ticked.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros make public items of the programs below, and pass them their contexts"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::task_struct,
    helpers::{bpf_get_current_comm, generated::bpf_get_current_cgroup_id},
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use aya_log_ebpf::debug;
use obs_common::{
    counters::KernelCounter,
    limits::COMM_BYTES,
    stack::{NO_STACK, StackKey},
};
use obs_ebpf::{counts, filter, loss, process, stack, task::Task};

/// Runs on each tick of the sampling event, on the CPU and in the context that it interrupted.
#[perf_event]
pub fn cpu_sample(context: PerfEventContext) -> u32 {
    loss::count(KernelCounter::Runs);
    let task = Task::current();
    if task.tid() == 0 {
        loss::count(KernelCounter::Idle);
        return 0;
    }
    if !filter::admits(task) {
        loss::count(KernelCounter::Filtered);
        return 0;
    }
    let image = task.image();
    if process::announce(task, &image) {
        debug!(&context, "process {} is sampled for the first time, image {}", image.tgid, image.exec_id);
    }

    // SAFETY: the verifier gives this program type a valid context.
    let (in_user_mode, period) = unsafe { (user_mode(&context), (*context.ctx).sample_period) };
    // SAFETY: `bpf_get_stack` takes the context of a perf event.
    let kernel_stack = if in_user_mode { NO_STACK } else { unsafe { stack::kernel(context.as_ptr()) } };
    let user_stack = if task.has_user_stack() { stack::user(task, &image) } else { NO_STACK };
    let key = StackKey {
        started_ns: image.started_ns,
        // SAFETY: the helper takes no arguments.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        user_stack,
        kernel_stack,
        waker: 0,
        tgid: image.tgid,
        exec_id: image.exec_id,
        state: 0,
        reserved: 0,
        comm: bpf_get_current_comm().unwrap_or([0; COMM_BYTES]),
    };
    counts::add(&key, period);
    0
}

/// Whether the event interrupted user code.
///
/// # Safety
/// `context` is valid.
#[inline(always)]
unsafe fn user_mode(context: &PerfEventContext) -> bool {
    // The two low bits of the code segment are the privilege level.
    #[cfg(bpf_target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    return unsafe { (*context.ctx).regs.cs & 3 == 3 };
    // PSR_MODE_MASK: exception level 0, in either execution state, is user mode.
    #[cfg(bpf_target_arch = "aarch64")]
    // SAFETY: the caller's promise.
    return unsafe { (*context.ctx).regs.pstate & 0xf == 0 };
}

/// Chooses the children of chosen processes.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn cpu_fork(context: BtfTracePointContext) -> i32 {
    let parent = Task::from_argument(context.arg::<*const task_struct>(0));
    let child = Task::from_argument(context.arg::<*const task_struct>(1));
    filter::follow_fork(parent, child);
    0
}

/// Announces the programs that chosen processes execute: their stacks can be walked from the first sample on.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn cpu_exec(_context: BtfTracePointContext) -> i32 {
    let task = Task::current();
    filter::follow_exec(task);
    if filter::admits(task) {
        process::announce(task, &task.image());
    }
    0
}

/// Forgets chosen processes that are over.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn cpu_exit(context: BtfTracePointContext) -> i32 {
    filter::forget(Task::from_argument(context.arg::<*const task_struct>(0)));
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
