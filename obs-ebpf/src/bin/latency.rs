//! Latencies: how long what the kernel does for programs takes. Only what is asked for is attached.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros make public items of the programs below, and pass them their contexts"
)]

use aya_ebpf::{
    bindings::task_struct,
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use obs_common::latency::{LatencySource, PageFault};
use obs_ebpf::{
    filter,
    latency::{block, calls, faults, interrupts, scheduling, tcp},
    task::Task,
};

fn task(context: &BtfTracePointContext, argument: usize) -> Task {
    Task::from_argument(context.arg::<*const task_struct>(argument))
}

/// Runs on each switch from one thread to another, while the first is still the current one.
#[btf_tracepoint(function = "sched_switch")]
pub fn latency_switch(context: BtfTracePointContext) -> i32 {
    // A `bool`: nobody promises more of the argument than its lowest byte.
    let is_preempted = context.arg::<u64>(0) & 0xff != 0;
    scheduling::leaves(task(&context, 1), is_preempted);
    scheduling::runs(task(&context, 2));
    0
}

/// Runs when a thread is woken, in whatever wakes it.
#[btf_tracepoint(function = "sched_waking")]
pub fn latency_waking(context: BtfTracePointContext) -> i32 {
    scheduling::wakes(task(&context, 0));
    0
}

/// Runs when a thread that has just been made is given to a CPU.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn latency_new(context: BtfTracePointContext) -> i32 {
    scheduling::is_new(task(&context, 0));
    0
}

/// Runs when a request is made for a block device.
#[btf_tracepoint(function = "block_getrq")]
pub fn latency_request(context: BtfTracePointContext) -> i32 {
    block::made(context.arg(0));
    0
}

/// Runs when a request is given to its device.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn latency_issue(context: BtfTracePointContext) -> i32 {
    block::issued(block::Request::from_argument(context.arg(0)));
    0
}

/// Runs when a request is given back to the queue.
#[btf_tracepoint(function = "block_rq_requeue")]
pub fn latency_requeue(context: BtfTracePointContext) -> i32 {
    block::given_back(block::Request::from_argument(context.arg(0)));
    0
}

/// Runs when a device is done with a part of a request, or all of it.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn latency_complete(context: BtfTracePointContext) -> i32 {
    block::completed(block::Request::from_argument(context.arg(0)), context.arg(2));
    0
}

/// Runs when a system call begins.
#[btf_tracepoint(function = "sys_enter")]
pub fn latency_enter(context: BtfTracePointContext) -> i32 {
    calls::enters(context.arg(1));
    0
}

/// Runs when a system call is about to return.
#[btf_tracepoint(function = "sys_exit")]
pub fn latency_return(_context: BtfTracePointContext) -> i32 {
    calls::returns();
    0
}

/// Runs at each page fault that needs no disk.
#[perf_event]
pub fn latency_minor_fault(_context: PerfEventContext) -> i32 {
    faults::happens(PageFault::Minor);
    0
}

/// Runs at each page fault that needs a disk.
#[perf_event]
pub fn latency_major_fault(_context: PerfEventContext) -> i32 {
    faults::happens(PageFault::Major);
    0
}

/// Runs when a socket of the internet protocols changes its state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn latency_state(context: BtfTracePointContext) -> i32 {
    tcp::changes(context.arg(0), context.arg(1), context.arg(2));
    0
}

/// Runs when a thread has read from a TCP socket.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn latency_read(context: BtfTracePointContext) -> i32 {
    tcp::read(context.arg(0));
    0
}

/// Runs when a segment arrives on a TCP connection.
#[btf_tracepoint(function = "tcp_probe")]
pub fn latency_segment(context: BtfTracePointContext) -> i32 {
    tcp::receives(context.arg(0));
    0
}

/// Runs when a buffer of TCP segments is sent again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn latency_again(context: BtfTracePointContext) -> i32 {
    tcp::sends_again(context.arg(0), context.arg(1));
    0
}

/// Runs when the kernel begins to work off a software interrupt.
#[btf_tracepoint(function = "softirq_entry")]
pub fn latency_soft_begin(_context: BtfTracePointContext) -> i32 {
    interrupts::begins(LatencySource::SoftIrq);
    0
}

/// Runs when it has done so.
#[btf_tracepoint(function = "softirq_exit")]
pub fn latency_soft_end(context: BtfTracePointContext) -> i32 {
    interrupts::ends(LatencySource::SoftIrq, context.arg(0));
    0
}

/// Runs before a device's handler of an interrupt.
#[btf_tracepoint(function = "irq_handler_entry")]
pub fn latency_hard_begin(_context: BtfTracePointContext) -> i32 {
    interrupts::begins(LatencySource::HardIrq);
    0
}

/// Runs behind a device's handler of an interrupt.
#[btf_tracepoint(function = "irq_handler_exit")]
pub fn latency_hard_end(context: BtfTracePointContext) -> i32 {
    interrupts::ends(LatencySource::HardIrq, context.arg(0));
    0
}

/// Chooses the children of chosen processes.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn latency_fork(context: BtfTracePointContext) -> i32 {
    filter::follow_fork(task(&context, 0), task(&context, 1));
    0
}

/// Chooses processes that were to be chosen when they execute a program.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn latency_exec(_context: BtfTracePointContext) -> i32 {
    filter::follow_exec(Task::current());
    0
}

/// Forgets threads and chosen processes that are over.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn latency_exit(context: BtfTracePointContext) -> i32 {
    let ended = task(&context, 0);
    calls::forget(ended);
    filter::forget(ended);
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
