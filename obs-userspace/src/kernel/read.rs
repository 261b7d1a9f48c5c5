//! Reads what the BPF programs left: records in the ring buffer, counts in maps, and what the programs cost.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    sys::{Stats, enable_stats},
};
use aya_log::EbpfLogger;
use obs_common::{
    counters::KERNEL_COUNTERS,
    stack::{StackKey, StackValue},
    wait::FinishedWait,
};

use super::{
    load::{KernelError, Object},
    sys::drain::HashDrain,
};

/// How long to wait for programs in flight where the kernel offers no barrier.
const GRACE: Duration = Duration::from_millis(20);

/// What a BPF program cost so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// The program's name.
    pub name: String,
    /// How often it ran.
    pub run_count: u64,
    /// How long it ran in total, in nanoseconds.
    pub run_time_ns: u64,
    /// Instructions that the verifier walked through when it was loaded, where the kernel says (Linux 5.16).
    pub verified_instructions: Option<u32>,
}

/// The ring buffer of an object.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// Takes the ring buffer out of an object.
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        object.take_map("RING").map(Self)
    }

    /// Hands on every record that is waiting.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(record) = self.0.next() {
            each(&record);
        }
    }
}

/// Which stacks the kernel side remembers having sent.
pub struct StacksSent(HashMap<MapData, u64, u8>);

impl StacksSent {
    /// Takes the map out of an object.
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        object.take_map("STACKS_SENT").map(Self)
    }

    /// Has a stack sent again when it is seen again.
    pub fn forget(&mut self, id: u64) {
        // It may have been forgotten there too, which is as good.
        let _ = self.0.remove(&id);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The two maps of counted stacks that take turns.
pub struct StackCounts {
    active: Array<MapData, u32>,
    maps: [CountMap; 2],
    filling: u32,
}

impl StackCounts {
    /// Takes the maps out of an object.
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        Ok(Self {
            active: object.take_map("COUNTS_ACTIVE")?,
            maps: [CountMap::take(object, "COUNTS_0")?, CountMap::take(object, "COUNTS_1")?],
            filling: 0,
        })
    }

    /// Hands on, and removes, everything that was counted since the last call. What is counted meanwhile waits for the
    /// next call; nothing is lost in between.
    ///
    /// # Errors
    /// If a map cannot be used; the counts that were not handed on yet stay.
    pub fn drain(&mut self, mut each: impl FnMut(&StackKey, &StackValue)) -> Result<(), KernelError> {
        let drained = self.filling;
        let filling = 1 - drained;
        let wrap = |map| move |error: aya::maps::MapError| KernelError::Map { map, why: error.to_string() };
        self.active.set(0, filling, 0).map_err(wrap("COUNTS_ACTIVE"))?;
        self.filling = filling;
        wait_for_running_programs();

        let drained = self.maps[drained as usize].drain.drain(|key, values| {
            if let [value] = values {
                each(&key.0, &value.0);
            }
        });
        drained.map(drop).map_err(|error| KernelError::Map { map: "COUNTS", why: error.to_string() })
    }
}

/// Entries taken out of the kernel by one system call.
const DRAIN_BATCH: usize = 1_024;

/// One of the two maps.
struct CountMap {
    drain: HashDrain<Shared<StackKey>, Shared<StackValue>>,
    /// Programs that are not loaded yet refer to the map by this descriptor.
    _map: MapData,
}

impl CountMap {
    fn take(object: &mut Object, map: &'static str) -> Result<Self, KernelError> {
        let missing = KernelError::Missing { object: object.name, part: map };
        let Some(Map::HashMap(data)) = object.ebpf.take_map(map) else { return Err(missing) };
        let drain = HashDrain::new(data.fd().as_fd(), DRAIN_BATCH);
        let drain = drain.map_err(|error| KernelError::Map { map, why: error.to_string() })?;
        Ok(Self { drain, _map: data })
    }
}

/// Returns when every BPF program that was running at the call has ended.
pub(super) fn wait_for_running_programs() {
    // This membarrier command is `synchronize_rcu` in the kernel, and BPF programs run inside RCU read sections.
    // SAFETY: the call takes no pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Kernels with nohz_full CPUs refuse it.
        std::thread::sleep(GRACE);
    }
}

/// The per-CPU counters of an object.
pub struct KernelCounters(PerCpuArray<MapData, u64>);

impl KernelCounters {
    /// Takes the counters out of an object.
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        object.take_map("COUNTERS").map(Self)
    }

    /// The sums over all CPUs, indexed by [`obs_common::counters::KernelCounter`].
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn read(&self) -> Result<[u64; KERNEL_COUNTERS as usize], KernelError> {
        let mut sums = [0; KERNEL_COUNTERS as usize];
        for (index, sum) in (0..).zip(&mut sums) {
            let per_cpu = self.0.get(&index, 0);
            let per_cpu = per_cpu.map_err(|error| KernelError::Map { map: "COUNTERS", why: error.to_string() })?;
            *sum = per_cpu.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value));
        }
        Ok(sums)
    }
}

/// Keeps the kernel counting the run time of BPF programs.
pub struct RunTimeStats(#[expect(dead_code, reason = "held open: the kernel counts while it is")] OwnedFd);

impl RunTimeStats {
    /// Asks for it.
    ///
    /// # Errors
    /// If the kernel does not offer it (before Linux 5.8) or the user may not.
    pub fn enable() -> Result<Self, KernelError> {
        let enabled = enable_stats(Stats::RunTime).map(Self);
        enabled
            .map_err(|error| KernelError::system("make the kernel count the run time of BPF programs", error.io_error))
    }
}

impl Object {
    /// What each loaded program of the object cost so far.
    #[must_use]
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        let mut all: Vec<_> = self
            .ebpf
            .programs()
            .filter_map(|(name, program)| Some((name, program.info().ok()?)))
            .map(|(name, info)| ProgramStats {
                name: name.to_owned(),
                run_count: info.run_count(),
                run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                verified_instructions: info.verified_instruction_count(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Memory that all maps held by this process take in the kernel, in bytes.
///
/// # Errors
/// If `/proc/self/fdinfo` cannot be read.
pub fn map_memory_bytes() -> io::Result<u64> {
    let mut by_id = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        // A descriptor may be closed while the folder is read.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        let field =
            |name: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            by_id.insert(id, bytes);
        }
    }
    Ok(by_id.values().sum())
}

/// Lets a type of obs-common be read from a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) T);

// SAFETY: the type is `repr(C)`, all integers, without padding, and valid for every bit pattern.
unsafe impl Pod for Shared<StackKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<StackValue> {}

// SAFETY: as above.
unsafe impl Pod for Shared<FinishedWait> {}

/// What the BPF programs themselves say, handed to this program's own log.
pub struct ProgramLog(EbpfLogger<&'static dyn log::Log>);

impl ProgramLog {
    /// Takes the log's ring buffer out of an object that was loaded with [`super::load::LoadOptions::log`].
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        let taken = EbpfLogger::init(&mut object.ebpf).map(Self);
        taken.map_err(|error| KernelError::Map { map: "AYA_LOGS", why: error.to_string() })
    }

    /// Passes on what was said since the last call.
    pub fn pass_on(&mut self) {
        self.0.flush();
    }
}
