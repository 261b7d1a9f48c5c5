//! What the kernel side measures latencies of, and by which keys it adds them up.

/// What is measured; a bit of the constant `LATENCY_SOURCES` and the `source` of a [`LatencyKey`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatencySource {
    /// How long threads that could run waited for a CPU. Detail: why, a [`WaitState`](crate::wait::WaitState).
    RunQueue = 0,
    /// How long threads did not run. Detail: for what they waited, a [`WaitState`](crate::wait::WaitState).
    OffCpu = 1,
    /// How long requests of block devices took. Detail: [`block_detail`].
    Block = 2,
    /// How long system calls took. Detail: the number.
    SystemCall = 3,
    /// Page faults, counted. Detail: a [`PageFault`].
    PageFault = 4,
    /// How long TCP connections took to be made. Detail: a [`ConnectOutcome`].
    Connect = 5,
    /// Smoothed round-trip times of TCP connections. Detail: 0.
    RoundTrip = 6,
    /// TCP segments that were sent again, counted. Detail: 0.
    Retransmit = 7,
    /// How long software interrupts took. Detail: the vector.
    SoftIrq = 8,
    /// How long the handlers of hardware interrupts took. Detail: the number of the interrupt.
    HardIrq = 9,
}

impl LatencySource {
    /// Its bit in the constant `LATENCY_SOURCES`.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// In the constant `LATENCY_BY`: the cgroup is part of the key.
pub const BY_CGROUP: u32 = 1 << 0;
/// In the constant `LATENCY_BY`: the process is part of the key.
pub const BY_PROCESS: u32 = 1 << 1;

/// The detail of the key that takes what finds no room.
pub const DETAIL_OTHER: u64 = u64::MAX;

/// Whom something is counted for, as far as the key tells them apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LatencyOwner {
    /// The id of its cgroup in the unified hierarchy; 0 if that is not part of the key, or not known.
    pub cgroup_id: u64,
    /// When its process started, in nanoseconds of the boot-time clock; 0 likewise.
    pub started_ns: u64,
    /// Its process; 0 likewise.
    pub tgid: u32,
    /// Nothing.
    pub reserved: u32,
}

impl LatencyOwner {
    /// Nobody, or nobody that is known.
    pub const NOBODY: Self = Self { cgroup_id: 0, started_ns: 0, tgid: 0, reserved: 0 };
}

/// What a histogram or a count is of; the key of the maps `LATENCIES` and `LATENCY_COUNTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LatencyKey {
    /// Of whom.
    pub owner: LatencyOwner,
    /// What of the source; its meaning stands there. [`DETAIL_OTHER`] for what found no room.
    pub detail: u64,
    /// Of what: a [`LatencySource`].
    pub source: u32,
    /// Nothing.
    pub reserved: u32,
}

/// Something that began and has not ended; the value of the map `LATENCY_STARTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LatencyStart {
    /// Of whom.
    pub owner: LatencyOwner,
    /// When, in nanoseconds of the monotonic clock; 0 if it has ended. Requests: when they were given to the device; 0 while they are
    /// back in the queue.
    pub since_ns: u64,
    /// Threads that do not run: when they were woken, 0 if they were not. Requests: when they were made, 0 if that is not known.
    pub other_ns: u64,
    /// What of the source.
    pub detail: u64,
}

/// A part of the time that a request of a block device takes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPart {
    /// From when it was given to the device to when that was done with it.
    Device = 0,
    /// From when it was made to when it was given to the device.
    Queue = 1,
}

/// The detail of a request: its disk, as the kernel writes it (`major << 20 | minor`), the part of its time, and the operation
/// (`REQ_OP_…`).
#[inline(always)]
#[must_use]
pub const fn block_detail(device: u32, part: BlockPart, operation: u8) -> u64 {
    (device as u64) << 32 | (part as u64) << 8 | operation as u64
}

/// What becomes of an attempt to connect.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// The connection stands.
    Established = 0,
    /// It was refused, or nobody answered, or the program gave up.
    Failed = 1,
}

/// A kind of page fault.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// What was missing was in memory.
    Minor = 0,
    /// It had to be read from a disk.
    Major = 1,
}
