//! Which process something belongs to, and what happens to processes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::container::{Runtime, Unit};

/// One image of one process: the same program from its start, or from its last `exec`, to its end.
///
/// A process id alone is reused, and addresses mean something else after an `exec`; this never names two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// When the process started, in nanoseconds of the boot-time clock.
    pub started_ns: u64,
    /// How often it had called `exec`, its ancestors' calls included.
    pub exec_id: u32,
}

/// What is known of a process besides its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Which process image this is.
    pub key: ProcessKey,
    /// The name of its first thread (`comm`).
    pub name: Arc<str>,
    /// The path of its executable in its own mount namespace, if it could be learnt.
    pub executable: Option<Arc<str>>,
    /// The id of the container that it runs in (64 hexadecimal digits, or a runtime's own form), if any.
    pub container_id: Option<Arc<str>>,
    /// The path of its cgroup, if it could be learnt.
    pub cgroup: Option<Arc<str>>,
}

/// Who a process is: what is known of it beyond its number, for those who look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// When it started, in nanoseconds of the boot-time clock, rounded down to 10 ms: `/proc` tells no more. With the pid it
    /// names one process for ever.
    pub started_ns: u64,
    /// The process that made it, or that took its place as its parent.
    pub parent_pid: u32,
    /// The name of its first thread (`comm`).
    pub name: Arc<str>,
    /// Its command line as a shell would be given it, with secrets replaced; `None` for threads of the kernel, and where
    /// it could not be read.
    pub command_line: Option<Arc<str>>,
    /// How many secrets were replaced in it.
    pub secrets_redacted: u32,
    /// Whether the command line was longer than is kept.
    pub is_command_line_cut: bool,
    /// The path of its executable in its own mount namespace; `None` for threads of the kernel.
    pub executable: Option<Arc<str>>,
    /// Its real user, in the initial user namespace.
    pub user_id: Option<u32>,
    /// That user's name in the host's `/etc/passwd`. `None` inside of containers, whose users have names of their own.
    pub user_name: Option<Arc<str>>,
    /// The path of its cgroup.
    pub cgroup: Option<Arc<str>>,
    /// The systemd unit that it belongs to.
    pub unit: Option<Unit>,
    /// The container that it runs in.
    pub container: Option<Arc<ContainerIdentity>>,
}

/// Which container something runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerIdentity {
    /// Its id: 64 hexadecimal digits for most runtimes, a name for others.
    pub id: Arc<str>,
    /// What runs it, as far as the cgroup's path or the runtime itself tells.
    pub runtime: Option<Runtime>,
    /// The id of its Kubernetes pod, from the cgroup's path or the runtime.
    pub pod_id: Option<Arc<str>>,
    /// What its runtime says of it.
    pub details: ContainerDetails,
    /// Why `details` is empty, if it is: not asked yet, or what went wrong.
    pub unknown: Option<Arc<str>>,
}

/// What a runtime says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerDetails {
    /// Its name; in a pod, its name in the pod.
    pub name: Option<Arc<str>>,
    /// The image that it was made from, as it was named.
    pub image: Option<Arc<str>>,
    /// Its pod's name.
    pub pod_name: Option<Arc<str>>,
    /// Its pod's Kubernetes namespace.
    pub pod_namespace: Option<Arc<str>>,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Its pod's labels.
    pub pod_labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// Most bytes of a build id that are kept; linkers write 8 to 32.
pub const BUILD_ID_BYTES_MAX: usize = 64;

/// What a linker wrote into a file to tell it from every other (`NT_GNU_BUILD_ID`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Arc<[u8]>);

impl BuildId {
    /// Wraps the bytes of a build id; `None` if there are none, only zeros, or more than [`BUILD_ID_BYTES_MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let usable = bytes.len() <= BUILD_ID_BYTES_MAX && bytes.iter().any(|byte| *byte != 0);
        usable.then(|| Self(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BuildId({self})")
    }
}

/// Which file of which file system, as the kernel reports it of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major number of the file system's device.
    pub device_major: u32,
    /// Minor number of the file system's device.
    pub device_minor: u32,
    /// The file's inode number.
    pub inode: u64,
}

/// An executable mapping, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRegion {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it starts, in bytes.
    pub file_offset: u64,
    /// The kernel's name for what is mapped: a path in the process's mount namespace, `[vdso]`, `//anon`, or nothing.
    /// Bytes that are not UTF-8 are replaced.
    pub path: Arc<str>,
    /// Which file it is, where the kernel said so.
    pub file: Option<FileId>,
    /// The file's build id, where the kernel said so.
    pub build_id: Option<BuildId>,
}

/// What happens to a process. Every `time_ns` is in nanoseconds of the boot-time clock.
///
/// Events may come a little out of order: they are written by different CPUs and travel through different buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A process image was measured for the first time. It lives, or lived a moment ago.
    Seen {
        /// Which image.
        key: ProcessKey,
        /// When it was measured.
        time_ns: u64,
        /// The name of its first thread.
        name: Arc<str>,
    },
    /// A process was made by another one. (Not: a thread.)
    Fork {
        /// The new process.
        pid: u32,
        /// The process whose memory it starts with.
        parent_pid: u32,
        /// When.
        time_ns: u64,
    },
    /// A process started another program.
    Exec {
        /// Which process.
        pid: u32,
        /// Its name from now on.
        name: Arc<str>,
        /// When.
        time_ns: u64,
    },
    /// A thread changed its name.
    Rename {
        /// Its process.
        pid: u32,
        /// The thread; equal to `pid` for the first one, whose name is the process's.
        tid: u32,
        /// Its name from now on.
        name: Arc<str>,
        /// When.
        time_ns: u64,
    },
    /// A process mapped something executable. Nothing is said when it is unmapped.
    Mapped {
        /// Which process.
        pid: u32,
        /// When.
        time_ns: u64,
        /// What, and where.
        region: MappedRegion,
    },
    /// A thread of a process ended; the process ends with its last one.
    ThreadExited {
        /// Which process.
        pid: u32,
        /// Whether it was the process's first thread, whose end seldom leaves others behind.
        is_leader: bool,
        /// When.
        time_ns: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_id_shows_as_hexadecimal_digits() {
        assert_eq!(BuildId::new(&[0x0a, 0xff, 0x00]).map(|id| id.to_string()).as_deref(), Some("0aff00"));
    }

    #[test]
    fn useless_build_ids_are_refused() {
        assert_eq!(BuildId::new(&[]), None);
        assert_eq!(BuildId::new(&[0; 20]), None);
        assert_eq!(BuildId::new(&[1; BUILD_ID_BYTES_MAX + 1]), None);
    }
}
