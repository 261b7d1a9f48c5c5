//! Writes cpio archives in the "new ASCII" format, which the kernel unpacks as its first file system.

use std::collections::BTreeSet;

/// An archive that grows by one entry at a time. Folders above an entry are added as needed.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
/// Marks the end of an archive.
const TRAILER: &str = "TRAILER!!!";
/// Header and contents each begin at a multiple of this.
const ALIGNMENT: usize = 4;

impl Archive {
    /// Adds an empty folder and those above it. Paths are absolute in the guest.
    pub(crate) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        let mut end = 0;
        while end < path.len() {
            end = path.get(end + 1..).and_then(|rest| rest.find('/')).map_or(path.len(), |at| end + 1 + at);
            let folder = path.get(..end).unwrap_or(path);
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
    }

    /// Adds a file that can be executed.
    pub(crate) fn program(&mut self, path: &str, contents: &[u8]) {
        self.below_its_folder(path, PROGRAM, contents);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) {
        self.below_its_folder(path, FILE, contents);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.below_its_folder(path, LINK, target.as_bytes());
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn below_its_folder(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = path.trim_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(path, mode, contents);
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_size = path.len() as u32 + 1;
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, user, group, links, time, size, device (4 numbers), name size, checksum: time and owner are 0,
        // so that the same files make the same archive.
        for field in [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_entry_has_the_documented_layout() {
        let mut archive = Archive::default();
        archive.file("a", b"xyz");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081a4");
        assert_eq!(&bytes[54..62], b"00000003");
        assert_eq!(&bytes[94..102], b"00000002");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xyz\0");
    }

    #[test]
    fn folders_are_added_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.program("/usr/bin/true", b"");
        archive.link("/usr/bin/yes", "true");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("usr/bin\0").count(), 1);
        assert!(text.find("usr\0") < text.find("usr/bin\0"));
        assert!(text.find("usr/bin\0") < text.find("usr/bin/true\0"));
    }

    #[test]
    fn busybox_can_list_it() {
        let mut archive = Archive::default();
        archive.program("/init", b"#!/bin/sh\n");
        archive.file("/etc/steps", b"one");
        let Ok(mut child) =
            Command::new("busybox").args(["cpio", "-t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return;
        };
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(listed.lines().collect::<Vec<_>>(), ["init", "etc", "etc/steps"]);
    }
}
