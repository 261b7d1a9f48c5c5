//! The C library's heap, kept small: memory that the allocator holds back counts as obs's for as long as it runs.

/// Free memory at the heap's end that is kept, and size of an allocation from which on it has pages of its own, in bytes.
/// The allocator would otherwise raise both to the largest allocation that it has seen, such as a symbol table.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 128 << 10;

/// Has all threads share one heap. Each would otherwise have its own, and keep what it once needed at its peak; threads of
/// obs allocate too seldom to wait for each other. To be called before there are threads.
pub fn share_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function has no preconditions; values that it refuses change nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives free memory back to the kernel, after work that needed much of it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
