//! What `/proc` says of who a process is.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    command_line::{self, READ_BYTES_MAX},
    redact::Redactor,
    users::Users,
};
use crate::model::{
    container::{Runtime, parse_cgroups},
    process::{ContainerDetails, ContainerIdentity, Identity},
};

/// Most bytes that are read of any file but the command line.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Nanoseconds in one tick of `/proc/PID/stat`: `USER_HZ`, part of the kernel's interface, is 100 on x86-64 and aarch64.
pub(super) const NS_PER_TICK: u64 = 10_000_000;

/// The kernel's own threads have this one as their parent.
const KTHREADD_PID: u32 = 2;

/// Reads who the process is that has this id now. `started_ns` says which process is meant, if that is known.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if the process that is meant has ended.
pub(super) fn read(
    proc: &Path,
    pid: u32,
    started_ns: Option<u64>,
    redactor: &Redactor,
    users: &mut Users,
) -> io::Result<Identity> {
    let folder = proc.join(pid.to_string());
    let stat = start(&folder)?;
    if started_ns.is_some_and(|started_ns| started_ns / NS_PER_TICK != stat.started_ticks) {
        return Err(ended());
    }
    let is_kernels = pid == KTHREADD_PID || stat.parent_pid == KTHREADD_PID;
    let executable = if is_kernels { None } else { executable(&folder) };
    let user_id = parse_user(&read_bounded(&folder.join("status"), FILE_BYTES_MAX)?);
    let place = parse_cgroups(&String::from_utf8_lossy(&read_bounded(&folder.join("cgroup"), FILE_BYTES_MAX)?));
    // One byte more than is wanted, to know whether there is more.
    let command = if is_kernels {
        None
    } else {
        let bytes = read_bounded(&folder.join("cmdline"), READ_BYTES_MAX as u64 + 1);
        bytes.ok().and_then(|bytes| command_line::from_bytes(&bytes, redactor))
    };
    // The id may have been given to another process while we read.
    if start(&folder)?.started_ticks != stat.started_ticks {
        return Err(ended());
    }
    let container = place.container_id.clone().map(|id| not_asked_yet(id, place.runtime, place.pod_id.clone()));
    Ok(Identity {
        pid,
        started_ns: stat.started_ticks.saturating_mul(NS_PER_TICK),
        parent_pid: stat.parent_pid,
        name: stat.name,
        command_line: command.as_ref().map(|command| Arc::clone(&command.text)),
        secrets_redacted: command.as_ref().map_or(0, |command| command.secrets_redacted),
        is_command_line_cut: command.as_ref().is_some_and(|command| command.is_cut),
        executable,
        user_id,
        user_name: user_id.filter(|_| container.is_none()).and_then(|id| users.name(id)),
        cgroup: place.path,
        unit: place.unit,
        container,
    })
}

/// A container of which only the cgroup's path is known.
pub(super) fn not_asked_yet(
    id: Arc<str>,
    runtime: Option<Runtime>,
    pod_id: Option<Arc<str>>,
) -> Arc<ContainerIdentity> {
    let unknown = Some("its runtime has not answered yet".into());
    Arc::new(ContainerIdentity { id, runtime, pod_id, details: ContainerDetails::default(), unknown })
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

/// The path of a process's executable in its own mount namespace.
fn executable(folder: &Path) -> Option<Arc<str>> {
    let path: PathBuf = std::fs::read_link(folder.join("exe")).ok()?;
    let bytes = OsString::from(path).into_vec();
    let text = String::from_utf8_lossy(bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes));
    Some(text.replace(char::is_control, "\u{fffd}").into())
}

#[derive(Debug, PartialEq, Eq)]
struct Start {
    name: Arc<str>,
    parent_pid: u32,
    started_ticks: u64,
}

fn start(folder: &Path) -> io::Result<Start> {
    let text = read_bounded(&folder.join("stat"), FILE_BYTES_MAX)?;
    parse_start(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} does not have the form that obs knows", folder.join("stat").display()),
        )
    })
}

/// Name, parent and start of `/proc/PID/stat`. The name may hold anything, also closing parentheses.
fn parse_start(text: &[u8]) -> Option<Start> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(text.get(open + 1..close)?).replace(char::is_control, "\u{fffd}");
    let mut fields = str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
    // State is field 3, the parent 4, the start 22.
    let parent_pid = fields.nth(1)?.parse().ok()?;
    let started_ticks = fields.nth(17)?.parse().ok()?;
    Some(Start { name: name.into(), parent_pid, started_ticks })
}

/// The first number of `Uid:` in `/proc/PID/status`: the real user. The name, in its first line, has no line breaks.
fn parse_user(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes).map_err(|error| {
        // What reading a process says that ended after its file was opened.
        if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) { ended() } else { error }
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::enrich::identity::redact::RedactionOptions;

    fn read_here(pid: u32, started_ns: Option<u64>) -> io::Result<Identity> {
        let redactor = Redactor::new(&RedactionOptions::default()).unwrap();
        read(Path::new("/proc"), pid, started_ns, &redactor, &mut Users::new("/etc/passwd"))
    }

    #[test]
    fn a_child_with_a_secret() {
        let mut child = std::process::Command::new("sleep").args(["1000"]).env("X", "y").spawn().unwrap();
        let found = read_here(child.id(), None).unwrap();
        child.kill().unwrap();
        assert_eq!((found.pid, found.parent_pid), (child.id(), std::process::id()));
        assert_eq!(found.command_line.as_deref(), Some("sleep 1000"));
        assert_eq!(found.user_id, Some(rustix::process::getuid().as_raw()));
        // Killed, it is there until it is waited for, without a command line; then it is gone.
        child.wait().unwrap();
        assert_eq!(read_here(child.id(), Some(found.started_ns)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_process_of_the_same_id_is_not_it() {
        let us = read_here(std::process::id(), None).unwrap();
        assert!(read_here(us.pid, Some(us.started_ns)).is_ok());
        assert!(read_here(us.pid, Some(us.started_ns + NS_PER_TICK / 2)).is_ok(), "a finer clock's time");
        assert_eq!(read_here(us.pid, Some(us.started_ns + NS_PER_TICK)).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(us.executable.is_some_and(|path| path.contains("obs_userspace")));
    }

    #[test]
    fn hostile_names() {
        let fields = "S 41 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 0 0";
        for name in ["cat", "a b", ") S 9 9", "((("] {
            let start = parse_start(format!("77 ({name}) {fields}\n").as_bytes()).unwrap();
            assert_eq!((&*start.name, start.parent_pid, start.started_ticks), (name, 41, 424_242));
        }
        let status = b"Name:\tUid:\\n9\nUid:\t1000\t0\t0\t0\n";
        assert_eq!(parse_user(status), Some(1000));
        assert_eq!(parse_user(b"Uid:\tx\n"), None);
    }

    proptest! {
        #[test]
        fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (parse_start(&bytes), parse_user(&bytes));
        }
    }
}
