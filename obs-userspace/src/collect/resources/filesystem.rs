//! File systems: how full they are. Only those are asked that answer at once.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    emit::{
        Out,
        Value::{Name, Word},
    },
    metrics as m,
    text::{Buffer, Source, fields, lines},
};

/// Most file systems that are asked.
const FILESYSTEMS_MAX: usize = 128;

/// File systems on a disk of this host, or in its memory. Others (NFS, SMB, FUSE, …) have a server whose silence would
/// hold whoever asks, or no space of their own (`proc`, `overlay`, …).
const LOCAL: [&str; 16] = [
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "reiserfs", "tmpfs",
    "ubifs", "vfat", "xfs", "zfs",
];

/// File systems with a server; that they are left out is said.
const REMOTE: [&str; 12] =
    ["9p", "afs", "ceph", "cifs", "fuse", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "virtiofs"];

/// A line of `/proc/self/mountinfo`, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR`, which tells file systems apart however often they are mounted.
    device_number: String,
    mountpoint: String,
    is_read_only: bool,
    kind: String,
    device: String,
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = fields(line).map(|field| str::from_utf8(field).ok());
    let device_number = fields.nth(2)??;
    let mountpoint = fields.nth(1)??;
    let options = fields.next()??;
    fields.by_ref().find(|field| *field == Some("-"))?;
    let kind = fields.next()??;
    let device = fields.next()??;
    Some(Mount {
        device_number: device_number.to_owned(),
        mountpoint: unescape(mountpoint),
        is_read_only: options.split(',').any(|option| option == "ro"),
        kind: kind.to_owned(),
        device: unescape(device),
    })
}

/// Blanks, line breaks and backslashes stand as `\ooo`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\").and_then(|after| after.split_at_checked(3));
        let byte = digits.and_then(|(digits, after)| {
            let digits =
                str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
            Some((u8::from_str_radix(digits, 8).ok()?, after))
        });
        let (byte, after) = byte.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Each local file system once, where it is mounted with the shortest path.
fn choose(text: &[u8]) -> (Vec<Mount>, usize) {
    let mut mounts: Vec<Mount> = lines(text).filter_map(parse_line).collect();
    let remote = |kind: &str| REMOTE.contains(&kind) || kind.starts_with("fuse.");
    let remote_count = mounts.iter().filter(|mount| remote(&mount.kind)).count();
    // Of those at the same place only the last one can be reached.
    let mut seen = HashSet::new();
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.mountpoint.clone()));
    mounts.retain(|mount| LOCAL.contains(&mount.kind.as_str()));
    mounts.sort_by(|a, b| (a.mountpoint.len(), &a.mountpoint).cmp(&(b.mountpoint.len(), &b.mountpoint)));
    let mut seen = HashSet::new();
    mounts.retain(|mount| seen.insert(mount.device_number.clone()));
    (mounts, remote_count)
}

/// Reads the file systems.
#[derive(Debug)]
pub(super) struct Filesystems {
    file: Source,
    root: PathBuf,
}

impl Filesystems {
    pub(super) fn new(proc: &Path, root: &Path) -> Self {
        Self { file: Source::new(proc.join("self/mountinfo")), root: root.to_owned() }
    }

    pub(super) fn read(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] = &[m::FILESYSTEM_USAGE];
        let text = match self.file.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(ALL, "mountinfo", self.file.path(), &error),
        };
        let (mounts, remote) = choose(text);
        let beyond = mounts.len().saturating_sub(FILESYSTEMS_MAX);
        if beyond > 0 {
            out.absent(ALL, format!("{beyond} file systems beyond the first {FILESYSTEMS_MAX} are not asked"));
        } else if remote > 0 {
            out.absent(ALL, format!("{remote} remote file systems are not asked: a silent server would hold obs"));
        }
        for mount in mounts.into_iter().take(FILESYSTEMS_MAX) {
            let path = self.root.join(mount.mountpoint.trim_start_matches('/'));
            let Ok(space) = rustix::fs::statvfs(&path) else {
                out.failed("statvfs");
                continue;
            };
            // An empty size means that something without space of its own is mounted over it.
            if space.f_blocks == 0 {
                continue;
            }
            let used = space.f_blocks.saturating_sub(space.f_bfree);
            let reserved = space.f_bfree.saturating_sub(space.f_bavail);
            let (device, mountpoint): (Arc<str>, Arc<str>) = (mount.device.into(), mount.mountpoint.into());
            let kind: Arc<str> = mount.kind.into();
            let mode = if mount.is_read_only { "ro" } else { "rw" };
            for (state, blocks) in [("used", used), ("free", space.f_bavail), ("reserved", reserved)] {
                let labels = [Name(&device), Name(&mountpoint), Name(&kind), Word(mode), Word(state)];
                out.put(m::FILESYSTEM_USAGE, &labels, blocks as f64 * space.f_frsize as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_counts_once_and_only_if_it_is_local() {
        let text = br"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
40 27 254:0 /a /var/lib/a ro - ext4 /dev/vda rw
41 27 8:17 / /mnt/with\040blank ro,nosuid - xfs /dev/sd\134b ro
42 27 0:50 / /mnt/nfs rw - nfs4 server:/x rw
43 27 0:51 / /mnt/s3 rw - fuse.s3fs s3fs rw
45 27 8:33 / /mnt/hidden rw - xfs /dev/sdc1 rw
46 45 0:60 / /mnt/hidden rw - proc proc rw
garbage
44 27 0:52 / /x rw";
        let (mounts, remote) = choose(text);
        let found: Vec<_> = mounts.iter().map(|m| (&*m.mountpoint, &*m.device, m.is_read_only)).collect();
        assert_eq!(found, [("/", "/dev/vda", false), ("/mnt/with blank", r"/dev/sd\b", true)]);
        assert_eq!(remote, 2);
    }

    #[test]
    fn escapes() {
        for (text, plain) in
            [(r"a\040b", "a b"), (r"\011", "\t"), (r"a\", r"a\"), (r"\09x", r"\09x"), (r"\999", r"\999")]
        {
            assert_eq!(unescape(text), plain);
        }
    }
}
