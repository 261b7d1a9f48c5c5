//! Follows threads while they do not run: since when, for what, and what it adds up to.
//!
//! Most waits are short, and a stack costs more than they do. So a switch takes the time only. When a thread runs again after a
//! wait that was long enough, its kernel stack is still as it was while it waited; its user stack can be read as soon as its own
//! memory is in place: at the end of the switch, where the kernel says when that is ([`HAS_SWITCH_END`]).
//!
//! Elsewhere it is read when the thread's system call returns, and is the same as before. Only where no system call will return (it
//! was pre-empted, or touched memory that was not there) the user stack is taken when the wait begins.
//!
//! Short waits are counted too, without a stack: all waits add up to the whole. Where running counts as well, each thread's
//! whole life does.
//!
//! Threads that wait when a recording begins or ends are seen by [`iterate`]; who ends a wait, by [`waker`].

mod count;
pub mod iterate;
mod unseen;
pub mod waker;

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    counters::KernelCounter,
    limits::WAITS_MAX,
    stack::{GONE_STACK, LOST_STACK, NO_STACK},
    wait::{FinishedWait, NO_WAKER, ShortWaits, Wait, WaitState},
};

use self::{
    count::{add_short, count, count_finished, count_part, count_short, is_short, key_without_stacks, parts_ns},
    unseen::{begin_unseen, end_unseen},
};
use crate::{
    filter, loss, process,
    registers::{Entry, Registers},
    stack, system_call,
    task::Task,
};

/// Waits of so many nanoseconds and more have stacks.
#[unsafe(no_mangle)]
static WAIT_THRESHOLD_NS: Global<u64> = Global::new(1_000_000);

/// 1 if the time counts too in which threads run.
#[unsafe(no_mangle)]
static COUNTS_RUNNING: Global<u8> = Global::new(0);

/// 1 if a program runs at the end of each switch, as the thread that was switched to.
#[unsafe(no_mangle)]
static HAS_SWITCH_END: Global<u32> = Global::new(0);

#[map]
static WAITS: HashMap<u32, Wait> = HashMap::with_max_entries(WAITS_MAX, 0);
/// Of the thread that runs on this CPU.
#[map]
static WAIT_FINISHED: PerCpuArray<FinishedWait> = PerCpuArray::with_max_entries(1, 0);

/// The time. Not that of the boot-time clock: while the machine sleeps nobody waits, and it takes longer to read.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// A CPU goes over from one thread, the current one, to another. `is_preempted` if the first could go on running, whatever its state
/// says: it may just have been about to wait.
#[inline(always)]
pub fn switch(is_preempted: bool, previous: Task, next: Task) {
    // One moment for both: no time is lost between them.
    let now_ns = now_ns();
    begin(is_preempted, previous, now_ns);
    end(next, now_ns);
}

/// A thread, the current one, ceases to run.
#[inline(always)]
fn begin(is_preempted: bool, task: Task, now_ns: u64) {
    let tid = task.tid();
    let Some(finished) = WAIT_FINISHED.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array; this program does not interrupt itself.
    unsafe {
        // Of a thread that left this CPU unseen.
        if (*finished).tid != 0 && ((*finished).tid != tid || has_switch_end()) {
            count(finished, GONE_STACK);
            (*finished).tid = 0;
        }
    }
    if tid == 0 {
        return;
    }
    let needs_stack = match WAITS.get_ptr_mut(tid) {
        Some(wait) => begin_again(is_preempted, task, tid, wait, now_ns),
        None if task.is_dead() || !filter::admits(task) => false,
        None => {
            let (wait, needs_stack) = wait_of(is_preempted, task, now_ns);
            follow(tid, &wait) && needs_stack
        }
    };
    // SAFETY: an element of a per-CPU array; this program does not interrupt itself.
    let has_finished = !has_switch_end() && unsafe { (*finished).tid } == tid;
    // What is known goes into maps before the stack is walked, and is read from there behind: the verifier would follow the walk once
    // for each of the states.
    if !needs_stack && !has_finished {
        return;
    }
    let registers = user_registers(task);
    let user_stack = user_stack_of(task, registers);
    // SAFETY: as above; the value of a map stays valid while the program runs.
    unsafe {
        if (*finished).tid == tid {
            count_finished(finished, registers, user_stack);
        }
        if let Some(wait) = WAITS.get_ptr_mut(tid)
            && (*wait).user_stack == LOST_STACK
        {
            (*wait).user_stack = user_stack;
        }
    }
}

/// A thread, the current one, that is followed ceases to run. Whether its user stack has to be taken now.
#[inline(always)]
fn begin_again(is_preempted: bool, task: Task, tid: u32, wait: *mut Wait, now_ns: u64) -> bool {
    end_unseen(task, wait, now_ns);
    if COUNTS_RUNNING.load() != 0 {
        count_run(task, wait, now_ns);
    }
    // It is over, or no longer passes: it has another name now, or is in another cgroup. While it ends it does not pass either, for the
    // filter forgets its process early.
    if task.is_dead() || (!filter::admits(task) && !task.is_exiting()) {
        follow_no_more(task, tid, wait, now_ns);
        return false;
    }
    let (this, needs_stack) = wait_of(is_preempted, task, now_ns);
    // SAFETY: the value stays valid while the program runs. Whoever wakes the thread writes `woken_ns` only, and no earlier than the
    // thread's state says so: what stands there otherwise is of a time when it ran.
    unsafe {
        (*wait).user_stack = this.user_stack;
        (*wait).run_time_ns = this.run_time_ns;
        (*wait).cgroup_id = this.cgroup_id;
        (*wait).state = this.state;
        if !task.is_being_woken() {
            (*wait).woken_ns = 0;
            (*wait).waker = NO_WAKER;
        }
        (*wait).since_ns = now_ns;
    }
    needs_stack
}

#[inline(always)]
fn has_switch_end() -> bool {
    HAS_SWITCH_END.load() != 0
}

/// The registers of a thread that has a user stack.
#[inline(always)]
fn user_registers(task: Task) -> Option<Registers> {
    if task.has_user_stack() { Registers::of(task) } else { None }
}

/// The user stack that begins at these registers, in the memory of the current thread, `task`.
#[inline(always)]
fn user_stack_of(task: Task, registers: Option<Registers>) -> u64 {
    let Some(registers) = registers else { return LOST_STACK };
    let image = task.image();
    process::announce(task, &image);
    stack::user_from(task, &image, registers)
}

/// What is known of the current thread as it ceases to run, and whether its user stack has to be taken now.
#[inline(always)]
fn wait_of(is_preempted: bool, task: Task, now_ns: u64) -> (Wait, bool) {
    let state = if is_preempted { state_of_runnable(task) } else { state(task) };
    let needs_stack = !has_switch_end() && ends_without_a_system_call(task, state);
    let wait = wait_since(task, state, now_ns);
    // Until it is taken.
    let user_stack = if needs_stack { LOST_STACK } else { NO_STACK };
    (Wait { user_stack, ..wait }, needs_stack)
}

/// Begins to follow a thread. Whether there was room.
#[inline(always)]
fn follow(tid: u32, wait: &Wait) -> bool {
    if WAITS.insert(tid, wait, u64::from(BPF_NOEXIST)).is_err() {
        // Not if another CPU was quicker.
        if WAITS.get_ptr(tid).is_none() {
            loss::count(KernelCounter::LostWaitsFull);
        }
        return false;
    }
    if COUNTS_RUNNING.load() != 0 {
        loss::add(KernelCounter::ThreadTimeNs, wait.since_ns.wrapping_neg());
    }
    true
}

/// A thread that was followed is followed no more, and neither waits nor runs as far as that is counted.
#[inline(always)]
fn follow_no_more(task: Task, tid: u32, wait: *mut Wait, now_ns: u64) {
    count_short(task, wait);
    let _ = WAITS.remove(tid);
    end_of_life(now_ns);
}

/// Nothing of a thread counts from now on.
#[inline(always)]
fn end_of_life(now_ns: u64) {
    if COUNTS_RUNNING.load() != 0 {
        loss::add(KernelCounter::ThreadTimeNs, now_ns);
    }
}

/// Counts for how long a thread, the current one, has run.
#[inline(always)]
fn count_run(task: Task, wait: *mut Wait, now_ns: u64) {
    // SAFETY: the value stays valid while the program runs.
    let (since_ns, state, cgroup_id) = unsafe { ((*wait).since_ns, (*wait).state, (*wait).cgroup_id) };
    if state != WaitState::Running as u32 || since_ns == 0 {
        return;
    }
    let mut key = key_without_stacks(task, cgroup_id);
    count_part(&mut key, state, now_ns.saturating_sub(since_ns));
    // SAFETY: as above.
    unsafe { (*wait).since_ns = 0 };
}

/// A thread is woken, by the current one or by an interrupt.
#[inline(always)]
pub fn wake(context: *mut c_void, task: Task) {
    let Some(wait) = WAITS.get_ptr_mut(task.tid()) else { return };
    // SAFETY: the value stays valid while the program runs.
    let Wait { since_ns, woken_ns, state, .. } = unsafe { *wait };
    if woken_ns != 0 {
        return;
    }
    let now_ns = now_ns();
    let is_long = since_ns != 0 && now_ns.saturating_sub(since_ns) >= WAIT_THRESHOLD_NS.load();
    // SAFETY: as above.
    unsafe {
        (*wait).woken_ns = now_ns;
        if is_long && state < WaitState::RunQueue as u32 {
            (*wait).waker = waker::of(context);
        }
    }
}

/// A thread, which is not the current one yet, runs again.
#[inline(always)]
fn end(task: Task, now_ns: u64) {
    let tid = task.tid();
    let Some(wait) = WAITS.get_ptr_mut(tid) else { return };
    // SAFETY: the value stays valid while the program runs.
    let this = unsafe { *wait };
    let Wait { since_ns, user_stack, cgroup_id, waker, state, .. } = this;
    if since_ns != 0 && state == WaitState::Running as u32 {
        begin_unseen(task, wait, now_ns);
        return;
    }
    if since_ns == 0 {
        return;
    }
    runs_since(wait, now_ns);
    let (blocked_ns, queued_ns) = parts_ns(&this, now_ns);
    if is_short(blocked_ns, queued_ns) {
        add_short(task, wait, ShortWaits { blocked_ns, queued_ns, state, count: 1 });
        return;
    }
    let image = task.image();
    let comm = task.comm();
    process::announce(task, &image);
    let kernel_stack = stack::kernel_of(task);
    let Some(finished) = WAIT_FINISHED.get_ptr_mut(0) else { return };
    let registers = user_registers(task);
    // SAFETY: an element of a per-CPU array; this program does not interrupt itself.
    unsafe {
        (*finished).state = state;
        (*finished).ip = registers.map_or(0, Registers::ip);
        (*finished).sp = registers.map_or(0, Registers::sp);
        (*finished).image = image;
        (*finished).cgroup_id = cgroup_id;
        (*finished).kernel_stack = kernel_stack;
        (*finished).blocked_ns = blocked_ns;
        (*finished).queued_ns = queued_ns;
        (*finished).waker = waker;
        (*finished).comm = comm;
        if registers.is_none() || user_stack != NO_STACK {
            count(finished, user_stack);
        } else {
            (*finished).tid = tid;
        }
    }
}

/// Notes since when a thread runs whose wait is over.
#[inline(always)]
fn runs_since(wait: *mut Wait, began_ns: u64) {
    let counts_running = COUNTS_RUNNING.load() != 0;
    // SAFETY: the value of a map stays valid while the program runs.
    unsafe {
        (*wait).woken_ns = 0;
        (*wait).since_ns = if counts_running { began_ns } else { 0 };
        if counts_running {
            (*wait).state = WaitState::Running as u32;
        }
    }
}

/// The user stack of the wait that the current thread came out of can be had.
#[inline(always)]
pub fn take_user_stack() {
    let Some(finished) = WAIT_FINISHED.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array, on a CPU that does not switch while this program runs.
    if unsafe { (*finished).tid } == 0 {
        return;
    }
    let task = Task::current();
    // SAFETY: as above. That thread left this CPU unseen, and this one came unseen.
    unsafe {
        if (*finished).tid != task.tid() {
            count(finished, GONE_STACK);
            (*finished).tid = 0;
            return;
        }
    }
    // Interrupts come in here, and wake others.
    waker::keep_off(true);
    let registers = user_registers(task);
    let user_stack = user_stack_of(task, registers);
    waker::keep_off(false);
    // SAFETY: as above.
    unsafe { count_finished(finished, registers, user_stack) };
}

/// The current thread's process was just chosen to be measured: it runs.
#[inline(always)]
pub fn begin_chosen(task: Task) {
    if COUNTS_RUNNING.load() != 0 {
        follow(task.tid(), &wait_since(task, WaitState::Running, now_ns()));
    }
}

/// A thread is made, by the current one, and waits for a CPU for the first time.
#[inline(always)]
pub fn begin_new(task: Task) {
    if filter::admits_other(task) {
        follow(task.tid(), &wait_since(task, WaitState::RunQueue, now_ns()));
    }
}

/// What is known of a thread that does this from now on.
#[inline(always)]
fn wait_since(task: Task, state: WaitState, now_ns: u64) -> Wait {
    Wait {
        since_ns: now_ns,
        woken_ns: 0,
        run_time_ns: task.run_time_ns(),
        user_stack: NO_STACK,
        cgroup_id: task.cgroup_id(),
        waker: NO_WAKER,
        state: state as u32,
        exec_id: 0,
        short: ShortWaits::NONE,
    }
}

/// Whether a thread that waits so will not come by the return of a system call.
#[inline(always)]
fn ends_without_a_system_call(task: Task, state: WaitState) -> bool {
    Entry::of(task).is_some_and(|entry| {
        matches!(state, WaitState::Preempted | WaitState::Throttled) || entry.system_call.is_none()
    })
}

/// For what a thread waits that ceases to run.
#[inline(always)]
pub(crate) fn state(task: Task) -> WaitState {
    if task.is_runnable() {
        return state_of_runnable(task);
    }
    if task.is_stopped() {
        return WaitState::Sleep;
    }
    if task.waits_for_io() {
        return WaitState::BlockIo;
    }
    let Some(Entry { system_call, first_argument }) = Entry::of(task) else {
        return if task.is_interruptible() { WaitState::Sleep } else { WaitState::Kernel };
    };
    match system_call {
        None => WaitState::PageFault,
        Some(_) if !task.is_interruptible() => WaitState::Kernel,
        Some(number) if system_call::is_futex(number) => WaitState::Lock,
        Some(number) if system_call::is_network(number) => WaitState::Network,
        Some(number) if system_call::takes_descriptor(number) && task.descriptor_is_socket(first_argument) => {
            WaitState::Network
        }
        Some(_) => WaitState::Sleep,
    }
}

/// For what a thread waits that could run.
#[inline(always)]
fn state_of_runnable(task: Task) -> WaitState {
    if task.is_throttled() { WaitState::Throttled } else { WaitState::Preempted }
}
