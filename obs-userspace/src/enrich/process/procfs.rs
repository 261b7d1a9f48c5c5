//! What `/proc` says of a process. Reading is bounded; parsing is pure, and what it reads may be hostile.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::model::process::{FileId, MappedRegion};

/// Most bytes that are read of one process's `maps` (65,530 mappings, the kernel's default bound, with usual paths).
pub const MAPS_BYTES_MAX: u64 = 16 << 20;

/// Most bytes that are read of any other file of `/proc`.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Ticks per second in `/proc/PID/stat`: `USER_HZ`, part of the kernel's interface, 100 on x86-64 and aarch64.
const STAT_TICKS_PER_SECOND: u64 = 100;

/// Nanoseconds in one tick of `/proc/PID/stat`.
const NS_PER_STAT_TICK: u64 = 1_000_000_000 / STAT_TICKS_PER_SECOND;

/// A mounted `/proc`.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

impl Procfs {
    /// The one at `/proc`.
    #[must_use]
    pub fn new() -> Self {
        Self::at("/proc")
    }

    /// One that is mounted elsewhere.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of a process.
    #[must_use]
    pub fn process(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }

    /// Whether the process that has this id now is the one that started then. (Not whether it has called `exec` since.)
    #[must_use]
    pub fn is_alive(&self, pid: u32, started_ns: u64) -> bool {
        let stat = read_bounded(&self.process(pid).join("stat"), SMALL_BYTES_MAX).unwrap_or_default();
        parse_stat_start_ticks(&stat) == Some(started_ns / NS_PER_STAT_TICK)
    }

    /// The executable mappings of a process.
    ///
    /// # Errors
    /// If the process is gone or may not be examined.
    pub fn executable_mappings(&self, pid: u32) -> io::Result<Vec<MappedRegion>> {
        let process = self.process(pid);
        let mut maps = read_bounded(&process.join("maps"), MAPS_BYTES_MAX)?;
        // A first thread that has ended has no memory any more; the others have.
        if maps.is_empty()
            && let Some(other) = self.other_threads(pid).next()
        {
            maps = read_bounded(&process.join("task").join(other).join("maps"), MAPS_BYTES_MAX)?;
        }
        Ok(maps.split(|byte| *byte == b'\n').filter_map(parse_maps_line).collect())
    }

    /// Whether a process has threads besides its first one.
    #[must_use]
    pub fn has_other_threads(&self, pid: u32) -> bool {
        self.other_threads(pid).next().is_some()
    }

    fn other_threads(&self, pid: u32) -> impl Iterator<Item = OsString> {
        let threads = std::fs::read_dir(self.process(pid).join("task")).into_iter().flatten();
        threads.filter_map(move |thread| Some(thread.ok()?.file_name()).filter(|name| *name != *pid.to_string()))
    }

    /// The path of a process's executable in its own mount namespace.
    #[must_use]
    pub fn executable(&self, pid: u32) -> Option<Arc<str>> {
        let path = std::fs::read_link(self.process(pid).join("exe")).ok()?;
        let path = path.to_string_lossy();
        Some(path.strip_suffix(" (deleted)").unwrap_or(&path).into())
    }

    /// The name of a process's first thread.
    #[must_use]
    pub fn name(&self, pid: u32) -> Option<Arc<str>> {
        let name = read_bounded(&self.process(pid).join("comm"), SMALL_BYTES_MAX).ok()?;
        Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into())
    }

    /// The paths of a process's cgroups, as `/proc/PID/cgroup` lists them.
    #[must_use]
    pub fn cgroups(&self, pid: u32) -> Option<String> {
        let text = read_bounded(&self.process(pid).join("cgroup"), SMALL_BYTES_MAX).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// A process's id in its own namespace, and its user, from `/proc/PID/status`.
    #[must_use]
    pub fn namespace_pid_and_user(&self, pid: u32) -> Option<(u32, u32)> {
        parse_status(&read_bounded(&self.process(pid).join("status"), SMALL_BYTES_MAX).ok()?)
    }
}

impl Default for Procfs {
    fn default() -> Self {
        Self::new()
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Field 22 of `/proc/PID/stat`: when the process started, in ticks since boot. The name, field 2, may itself hold
/// spaces, parentheses and line breaks, so the fields are counted from the last closing parenthesis.
fn parse_stat_start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    // The first field behind the name is field 3.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// `NSpid`'s last number (the process's id in its own namespace) and `Uid`'s second (its effective user).
fn parse_status(status: &[u8]) -> Option<(u32, u32)> {
    let mut namespace_pid = None;
    let mut user = None;
    // The name comes first, and has its line breaks escaped.
    for line in status.split(|byte| *byte == b'\n') {
        let Ok(line) = str::from_utf8(line) else { continue };
        if let Some(pids) = line.strip_prefix("NSpid:") {
            namespace_pid = pids.split_ascii_whitespace().next_back().and_then(|pid| pid.parse().ok());
        } else if let Some(users) = line.strip_prefix("Uid:") {
            user = users.split_ascii_whitespace().nth(1).and_then(|user| user.parse().ok());
        }
    }
    Some((namespace_pid?, user?))
}

/// One line of `/proc/PID/maps`, if it is well-formed and executable:
/// `55d0c0a00000-55d0c0a21000 r-xp 00002000 fe:01 1234 /usr/bin/cat`.
#[must_use]
pub fn parse_maps_line(line: &[u8]) -> Option<MappedRegion> {
    let mut rest = line;
    let mut field = || -> Option<&str> {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let trimmed = &rest[start..];
        let end = trimmed.iter().position(|byte| *byte == b' ').unwrap_or(trimmed.len());
        rest = &trimmed[end..];
        str::from_utf8(&trimmed[..end]).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?;
    let file_offset = field()?;
    let (device_major, device_minor) = field()?.split_once(':')?;
    let inode: u64 = field()?.parse().ok()?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let name_start = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    let file = (inode != 0).then_some(FileId {
        device_major: u32::from_str_radix(device_major, 16).ok()?,
        device_minor: u32::from_str_radix(device_minor, 16).ok()?,
        inode,
    });
    Some(MappedRegion {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        file_offset: hexadecimal(file_offset)?,
        path: clean_path(&rest[name_start..]),
        file,
        build_id: None,
    })
}

/// The path that the kernel's name of a mapping stands for: line breaks unescaped, and without the mark of a file that
/// has no name any more. A path that ends like that mark itself is told apart later, by the file's identity.
#[must_use]
pub fn clean_path(name: &[u8]) -> Arc<str> {
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    let name = String::from_utf8_lossy(name);
    // The kernel escapes line breaks only, and not the backslash.
    if name.contains("\\012") { name.replace("\\012", "\n").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<MappedRegion> {
        parse_maps_line(line.as_bytes())
    }

    #[test]
    fn a_usual_line() {
        let region =
            parse("7f0e1c028000-7f0e1c17d000 r-xp 00028000 fe:01 1835                       /usr/lib/libc.so.6");
        assert_eq!(
            region,
            Some(MappedRegion {
                start: 0x7f0e_1c02_8000,
                end: 0x7f0e_1c17_d000,
                file_offset: 0x28000,
                path: "/usr/lib/libc.so.6".into(),
                file: Some(FileId { device_major: 0xfe, device_minor: 1, inode: 1835 }),
                build_id: None,
            })
        );
    }

    #[test]
    fn names_of_all_kinds() {
        let name = |name: &str| parse(&format!("1000-2000 r-xp 00000000 00:01 7 {name}")).unwrap().path.to_string();
        assert_eq!(name("/opt/a b/c"), "/opt/a b/c");
        assert_eq!(name("/opt/a\\012b"), "/opt/a\nb");
        assert_eq!(name("/opt/back\\slash"), "/opt/back\\slash");
        assert_eq!(name("/tmp/gone.so (deleted)"), "/tmp/gone.so");
        assert_eq!(name("/memfd:code (deleted)"), "/memfd:code");
        assert_eq!(name("/dev/zero (deleted)"), "/dev/zero");
        assert_eq!(name("/SYSV00000000 (deleted)"), "/SYSV00000000");
        assert_eq!(name("anon_inode:[perf_event]"), "anon_inode:[perf_event]");
        assert_eq!(name("[anon:v8 code]"), "[anon:v8 code]");
    }

    #[test]
    fn lines_without_a_file() {
        let anonymous = parse("1000-2000 rwxp 00000000 00:00 0 ").unwrap();
        assert_eq!((&*anonymous.path, anonymous.file), ("", None));
        let bare = parse("1000-2000 rwxp 00000000 00:00 0").unwrap();
        assert_eq!((&*bare.path, bare.file), ("", None));
        let vdso = parse("7ffc1d3f2000-7ffc1d3f4000 r-xp 00000000 00:00 0                          [vdso]").unwrap();
        assert_eq!((&*vdso.path, vdso.file), ("[vdso]", None));
        let vsyscall = parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]");
        assert_eq!(vsyscall.map(|region| region.end), Some(0xffff_ffff_ff60_1000));
    }

    #[test]
    fn lines_that_do_not_count() {
        for line in [
            "",
            "garbage",
            "1000-2000 r--p 00000000 fe:01 1835 /usr/lib/libc.so.6",
            "1000 r-xp 00000000 fe:01 1835 /x",
            "1000-2000 r-xp",
            "1000-2000 r-xp 00000000 fe01 1835 /x",
            "1000-2000 r-xp 00000000 fe:01 many /x",
            "1000-10000000000000000 r-xp 00000000 fe:01 1 /x",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(parse_maps_line(b"10\xff0-2000 r-xp 00000000 fe:01 1835 /x"), None);
    }

    #[test]
    fn names_that_are_not_utf_8_are_replaced() {
        let region = parse_maps_line(b"1000-2000 r-xp 00000000 fe:01 1835 /a\xff").unwrap();
        assert_eq!(&*region.path, "/a\u{fffd}");
    }

    #[test]
    fn start_time_behind_a_hostile_name() {
        let fields = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 0 0";
        for name in ["cat", "a b", ") S 9 9", "x) (y", "line\nbreak", "((("] {
            let stat = format!("77 ({name}) {fields}\n");
            assert_eq!(parse_stat_start_ticks(stat.as_bytes()), Some(424_242), "{name}");
        }
        assert_eq!(parse_stat_start_ticks(b"77 (cat) S 1"), None);
        assert_eq!(parse_stat_start_ticks(b""), None);
    }

    #[test]
    fn status_in_a_nested_namespace() {
        let status = b"Name:\tNSpid:\\n1\nUmask:\t0022\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4711\t12\t3\n";
        assert_eq!(parse_status(status), Some((3, 1001)));
        assert_eq!(parse_status(b"Name:\tx\n"), None);
    }

    #[test]
    fn ourselves() {
        let procfs = Procfs::new();
        let pid = std::process::id();
        let here = ourselves as *const () as u64;
        let regions = procfs.executable_mappings(pid).unwrap();
        let region = regions.iter().find(|region| (region.start..region.end).contains(&here)).unwrap();
        assert_eq!(&*region.path, std::env::current_exe().unwrap().to_str().unwrap());
        assert_eq!(procfs.executable(pid).as_deref(), Some(&*region.path));
        assert!(!procfs.is_alive(pid, 0));
    }
}
