//! What this kernel is and what this process may do: the facts behind the outcomes of the trials.

use std::path::PathBuf;

use serde::Serialize;

/// A capability that obs needs, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Its name, as `setpriv` and systemd write it.
    pub name: &'static str,
    /// What obs does with it.
    #[serde(rename = "for")]
    pub purpose: &'static str,
    /// The number of its bit.
    #[serde(skip)]
    bit: u32,
    /// Whether `CAP_SYS_ADMIN` implies it.
    #[serde(skip)]
    in_sys_admin: bool,
}

/// The least set for the whole job. `CAP_SYS_RESOURCE` comes on top before Linux 5.11, see [`Host::missing_capabilities`].
const LEAST_SET: [Capability; 7] = [
    Capability { name: "CAP_BPF", purpose: "load BPF programs, create maps", bit: 39, in_sys_admin: true },
    Capability { name: "CAP_PERFMON", purpose: "sample and trace every process", bit: 38, in_sys_admin: true },
    Capability { name: "CAP_SYS_PTRACE", purpose: "read the mappings of every process", bit: 19, in_sys_admin: false },
    Capability { name: "CAP_DAC_READ_SEARCH", purpose: "read every process's files", bit: 2, in_sys_admin: false },
    Capability { name: "CAP_SYSLOG", purpose: "read the addresses of kernel symbols", bit: 34, in_sys_admin: false },
    Capability {
        name: "CAP_CHECKPOINT_RESTORE",
        purpose: "read files that were deleted or replaced while mapped",
        bit: 40,
        in_sys_admin: true,
    },
    Capability { name: "CAP_IPC_LOCK", purpose: "share more memory with the kernel", bit: 14, in_sys_admin: false },
];
const SYS_RESOURCE: Capability = Capability {
    name: "CAP_SYS_RESOURCE",
    purpose: "raise the limit of locked memory (before Linux 5.11)",
    bit: 24,
    in_sys_admin: false,
};
const SYS_ADMIN_BIT: u32 = 21;

/// The inode of the initial PID namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether system calls are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// No.
    Off,
    /// All but four are forbidden.
    Strict,
    /// By a program: a container runtime's, a systemd unit's.
    Filter,
}

/// The unified cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMount {
    /// It is the only one.
    Unified(PathBuf),
    /// It is mounted beside hierarchies of version 1.
    Hybrid(PathBuf),
    /// It is mounted nowhere.
    Absent,
}

/// What was found out without trying anything.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel_release: String,
    /// The machine's architecture.
    pub architecture: String,
    /// The effective user.
    pub effective_uid: u32,
    /// Capabilities in effect, as the kernel's bits.
    pub capabilities_effective: u64,
    /// Those that obs needs and does not have.
    pub missing_capabilities: Vec<Capability>,
    /// Whether this is the first user namespace. In any other, capabilities count for that namespace only.
    pub initial_user_namespace: bool,
    /// Whether this is the first PID namespace. In any other, only its own processes are visible.
    pub initial_pid_namespace: bool,
    /// Whether system calls are filtered.
    pub seccomp: Seccomp,
    /// The kernel's lockdown: `none`, `integrity`, `confidentiality`; nothing if it has no such thing (or hides it).
    pub lockdown: Option<String>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<i64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit_enable: Option<i64>,
    /// The limit of locked memory in bytes; nothing for none.
    pub locked_memory_limit_bytes: Option<u64>,
}

impl Host {
    /// Looks around. What cannot be read counts as absent: every one of these files is optional.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let system = rustix::system::uname();
        let kernel_release = system.release().to_string_lossy().into_owned();
        let status = read("/proc/self/status");
        let capabilities_effective =
            status_line(&status, "CapEff").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let sysctl = |name: &str| read(&format!("/proc/sys/{name}")).trim().parse().ok();
        let pid_namespace = std::fs::read_link("/proc/self/ns/pid");
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        Self {
            architecture: system.machine().to_string_lossy().into_owned(),
            effective_uid: rustix::process::geteuid().as_raw(),
            capabilities_effective,
            missing_capabilities: missing(capabilities_effective, &kernel_release),
            initial_user_namespace: maps_every_user(&read("/proc/self/uid_map")),
            initial_pid_namespace: pid_namespace.is_ok_and(|link| link.as_os_str() == INITIAL_PID_NAMESPACE),
            seccomp: match status_line(&status, "Seccomp") {
                Some("1") => Seccomp::Strict,
                Some("2") => Seccomp::Filter,
                Some(_) | None => Seccomp::Off,
            },
            lockdown: chosen(&read("/sys/kernel/security/lockdown")),
            perf_event_paranoid: sysctl("kernel/perf_event_paranoid"),
            kptr_restrict: sysctl("kernel/kptr_restrict"),
            unprivileged_bpf_disabled: sysctl("kernel/unprivileged_bpf_disabled"),
            bpf_jit_enable: sysctl("net/core/bpf_jit_enable"),
            locked_memory_limit_bytes: limit.current,
            kernel_release,
        }
    }

    /// Whether a capability of this name is among those that obs needs and does not have.
    #[must_use]
    pub fn lacks(&self, capability: &str) -> bool {
        self.missing_capabilities.iter().any(|missing| missing.name == capability)
    }

    /// Whether `CAP_SYS_ADMIN` is in effect, which a few things still ask for and the least set does not hold.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.capabilities_effective & 1 << SYS_ADMIN_BIT != 0
    }

    /// What a refusal for want of privileges comes from, as far as can be told from here, and what to do.
    #[must_use]
    pub fn why_refused(&self) -> (String, String) {
        if !self.missing_capabilities.is_empty() {
            let remedy = "run as root (sudo obs …), or grant the capabilities that are listed as missing";
            return ("privileges are missing".to_owned(), remedy.to_owned());
        }
        if !self.initial_user_namespace {
            let why = "the capabilities count in a user namespace only, not for the host".to_owned();
            return (why, "run outside of the user namespace (in a container: privileged, not rootless)".to_owned());
        }
        if self.seccomp != Seccomp::Off {
            let why = "the capabilities are there, but system calls are filtered (seccomp)".to_owned();
            return (why, "run with seccomp unconfined, or allow bpf and perf_event_open".to_owned());
        }
        if let Some(level) = self.lockdown.as_deref().filter(|level| *level != "none") {
            return (
                format!("the kernel is locked down ({level})"),
                "boot without lockdown=, or accept what is missing".to_owned(),
            );
        }
        let why = "the capabilities are there, but a policy of the kernel (a security module, a lockdown) forbids it";
        (why.to_owned(), "look for a denial in the kernel's log (dmesg, audit)".to_owned())
    }
}

fn missing(effective: u64, kernel_release: &str) -> Vec<Capability> {
    let is_admin = effective & 1 << SYS_ADMIN_BIT != 0;
    // Since 5.11 the memory of maps is charged to the cgroup instead. Nothing but the number tells before trying.
    let needs_resource = release_numbers(kernel_release).is_some_and(|numbers| numbers < (5, 11));
    let wanted = LEAST_SET.into_iter().chain(needs_resource.then_some(SYS_RESOURCE));
    wanted.filter(|wanted| effective & 1 << wanted.bit == 0 && !(wanted.in_sys_admin && is_admin)).collect()
}

fn release_numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn status_line<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// The word in brackets, in `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Whether user 0 here is user 0 of the host, and so for all others: the map of the first user namespace.
fn maps_every_user(uid_map: &str) -> bool {
    // Without the file the kernel has no user namespaces.
    uid_map.trim().is_empty() || uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Where the unified hierarchy is mounted, by `/proc/self/mounts`.
pub(super) fn cgroup_mount(mounts: &str) -> CgroupMount {
    let of_kind = |kind: &'static str| mount_points(mounts, kind).next();
    match (of_kind("cgroup2"), of_kind("cgroup")) {
        (Some(path), None) => CgroupMount::Unified(path),
        (Some(path), Some(_)) => CgroupMount::Hybrid(path),
        (None, _) => CgroupMount::Absent,
    }
}

/// Where file systems of a kind are mounted, by `/proc/self/mounts`.
pub(super) fn mount_points<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.lines().filter_map(move |line| {
        let mut words = line.split(' ');
        let (_device, path, found) = (words.next()?, words.next()?, words.next()?);
        (found == kind).then(|| PathBuf::from(unescape(path)))
    })
}

/// Blanks and the like are written as `\040`, in octal.
fn unescape(path: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (byte, digits) {
            (b'\\', Some(digits)) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(value as u8);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(effective: u64, release: &str) -> Vec<&'static str> {
        missing(effective, release).into_iter().map(|capability| capability.name).collect()
    }

    #[test]
    fn missing_capabilities_are_told() {
        assert!(names(u64::MAX, "5.4.0").is_empty());
        assert_eq!(names(0, "6.1.0-13-amd64").len(), 7);
        assert_eq!(names(0, "5.4.0-generic").last(), Some(&"CAP_SYS_RESOURCE"));
        let but_bpf = !(1 << 39 | 1 << SYS_ADMIN_BIT);
        assert_eq!(names(but_bpf, "6.1"), ["CAP_BPF"]);
        // The old capability covers what was split from it, and no more.
        assert_eq!(
            names(1 << SYS_ADMIN_BIT, "6.1"),
            ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYSLOG", "CAP_IPC_LOCK"]
        );
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(release_numbers("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(release_numbers("5.15-rc1"), Some((5, 15)));
        assert_eq!(release_numbers("next"), None);
    }

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn user_namespaces_are_recognised() {
        assert!(maps_every_user("         0          0 4294967295\n"));
        assert!(!maps_every_user("         0     100000      65536\n"));
        assert!(!maps_every_user("0 0 4294967295\n1 1 1\n"));
    }

    #[test]
    fn hierarchies_are_told_apart() {
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup_mount(unified), CgroupMount::Unified("/sys/fs/cgroup".into()));
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup_mount(hybrid), CgroupMount::Hybrid("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup_mount("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), CgroupMount::Absent);
        assert_eq!(cgroup_mount(""), CgroupMount::Absent);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        let mounts = "tracefs /mnt/a\\040b\\134 tracefs rw 0 0\n";
        assert_eq!(mount_points(mounts, "tracefs").next().as_deref(), Some(Path::new("/mnt/a b\\")));
    }

    #[test]
    fn a_refusal_is_blamed_on_what_is_missing_first() {
        let mut host = Host { missing_capabilities: LEAST_SET.to_vec(), ..Host::look() };
        assert!(host.lacks("CAP_BPF") && !host.lacks("CAP_CHOWN"));
        assert!(host.why_refused().0.contains("privileges"));
        host.missing_capabilities.clear();
        (host.initial_user_namespace, host.seccomp) = (true, Seccomp::Filter);
        assert!(host.why_refused().0.contains("seccomp"));
        (host.seccomp, host.lockdown) = (Seccomp::Off, Some("confidentiality".to_owned()));
        assert!(host.why_refused().0.contains("confidentiality"));
    }
}
