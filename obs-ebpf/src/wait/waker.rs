//! Who wakes threads: the current thread, with its stacks, or an interrupt.

use aya_ebpf::{Global, helpers::bpf_get_current_comm, macros::map, maps::PerCpuArray};
use core::ffi::c_void;
use obs_common::{
    limits::COMM_BYTES,
    stack::{NO_STACK, RecordHeader, RecordKind},
    wait::{NO_WAKER, WAKER_INTERRUPT, Waker},
};

use crate::{
    process,
    ring::{self, Wake},
    stack::{self, HASH_SEED, mix},
    task::Task,
};

/// 1 if it is asked for.
#[unsafe(no_mangle)]
static NOTES_WAKERS: Global<u8> = Global::new(0);

/// 1 while a program is at work on this CPU that an interrupt may interrupt.
#[map]
static WAKER_KEPT_OFF: PerCpuArray<u8> = PerCpuArray::with_max_entries(1, 0);

/// Says whether a program is at work that must not be disturbed: whoever wakes a thread on this CPU meanwhile is an interrupt, and
/// uses none of the memory that programs walk stacks with.
#[inline(always)]
pub(super) fn keep_off(is_at_work: bool) {
    if NOTES_WAKERS.load() == 0 {
        return;
    }
    if let Some(kept_off) = WAKER_KEPT_OFF.get_ptr_mut(0) {
        // SAFETY: an element of a per-CPU array. Volatile, because an interrupt reads it in between.
        unsafe { kept_off.write_volatile(u8::from(is_at_work)) };
    }
}

/// Who wakes a thread now: the id of a [`Waker`], or one of the constants beside it. `context` is that of the program.
#[inline(always)]
pub(super) fn of(context: *mut c_void) -> u64 {
    if NOTES_WAKERS.load() == 0 {
        return NO_WAKER;
    }
    let task = Task::current();
    // SAFETY: an element of a per-CPU array.
    let is_kept_off = WAKER_KEPT_OFF.get_ptr(0).is_some_and(|kept_off| unsafe { kept_off.read_volatile() } != 0);
    // What an idle CPU is woken for is an interrupt.
    if is_kept_off || task.tid() == 0 {
        return WAKER_INTERRUPT;
    }
    let image = task.image();
    process::announce(task, &image);
    // SAFETY: `bpf_get_stack` takes the context of a typed tracepoint.
    let kernel_stack = unsafe { stack::kernel(context) };
    let user_stack = if task.has_user_stack() { stack::user(task, &image) } else { NO_STACK };
    let comm = bpf_get_current_comm().unwrap_or([0; COMM_BYTES]);
    let name = [0, 8].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&comm[at..at + 8]);
        u64::from_ne_bytes(word)
    });
    let mut id = HASH_SEED;
    for part in [image.started_ns, u64::from(image.exec_id), user_stack, kernel_stack, name[0], name[1]] {
        id = mix(id, part);
    }
    let id = stack::unreserved(id);
    if stack::was_sent(id) {
        return id;
    }
    let waker = Waker {
        header: RecordHeader { kind: RecordKind::Waker as u32, end: 0 },
        id,
        image,
        user_stack,
        kernel_stack,
        comm,
    };
    if !ring::send(&raw const waker, size_of::<Waker>() as u64, Wake::Later) {
        // It is told as unknown, and sent the next time.
        return id;
    }
    stack::note_sent(id);
    id
}
