//! The files of one container's cgroups, of either version.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    super::{
        host::TICKS_PER_SECOND,
        pressure::{Pressure, parse_pressure},
        text::{Buffer, fields, lines, number, read_once, values_of},
    },
    Controller, Group,
};

/// Nanoseconds in one tick of `cpuacct.stat`.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND as u64;

/// What was read of one container; what is `None` this kernel does not show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// User and system, in nanoseconds.
    pub(super) cpu_ns: Option<[u64; 2]>,
    pub(super) throttled_ns: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) inactive_file_bytes: Option<u64>,
    pub(super) anonymous_bytes: Option<u64>,
    pub(super) oom_kills: Option<u64>,
    /// Of CPU, memory and disks.
    pub(super) pressure: [Option<Pressure>; 3],
    /// Bytes read and written by device number; `None` where nothing counts them.
    pub(super) disks: Option<HashMap<(u64, u64), [u64; 2]>>,
}

/// What of the files could not be read, other than for not being there.
pub(super) type Errors = Vec<(PathBuf, io::Error)>;

struct Reader<'a> {
    buffer: &'a mut Buffer,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn read(&mut self, folder: Option<&PathBuf>, name: &str) -> Option<&[u8]> {
        let path = folder?.join(name);
        match read_once(&path, self.buffer) {
            Ok(text) => Some(text),
            Err(error) => {
                // A controller that is not enabled has no files; a container that has ended has none either.
                let is_fact = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
                    || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
                if !is_fact {
                    self.errors.push((path, error));
                }
                None
            }
        }
    }
}

/// Reads all that the kernel has on one container.
pub(super) fn read(group: &Group, buffer: &mut Buffer, errors: &mut Errors) -> Numbers {
    let mut reader = Reader { buffer, errors };
    let folder = |controller| group.folders.get(&controller);
    let unified = folder(Controller::Unified);
    let mut numbers = Numbers::default();

    // Version 1 first: where both are mounted, a controller's numbers are there.
    let accounting = folder(Controller::CpuAccounting);
    // `cpuacct.usage_user` has a finer unit, but is what ticks happened to see; the sum of these is exact since Linux 5.17.
    numbers.cpu_ns = reader.read(accounting, "cpuacct.stat").and_then(|text| {
        let [user, system] = values_of(text, ["user", "system"]);
        Some([user?, system?].map(|ticks| ticks.saturating_mul(NANOSECONDS_PER_TICK)))
    });
    let v1_cpu = reader.read(folder(Controller::Cpu), "cpu.stat");
    numbers.throttled_ns = v1_cpu.and_then(|text| values_of(text, ["throttled_time"])[0]);
    if let Some(text) = reader.read(unified, "cpu.stat") {
        let [user_us, system_us, throttled_us] = values_of(text, ["user_usec", "system_usec", "throttled_usec"]);
        let of_both = user_us.zip(system_us).map(|(user, system)| [user, system].map(|us| us.saturating_mul(1000)));
        numbers.cpu_ns = numbers.cpu_ns.or(of_both);
        numbers.throttled_ns = numbers.throttled_ns.or(throttled_us.map(|us| us.saturating_mul(1000)));
    }

    let memory = folder(Controller::Memory);
    if let Some(bytes) = reader.read(memory, "memory.usage_in_bytes").and_then(single) {
        numbers.memory_bytes = Some(bytes);
        if let Some(text) = reader.read(memory, "memory.stat") {
            [numbers.inactive_file_bytes, numbers.anonymous_bytes] =
                values_of(text, ["total_inactive_file", "total_rss"]);
        }
        let control = reader.read(memory, "memory.oom_control");
        numbers.oom_kills = control.and_then(|text| values_of(text, ["oom_kill"])[0]);
    } else if let Some(bytes) = reader.read(unified, "memory.current").and_then(single) {
        numbers.memory_bytes = Some(bytes);
        if let Some(text) = reader.read(unified, "memory.stat") {
            [numbers.inactive_file_bytes, numbers.anonymous_bytes] = values_of(text, ["inactive_file", "anon"]);
        }
        let events = reader.read(unified, "memory.events");
        numbers.oom_kills = events.and_then(|text| values_of(text, ["oom_kill"])[0]);
    }

    let block_io = folder(Controller::BlockIo);
    let v1_disks = reader.read(block_io, "blkio.throttle.io_service_bytes_recursive").map(parse_v1_disks);
    // Before Linux 4.2 there is the group's own only.
    let v1_disks = v1_disks.or_else(|| reader.read(block_io, "blkio.throttle.io_service_bytes").map(parse_v1_disks));
    numbers.disks = v1_disks.or_else(|| reader.read(unified, "io.stat").map(parse_v2_disks));

    for (pressure, name) in numbers.pressure.iter_mut().zip(["cpu.pressure", "memory.pressure", "io.pressure"]) {
        *pressure = reader.read(unified, name).map(parse_pressure);
    }
    numbers
}

/// The folder whose count of kills has those of all groups below it, too: so it is in version 2; in version 1 it is the group's own.
pub(super) fn folder_counting_kills_below(group: &Group) -> Option<&Path> {
    let is_own = group.folders.contains_key(&Controller::Memory);
    group.folders.get(&Controller::Unified).filter(|_| !is_own).map(PathBuf::as_path)
}

fn single(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// `8:0`
fn device(field: &[u8]) -> Option<(u64, u64)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let (major, minor) = field.split_at_checked(colon)?;
    Some((number(major)?, number(minor.get(1..)?)?))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
pub(super) fn parse_v2_disks(text: &[u8]) -> HashMap<(u64, u64), [u64; 2]> {
    let mut disks = HashMap::new();
    for line in lines(text) {
        let mut fields = fields(line);
        let Some(device) = fields.next().and_then(device) else { continue };
        let mut bytes = [0; 2];
        for field in fields {
            if let Some(read) = field.strip_prefix(b"rbytes=").and_then(number) {
                bytes[0] = read;
            } else if let Some(written) = field.strip_prefix(b"wbytes=").and_then(number) {
                bytes[1] = written;
            }
        }
        disks.insert(device, bytes);
    }
    disks
}

/// `8:0 Read 1`, `8:0 Write 2`, others, and at the end `Total 3`
pub(super) fn parse_v1_disks(text: &[u8]) -> HashMap<(u64, u64), [u64; 2]> {
    let mut disks: HashMap<_, [u64; 2]> = HashMap::new();
    for line in lines(text) {
        let mut fields = fields(line);
        let Some(device) = fields.next().and_then(device) else { continue };
        let direction = match fields.next() {
            Some(b"Read") => 0,
            Some(b"Write") => 1,
            _ => continue,
        };
        if let Some(value) = fields.next().and_then(number)
            && let Some(bytes) = disks.entry(device).or_default().get_mut(direction)
        {
            *bytes = value;
        }
    }
    disks
}

/// The name of a disk, from `/sys/dev/block/MAJOR:MINOR`, which leads to its folder.
pub(super) fn disk_name(sys: &Path, (major, minor): (u64, u64)) -> String {
    let target = std::fs::read_link(sys.join(format!("dev/block/{major}:{minor}"))).ok();
    let name = target.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().replace('!', "/"));
    name.unwrap_or_else(|| format!("{major}:{minor}"))
}
