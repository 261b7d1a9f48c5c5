//! Which system calls wait for what, by their numbers.
//!
//! 32-bit programs have other numbers: theirs are taken for 64-bit ones.

/// The numbers of x86-64.
#[cfg(bpf_target_arch = "x86_64")]
mod number {
    pub(super) const FUTEX: [u32; 3] = [202, 449, 455];
    /// connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg.
    pub(super) const NETWORK: [u32; 9] = [42, 43, 44, 45, 46, 47, 288, 299, 307];
    /// read, write, readv, writev, sendfile.
    pub(super) const DESCRIPTOR: [u32; 5] = [0, 1, 19, 20, 40];
}

/// The numbers of aarch64.
#[cfg(bpf_target_arch = "aarch64")]
mod number {
    pub(super) const FUTEX: [u32; 3] = [98, 449, 455];
    /// connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg.
    pub(super) const NETWORK: [u32; 9] = [203, 202, 206, 207, 211, 212, 242, 243, 269];
    /// read, write, readv, writev, sendfile.
    pub(super) const DESCRIPTOR: [u32; 5] = [63, 64, 65, 66, 71];
}

/// Whether it waits for a futex: futex, futex_waitv, futex_wait.
#[inline(always)]
pub(crate) fn is_futex(system_call: u32) -> bool {
    number::FUTEX.contains(&system_call)
}

/// Whether its first argument can only be a socket.
#[inline(always)]
pub(crate) fn is_network(system_call: u32) -> bool {
    number::NETWORK.contains(&system_call)
}

/// Whether its first argument is a file descriptor that may be a socket.
#[inline(always)]
pub(crate) fn takes_descriptor(system_call: u32) -> bool {
    number::DESCRIPTOR.contains(&system_call)
}
