//! The user-mode registers of a task: where the walk of its user stack begins.
//!
//! Whether a task was interrupted in user mode, is in a system call or sleeps: its user registers stand at the top of its
//! kernel stack (`task_pt_regs`). One source serves every kind of program.

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel_buf, bpf_task_pt_regs},
    macros::map,
    maps::PerCpuArray,
};

use obs_common::limits::SNAPSHOT_REGISTERS_MAX;

use crate::task::Task;

/// Words kept; a power of two above what any architecture has, so that an index can be masked.
const WORDS: usize = 64;

#[map]
static REGISTERS: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// A copy of the registers, in this CPU's scratch space, in the kernel's own order.
#[derive(Clone, Copy)]
pub struct Registers(*const u64);

/// `struct pt_regs`, in words.
#[cfg(bpf_target_arch = "x86_64")]
mod layout {
    pub(super) const PT_REGS_WORDS: usize = 21;
    /// `orig_ax`: the system call's number, -1 outside of one.
    pub(super) const SYSTEM_CALL: usize = 15;
    /// What the kernel keeps it as.
    pub(super) type Number = u64;
    pub(super) const FIRST_ARGUMENT: usize = 14;
    pub(super) const FP: usize = 4;
    pub(super) const IP: usize = 16;
    pub(super) const CS: usize = 17;
    pub(super) const SP: usize = 19;
    /// Where a register stands, by its DWARF number, one byte each.
    pub(super) const BY_DWARF: [u64; 2] =
        [u64::from_le_bytes([10, 12, 11, 5, 13, 14, 4, 19]), u64::from_le_bytes([9, 8, 7, 6, 3, 2, 1, 0])];
    pub(super) const GENERAL_COUNT: u8 = 16;
}

/// `struct user_pt_regs`, in words, and what the kernel keeps behind it.
#[cfg(bpf_target_arch = "aarch64")]
mod layout {
    pub(super) const PT_REGS_WORDS: usize = 34;
    /// `orig_x0`.
    pub(super) const FIRST_ARGUMENT: usize = 34;
    /// `syscallno`, in the low half: -1 outside of a system call.
    pub(super) const SYSTEM_CALL: usize = 35;
    pub(super) type Number = u32;
    pub(super) const FP: usize = 29;
    pub(super) const LR: usize = 30;
    pub(super) const SP: usize = 31;
    pub(super) const IP: usize = 32;
    pub(super) const PSTATE: usize = 33;
    pub(super) const GENERAL_COUNT: u8 = 31;
}

/// The registers as a signal handler's frame holds them; see `obs_common::unwind_row`.
#[cfg(bpf_target_arch = "x86_64")]
mod saved {
    pub(super) use obs_common::unwind_row::signal_x86_64::{FP_BYTES, GREGS_BYTES as BYTES, IP_BYTES, SP_BYTES};
}
#[cfg(bpf_target_arch = "aarch64")]
mod saved {
    pub(super) use obs_common::unwind_row::signal_aarch64::{FP_BYTES, IP_BYTES, REGS_BYTES as BYTES, SP_BYTES};
}

impl Registers {
    /// Where a signal handler's frame holds the general registers, in bytes.
    pub const SAVED_BYTES: u64 = saved::BYTES;
    /// Where it holds the instruction pointer.
    pub const SAVED_IP_BYTES: u64 = saved::IP_BYTES;
    /// Where it holds the stack pointer.
    pub const SAVED_SP_BYTES: u64 = saved::SP_BYTES;
    /// Where it holds the frame pointer.
    pub const SAVED_FP_BYTES: u64 = saved::FP_BYTES;

    /// The user registers of a task; `None` if they cannot be had.
    #[inline(always)]
    #[must_use]
    pub fn of(task: Task) -> Option<Self> {
        let words = REGISTERS.get_ptr_mut(0)?;
        // SAFETY: the task is the verifier's; the slice is the part of this CPU's scratch space that is filled.
        unsafe {
            let source = bpf_task_pt_regs(task.as_ptr()) as *const u8;
            let target = core::slice::from_raw_parts_mut(words.cast::<u8>(), layout::PT_REGS_WORDS * 8);
            bpf_probe_read_kernel_buf(source, target).ok()?;
        }
        let registers = Self(words.cast::<u64>());
        (registers.is_user_mode() && registers.sp() != 0).then_some(registers)
    }

    /// Copies all words, in the kernel's order.
    ///
    /// # Safety
    /// `target` is valid for writes.
    #[inline(always)]
    pub unsafe fn copy_to(self, target: *mut [u64; SNAPSHOT_REGISTERS_MAX]) {
        for index in 0..layout::PT_REGS_WORDS {
            // SAFETY: the caller's promise; no architecture has more words than `target`.
            unsafe { target.cast::<u64>().add(index).write(self.word(index)) };
        }
    }

    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        // SAFETY: the mask keeps the index below the length.
        unsafe { self.0.add(index & (WORDS - 1)).read() }
    }

    /// The two low bits of the code segment are the privilege level.
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn is_user_mode(self) -> bool {
        self.word(layout::CS) & 3 == 3
    }

    /// Exception level 0 is user mode.
    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn is_user_mode(self) -> bool {
        self.word(layout::PSTATE) & 0xf == 0
    }

    /// The instruction pointer.
    #[inline(always)]
    #[must_use]
    pub fn ip(self) -> u64 {
        self.word(layout::IP)
    }

    /// The stack pointer.
    #[inline(always)]
    #[must_use]
    pub fn sp(self) -> u64 {
        self.word(layout::SP)
    }

    /// The frame pointer.
    #[inline(always)]
    #[must_use]
    pub fn fp(self) -> u64 {
        self.word(layout::FP)
    }

    /// The link register; 0 where there is none.
    #[inline(always)]
    #[must_use]
    pub fn lr(self) -> u64 {
        #[cfg(bpf_target_arch = "x86_64")]
        return 0;
        #[cfg(bpf_target_arch = "aarch64")]
        return self.word(layout::LR);
    }

    /// A general register by its DWARF number.
    #[inline(always)]
    #[must_use]
    pub fn general(self, number: u8) -> Option<u64> {
        if number >= layout::GENERAL_COUNT {
            return None;
        }
        #[cfg(bpf_target_arch = "x86_64")]
        let place = {
            let half = if number < 8 { layout::BY_DWARF[0] } else { layout::BY_DWARF[1] };
            (half >> (u32::from(number & 7) * 8)) as usize & 0xff
        };
        #[cfg(bpf_target_arch = "aarch64")]
        let place = number as usize;
        Some(self.word(place))
    }

    /// Where a signal handler's frame holds a general register, by its DWARF number, in bytes from
    /// [`Registers::SAVED_BYTES`].
    #[inline(always)]
    #[must_use]
    pub fn saved_place_bytes(number: u8) -> Option<u64> {
        if number >= layout::GENERAL_COUNT {
            return None;
        }
        #[cfg(bpf_target_arch = "x86_64")]
        let place = {
            /// `signal_x86_64::GREG_BY_DWARF`, four bits each, so that it needs no memory.
            const PACKED: u64 = {
                let table = obs_common::unwind_row::signal_x86_64::GREG_BY_DWARF;
                let (mut packed, mut index) = (0, 0);
                while index < table.len() {
                    packed |= (table[index] as u64) << (index * 4);
                    index += 1;
                }
                packed
            };
            (PACKED >> (u32::from(number) * 4)) & 0xf
        };
        #[cfg(bpf_target_arch = "aarch64")]
        let place = u64::from(number);
        Some(place * 8)
    }

    /// Where a signal handler's frame holds the link register; `None` where there is none.
    #[inline(always)]
    #[must_use]
    pub fn saved_lr_bytes() -> Option<u64> {
        #[cfg(bpf_target_arch = "x86_64")]
        return None;
        #[cfg(bpf_target_arch = "aarch64")]
        return Some(obs_common::unwind_row::signal_aarch64::LR_BYTES);
    }
}

/// How a task came into the kernel, read from where its registers stand, without a copy of all of them.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The number of the system call that it is in; `None` if it came otherwise.
    pub system_call: Option<u32>,
    /// The first argument of the system call.
    pub first_argument: u64,
}

impl Entry {
    /// That of a task with a user stack; `None` if it has none.
    #[inline(always)]
    #[must_use]
    pub fn of(task: Task) -> Option<Self> {
        if !task.has_user_stack() {
            return None;
        }
        // SAFETY: the task is the verifier's, and so is what the helper returns: it checks the loads against the kernel's BTF.
        unsafe {
            let registers = bpf_task_pt_regs(task.as_ptr()) as *const u64;
            // A thread of the kernel's that works in a process (io_uring's) has its maker's registers, but for this one.
            if registers.add(layout::SP).read() == 0 {
                return None;
            }
            let number = registers.add(layout::SYSTEM_CALL).cast::<layout::Number>().read() as u32;
            let first_argument = registers.add(layout::FIRST_ARGUMENT).read();
            Some(Self { system_call: (number != u32::MAX).then_some(number), first_argument })
        }
    }
}
