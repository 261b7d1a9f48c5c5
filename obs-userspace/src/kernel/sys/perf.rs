//! perf_event_open(2): the events that obs opens by itself.

use std::{
    ffi::CStr,
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{
    PERF_EVENT_IOC_DISABLE, PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF, PERF_FLAG_FD_CLOEXEC,
    perf_event_sample_format, perf_hw_id, perf_sw_ids, perf_type_id,
};

use super::SysError;

/// `struct perf_event_attr` as of Linux 4.8 (`PERF_ATTR_SIZE_VER5`): all that obs asks for, and every kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period_or_frequency: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

// The bits of `perf_event_attr` that follow `read_format`.
const FLAG_DISABLED: u64 = 1 << 0;
const FLAG_MMAP: u64 = 1 << 8;
const FLAG_COMM: u64 = 1 << 9;
const FLAG_FREQUENCY: u64 = 1 << 10;
const FLAG_TASK: u64 = 1 << 13;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
const FLAG_MMAP2: u64 = 1 << 23;
const FLAG_COMM_EXEC: u64 = 1 << 24;
const FLAG_USE_CLOCK: u64 = 1 << 25;
const FLAG_KSYMBOL: u64 = 1 << 29;
const FLAG_BUILD_ID: u64 = 1 << 34;

/// The bit of a probe's `config` that makes it fire on return, unless sysfs names another.
const RETURN_PROBE_BIT: u64 = 1 << 0;
/// Where the offset of a USDT semaphore starts in a uprobe's `config`.
const REFERENCE_COUNTER_SHIFT: u32 = 32;

/// When an event takes a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Not at all.
    Never,
    /// This often per second.
    FrequencyHz(u64),
    /// Each time that the event has counted this much (nanoseconds, for clocks).
    Period(u64),
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Time of the CPU, by a high-resolution timer.
    CpuClock,
    /// Cycles, by the hardware's counter.
    HardwareCycles,
    /// A tracepoint, by the number that tracefs shows in its file `id`.
    Tracepoint {
        /// That number.
        id: u64,
    },
    /// An instruction of a file, in every process that maps it.
    Uprobe {
        /// The type of the probing unit: the content of `/sys/bus/event_source/devices/uprobe/type`.
        unit: u32,
        /// The file.
        path: &'a CStr,
        /// Bytes from the start of the file.
        offset_bytes: u64,
        /// Where the file keeps the counter of a USDT probe's listeners; 0 for none.
        reference_counter_offset_bytes: u32,
        /// Whether to fire when the function returns.
        on_return: bool,
    },
    /// The entry of a kernel function.
    Kprobe {
        /// The type of the probing unit: the content of `/sys/bus/event_source/devices/kprobe/type`.
        unit: u32,
        /// The function.
        function: &'a CStr,
    },
    /// Nothing: it carries the records of what processes do, see [`super::super::sideband`].
    Sideband {
        /// Whether mappings are to carry build ids instead of inode numbers (Linux 5.12).
        build_ids: bool,
        /// Wake whoever polls when so many bytes wait.
        wakeup_bytes: u32,
    },
}

/// Where it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every process, on this CPU.
    Cpu(u32),
    /// This thread, on any CPU; 0 for the calling thread.
    Thread(i32),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuClock => formatter.write_str("cpu-clock"),
            Self::HardwareCycles => formatter.write_str("cycles"),
            Self::Tracepoint { id } => write!(formatter, "tracepoint {id}"),
            Self::Uprobe { path, offset_bytes, .. } => {
                write!(formatter, "uprobe {}+{offset_bytes:#x}", path.to_string_lossy())
            }
            Self::Kprobe { function, .. } => write!(formatter, "kprobe {}", function.to_string_lossy()),
            Self::Sideband { .. } => formatter.write_str("dummy (records of processes)"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(formatter, "on CPU {cpu}"),
            Self::Thread(0) => formatter.write_str("on this thread"),
            Self::Thread(tid) => write!(formatter, "on thread {tid}"),
        }
    }
}

/// An open event, which ends when this is dropped.
#[derive(Debug)]
pub struct PerfEvent {
    fd: OwnedFd,
}

impl AsFd for PerfEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PerfEvent {
    /// Opens an event. It does not count before [`PerfEvent::enable`].
    ///
    /// # Errors
    ///
    /// The kernel refuses: `EACCES` or `EPERM` without the privilege, `ENOENT` without such an event, `ENODEV` for a CPU
    /// that is offline, `EINVAL` for a wish that this kernel does not know.
    pub fn open(event: Event<'_>, sampling: Sampling, target: Target) -> Result<Self, SysError> {
        let mut attributes =
            Attributes { size: size_of::<Attributes>() as u32, flags: FLAG_DISABLED, ..Attributes::default() };
        match sampling {
            Sampling::Never => {}
            Sampling::FrequencyHz(frequency_hz) => {
                attributes.flags |= FLAG_FREQUENCY;
                attributes.period_or_frequency = frequency_hz;
            }
            Sampling::Period(period) => attributes.period_or_frequency = period,
        }
        match event {
            Event::CpuClock => {
                attributes.kind = perf_type_id::PERF_TYPE_SOFTWARE as u32;
                attributes.config = perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u64;
            }
            Event::HardwareCycles => {
                attributes.kind = perf_type_id::PERF_TYPE_HARDWARE as u32;
                attributes.config = perf_hw_id::PERF_COUNT_HW_CPU_CYCLES as u64;
            }
            Event::Tracepoint { id } => {
                attributes.kind = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
                attributes.config = id;
            }
            Event::Uprobe { unit, path, offset_bytes, reference_counter_offset_bytes, on_return } => {
                attributes.kind = unit;
                attributes.config = u64::from(reference_counter_offset_bytes) << REFERENCE_COUNTER_SHIFT;
                attributes.config |= if on_return { RETURN_PROBE_BIT } else { 0 };
                attributes.config1 = path.as_ptr() as u64;
                attributes.config2 = offset_bytes;
            }
            Event::Kprobe { unit, function } => {
                attributes.kind = unit;
                attributes.config1 = function.as_ptr() as u64;
            }
            Event::Sideband { build_ids, wakeup_bytes } => {
                attributes.kind = perf_type_id::PERF_TYPE_SOFTWARE as u32;
                attributes.config = perf_sw_ids::PERF_COUNT_SW_DUMMY as u64;
                attributes.flags |= FLAG_MMAP | FLAG_MMAP2 | FLAG_COMM | FLAG_COMM_EXEC | FLAG_TASK;
                attributes.flags |= FLAG_SAMPLE_ID_ALL | FLAG_USE_CLOCK | FLAG_WATERMARK | FLAG_KSYMBOL;
                attributes.flags |= if build_ids { FLAG_BUILD_ID } else { 0 };
                attributes.clock = libc::CLOCK_BOOTTIME;
                attributes.wakeup = wakeup_bytes;
                attributes.sample_type = perf_event_sample_format::PERF_SAMPLE_TID as u64
                    | perf_event_sample_format::PERF_SAMPLE_TIME as u64;
            }
        }
        let (pid, cpu) = match target {
            Target::Cpu(cpu) => (-1, cpu as libc::c_int),
            Target::Thread(tid) => (tid, -1),
        };
        let (no_group, flags) = (-1 as libc::c_int, libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC));
        // SAFETY: the attributes live for the call and carry their size; the strings that a probe's attributes address
        // are borrowed by `event`, which outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, pid, cpu, no_group, flags) };
        if fd < 0 {
            return Err(SysError::last(format!("opening the perf event {event} {target}")));
        }
        // SAFETY: the kernel just opened this descriptor for us; nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) } })
    }

    /// Starts counting.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn enable(&self) -> Result<(), SysError> {
        self.control(PERF_EVENT_IOC_ENABLE, 0, "enabling a perf event")
    }

    /// Stops counting.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn disable(&self) -> Result<(), SysError> {
        self.control(PERF_EVENT_IOC_DISABLE, 0, "disabling a perf event")
    }

    /// Runs a program at each sample of this event, until the event is closed.
    ///
    /// # Errors
    ///
    /// The program is of a type that does not fit, or the event does not sample.
    pub fn attach(&self, program: BorrowedFd<'_>) -> Result<(), SysError> {
        self.control(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd(), "attaching a program to a perf event")
    }

    /// What was counted so far, in the event's own unit.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or has less to say than expected.
    pub fn count(&self) -> Result<u64, SysError> {
        let mut bytes = [0; 8];
        let read = rustix::io::read(&self.fd, &mut bytes);
        match read {
            Ok(8) => Ok(u64::from_ne_bytes(bytes)),
            Ok(_) => Err(SysError::invalid("reading a perf event", "it is in an error state")),
            Err(source) => Err(SysError::new("reading a perf event", source)),
        }
    }

    fn control(&self, request: u32, argument: libc::c_int, attempted: &str) -> Result<(), SysError> {
        // SAFETY: none of these requests takes an address.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::Ioctl::from(request), argument) };
        if result < 0 { Err(SysError::last(attempted)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_the_size_that_they_claim() {
        assert_eq!(size_of::<Attributes>(), 112, "PERF_ATTR_SIZE_VER5");
        assert_eq!(std::mem::offset_of!(Attributes, flags), 40);
        assert_eq!(std::mem::offset_of!(Attributes, clock), 92);
    }

    #[test]
    fn an_event_that_is_not_there_is_refused() {
        let refused = PerfEvent::open(Event::Tracepoint { id: u64::MAX }, Sampling::Period(1), Target::Thread(0));
        assert!(refused.is_err());
    }
}
