//! The unwind table of one ELF file, as the kernel side reads it: three arrays, `pages`, `rows` and `rules`.
//!
//! Look-up of a file address (`pc`, a "stated virtual memory address" of the file, the load bias taken off):
//!
//! 1. `page = (pc >> PAGE_BITS) - first_page`; outside of `0 .. pages.len() - 1` the table says nothing.
//! 2. In `rows[pages[page] .. pages[page + 1]]`, which is sorted by [`row_pc`], find the last row whose low bits are
//!    not above `pc & PAGE_MASK`: at most [`SEARCH_STEPS_MAX`] halvings, as a page has 4,096 addresses. When there is
//!    none, the row before them, `rows[pages[page] - 1]`, is still in force. The first row of a table stands at the very
//!    start of its first page, so that this never reaches below row 0.
//! 3. `rules[row_rule(row)]` says how to find the caller.
//!
//! A row holds until the next one. What no call frame information covers has a row of its own with rule 0, "no
//! information".

/// Bits of an address that are its place within a page.
pub const PAGE_BITS: u32 = 12;

/// The bits of an address, and of a row, that are its place within a page.
pub const PAGE_MASK: u32 = (1 << PAGE_BITS) - 1;

/// Most halvings of the binary search among the rows of one page.
pub const SEARCH_STEPS_MAX: u32 = PAGE_BITS + 1;

/// Most rules of one table: what the upper 20 bits of a row can number.
pub const RULES_MAX: u32 = 1 << (32 - PAGE_BITS);

/// Most rows of one table.
pub const ROWS_MAX: u32 = 1 << 23;

/// Most pages that one table spans, from its first covered address to its last: 1 GiB of addresses.
pub const PAGES_MAX: u32 = 1 << 18;

/// The rule "no information", in every table.
pub const NO_INFORMATION: u32 = 0;

/// A row: where it begins within its page, and the number of its rule.
#[must_use]
#[inline(always)]
pub const fn row(pc: u64, rule: u32) -> u32 {
    (pc as u32 & PAGE_MASK) | (rule << PAGE_BITS)
}

/// Where within its page the row begins.
#[must_use]
#[inline(always)]
pub const fn row_pc(row: u32) -> u32 {
    row & PAGE_MASK
}

/// The number of the row's rule.
#[must_use]
#[inline(always)]
pub const fn row_rule(row: u32) -> u32 {
    row >> PAGE_BITS
}

/// How to find the caller's frame from this one. The frame's CFA ("canonical frame address") is the value that the
/// stack pointer has in the caller, right after the call returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Bytes added to the base that `cfa_kind` names.
    pub cfa_offset: i32,
    /// Where the caller's frame pointer is saved, in words of 8 bytes from the base that `fp_kind` names.
    pub fp_offset: i16,
    /// Where the return address is saved, in words of 8 bytes from the base that `ra_kind` names.
    pub ra_offset: i16,
    /// A [`CfaKind`].
    pub cfa_kind: u8,
    /// A [`FpKind`].
    pub fp_kind: u8,
    /// A [`RaKind`], with [`RA_SIGNED`] or'ed to it where the return address is signed.
    pub ra_kind: u8,
    /// What `cfa_kind` says of it: where rbx is ([`RBX_LOST`] and on), a register's DWARF number, a threshold, an
    /// addend. Otherwise 0.
    pub arg: u8,
}

/// Bytes of a [`Rule`].
pub const RULE_BYTES: usize = size_of::<Rule>();

/// Set in [`Rule::ra_kind`] where the saved return address carries a pointer authentication code (aarch64), which must
/// be stripped before the address is used.
pub const RA_SIGNED: u8 = 0x80;

/// How the CFA is computed; [`Rule::cfa_kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CfaKind {
    /// The file says nothing of this address: the walk ends with [`crate::stack::StackEnd::NoRow`].
    NoInformation = 0,
    /// `sp + cfa_offset`. `arg` says where the caller's rbx is.
    Sp = 1,
    /// `fp + cfa_offset`. `arg` says where the caller's rbx is.
    Fp = 2,
    /// The register with the DWARF number `arg`, plus `cfa_offset`. Its value is only known in a frame whose registers
    /// are (the innermost one, or one that a signal interrupted), but for rbx ([`RBX`]) where the frames below say where
    /// they keep it.
    Register = 3,
    /// The word at `sp + cfa_offset`, plus `8 * (arg as i8)`.
    SpDeref = 4,
    /// The word at `fp + cfa_offset`, plus `8 * (arg as i8)`.
    FpDeref = 5,
    /// A stub of the procedure linkage table: `sp + cfa_offset`, and 8 more once `(ip & 15) >= arg`.
    Plt = 6,
    /// The trampoline that a signal handler returns to. The interrupted registers stand in the frame that the kernel
    /// made at `sp + cfa_offset`; see [`signal_x86_64`] and [`signal_aarch64`]. The interrupted frame is exact.
    Signal = 7,
    /// The thread's first frame: the walk is complete.
    End = 8,
    /// `fp + cfa_offset`, by convention and not by anything that the file says of this address: what is found is to
    /// be marked with [`crate::stack::FRAME_BY_POINTER`].
    FramePointer = 9,
    /// The file has a rule that this format does not express: the walk ends with
    /// [`crate::stack::StackEnd::UnsupportedRule`].
    Unsupported = 10,
}

/// Where the caller's frame pointer is (rbp, x29); [`Rule::fp_kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpKind {
    /// Still in its register.
    Unchanged = 0,
    /// At `CFA + 8 * fp_offset`.
    AtCfa = 1,
    /// Nowhere: it is taken to be 0.
    Undefined = 2,
    /// At `fp + 8 * fp_offset`.
    AtFp = 3,
    /// At `sp + 8 * fp_offset`.
    AtSp = 4,
    /// In the register with the DWARF number `fp_offset`, only in a frame whose registers are known.
    Register = 5,
}

/// Where the return address is; [`Rule::ra_kind`] without [`RA_SIGNED`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaKind {
    /// At `CFA + 8 * ra_offset`.
    AtCfa = 0,
    /// In the link register (aarch64), as long as no other function was called: only in a frame whose registers are
    /// known.
    LinkRegister = 1,
    /// In the register with the DWARF number `ra_offset`, only in a frame whose registers are known (x86-64: `vfork`,
    /// which keeps it in rdi across the system call).
    Register = 2,
}

/// The DWARF number of rbx on x86-64. The dynamic linker's lazy binding (`_dl_runtime_resolve`) finds its frame by it,
/// and calls other functions of the dynamic linker, so that tables of files with such a rule follow it; 1 to 3 % of the
/// samples of short programs lie there.
pub const RBX: u8 = 3;

/// [`Rule::arg`] of [`CfaKind::Sp`] and [`CfaKind::Fp`]: nothing is known of the caller's rbx. All tables of files that do not
/// need it say this.
pub const RBX_LOST: u8 = 0;

/// [`Rule::arg`] of [`CfaKind::Sp`] and [`CfaKind::Fp`]: rbx still has its caller's value. Any larger number `n` says
/// that it is saved at `CFA - 8 * n`.
pub const RBX_UNCHANGED: u8 = 1;

/// The rule of a function that keeps the conventional frame pointer: CFA = fp + 16, the caller's frame pointer and
/// the return address right below it. Both x86-64 and aarch64 push this pair.
pub const FRAME_POINTER_RULE: Rule = Rule {
    cfa_offset: 16,
    fp_offset: -2,
    ra_offset: -1,
    cfa_kind: CfaKind::FramePointer as u8,
    fp_kind: FpKind::AtCfa as u8,
    ra_kind: RaKind::AtCfa as u8,
    arg: 0,
};

/// [`Rule::arg`] of [`CfaKind::FramePointer`]: the function changes from one stack to another, so its caller's frame may
/// well lie at a lower address than its own.
pub const OTHER_STACK: u8 = 1;

/// Where the kernel keeps the interrupted registers in the frame of a signal handler on x86-64, in bytes from the
/// stack pointer at the trampoline (`struct ucontext`, whose `gregs` begin at 40).
pub mod signal_x86_64 {
    /// The general registers, words of 8 bytes in the order r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    pub const GREGS_BYTES: u64 = 40;
    /// The interrupted frame pointer.
    pub const FP_BYTES: u64 = GREGS_BYTES + 10 * 8;
    /// The interrupted stack pointer.
    pub const SP_BYTES: u64 = GREGS_BYTES + 15 * 8;
    /// The interrupted instruction pointer.
    pub const IP_BYTES: u64 = GREGS_BYTES + 16 * 8;
    /// The place among the general registers of the register with a DWARF number of 0 … 15.
    pub const GREG_BY_DWARF: [u8; 16] = [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
}

/// The same for aarch64 (`struct rt_sigframe`: 128 bytes of `siginfo`, then `ucontext`, whose registers begin at 184).
pub mod signal_aarch64 {
    /// x0 … x30, words of 8 bytes; a register's DWARF number is its place.
    pub const REGS_BYTES: u64 = 128 + 184;
    /// The interrupted frame pointer, x29.
    pub const FP_BYTES: u64 = REGS_BYTES + 29 * 8;
    /// The interrupted link register, x30.
    pub const LR_BYTES: u64 = REGS_BYTES + 30 * 8;
    /// The interrupted stack pointer.
    pub const SP_BYTES: u64 = REGS_BYTES + 31 * 8;
    /// The interrupted program counter.
    pub const IP_BYTES: u64 = REGS_BYTES + 32 * 8;
}

/// The bits of an aarch64 return address that are left when its pointer authentication code is stripped (48-bit user
/// addresses, the default of Linux).
pub const AARCH64_ADDRESS: u64 = (1 << 48) - 1;

const _: () = assert!(RULE_BYTES == 12);
