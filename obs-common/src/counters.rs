//! What every BPF object counts of itself, in one per-CPU array indexed by [`KernelCounter`].

/// An index into the per-CPU array `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelCounter {
    /// Times that the probe ran.
    Runs = 0,
    /// Runs that the filter turned away.
    Filtered = 1,
    /// Runs on an idle CPU, which belong to no process.
    Idle = 2,
    /// Measurements that passed the filter and were counted.
    Taken = 3,
    /// Measurements lost because the map of counts was full.
    LostCountsFull = 4,
    /// Measurements whose stack was lost because the ring buffer was full; the measurement itself is counted.
    LostStackRingFull = 5,
    /// Announcements of a process that were put off because the ring buffer was full.
    LateProcessRingFull = 6,
    /// Children that are not followed because the filter was full.
    LostFilterFull = 7,
    /// Measurements lost because the task could not be examined.
    LostNoTask = 8,
    /// Waits of threads that could not be followed because the map of threads was full.
    LostWaitsFull = 9,
    /// How long all threads that are followed lived together, in nanoseconds: the sum of their ends less that of their
    /// beginnings, modulo 2^64. Only where running counts too.
    ThreadTimeNs = 10,
    /// Latencies whose end no program saw.
    LostEnd = 11,
}

/// Slots of the array `COUNTERS`.
pub const KERNEL_COUNTERS: u32 = 12;
