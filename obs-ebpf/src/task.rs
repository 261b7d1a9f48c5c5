//! The running task: its ids and names, read at offsets that user space took from the running kernel's BTF.

use aya_ebpf::{
    Global,
    bindings::task_struct,
    helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel},
};
use obs_common::{limits::COMM_BYTES, stack::ImageKey};

// Offsets in bytes. Frozen before load, so the verifier knows them as constants and checks each access against BTF.
#[unsafe(no_mangle)]
static OFFSET_TASK_TGID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_PID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_COMM: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_GROUP_LEADER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_START_BOOTTIME: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_SELF_EXEC_ID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_REAL_PARENT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_SIGNAL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_SIGNAL_LIVE: Global<u32> = Global::new(0);

/// `PF_KTHREAD`: the task is a thread of the kernel's own and has no user stack.
const FLAG_KERNEL_THREAD: u32 = 0x0020_0000;

/// A `task_struct` that the verifier knows as such.
#[derive(Clone, Copy)]
pub struct Task(*const task_struct);

impl Task {
    /// The task that the program interrupted or runs for.
    #[inline(always)]
    #[must_use]
    pub fn current() -> Self {
        // SAFETY: the helper takes no arguments and returns the current task.
        Self(unsafe { bpf_get_current_task_btf() }.cast_const())
    }

    /// A task that a tracepoint passed.
    #[inline(always)]
    #[must_use]
    pub fn from_argument(pointer: *const task_struct) -> Self {
        Self(pointer)
    }

    /// Reads the field at an offset.
    #[inline(always)]
    fn field<T: Copy>(self, offset: &Global<u32>) -> T {
        let address = self.0.cast::<u8>().wrapping_add(offset.load() as usize);
        // SAFETY: the verifier checks this load against the kernel's BTF, or refuses the program.
        unsafe { address.cast::<T>().read() }
    }

    /// Process id in the initial namespace.
    #[inline(always)]
    #[must_use]
    pub fn tgid(self) -> u32 {
        self.field(&OFFSET_TASK_TGID)
    }

    /// Thread id in the initial namespace.
    #[inline(always)]
    #[must_use]
    pub fn tid(self) -> u32 {
        self.field(&OFFSET_TASK_PID)
    }

    /// Whether this is a thread of the kernel's own.
    #[inline(always)]
    #[must_use]
    pub fn is_kernel_thread(self) -> bool {
        self.field::<u32>(&OFFSET_TASK_FLAGS) & FLAG_KERNEL_THREAD != 0
    }

    /// The first thread of the process.
    #[inline(always)]
    #[must_use]
    pub fn leader(self) -> Self {
        Self(self.field::<*const task_struct>(&OFFSET_TASK_GROUP_LEADER))
    }

    /// The task's name; zeroes if it cannot be read.
    #[inline(always)]
    #[must_use]
    pub fn comm(self) -> [u8; COMM_BYTES] {
        let address = self.0.cast::<u8>().wrapping_add(OFFSET_TASK_COMM.load() as usize);
        // A helper, not a plain load: BTF knows `comm` as an array of bytes and refuses wider loads.
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel(address.cast::<[u8; COMM_BYTES]>()) }.unwrap_or([0; COMM_BYTES])
    }

    /// Which image of which process the task runs.
    #[inline(always)]
    #[must_use]
    pub fn image(self) -> ImageKey {
        let leader = self.leader();
        ImageKey {
            started_ns: leader.field(&OFFSET_TASK_START_BOOTTIME),
            tgid: self.tgid(),
            // 32 bits wide before Linux 5.7, 64 after; the low half counts in both.
            exec_id: leader.field(&OFFSET_TASK_SELF_EXEC_ID),
        }
    }

    /// Which image the process's parent runs.
    #[inline(always)]
    #[must_use]
    pub fn parent_image(self) -> ImageKey {
        Self(self.leader().field::<*const task_struct>(&OFFSET_TASK_REAL_PARENT)).image()
    }

    /// The task, for helpers.
    #[inline(always)]
    #[must_use]
    pub fn as_ptr(self) -> *mut task_struct {
        self.0.cast_mut()
    }

    /// Whether no thread of the process is left, as seen by `sched_process_exit`.
    #[inline(always)]
    #[must_use]
    pub fn process_is_over(self) -> bool {
        let signal: *const u8 = self.field(&OFFSET_TASK_SIGNAL);
        let live = signal.wrapping_add(OFFSET_SIGNAL_LIVE.load() as usize);
        // SAFETY: the helper checks the address itself.
        matches!(unsafe { bpf_probe_read_kernel(live.cast::<u32>()) }, Ok(0))
    }
}
