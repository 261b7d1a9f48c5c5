//! Follows threads while they do not run: since when, for what, and what it adds up to.
//!
//! Most waits are short, and a stack costs more than they do. So a switch takes the time only. When a thread runs again after a
//! wait that was long enough, its kernel stack is still as it was while it waited; its user stack can be read as soon as its
//! system call returns, and is the same as before. Only where no system call will return (it was pre-empted, or touched memory
//! that was not there) the user stack is taken when the wait begins.
//!
//! Short waits are counted too, without a stack: all waits add up to the whole. Where running counts as well, each thread's
//! whole life does.
//!
//! Threads that wait when a recording begins or ends are seen by [`iterate`]; who ends a wait, by [`waker`].

pub mod iterate;
mod unseen;
pub mod waker;

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    helpers::{bpf_ktime_get_boot_ns, generated::bpf_get_current_cgroup_id},
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    counters::KernelCounter,
    limits::{SHORT_WAITS_TOGETHER_MAX, WAITS_MAX},
    stack::{GONE_STACK, LOST_STACK, NO_STACK, StackKey, StackValue},
    wait::{FinishedWait, NO_WAKER, ShortWaits, WAIT_IS_SHORT, Wait, WaitState},
};

use self::unseen::{begin_unseen, end_unseen};
use crate::{
    counts, filter, loss, process,
    registers::Registers,
    stack, system_call,
    task::{Cgroup, Task},
};

/// Waits of so many nanoseconds and more have stacks.
#[unsafe(no_mangle)]
static WAIT_THRESHOLD_NS: Global<u64> = Global::new(1_000_000);

/// 1 if the time counts too in which threads run.
#[unsafe(no_mangle)]
static COUNTS_RUNNING: Global<u8> = Global::new(0);

#[map]
static WAITS: HashMap<u32, Wait> = HashMap::with_max_entries(WAITS_MAX, 0);
/// Of the thread that runs on this CPU.
#[map]
static WAIT_FINISHED: PerCpuArray<FinishedWait> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A thread, the current one, ceases to run.
#[inline(always)]
pub fn begin(task: Task) {
    let tid = task.tid();
    let Some(finished) = WAIT_FINISHED.get_ptr_mut(0) else { return };
    if tid == 0 {
        return;
    }
    // SAFETY: an element of a per-CPU array; this program does not interrupt itself.
    unsafe {
        // Of a thread that left this CPU unseen.
        if (*finished).tid != 0 && (*finished).tid != tid {
            count(finished, GONE_STACK);
            (*finished).tid = 0;
        }
    }
    if let Some(wait) = WAITS.get_ptr_mut(tid) {
        end_unseen(task, wait);
    }
    if COUNTS_RUNNING.load() != 0 {
        count_run(task, tid);
    }
    if task.is_dead() {
        dies(task, tid);
    }
    let registers = if task.is_kernel_thread() { None } else { Registers::of(task) };
    // SAFETY: an element of a per-CPU array; this program does not interrupt itself.
    let has_finished = unsafe { (*finished).tid } == tid;
    // What is known goes into maps before the stack is walked, and is read from there behind: the verifier would follow the walk once
    // for each of the states.
    let needs_stack = !task.is_dead() && is_asked_for(task, tid) && note(task, tid, registers);
    if !needs_stack && !has_finished {
        return;
    }
    let user_stack = match registers {
        Some(registers) => {
            let image = task.image();
            process::announce(task, &image);
            stack::user_from(task, &image, registers)
        }
        None => LOST_STACK,
    };
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

/// Whether the current thread is to be followed. While it ends it no longer passes the filter, which forgets its process early.
#[inline(always)]
fn is_asked_for(task: Task, tid: u32) -> bool {
    filter::admits(task) || (task.is_exiting() && WAITS.get_ptr(tid).is_some())
}

/// Notes since when the current thread does not run, and why. Whether its user stack has to be taken now.
#[inline(always)]
fn note(task: Task, tid: u32, registers: Option<Registers>) -> bool {
    let state = state(task, registers);
    let needs_stack = registers.is_some_and(|registers| ends_without_a_system_call(state, registers));
    let wait = Wait {
        since_ns: now_ns(),
        woken_ns: 0,
        run_time_ns: task.run_time_ns(),
        // Until it is taken.
        user_stack: if needs_stack { LOST_STACK } else { NO_STACK },
        // SAFETY: the helper takes no arguments.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        waker: NO_WAKER,
        state: state as u32,
        exec_id: 0,
        short: ShortWaits::NONE,
    };
    match WAITS.get_ptr_mut(tid) {
        // SAFETY: the value stays valid while the program runs. Whoever wakes the thread writes `woken_ns` only, and no earlier
        // than the thread's state says so: what stands there otherwise is of a time when it ran.
        Some(known) => unsafe {
            (*known).user_stack = wait.user_stack;
            (*known).run_time_ns = wait.run_time_ns;
            (*known).cgroup_id = wait.cgroup_id;
            (*known).state = wait.state;
            if !task.is_being_woken() {
                (*known).woken_ns = 0;
                (*known).waker = NO_WAKER;
            }
            (*known).since_ns = wait.since_ns;
        },
        None => {
            if !follow(tid, &wait) {
                return false;
            }
        }
    }
    needs_stack
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

/// A thread is over, which may have been followed.
#[inline(always)]
fn dies(task: Task, tid: u32) {
    if let Some(wait) = WAITS.get_ptr_mut(tid) {
        count_short(task, wait);
        let _ = WAITS.remove(tid);
        end_of_life();
    }
}

/// A thread that was followed is followed no more.
#[inline(always)]
fn end_of_life() {
    if COUNTS_RUNNING.load() != 0 {
        loss::add(KernelCounter::ThreadTimeNs, now_ns());
    }
}

/// Counts for how long a thread, the current one, has run.
#[inline(always)]
fn count_run(task: Task, tid: u32) {
    let Some(wait) = WAITS.get_ptr_mut(tid) else { return };
    // SAFETY: the value stays valid while the program runs.
    let (since_ns, state, cgroup_id) = unsafe { ((*wait).since_ns, (*wait).state, (*wait).cgroup_id) };
    if state != WaitState::Running as u32 || since_ns == 0 {
        return;
    }
    let mut key = key_without_stacks(task, cgroup_id);
    count_part(&mut key, state, now_ns().saturating_sub(since_ns));
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
pub fn end(task: Task) {
    let tid = task.tid();
    let Some(wait) = WAITS.get_ptr_mut(tid) else { return };
    // SAFETY: the value stays valid while the program runs.
    let this = unsafe { *wait };
    let Wait { since_ns, user_stack, cgroup_id, waker, state, .. } = this;
    if since_ns != 0 && state == WaitState::Running as u32 {
        begin_unseen(task, wait);
        return;
    }
    if since_ns == 0 {
        return;
    }
    let now_ns = now_ns();
    // SAFETY: as above.
    unsafe {
        (*wait).since_ns = 0;
        (*wait).woken_ns = 0;
        if COUNTS_RUNNING.load() != 0 {
            (*wait).since_ns = now_ns;
            (*wait).state = WaitState::Running as u32;
        }
    }
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
    let registers = if task.is_kernel_thread() { None } else { Registers::of(task) };
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

/// The current thread's system call returns: the user stack of its wait can be had.
#[inline(always)]
pub fn system_call_returns() {
    let Some(finished) = WAIT_FINISHED.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array, on a CPU that does not switch while this program runs.
    if unsafe { (*finished).tid } == 0 {
        return;
    }
    let task = Task::current();
    // Interrupts come in here, and wake others.
    waker::keep_off(true);
    let registers = Registers::of(task);
    let user_stack = match registers {
        Some(registers) => {
            let image = task.image();
            process::announce(task, &image);
            stack::user_from(task, &image, registers)
        }
        None => LOST_STACK,
    };
    waker::keep_off(false);
    // SAFETY: as above.
    unsafe { count_finished(finished, registers, user_stack) };
}

/// The current thread's process was just chosen to be measured: it runs.
#[inline(always)]
pub fn begin_chosen(task: Task) {
    if COUNTS_RUNNING.load() != 0 {
        // SAFETY: the helper takes no arguments.
        let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
        follow(task.tid(), &since_now(task, WaitState::Running, cgroup_id));
    }
}

/// A thread is made, by the current one, and waits for a CPU for the first time.
#[inline(always)]
pub fn begin_new(task: Task) {
    if filter::admits_other(task) {
        let cgroup_id = task.cgroup().and_then(Cgroup::id).unwrap_or(0);
        follow(task.tid(), &since_now(task, WaitState::RunQueue, cgroup_id));
    }
}

/// What is known of a thread that begins to be followed.
#[inline(always)]
fn since_now(task: Task, state: WaitState, cgroup_id: u64) -> Wait {
    Wait {
        since_ns: now_ns(),
        woken_ns: 0,
        run_time_ns: task.run_time_ns(),
        user_stack: NO_STACK,
        cgroup_id,
        waker: NO_WAKER,
        state: state as u32,
        exec_id: 0,
        short: ShortWaits::NONE,
    }
}

/// Adds a short wait to those that wait to be counted.
#[inline(always)]
fn add_short(task: Task, wait: *mut Wait, more: ShortWaits) {
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
fn count_short(task: Task, wait: *mut Wait) {
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
fn parts_ns(wait: &Wait, now_ns: u64) -> (u64, u64) {
    let Wait { since_ns, woken_ns, state, .. } = *wait;
    let is_runnable = state >= WaitState::RunQueue as u32;
    let until_ns = if is_runnable || woken_ns == 0 || woken_ns > now_ns { now_ns } else { woken_ns };
    // It may have been woken just before it could begin to wait.
    let blocked_ns = until_ns.saturating_sub(since_ns);
    (blocked_ns, now_ns.saturating_sub(since_ns).saturating_sub(blocked_ns))
}

/// Whether a wait of these parts gets no stack.
#[inline(always)]
fn is_short(blocked_ns: u64, queued_ns: u64) -> bool {
    let threshold_ns = WAIT_THRESHOLD_NS.load();
    blocked_ns < threshold_ns && queued_ns < threshold_ns
}

/// The key of what a thread does that has no stack.
#[inline(always)]
fn key_without_stacks(task: Task, cgroup_id: u64) -> StackKey {
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
unsafe fn count_finished(finished: *mut FinishedWait, registers: Option<Registers>, user_stack: u64) {
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
unsafe fn count(finished: *const FinishedWait, user_stack: u64) {
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
fn count_parts(key: &mut StackKey, state: u32, blocked_ns: u64, queued_ns: u64) {
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
fn count_part(key: &mut StackKey, state: u32, wait_ns: u64) {
    if wait_ns > 0 {
        key.state = state;
        counts::add(key, wait_ns);
    }
}

/// Whether a thread that waits so will not come by the return of a system call.
#[inline(always)]
fn ends_without_a_system_call(state: WaitState, registers: Registers) -> bool {
    matches!(state, WaitState::Preempted | WaitState::Throttled) || registers.system_call().is_none()
}

/// For what a thread waits that ceases to run.
#[inline(always)]
pub(crate) fn state(task: Task, registers: Option<Registers>) -> WaitState {
    if task.is_runnable() {
        return if task.is_throttled() { WaitState::Throttled } else { WaitState::Preempted };
    }
    if task.waits_for_io() {
        return WaitState::BlockIo;
    }
    let Some(registers) = registers else {
        return if task.is_interruptible() { WaitState::Sleep } else { WaitState::Kernel };
    };
    match registers.system_call() {
        None => WaitState::PageFault,
        Some(_) if !task.is_interruptible() => WaitState::Kernel,
        Some(number) if system_call::is_futex(number) => WaitState::Lock,
        Some(number) if system_call::is_network(number) => WaitState::Network,
        Some(number)
            if system_call::takes_descriptor(number) && task.descriptor_is_socket(registers.first_argument()) =>
        {
            WaitState::Network
        }
        Some(_) => WaitState::Sleep,
    }
}
