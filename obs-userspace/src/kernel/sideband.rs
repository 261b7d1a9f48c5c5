//! What processes do, as the kernel tells perf: they fork, exec, change their names, map code, exit.
//!
//! One event per CPU counts nothing and carries these records through a ring of its own. They cost only what happens,
//! unlike polling `/proc`; and they need tracepoints of no kernel version in particular.
//!
//! **Boundary:** process and thread ids are those of the PID namespace in which obs runs. Times are nanoseconds of the
//! boot-time clock, as in samples.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

use super::sys::{
    SysError, online_cpus, page_bytes,
    perf::{Event, PerfEvent, Sampling, Target},
    ring::PerfRing,
};

mod decode;

pub use decode::{DecodeError, FileIdentity, SidebandEvent, decode};

/// Bytes of the ring of each CPU, unless asked otherwise: some 900 mappings.
pub const RING_BYTES: usize = 128 << 10;
/// Most events kept back until the next reading, over all CPUs; the oldest are handed out early beyond it.
const HELD_BACK_MAX: usize = 65_536;

/// How the records are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SidebandOptions {
    /// Bytes of each CPU's ring: a power of two, and whole pages.
    pub ring_bytes: usize,
    /// Wake whoever polls when so many bytes wait in a CPU's ring.
    pub wakeup_bytes: u32,
    /// Ask for the build ids of mapped files instead of their inodes, where the kernel reads them (Linux 5.12).
    pub build_ids: bool,
}

impl Default for SidebandOptions {
    fn default() -> Self {
        Self { ring_bytes: RING_BYTES, wakeup_bytes: RING_BYTES as u32 / 4, build_ids: true }
    }
}

/// What one reading met besides events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidebandRead {
    /// Events handed out.
    pub events: u64,
    /// Records that the kernel dropped because a ring was full (each also an event [`SidebandEvent::Lost`]).
    pub lost: u64,
    /// Records that could not be understood, and rings that held nonsense.
    pub malformed: u64,
}

struct Cpu {
    // Dropped before the event whose memory it maps.
    ring: PerfRing,
    event: PerfEvent,
}

/// The records of every CPU that was online when this was opened.
pub struct Sideband {
    cpus: Vec<Cpu>,
    build_ids: bool,
    held_back: VecDeque<SidebandEvent>,
    fresh: Vec<SidebandEvent>,
}

impl Sideband {
    /// Opens an event on every CPU that is online, and starts them.
    ///
    /// # Errors
    ///
    /// The privilege is missing (`CAP_PERFMON`), or the kernel has no such events.
    pub fn open(options: SidebandOptions) -> Result<Self, SysError> {
        if options.ring_bytes < page_bytes() {
            return Err(SysError::invalid("opening perf side-band events", "a ring is smaller than a page"));
        }
        match Self::open_with(options) {
            // The wish for build ids is the only one here that a kernel since 5.8 may not know.
            Err(error) if options.build_ids && error.errno() == libc::EINVAL => {
                Self::open_with(SidebandOptions { build_ids: false, ..options })
            }
            outcome => outcome,
        }
    }

    fn open_with(options: SidebandOptions) -> Result<Self, SysError> {
        let SidebandOptions { ring_bytes, wakeup_bytes, build_ids } = options;
        let mut cpus = Vec::new();
        for cpu in online_cpus()? {
            let event = Event::Sideband { build_ids, wakeup_bytes };
            let event = match PerfEvent::open(event, Sampling::Never, Target::Cpu(cpu)) {
                Ok(event) => event,
                // It went offline since.
                Err(error) if error.errno() == libc::ENODEV => continue,
                Err(error) => return Err(error),
            };
            let ring = PerfRing::new(event.as_fd(), ring_bytes)?;
            cpus.push(Cpu { ring, event });
        }
        for cpu in &cpus {
            cpu.event.enable()?;
        }
        Ok(Self { cpus, build_ids, held_back: VecDeque::new(), fresh: Vec::new() })
    }

    /// Whether mappings carry build ids (of files that have one, and whose header was in memory).
    #[must_use]
    pub fn has_build_ids(&self) -> bool {
        self.build_ids
    }

    /// The descriptors to poll: readable when [`SidebandOptions::wakeup_bytes`] wait. Fewer bytes wake nobody, so read at
    /// intervals too.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.cpus.iter().map(|cpu| cpu.event.as_fd())
    }

    /// Memory shared with the kernel, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.ring.memory_bytes()).sum()
    }

    /// Hands out what happened before this call, in the order in which it happened on all CPUs together.
    ///
    /// What happens during the call is kept for the next one: the rings are read one after another, and what a later ring
    /// shows may be the consequence of something that an earlier ring did not show yet.
    pub fn read(&mut self, take: impl FnMut(SidebandEvent)) -> SidebandRead {
        let until_ns = boot_time_ns();
        self.read_until(until_ns, take)
    }

    /// Hands out all that is there: for the last reading.
    pub fn read_all(&mut self, take: impl FnMut(SidebandEvent)) -> SidebandRead {
        self.read_until(u64::MAX, take)
    }

    fn read_until(&mut self, until_ns: u64, mut take: impl FnMut(SidebandEvent)) -> SidebandRead {
        let mut done = SidebandRead::default();
        self.fresh.clear();
        self.fresh.extend(self.held_back.drain(..));
        let build_ids = self.build_ids;
        for cpu in &mut self.cpus {
            let outcome = cpu.ring.read(|record| match decode(record, build_ids) {
                Ok(Some(event)) => {
                    if let SidebandEvent::Lost { count, .. } = event {
                        done.lost = done.lost.saturating_add(count);
                    }
                    self.fresh.push(event);
                }
                Ok(None) => {}
                Err(_) => done.malformed += 1,
            });
            done.malformed += u64::from(outcome.is_err());
        }
        // Stable: what has one time on one CPU keeps its order.
        self.fresh.sort_by_key(SidebandEvent::time_ns);
        let ready = self.fresh.partition_point(|event| event.time_ns() < until_ns);
        let ready = ready.max(self.fresh.len().saturating_sub(HELD_BACK_MAX));
        self.held_back.extend(self.fresh.drain(ready..));
        done.events = self.fresh.len() as u64;
        self.fresh.drain(..).for_each(&mut take);
        done
    }
}

/// Now, in nanoseconds of the boot-time clock.
fn boot_time_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, process::Command};

    use super::*;

    /// The records of every CPU, or nothing without the privilege: these tests then say so and pass.
    fn open(options: SidebandOptions) -> Option<Sideband> {
        match Sideband::open(options) {
            Ok(sideband) => Some(sideband),
            Err(error) if error.is_permission() => {
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read_all(sideband: &mut Sideband) -> Vec<SidebandEvent> {
        let mut events = Vec::new();
        let read = sideband.read_all(|event| events.push(event));
        assert_eq!((read.lost, read.malformed), (0, 0));
        events
    }

    fn run_true() -> u32 {
        let mut child = Command::new("/bin/true").spawn().expect("/bin/true exists");
        child.wait().expect("it exits");
        child.id()
    }

    #[test]
    fn shows_the_life_of_a_process() {
        use std::os::unix::ffi::OsStrExt;
        // Where one program does the work of many, /bin/true is a link to it.
        let file_name = std::fs::canonicalize("/bin/true").expect("/bin/true exists").into_os_string();
        for build_ids in [true, false] {
            let Some(mut sideband) = open(SidebandOptions { build_ids, ..SidebandOptions::default() }) else { return };
            let before_ns = boot_time_ns();
            let child = run_true();
            let after_ns = boot_time_ns();
            let events = read_all(&mut sideband);
            let events: Vec<&SidebandEvent> = events.iter().filter(|event| event.pid() == Some(child)).collect();

            let me = std::process::id();
            let position = |wanted: &dyn Fn(&SidebandEvent) -> bool, what: &str| {
                events.iter().position(|event| wanted(event)).unwrap_or_else(|| panic!("no {what} in {events:#?}"))
            };
            let fork = position(
                &|event| matches!(event, SidebandEvent::Fork { parent_pid, tid, .. } if *parent_pid == me && *tid == child),
                "fork",
            );
            let exec = position(
                &|event| matches!(event, SidebandEvent::Exec { name, .. } if name.as_ref() == b"true"),
                "exec",
            );
            let program = position(
                &|event| matches!(event, SidebandEvent::Mapped { path, .. } if **path == *file_name.as_bytes()),
                "mapping of the program",
            );
            let vdso = position(
                &|event| matches!(event, SidebandEvent::Mapped { path, .. } if path.as_ref() == b"[vdso]"),
                "mapping of the vDSO",
            );
            let exit = position(&|event| matches!(event, SidebandEvent::Exited { tid, .. } if *tid == child), "exit");
            assert!(fork < exec && exec < program && exec < vdso && program < exit && vdso < exit, "{events:#?}");
            for event in &events {
                assert!((before_ns..=after_ns).contains(&event.time_ns()), "{event:?}");
            }
            let SidebandEvent::Mapped { file, start, end, .. } = events[program] else { unreachable!() };
            assert!(start < end && start % page_bytes() as u64 == 0, "{start:#x} {end:#x}");
            match file {
                FileIdentity::BuildId(id) => assert!(sideband.has_build_ids() && id.len() == 20, "{id:?}"),
                FileIdentity::Inode { number, .. } => {
                    use std::os::unix::fs::MetadataExt;
                    assert_eq!(*number, std::fs::metadata("/bin/true").expect("exists").ino());
                }
            }
        }
    }

    #[test]
    fn hands_out_each_event_once_and_in_order() {
        let Some(mut sideband) = open(SidebandOptions { build_ids: false, ..SidebandOptions::default() }) else {
            return;
        };
        let mut children = HashSet::new();
        let (mut exits, mut last_ns) = (Vec::new(), 0);
        let mut take = |event: SidebandEvent| {
            assert!(event.time_ns() >= last_ns, "out of order: {event:?}");
            last_ns = event.time_ns();
            if let SidebandEvent::Exited { pid, tid, .. } = event
                && pid == tid
            {
                exits.push(pid);
            }
        };
        for _ in 0..20 {
            let spawned: Vec<_> = (0..4).map(|_| std::thread::spawn(run_true)).collect();
            children.extend(spawned.into_iter().map(|thread| thread.join().expect("it runs")));
            sideband.read(&mut take);
        }
        let read = sideband.read_all(&mut take);
        assert_eq!((read.lost, read.malformed), (0, 0));
        exits.retain(|pid| children.contains(pid));
        assert_eq!(exits.len(), children.len());
        assert_eq!(exits.into_iter().collect::<HashSet<u32>>(), children);
    }

    #[test]
    fn a_full_ring_says_how_much_was_lost() {
        let ring_bytes = page_bytes();
        let options = SidebandOptions { ring_bytes, wakeup_bytes: 1, build_ids: false };
        let Some(mut sideband) = open(options) else { return };
        // A loss is told with the next record that finds room on its CPU: at once, or only after a reading.
        let (mut told, mut counted) = (0, 0);
        for _ in 0..20 {
            for _ in 0..40 {
                run_true();
            }
            let read = sideband.read_all(|event| {
                if let SidebandEvent::Lost { count, .. } = event {
                    told += count;
                }
            });
            assert_eq!(read.malformed, 0);
            counted += read.lost;
        }
        assert!(told > 0, "40 processes at a time fit into {ring_bytes} bytes");
        assert_eq!(counted, told);
    }

    #[test]
    fn build_ids_that_another_reader_asked_for_do_not_confuse_this_one() {
        for others_first in [true, false] {
            let others = || open(SidebandOptions::default());
            let ours = || open(SidebandOptions { build_ids: false, ..SidebandOptions::default() });
            let (first, second) = if others_first { (others(), ours()) } else { (ours(), others()) };
            let (Some(first), Some(second)) = (first, second) else { return };
            let (mut ours, _others) = if others_first { (second, first) } else { (first, second) };
            let child = run_true();
            let events = read_all(&mut ours);
            let is_code =
                |event: &&SidebandEvent| event.pid() == Some(child) && matches!(event, SidebandEvent::Mapped { .. });
            let mapped: Vec<&SidebandEvent> = events.iter().filter(is_code).collect();
            assert!(!mapped.is_empty());
            for event in mapped {
                assert!(matches!(event, SidebandEvent::Mapped { file: FileIdentity::Inode { .. }, .. }), "{event:?}");
            }
        }
    }

    #[test]
    fn rings_of_odd_sizes_are_refused() {
        for ring_bytes in [0, 1, 3 * page_bytes()] {
            assert!(Sideband::open(SidebandOptions { ring_bytes, ..SidebandOptions::default() }).is_err());
        }
    }
}
