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
#[unsafe(no_mangle)]
static OFFSET_TASK_STATE: Global<u32> = Global::new(0);
/// The byte of the bit field `in_iowait`.
#[unsafe(no_mangle)]
static OFFSET_TASK_IN_IOWAIT: Global<u32> = Global::new(0);
/// Its bit in that byte.
#[unsafe(no_mangle)]
static MASK_TASK_IN_IOWAIT: Global<u32> = Global::new(0);
/// [`ABSENT`] in kernels without groups of tasks.
#[unsafe(no_mangle)]
static OFFSET_TASK_CFS_RQ: Global<u32> = Global::new(ABSENT);
/// [`ABSENT`] in kernels without quotas of CPU time.
#[unsafe(no_mangle)]
static OFFSET_CFS_RQ_THROTTLE_COUNT: Global<u32> = Global::new(ABSENT);
/// [`ABSENT`] in kernels for one CPU.
#[unsafe(no_mangle)]
static OFFSET_TASK_ON_CPU: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_TASK_CGROUPS: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_CSS_SET_DFL_CGRP: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_CGROUP_KN: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_CGROUP_PARENT: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_CSS_CGROUP: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_KERNFS_NODE_ID: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_TASK_RUN_TIME: Global<u32> = Global::new(0);
/// [`ABSENT`] in kernels without `CONFIG_SCHED_INFO`.
#[unsafe(no_mangle)]
static OFFSET_TASK_RUNS: Global<u32> = Global::new(ABSENT);
#[unsafe(no_mangle)]
static OFFSET_TASK_JOBCTL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_MM: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_FILES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_FILES_FDT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_FDTABLE_MAX_FDS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_FDTABLE_FD: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_FILE_INODE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_INODE_MODE: Global<u32> = Global::new(0);

/// The offset of a field that this kernel does not have.
pub(crate) const ABSENT: u32 = u32::MAX;

/// `PF_KTHREAD`: the task is a thread of the kernel's own and has no user stack.
const FLAG_KERNEL_THREAD: u32 = 0x0020_0000;

/// `PF_EXITING`: the task is about to end.
const FLAG_EXITING: u32 = 0x4;

// States of linux/sched.h.
const TASK_INTERRUPTIBLE: u32 = 0x1;
const TASK_STOPPED: u32 = 0x4;
const TASK_TRACED: u32 = 0x8;
const TASK_DEAD: u32 = 0x80;
const TASK_WAKING: u32 = 0x200;
/// By the freezer of version 1 of cgroups, since Linux 6.1.
const TASK_FROZEN: u32 = 0x8000;
/// `JOBCTL_TRAP_FREEZE` of linux/sched/jobctl.h: its cgroup, of version 2, has it stop.
const JOBCTL_TRAP_FREEZE: u64 = 1 << 23;
/// Of `TASK_IDLE`: it is interrupted by no signal, but only because it never has one.
const TASK_NOLOAD: u32 = 0x400;

/// `S_IFMT` and `S_IFSOCK` of linux/stat.h.
const MODE_KIND: u16 = 0o170_000;
const MODE_SOCKET: u16 = 0o140_000;

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
        typed_at(self.0.cast(), offset)
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

    /// How long it has run in its life by the scheduler's own account, in nanoseconds, which is up to date at a switch. While it runs
    /// the account lags behind, mostly by less than a tick.
    #[inline(always)]
    #[must_use]
    pub fn run_time_ns(self) -> u64 {
        self.field(&OFFSET_TASK_RUN_TIME)
    }

    /// How often it has been given a CPU in its life; [`u64::MAX`] if this kernel does not count it.
    #[inline(always)]
    #[must_use]
    pub fn runs(self) -> u64 {
        if OFFSET_TASK_RUNS.load() == ABSENT { u64::MAX } else { self.field(&OFFSET_TASK_RUNS) }
    }

    /// Whether it has a user stack that can be read while it runs. The kernel's own threads have none, and a thread that ends gives its
    /// memory up while it still runs: what is in place then may be another process's.
    #[inline(always)]
    #[must_use]
    pub fn has_user_stack(self) -> bool {
        self.field::<u32>(&OFFSET_TASK_FLAGS) & FLAG_KERNEL_THREAD == 0
            && !self.field::<*const u8>(&OFFSET_TASK_MM).is_null()
    }

    /// Whether it is about to end. It may still run and wait for long, to close its files.
    #[inline(always)]
    #[must_use]
    pub fn is_exiting(self) -> bool {
        self.field::<u32>(&OFFSET_TASK_FLAGS) & FLAG_EXITING != 0
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

    /// `__state`: why it does not run, or 0.
    #[inline(always)]
    fn state(self) -> u32 {
        self.field(&OFFSET_TASK_STATE)
    }

    /// Whether it could run.
    #[inline(always)]
    #[must_use]
    pub fn is_runnable(self) -> bool {
        self.state() == 0
    }

    /// Whether it is over, and never runs again.
    #[inline(always)]
    #[must_use]
    pub fn is_dead(self) -> bool {
        self.state() & TASK_DEAD != 0
    }

    /// Whether a signal, a debugger or its cgroup has stopped it.
    #[inline(always)]
    #[must_use]
    pub fn is_stopped(self) -> bool {
        let state = self.state();
        state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN) != 0
            || (state & TASK_INTERRUPTIBLE != 0 && self.field::<u64>(&OFFSET_TASK_JOBCTL) & JOBCTL_TRAP_FREEZE != 0)
    }

    /// Whether it runs on a CPU.
    #[inline(always)]
    #[must_use]
    pub fn is_on_cpu(self) -> bool {
        if OFFSET_TASK_ON_CPU.load() == ABSENT {
            return self.is_runnable();
        }
        self.field::<u32>(&OFFSET_TASK_ON_CPU) != 0
    }

    /// Its cgroup in the unified hierarchy, as far as this kernel has one.
    #[inline(always)]
    #[must_use]
    pub fn cgroup(self) -> Option<Cgroup> {
        if OFFSET_TASK_CGROUPS.load() == ABSENT {
            return None;
        }
        let set: *const u8 = self.field(&OFFSET_TASK_CGROUPS);
        if set.is_null() { None } else { Cgroup::at(typed_at(set, &OFFSET_CSS_SET_DFL_CGRP)) }
    }

    /// The id of its cgroup; 0 if this kernel has none. As `bpf_get_current_cgroup_id`, for any task and without a call.
    #[inline(always)]
    #[must_use]
    pub fn cgroup_id(self) -> u64 {
        self.cgroup().and_then(Cgroup::id).unwrap_or(0)
    }

    /// Whether it is woken just now.
    #[inline(always)]
    #[must_use]
    pub fn is_being_woken(self) -> bool {
        self.state() & TASK_WAKING != 0
    }

    /// Whether it waits so that nobody need worry: a signal would wake it, or it counts as idle. Who is being woken already cannot
    /// be asked any more.
    #[inline(always)]
    #[must_use]
    pub fn is_interruptible(self) -> bool {
        self.state() & (TASK_INTERRUPTIBLE | TASK_NOLOAD | TASK_WAKING) != 0
    }

    /// Whether it waits for a block device.
    #[inline(always)]
    #[must_use]
    pub fn waits_for_io(self) -> bool {
        u32::from(self.field::<u8>(&OFFSET_TASK_IN_IOWAIT)) & MASK_TASK_IN_IOWAIT.load() != 0
    }

    /// Whether its cgroup, or one above, has used up its quota of CPU time.
    #[inline(always)]
    #[must_use]
    pub fn is_throttled(self) -> bool {
        if OFFSET_TASK_CFS_RQ.load() == ABSENT || OFFSET_CFS_RQ_THROTTLE_COUNT.load() == ABSENT {
            return false;
        }
        let queue: *const u8 = self.field(&OFFSET_TASK_CFS_RQ);
        read_at::<i32>(queue, &OFFSET_CFS_RQ_THROTTLE_COUNT).is_some_and(|count| count > 0)
    }

    /// Whether a file descriptor is a socket's.
    #[inline(always)]
    #[must_use]
    pub fn descriptor_is_socket(self, descriptor: u64) -> bool {
        self.mode_of_descriptor(descriptor).is_some_and(|mode| mode & MODE_KIND == MODE_SOCKET)
    }

    #[inline(always)]
    fn mode_of_descriptor(self, descriptor: u64) -> Option<u16> {
        let files: *const u8 = self.field(&OFFSET_TASK_FILES);
        if files.is_null() {
            return None;
        }
        let table: *const u8 = typed_at(files, &OFFSET_FILES_FDT);
        if table.is_null() || descriptor >= u64::from(typed_at::<u32>(table, &OFFSET_FDTABLE_MAX_FDS)) {
            return None;
        }
        // What stands there the verifier does not know.
        let descriptors: *const *const u8 = typed_at(table, &OFFSET_FDTABLE_FD);
        // SAFETY: the helper checks the address itself.
        let file = unsafe { bpf_probe_read_kernel(descriptors.wrapping_add(descriptor as usize)) }.ok()?;
        let inode: *const u8 = read_at(file, &OFFSET_FILE_INODE)?;
        read_at(inode, &OFFSET_INODE_MODE)
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
        read_at::<u32>(signal, &OFFSET_SIGNAL_LIVE) == Some(0)
    }
}

/// A cgroup.
#[derive(Clone, Copy)]
pub struct Cgroup(*const u8);

impl Cgroup {
    /// Its id: the number of its folder's inode.
    #[inline(always)]
    #[must_use]
    pub fn id(self) -> Option<u64> {
        let node: *const u8 = typed_at(self.0, &OFFSET_CGROUP_KN);
        (!node.is_null()).then(|| typed_at(node, &OFFSET_KERNFS_NODE_ID))
    }

    /// The one that it is in.
    #[inline(always)]
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        let state: *const u8 = typed_at(self.0, &OFFSET_CGROUP_PARENT);
        if state.is_null() { None } else { Self::at(typed_at(state, &OFFSET_CSS_CGROUP)) }
    }

    #[inline(always)]
    fn at(cgroup: *const u8) -> Option<Self> {
        (!cgroup.is_null()).then_some(Self(cgroup))
    }
}

/// Reads a field of a structure that the verifier knows as such.
#[inline(always)]
fn typed_at<T: Copy>(structure: *const u8, offset: &Global<u32>) -> T {
    let address = structure.wrapping_add(offset.load() as usize);
    // SAFETY: the verifier checks this load against the kernel's BTF, or refuses the program. Where the memory is gone it yields 0.
    unsafe { address.cast::<T>().read() }
}

/// Reads a field of a structure of the kernel's.
#[inline(always)]
fn read_at<T>(structure: *const u8, offset: &Global<u32>) -> Option<T> {
    let address = structure.wrapping_add(offset.load() as usize);
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(address.cast::<T>()) }.ok()
}
