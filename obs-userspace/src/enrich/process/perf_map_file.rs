//! The map in which a just-in-time compiler names its code, `/tmp/perf-PID.map`: opened while its process lives.
//!
//! Anyone can make a file in `/tmp`: it is opened in the process's own mount namespace without following a link, and must
//! be a regular file of the process's user or of root.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path};

use super::files::open_in_root_no_link;

/// A just-in-time compiler's perf map, held open so that it can be read after its process ended.
#[derive(Debug)]
pub struct PerfMapFile {
    /// Where it was found in its process's mount namespace, for messages.
    pub path: String,
    /// The file.
    pub file: File,
}

/// Opens the perf map of a process, whose folder in `/proc` is given.
///
/// # Errors
/// If there is none, it is not a regular file, or it is not the process's.
pub(super) fn open(process: &Path, namespace_pid: u32, user: u32) -> io::Result<PerfMapFile> {
    let path = format!("/tmp/perf-{namespace_pid}.map");
    let file = open_in_root_no_link(process, &path)?;
    let owner = file.metadata()?.uid();
    if owner != user && owner != 0 {
        let message = format!("{path} belongs to user {owner}, neither to the process's user {user} nor to root");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(PerfMapFile { path, file })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::PathBuf};

    use super::*;

    /// A process folder whose `root` is a folder of ours.
    fn process() -> (tempfile::TempDir, PathBuf, u32) {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path().join("root/tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let user = std::fs::metadata(&tmp).unwrap().uid();
        (folder, tmp.join("perf-7.map"), user)
    }

    #[test]
    fn a_map_of_the_processes_user() {
        let (folder, map, user) = process();
        std::fs::write(&map, "1000 10 compiled\n").unwrap();
        let opened = open(folder.path(), 7, user).unwrap();
        std::fs::remove_file(&map).unwrap();
        assert_eq!(io::read_to_string(&opened.file).unwrap(), "1000 10 compiled\n");
        assert_eq!(open(folder.path(), 8, user).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_map_of_somebody_else_is_refused() {
        let (folder, map, user) = process();
        std::fs::write(&map, "1000 10 x\n").unwrap();
        if user != 0 || std::os::unix::fs::chown(&map, Some(12_345), None).is_err() {
            return; // Only root can give files away.
        }
        assert_eq!(open(folder.path(), 7, 777).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(open(folder.path(), 7, 12_345).is_ok());
        assert!(open(folder.path(), 7, 0).is_err());
    }

    #[test]
    fn links_pipes_and_folders_are_refused() {
        let (folder, map, user) = process();
        let real = map.with_file_name("real");
        std::fs::write(&real, "1000 10 x\n").unwrap();
        symlink(&real, &map).unwrap();
        assert!(open(folder.path(), 7, user).is_err());
        std::fs::remove_file(&map).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&map).status().unwrap().success());
        assert!(open(folder.path(), 7, user).is_err());
        std::fs::remove_file(&map).unwrap();
        std::fs::create_dir(&map).unwrap();
        assert!(open(folder.path(), 7, user).is_err());
    }

    #[test]
    fn a_linked_tmp_does_not_lead_out_of_the_processes_root() {
        let (folder, map, user) = process();
        std::fs::remove_dir(map.parent().unwrap()).unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("perf-7.map"), "1000 10 outside\n").unwrap();
        symlink(outside.path(), folder.path().join("root/tmp")).unwrap();
        assert!(open(folder.path(), 7, user).is_err());
    }
}
