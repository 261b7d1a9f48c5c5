//! Trials of files: the kernel's own, and those of other processes.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    Outcome, Prober,
    host::{CgroupMount, cgroup_mount, mount_points},
};

/// Where tracefs belongs, and where it was before Linux 4.1 (there it mounts itself).
const TRACEFS_PATHS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// As much of the kernel's symbols as is looked at: all addresses are hidden, or none.
const SYMBOLS_BYTES_MAX: u64 = 64 << 10;
/// As many processes are asked for their mappings.
const PROCESSES_MAX: usize = 64;
/// Most mappings of obs that are searched for one of its functions.
const MAPPINGS_MAX: usize = 4_096;

pub(super) fn kernel_types(prober: &Prober) -> Outcome {
    match prober.types() {
        Ok(_) => Outcome::Works,
        // It says what to do.
        Err(error) => match error.split_once("; ") {
            Some((why, remedy)) => Outcome::missing(why, remedy),
            None => Outcome::missing(error.as_str(), "use a kernel built with CONFIG_DEBUG_INFO_BTF"),
        },
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

fn tracefs_paths() -> Vec<PathBuf> {
    let mounts = mounts();
    TRACEFS_PATHS.iter().map(PathBuf::from).chain(mount_points(&mounts, "tracefs")).collect()
}

/// The number of a tracepoint (`system/name`) for perf.
pub(super) fn tracepoint_id(tracepoint: &str) -> Option<u64> {
    let read = |path: PathBuf| fs::read_to_string(path.join("events").join(tracepoint).join("id")).ok();
    tracefs_paths().into_iter().find_map(read)?.trim().parse().ok()
}

pub(super) fn tracefs(prober: &Prober) -> Outcome {
    let mut forbidden = None;
    for path in tracefs_paths() {
        match fs::read_dir(path.join("events")) {
            Ok(_) if path == Path::new(TRACEFS_PATHS[0]) => return Outcome::Works,
            Ok(_) => return Outcome::works_by(format!("the mount at {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => forbidden = Some(path),
            Err(_) => {}
        }
    }
    match forbidden {
        Some(path) => {
            let (why, remedy) = prober.host.why_refused();
            Outcome::missing(format!("{} may not be read: {why}", path.display()), remedy)
        }
        None => Outcome::missing("tracefs is not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"),
    }
}

pub(super) fn kernel_symbols(prober: &Prober) -> Outcome {
    let path = "/proc/kallsyms";
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => {
            return Outcome::missing(
                format!("{path}: {error}"),
                "use a kernel built with CONFIG_KALLSYMS; kernel frames stay without names",
            );
        }
    };
    if shows_addresses(BufReader::new(file.take(SYMBOLS_BYTES_MAX))) {
        return Outcome::Works;
    }
    let why = format!("{path} shows no addresses");
    match prober.host.kptr_restrict {
        Some(2..) => Outcome::missing(why, "set kernel.kptr_restrict=1 (sysctl)"),
        Some(_) | None => {
            let (because, remedy) = prober.host.why_refused();
            Outcome::missing(format!("{why}: {because}"), remedy)
        }
    }
}

fn shows_addresses(symbols: impl BufRead) -> bool {
    let address = |line: String| line.split(' ').next().and_then(|text| u64::from_str_radix(text, 16).ok());
    // The first ones may be offsets into per-CPU memory, which begin at 0.
    symbols.lines().map_while(Result::ok).filter_map(address).any(|address| address > u64::from(u32::MAX))
}

pub(super) fn cgroup_hierarchy() -> Outcome {
    match cgroup_mount(&mounts()) {
        CgroupMount::Unified(_) => Outcome::Works,
        CgroupMount::Hybrid(path) => Outcome::works_by(format!(
            "the unified hierarchy at {}, beside version 1: what only version 1 places in a cgroup shows as in the root",
            path.display()
        )),
        CgroupMount::Absent => Outcome::missing(
            "the unified cgroup hierarchy is not mounted",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

pub(super) fn host_processes(prober: &Prober) -> Outcome {
    if !prober.host.initial_pid_namespace {
        return Outcome::missing(
            "obs runs in a PID namespace of its own and sees that namespace's processes only",
            "start its container in the host's (docker run --pid=host; hostPID: true)",
        );
    }
    match fs::read_to_string("/proc/1/stat") {
        Ok(_) => Outcome::Works,
        Err(error) => Outcome::missing(
            format!("/proc/1/stat: {error}"),
            "mount /proc, without hidepid or with its group; grant CAP_SYS_PTRACE",
        ),
    }
}

/// Tries a few processes besides this one: single ones may be protected for reasons of their own.
pub(super) fn process_mappings(prober: &Prober) -> Outcome {
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let others = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != me);
    let (mut readable, mut refused) = (0_usize, None);
    let mut refusals = 0_usize;
    for pid in others.take(PROCESSES_MAX) {
        match File::open(format!("/proc/{pid}/maps")).and_then(|mut file| file.read(&mut [0])) {
            Ok(_) => readable += 1,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                refusals += 1;
                refused.get_or_insert(pid);
            }
            // It ended since.
            Err(_) => {}
        }
    }
    match refused {
        None => Outcome::Works,
        Some(_) if readable > 0 && !prober.host.lacks("CAP_SYS_PTRACE") => Outcome::works_by(format!(
            "all but {refusals} of {} processes tried: of those, only what they map from now on is known",
            readable + refusals
        )),
        Some(pid) => {
            let (because, remedy) = prober.host.why_refused();
            Outcome::missing(format!("/proc/{pid}/maps may not be read: {because}"), remedy)
        }
    }
}

pub(super) fn mapped_files() -> Outcome {
    let fallback = "their paths: a file that was replaced while mapped leaves its frames without names";
    let first = fs::read_dir("/proc/self/map_files").ok().and_then(|mut entries| entries.next()?.ok());
    match first.map(|entry| File::open(entry.path())) {
        Some(Ok(_)) => Outcome::Works,
        Some(Err(_)) | None => Outcome::works_by(fallback),
    }
}

/// Where in its file a piece of obs's own code is.
pub(super) fn offset_of_own_code(address: u64) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    offset_in_maps(&maps, address)
}

fn offset_in_maps(maps: &str, address: u64) -> Option<u64> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    maps.lines().take(MAPPINGS_MAX).find_map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end, offset) = (number(start)?, number(end)?, number(words.nth(1)?)?);
        (start..end).contains(&address).then(|| offset + (address - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_addresses_are_recognised() {
        assert!(shows_addresses(&b"0000000000000000 A fixed_percpu_data\nffffffff81000000 T _stext\n"[..]));
        assert!(!shows_addresses(&b"0000000000000000 A fixed_percpu_data\n0000000000000000 T _stext\n"[..]));
        assert!(!shows_addresses(&b""[..]));
        assert!(!shows_addresses(&b"\xff\xfe no text\n"[..]));
    }

    #[test]
    fn addresses_are_found_in_their_file() {
        let maps = "1000-3000 r--p 00000000 08:01 42 /bin/x\n3000-5000 r-xp 00001800 08:01 42 /bin/x\nnonsense\n";
        assert_eq!(offset_in_maps(maps, 0x3010), Some(0x1810));
        assert_eq!(offset_in_maps(maps, 0x5000), None);
        assert_eq!(offset_in_maps("", 0), None);
    }
}
