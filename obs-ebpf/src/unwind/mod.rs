//! Finds the callers of a user-space frame without frame pointers, by tables that user space made from the files'
//! call frame information.
//!
//! It follows `obs_unwind::unwind::step`, which says the same for tests and without a kernel. Per frame: which mapping
//! holds the address (here), which row of the file's table and which rule (`table`); then one or two reads of the stack
//! (`memory`).
//!
//! **Invariant:** the walk is a callback that the kernel calls a bounded number of times, so what the verifier has to
//! look at does not grow with the depth of stacks.

mod memory;
mod table;

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::bpf_loop,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use core::ffi::c_void;
use obs_common::{
    limits::USER_FRAMES_MAX,
    stack::{FRAME_BY_POINTER, FRAME_EXACT, ImageKey, StackEnd},
    unwind_map::{FILE_NONE, MAPPING_SEARCH_STEPS, MAPPINGS_MAX, Mapping, PROCESSES_MAX, ProcessMappings},
    unwind_row::{self, CfaKind, FpKind, OTHER_STACK, RA_SIGNED, RBX, RBX_LOST, RBX_UNCHANGED, RaKind},
};

use self::{
    memory::{Window, read},
    table::{FRAME_POINTER, RememberedRules, Rule, find_rule},
};
use crate::{
    registers::Registers,
    stack::{HASH_SEED, mix},
    task::Task,
    verifier::forget_u32,
};

#[map]
static UNWIND_MAPPINGS: Array<Mapping> = Array::with_max_entries(MAPPINGS_MAX, BPF_F_MMAPABLE);
#[map]
static UNWIND_PROCESSES: HashMap<ImageKey, ProcessMappings> = HashMap::with_max_entries(PROCESSES_MAX, 0);
/// Slot 0: a number that user space raises now and then, to learn which tables are in use.
#[map]
static UNWIND_EPOCH: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static UNWIND_WALK: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// 1 where the kernel has the helper `bpf_loop` (Linux 5.17); 0 where the walk must be unrolled.
#[unsafe(no_mangle)]
static HAS_LOOP_HELPER: Global<u8> = Global::new(1);

/// Most frames where the kernel has no `bpf_loop`: each one costs the verifier anew.
const UNROLLED_FRAMES_MAX: u32 = 48;

/// A walk under way.
#[repr(C)]
#[derive(Clone, Copy)]
struct Walk {
    ip: u64,
    sp: u64,
    fp: u64,
    /// aarch64: the link register of an exact frame.
    lr: u64,
    /// Where the kernel saved the registers that a signal interrupted; 0 while the sample's own are meant.
    saved_registers: u64,
    /// x86-64: rbx, where it is known though the frame is not exact; 0 otherwise.
    rbx: u64,
    /// The frames so far, folded into a number by `stack::mix`.
    sum: u64,
    mapping: Mapping,
    /// How `ip` was found: `FRAME_EXACT` if it was being executed, `FRAME_BY_POINTER`, or neither.
    marks: u64,
    frames_count: u32,
    mappings_first: u32,
    mappings_count: u32,
    end: u32,
    epoch: u32,
    reserved: u32,
    window: Window,
}

/// What the kernel hands to the callback.
#[repr(C)]
struct Context {
    walk: *mut Walk,
    remembered: RememberedRules,
    registers: Registers,
    frames: *mut [u64; USER_FRAMES_MAX],
}

/// What a walk found.
#[derive(Clone, Copy)]
pub(crate) struct Walked {
    /// Frames written.
    pub(crate) frames_count: u64,
    /// Why it ended.
    pub(crate) end: StackEnd,
    /// Whether it ended for want of something that user space may yet supply.
    pub(crate) is_unsupplied: bool,
    /// The frames, folded into a number by `stack::mix`.
    pub(crate) sum: u64,
}

/// Walks the user stack of a task from the given registers and writes its frames.
#[inline(always)]
pub(crate) fn walk(task: Task, image: &ImageKey, registers: Registers, frames: *mut [u64; USER_FRAMES_MAX]) -> Walked {
    let (Some(walk), Some(remembered)) = (UNWIND_WALK.get_ptr_mut(0), RememberedRules::of_this_cpu()) else {
        return Walked { frames_count: 0, end: StackEnd::WalkFailed, is_unsupplied: false, sum: HASH_SEED };
    };
    let mappings = match mappings_of(task, image) {
        Some(mappings) => mappings,
        None => ProcessMappings { first: 0, count: 0, is_settled: 0, reserved: 0 },
    };
    // SAFETY: the walk is this CPU's.
    unsafe {
        (*walk).ip = registers.ip();
        (*walk).sp = registers.sp();
        (*walk).fp = registers.fp();
        (*walk).lr = registers.lr();
        (*walk).saved_registers = 0;
        (*walk).rbx = 0;
        (*walk).mapping.start = 0;
        (*walk).mapping.end = 0;
        (*walk).frames_count = 0;
        (*walk).sum = HASH_SEED;
        (*walk).mappings_first = mappings.first;
        (*walk).mappings_count = mappings.count;
        (*walk).end = StackEnd::TooDeep as u32;
        (*walk).marks = FRAME_EXACT;
        (*walk).window.close();
        (*walk).epoch = UNWIND_EPOCH.get(0).copied().unwrap_or(0);
    }
    if mappings.count == 0 {
        // At least the innermost frame is known.
        // SAFETY: the first frame lies inside.
        unsafe { (*frames)[0] = registers.ip() | FRAME_EXACT };
        let sum = mix(HASH_SEED, registers.ip());
        return Walked { frames_count: 1, end: StackEnd::NoProcessTable, is_unsupplied: mappings.is_settled == 0, sum };
    }
    let mut context = Context { walk, remembered, registers, frames };
    if HAS_LOOP_HELPER.load() == 0 {
        for _ in 0..UNROLLED_FRAMES_MAX {
            if frame(&mut context) != 0 {
                break;
            }
        }
    } else {
        let callback = next_frame as extern "C" fn(u32, *mut Context) -> i64;
        // One more than there is room for, so that a stack of just this depth is told from a deeper one.
        // SAFETY: the callback has the signature that the helper calls, and the context outlives the call.
        unsafe {
            bpf_loop(USER_FRAMES_MAX as u32 + 1, callback as *mut c_void, (&raw mut context).cast(), 0);
        }
    }
    // SAFETY: as above.
    let (frames_count, end, sum) = unsafe { (u64::from((*walk).frames_count), (*walk).end, (*walk).sum) };
    let is_unsupplied =
        end == StackEnd::TableNotReady as u32 || (end == StackEnd::NoMapping as u32 && mappings.is_settled == 0);
    Walked { frames_count, end: end_of(end), is_unsupplied, sum }
}

/// The mappings of an image; of its parent while it has not called `exec` and nobody has told its own.
#[inline(always)]
fn mappings_of(task: Task, image: &ImageKey) -> Option<ProcessMappings> {
    if let Some(mappings) = UNWIND_PROCESSES.get_ptr(image) {
        // SAFETY: the value stays valid while the program runs.
        return Some(unsafe { *mappings });
    }
    let parent = task.parent_image();
    if parent.exec_id != image.exec_id {
        return None;
    }
    let mappings = UNWIND_PROCESSES.get_ptr(parent)?;
    // SAFETY: as above.
    Some(unsafe { *mappings })
}

/// Called by `bpf_loop`.
extern "C" fn next_frame(_index: u32, context: *mut Context) -> i64 {
    // SAFETY: the context is the one that was passed to `bpf_loop`.
    frame(unsafe { &mut *context })
}

/// Writes one frame and finds the next. 0: go on; 1: the walk is over, and `end` says why.
#[inline(always)]
fn frame(context: &mut Context) -> i64 {
    // SAFETY: both pointers were checked when the walk began, and belong to this CPU.
    let walk = unsafe { &mut *context.walk };
    let count = walk.frames_count;
    if count >= USER_FRAMES_MAX as u32 {
        return 1;
    }
    let slot = count as usize & (USER_FRAMES_MAX - 1);
    // SAFETY: `slot` is below the length of `frames`.
    unsafe { (*context.frames).as_mut_ptr().add(slot).write(walk.ip | walk.marks) };
    walk.frames_count = count + 1;
    walk.sum = mix(walk.sum, walk.ip);
    // A return address may already belong to the next function.
    let address = if walk.marks & FRAME_EXACT != 0 { walk.ip } else { walk.ip.wrapping_sub(1) };

    let is_in_same = walk.mapping.start <= address && address < walk.mapping.end;
    if !is_in_same && !find_mapping(walk, address) {
        return finish(walk, StackEnd::NoMapping);
    }
    let file = walk.mapping.file;
    if file == FILE_NONE {
        return apply(walk, context.registers, &FRAME_POINTER);
    }
    let rule = match find_rule(walk.epoch, context.remembered, file, address.wrapping_sub(walk.mapping.bias)) {
        Ok(rule) => Rule::from(rule),
        Err(end) => return finish(walk, end),
    };
    apply(walk, context.registers, &rule)
}

#[inline(always)]
fn finish(walk: &mut Walk, end: StackEnd) -> i64 {
    walk.end = end as u32;
    1
}

/// Finds the mapping that holds an address and keeps it in the walk: the next frame often lies in the same.
#[inline(always)]
fn find_mapping(walk: &mut Walk, address: u64) -> bool {
    let first = walk.mappings_first;
    // The verifier would otherwise follow each of the 2^13 ways through a binary search, since on each the bounds have other
    // ranges; so both branches of a step look the same to it, and it follows one.
    let mut low = 0;
    let mut high = walk.mappings_count;
    for _ in 0..MAPPING_SEARCH_STEPS {
        (low, high) = (forget_u32(low), forget_u32(high));
        if low >= high {
            break;
        }
        let middle = low + ((high - low) >> 1);
        let Some(mapping) = UNWIND_MAPPINGS.get_ptr(first.wrapping_add(middle)) else { return false };
        // SAFETY: an element of an array stays valid.
        if unsafe { (*mapping).start } <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if low == 0 {
        return false;
    }
    let Some(mapping) = UNWIND_MAPPINGS.get_ptr(first.wrapping_add(low - 1)) else { return false };
    // SAFETY: as above.
    walk.mapping = unsafe { *mapping };
    address < walk.mapping.end
}

/// Finds the caller's frame by a rule.
#[inline(always)]
fn apply(walk: &mut Walk, registers: Registers, rule: &Rule) -> i64 {
    let is_exact = walk.marks & FRAME_EXACT != 0;
    let kind = rule.cfa_kind;
    let base = if kind == CfaKind::Sp as u8 || kind == CfaKind::Plt as u8 {
        walk.sp
    } else if kind == CfaKind::Fp as u8 {
        walk.fp
    } else if kind == CfaKind::FramePointer as u8 {
        if walk.fp == 0 {
            return finish(walk, StackEnd::FramePointerChain);
        }
        walk.fp
    } else if kind == CfaKind::End as u8 {
        return finish(walk, StackEnd::Complete);
    } else if kind == CfaKind::Signal as u8 {
        return interrupted(walk, walk.sp.wrapping_add_signed(rule.cfa_offset));
    } else if kind == CfaKind::SpDeref as u8 || kind == CfaKind::FpDeref as u8 {
        let from = if kind == CfaKind::SpDeref as u8 { walk.sp } else { walk.fp };
        match read(from.wrapping_add_signed(rule.cfa_offset)) {
            Some(base) => base.wrapping_add_signed(i64::from(rule.arg as i8) * 8 - rule.cfa_offset),
            None => return finish(walk, StackEnd::ReadFailed),
        }
    } else if kind == CfaKind::Register as u8 {
        match register(walk, registers, rule.arg) {
            Some(base) => base,
            None => return finish(walk, StackEnd::UnsupportedRule),
        }
    } else if kind == CfaKind::NoInformation as u8 {
        return finish(walk, StackEnd::NoRow);
    } else {
        return finish(walk, StackEnd::UnsupportedRule);
    };
    let pushed = if kind == CfaKind::Plt as u8 && walk.ip & 15 >= u64::from(rule.arg) { 8 } else { 0 };
    let cfa = base.wrapping_add_signed(rule.cfa_offset).wrapping_add(pushed);
    // A frame lies below its caller's; only aarch64's leaves have none of their own.
    let is_elsewhere = kind == CfaKind::FramePointer as u8 && rule.arg == OTHER_STACK;
    if !is_elsewhere && (cfa < walk.sp || (cfa == walk.sp && !is_exact)) {
        return finish(walk, StackEnd::NotAscending);
    }

    let ra_kind = rule.ra_kind & !RA_SIGNED;
    let ra_at = cfa.wrapping_add_signed(rule.ra_offset);
    let fp_at = if rule.fp_kind == FpKind::AtFp as u8 {
        walk.fp.wrapping_add_signed(rule.fp_offset)
    } else if rule.fp_kind == FpKind::AtSp as u8 {
        walk.sp.wrapping_add_signed(rule.fp_offset)
    } else {
        cfa.wrapping_add_signed(rule.fp_offset)
    };
    let fp_in_memory =
        rule.fp_kind == FpKind::AtCfa as u8 || rule.fp_kind == FpKind::AtFp as u8 || rule.fp_kind == FpKind::AtSp as u8;

    // The frame pointer first: it usually lies below the return address, and the window begins at what is read first.
    let fp = if fp_in_memory {
        walk.window.read(fp_at)
    } else if rule.fp_kind == FpKind::Unchanged as u8 {
        Some(walk.fp)
    } else if rule.fp_kind == FpKind::Register as u8 {
        // A register that is not known costs the frame pointer, which the caller may not need.
        Some(register(walk, registers, (rule.fp_offset >> 3) as u8).unwrap_or(0))
    } else {
        Some(0)
    };
    let ra = if ra_kind == RaKind::AtCfa as u8 {
        walk.window.read(ra_at)
    } else if ra_kind == RaKind::LinkRegister as u8 && is_exact {
        Some(walk.lr)
    } else if ra_kind == RaKind::Register as u8 {
        match register(walk, registers, (rule.ra_offset >> 3) as u8) {
            Some(ra) => Some(ra),
            None => return finish(walk, StackEnd::UnsupportedRule),
        }
    } else {
        return finish(walk, StackEnd::UnsupportedRule);
    };
    let (Some(ra), Some(fp)) = (ra, fp) else { return finish(walk, StackEnd::ReadFailed) };
    let ra = if rule.ra_kind & RA_SIGNED != 0 { ra & unwind_row::AARCH64_ADDRESS } else { ra };
    if ra == 0 {
        return finish(walk, StackEnd::ReturnAddressZero);
    }
    // Not finding rbx costs the one caller that may need it, not the walk.
    let follows_rbx = kind == CfaKind::Sp as u8 || kind == CfaKind::Fp as u8;
    walk.rbx = if !follows_rbx || rule.arg == RBX_LOST {
        0
    } else if rule.arg == RBX_UNCHANGED {
        register(walk, registers, RBX).unwrap_or(0)
    } else {
        walk.window.read(cfa.wrapping_sub(u64::from(rule.arg) * 8)).unwrap_or(0)
    };
    walk.ip = ra;
    walk.sp = cfa;
    walk.fp = fp;
    walk.marks = if kind == CfaKind::FramePointer as u8 { FRAME_BY_POINTER } else { 0 };
    0
}

/// A general register by its DWARF number, in a frame whose registers are known; rbx also in others that say where it is.
#[inline(always)]
fn register(walk: &Walk, registers: Registers, number: u8) -> Option<u64> {
    if walk.marks & FRAME_EXACT == 0 {
        (number == RBX && walk.rbx != 0).then_some(walk.rbx)
    } else if walk.saved_registers == 0 {
        registers.general(number)
    } else {
        read(walk.saved_registers.wrapping_add(Registers::saved_place_bytes(number)?))
    }
}

/// Goes on at the frame that a signal interrupted, from the registers that the kernel saved at `frame`.
#[inline(always)]
fn interrupted(walk: &mut Walk, frame: u64) -> i64 {
    let at = |bytes: u64| read(frame.wrapping_add(bytes));
    match (at(Registers::SAVED_IP_BYTES), at(Registers::SAVED_SP_BYTES), at(Registers::SAVED_FP_BYTES)) {
        (Some(ip), Some(sp), Some(fp)) => {
            walk.ip = ip;
            walk.sp = sp;
            walk.fp = fp;
            walk.lr = Registers::saved_lr_bytes().and_then(at).unwrap_or(0);
            walk.saved_registers = frame.wrapping_add(Registers::SAVED_BYTES);
            walk.rbx = 0;
            walk.marks = FRAME_EXACT;
            0
        }
        _ => finish(walk, StackEnd::ReadFailed),
    }
}

/// The end that a number stands for.
#[inline(always)]
fn end_of(end: u32) -> StackEnd {
    const ENDS: [StackEnd; 11] = [
        StackEnd::Complete,
        StackEnd::FramePointerChain,
        StackEnd::TooDeep,
        StackEnd::NoMapping,
        StackEnd::NoFileTable,
        StackEnd::NoRow,
        StackEnd::UnsupportedRule,
        StackEnd::ReadFailed,
        StackEnd::NotAscending,
        StackEnd::TableNotReady,
        StackEnd::ReturnAddressZero,
    ];
    for candidate in ENDS {
        if candidate as u32 == end {
            return candidate;
        }
    }
    StackEnd::WalkFailed
}
