//! Hints to the kernel's verifier that the compiler would otherwise optimize away.

/// The same number, of which neither the compiler nor the verifier remembers anything: a bound that is checked afterwards
/// is checked on the very value that is used. (Compilers check a copy and use the original; older verifiers do not see that
/// both are one.)
#[inline(always)]
pub(crate) fn forget(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut same = number;
        // SAFETY: the instructions keep a register as it is and touch nothing else.
        unsafe { core::arch::asm!("{0} ^= -1", "{0} ^= -1", inout(reg) same, options(pure, nomem, nostack)) };
        same
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}

/// As [`forget`], of a number of 32 bits, whose upper half stays known to be zero.
#[inline(always)]
pub(crate) fn forget_u32(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut wide = u64::from(number);
        // SAFETY: the instructions keep the low half of a register and touch nothing else.
        unsafe { core::arch::asm!("{0} <<= 32", "{0} >>= 32", inout(reg) wide, options(pure, nomem, nostack)) };
        wide as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
