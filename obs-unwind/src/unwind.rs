//! The reference unwinder: what the kernel side does, over the same rows, in user space.

use crate::elf::Machine;
use obs_common::stack::{FRAME_BY_POINTER, FRAME_EXACT, StackEnd};
use obs_common::unwind_row::{
    AARCH64_ADDRESS, CfaKind, FpKind, OTHER_STACK, RA_SIGNED, RBX, RBX_LOST, RBX_UNCHANGED, RaKind, Rule,
    signal_aarch64, signal_x86_64,
};

/// The registers that a walk begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The instruction pointer.
    pub ip: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer (rbp, x29).
    pub fp: u64,
    /// The link register (x30); 0 on x86-64.
    pub lr: u64,
    /// The general registers by their DWARF numbers (x86-64: 0 … 15, aarch64: 0 … 30); what is not known is 0.
    pub general: [u64; 31],
}

/// A walk between two frames. It is as small as the kernel side wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The frame's address: the one being executed if `exact`, otherwise a return address.
    pub ip: u64,
    /// The frame's stack pointer.
    pub sp: u64,
    /// The frame's frame pointer.
    pub fp: u64,
    /// The frame's link register; only known if `exact`.
    pub lr: u64,
    /// Whether `ip` was being executed, so that all registers are known: the innermost frame, or one that a signal
    /// interrupted.
    pub exact: bool,
    /// Where the frame's general registers are saved in memory, when a signal interrupted it. Otherwise 0.
    pub saved_registers: u64,
    /// The frame's rbx where it is known though the frame is not exact. 0 is as good as unknown: no frame is there.
    pub rbx: u64,
}

impl State {
    /// The walk's first frame.
    #[must_use]
    pub fn new(registers: &Registers) -> Self {
        let Registers { ip, sp, fp, lr, general: _ } = *registers;
        Self { ip, sp, fp, lr, exact: true, saved_registers: 0, rbx: 0 }
    }

    /// The address to look the frame's rule up with: a return address may be the first of another function, when the
    /// call was the last instruction of its own.
    #[must_use]
    pub fn lookup_address(&self) -> u64 {
        self.ip.wrapping_sub(u64::from(!self.exact))
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The caller's frame.
    Caller {
        /// Its registers.
        state: State,
        /// Whether it was found by following the frame pointer by convention.
        by_pointer: bool,
    },
    /// There is none, or it cannot be found.
    End(StackEnd),
}

/// Finds the caller of a frame by a rule. `register` gives a general register of the walk's first frame by its DWARF
/// number; `read_stack` reads a word of 8 bytes.
///
/// It has neither loops nor recursion, and adds with wrap-around: every value that it meets may be anything.
pub fn step(
    machine: Machine,
    state: &State,
    rule: &Rule,
    mut register: impl FnMut(u8) -> Option<u64>,
    mut read_stack: impl FnMut(u64) -> Option<u64>,
) -> Step {
    const UNSUPPORTED: Step = Step::End(StackEnd::UnsupportedRule);
    const READ_FAILED: Step = Step::End(StackEnd::ReadFailed);

    let offset = i64::from(rule.cfa_offset);
    let addend = i64::from(rule.arg as i8) * 8;
    let kind = rule.cfa_kind;
    let cfa = if kind == CfaKind::Sp as u8 {
        state.sp.wrapping_add_signed(offset)
    } else if kind == CfaKind::Fp as u8 || kind == CfaKind::FramePointer as u8 {
        if kind == CfaKind::FramePointer as u8 && state.fp == 0 {
            return Step::End(StackEnd::FramePointerChain);
        }
        state.fp.wrapping_add_signed(offset)
    } else if kind == CfaKind::SpDeref as u8 {
        let Some(base) = read_stack(state.sp.wrapping_add_signed(offset)) else { return READ_FAILED };
        base.wrapping_add_signed(addend)
    } else if kind == CfaKind::FpDeref as u8 {
        let Some(base) = read_stack(state.fp.wrapping_add_signed(offset)) else { return READ_FAILED };
        base.wrapping_add_signed(addend)
    } else if kind == CfaKind::Plt as u8 {
        let pushed = if state.ip & 15 >= u64::from(rule.arg) { 8 } else { 0 };
        state.sp.wrapping_add_signed(offset).wrapping_add(pushed)
    } else if kind == CfaKind::Register as u8 {
        let Some(base) = general(machine, state, rule.arg, &mut register, &mut read_stack) else { return UNSUPPORTED };
        base.wrapping_add_signed(offset)
    } else if kind == CfaKind::Signal as u8 {
        return interrupted(machine, state.sp.wrapping_add_signed(offset), read_stack);
    } else if kind == CfaKind::End as u8 {
        return Step::End(StackEnd::Complete);
    } else if kind == CfaKind::NoInformation as u8 {
        return Step::End(StackEnd::NoRow);
    } else {
        return UNSUPPORTED;
    };
    // A frame lies below its caller's; only aarch64's leaves have none of their own.
    let is_elsewhere = kind == CfaKind::FramePointer as u8 && rule.arg == OTHER_STACK;
    if !is_elsewhere && (cfa < state.sp || (cfa == state.sp && !state.exact)) {
        return Step::End(StackEnd::NotAscending);
    }

    let ra_kind = rule.ra_kind & !RA_SIGNED;
    let ra = if ra_kind == RaKind::AtCfa as u8 {
        match read_stack(cfa.wrapping_add_signed(i64::from(rule.ra_offset) * 8)) {
            Some(ra) => ra,
            None => return READ_FAILED,
        }
    } else if ra_kind == RaKind::LinkRegister as u8 && state.exact {
        state.lr
    } else if ra_kind == RaKind::Register as u8 {
        match general(machine, state, rule.ra_offset as u8, &mut register, &mut read_stack) {
            Some(ra) => ra,
            None => return UNSUPPORTED,
        }
    } else {
        return UNSUPPORTED;
    };
    let ra = if rule.ra_kind & RA_SIGNED != 0 { ra & AARCH64_ADDRESS } else { ra };
    if ra == 0 {
        return Step::End(StackEnd::ReturnAddressZero);
    }

    let fp_bytes = i64::from(rule.fp_offset) * 8;
    let saved_at = |base: u64| base.wrapping_add_signed(fp_bytes);
    let fp = if rule.fp_kind == FpKind::Unchanged as u8 {
        Some(state.fp)
    } else if rule.fp_kind == FpKind::AtCfa as u8 {
        read_stack(saved_at(cfa))
    } else if rule.fp_kind == FpKind::AtFp as u8 {
        read_stack(saved_at(state.fp))
    } else if rule.fp_kind == FpKind::AtSp as u8 {
        read_stack(saved_at(state.sp))
    } else if rule.fp_kind == FpKind::Register as u8 {
        // A register that is not known costs the frame pointer, which the caller may not need.
        Some(general(machine, state, rule.fp_offset as u8, &mut register, &mut read_stack).unwrap_or(0))
    } else {
        Some(0)
    };
    let Some(fp) = fp else { return READ_FAILED };
    // Not finding rbx costs the one caller that may need it, not the walk.
    let follows_rbx = kind == CfaKind::Sp as u8 || kind == CfaKind::Fp as u8;
    let rbx = if !follows_rbx || rule.arg == RBX_LOST {
        0
    } else if rule.arg == RBX_UNCHANGED {
        general(machine, state, RBX, &mut register, &mut read_stack).unwrap_or(0)
    } else {
        read_stack(cfa.wrapping_sub(u64::from(rule.arg) * 8)).unwrap_or(0)
    };
    Step::Caller {
        state: State { ip: ra, sp: cfa, fp, lr: 0, exact: false, saved_registers: 0, rbx },
        by_pointer: kind == CfaKind::FramePointer as u8,
    }
}

/// A general register of a frame whose registers are known, or rbx where that is.
fn general(
    machine: Machine,
    state: &State,
    number: u8,
    mut register: impl FnMut(u8) -> Option<u64>,
    mut read_stack: impl FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    if !state.exact {
        return Some(state.rbx).filter(|rbx| number == RBX && *rbx != 0);
    }
    if state.saved_registers == 0 {
        return register(number);
    }
    let place = match machine {
        Machine::X86_64 => u64::from(*signal_x86_64::GREG_BY_DWARF.get(number as usize)?),
        Machine::Aarch64 if number < 31 => u64::from(number),
        Machine::Aarch64 => return None,
    };
    read_stack(state.saved_registers.wrapping_add(place * 8))
}

/// The frame that a signal interrupted, from the registers that the kernel saved at `frame`. It may be on another stack.
fn interrupted(machine: Machine, frame: u64, mut read_stack: impl FnMut(u64) -> Option<u64>) -> Step {
    let mut at = |bytes: u64| read_stack(frame.wrapping_add(bytes));
    let found = match machine {
        Machine::X86_64 => {
            use signal_x86_64::{FP_BYTES, GREGS_BYTES, IP_BYTES, SP_BYTES};
            (at(IP_BYTES), at(SP_BYTES), at(FP_BYTES), Some(0), GREGS_BYTES)
        }
        Machine::Aarch64 => {
            use signal_aarch64::{FP_BYTES, IP_BYTES, LR_BYTES, REGS_BYTES, SP_BYTES};
            (at(IP_BYTES), at(SP_BYTES), at(FP_BYTES), at(LR_BYTES), REGS_BYTES)
        }
    };
    let (Some(ip), Some(sp), Some(fp), Some(lr), registers) = found else { return Step::End(StackEnd::ReadFailed) };
    let saved_registers = frame.wrapping_add(registers);
    Step::Caller { state: State { ip, sp, fp, lr, exact: true, saved_registers, rbx: 0 }, by_pointer: false }
}

/// What a process has at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The rule of the mapped file's table, or of a convention. [`Rule::default`] is "no information".
    Rule(Rule),
    /// No executable mapping.
    NoMapping,
    /// A mapping of a file that has no table.
    NoTable,
}

/// A frame of a stack: an address with the marks of [`obs_common::stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub u64);

impl Frame {
    /// The address without its marks.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0 & obs_common::stack::FRAME_ADDRESS
    }

    /// Whether the address was being executed; otherwise it is a return address.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self.0 & FRAME_EXACT != 0
    }

    /// Whether it was found by following the frame pointer.
    #[must_use]
    pub fn is_by_pointer(self) -> bool {
        self.0 & FRAME_BY_POINTER != 0
    }
}

/// A stack, innermost frame first, and why it ends where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The frames.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: StackEnd,
}

/// Walks a stack. `lookup` says what the process has at an address; `read_stack` reads a word of 8 bytes of its memory;
/// at most `frames_max` frames are kept.
pub fn unwind(
    machine: Machine,
    registers: &Registers,
    mut lookup: impl FnMut(u64) -> Found,
    mut read_stack: impl FnMut(u64) -> Option<u64>,
    frames_max: usize,
) -> Walk {
    let mut state = State::new(registers);
    let mut by_pointer = false;
    let mut frames = Vec::new();
    for _ in 0..frames_max {
        let exact = if state.exact { FRAME_EXACT } else { 0 };
        let pointer = if by_pointer { FRAME_BY_POINTER } else { 0 };
        frames.push(Frame((state.ip & obs_common::stack::FRAME_ADDRESS) | exact | pointer));
        let rule = match lookup(state.lookup_address()) {
            Found::Rule(rule) => rule,
            Found::NoMapping => return Walk { frames, end: StackEnd::NoMapping },
            Found::NoTable => return Walk { frames, end: StackEnd::NoFileTable },
        };
        let register = |number: u8| registers.general.get(number as usize).copied();
        match step(machine, &state, &rule, register, &mut read_stack) {
            Step::Caller { state: caller, by_pointer: pointer } => (state, by_pointer) = (caller, pointer),
            Step::End(end) => return Walk { frames, end },
        }
    }
    Walk { frames, end: StackEnd::TooDeep }
}
