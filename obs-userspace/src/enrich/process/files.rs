//! The files whose code processes run, held open so that their names outlive the process and the file's own name.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::model::process::{BuildId, FileId};

/// Most files that are held open at a time; fewer where the process's own limit of open files is low.
pub const HELD_FILES_MAX: usize = 1_024;

/// Most different files that are remembered at a time.
pub const CODE_FILES_MAX: usize = 65_536;

/// Magic number of btrfs, whose files report another device number to `stat` than to `/proc/PID/maps`.
const BTRFS: u64 = 0x9123_683e;

/// Magic number of overlayfs. Its files report another device number too, and after they were written to, another inode
/// number.
const OVERLAYFS: u64 = 0x794c_7630;

/// A file that some process has mapped as code.
#[derive(Debug)]
pub struct CodeFile {
    /// Its path in the mount namespace of the process that was first seen to map it.
    pub path: Arc<str>,
    /// Which file it is, if the kernel said so.
    pub id: Option<FileId>,
    /// Its build id, if the kernel said so.
    pub build_id: Option<BuildId>,
    held: OnceLock<HeldFile>,
}

#[derive(Debug)]
struct HeldFile {
    file: File,
    held_count: Arc<AtomicUsize>,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        self.held_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a mapped file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It has no name any more, and nobody holds it.
    #[error("{path} does not exist any more, and no process that has it mapped lives")]
    Gone {
        /// The path that was tried.
        path: Arc<str>,
    },
    /// Another file has taken its name.
    #[error("{path} is another file now than the one that was mapped")]
    Replaced {
        /// The path that was tried.
        path: Arc<str>,
    },
    /// It exists, but cannot be opened.
    #[error("cannot open {path}: {source}; obs needs the capabilities DAC_READ_SEARCH and CHECKPOINT_RESTORE for it")]
    Unreadable {
        /// The path that was tried.
        path: Arc<str>,
        /// What the kernel answered.
        source: io::Error,
    },
    /// It is not a regular file.
    #[error("{path} is not a regular file")]
    NotRegular {
        /// The path that was tried.
        path: Arc<str>,
    },
}

impl CodeFile {
    /// The open file: the one that is held, else the one that has its name now, if that is the same file.
    ///
    /// # Errors
    /// If it is gone, replaced, or not to be opened.
    pub fn open(&self) -> Result<OpenedFile<'_>, OpenError> {
        if let Some(held) = self.held.get() {
            return Ok(OpenedFile::Held(&held.file));
        }
        // Its name in the first mount namespace: a process that has ended leaves no other way.
        self.check(open_regular(Path::new(&*self.path))).map(OpenedFile::Named)
    }

    /// Whether a descriptor for it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.get().is_some()
    }

    fn check(&self, opened: io::Result<File>) -> Result<File, OpenError> {
        let path = || Arc::clone(&self.path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenError::Gone { path: path() },
            io::ErrorKind::InvalidInput => OpenError::NotRegular { path: path() },
            _ => OpenError::Unreadable { path: path(), source },
        })?;
        match self.is_same(&file) {
            Ok(true) => Ok(file),
            Ok(false) => Err(OpenError::Replaced { path: path() }),
            Err(source) => Err(OpenError::Unreadable { path: path(), source }),
        }
    }

    /// Whether an open file is this one. A file known by its build id alone is compared when its headers are read.
    fn is_same(&self, file: &File) -> io::Result<bool> {
        let Some(id) = self.id else { return Ok(self.build_id.is_some()) };
        let status = file.metadata()?;
        if status.ino() != id.inode {
            return Ok(false);
        }
        let device = (rustix::fs::major(status.dev()), rustix::fs::minor(status.dev()));
        if device == (id.device_major, id.device_minor) {
            return Ok(true);
        }
        Ok([BTRFS, OVERLAYFS].contains(&file_system(file)?))
    }
}

/// A code file that is open.
#[derive(Debug)]
pub enum OpenedFile<'held> {
    /// Through the descriptor that was opened while a process had it mapped.
    Held(&'held File),
    /// By its name, just now.
    Named(File),
}

impl OpenedFile<'_> {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        match self {
            Self::Held(file) => file,
            Self::Named(file) => file,
        }
    }
}

type FileKey = (Arc<str>, Option<FileId>, Option<BuildId>);

/// Every code file that some process image refers to, once.
#[derive(Debug)]
pub struct FileTable {
    files: HashMap<FileKey, Weak<CodeFile>>,
    held_count: Arc<AtomicUsize>,
    held_max: usize,
}

impl FileTable {
    /// An empty table that holds at most [`HELD_FILES_MAX`] files, and at most half of what this process may open.
    #[must_use]
    pub fn new() -> Self {
        let open_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let held_max = usize::try_from(open_max / 2).unwrap_or(usize::MAX).min(HELD_FILES_MAX);
        Self { files: HashMap::new(), held_count: Arc::new(AtomicUsize::new(0)), held_max }
    }

    /// The file of that name and identity.
    pub fn intern(&mut self, path: &Arc<str>, id: Option<FileId>, build_id: Option<&BuildId>) -> Arc<CodeFile> {
        let key = (Arc::clone(path), id, build_id.cloned());
        if let Some(file) = self.files.get(&key).and_then(Weak::upgrade) {
            return file;
        }
        if self.files.len() >= CODE_FILES_MAX {
            self.files.retain(|_, file| file.strong_count() > 0);
        }
        let file = CodeFile { path: Arc::clone(path), id, build_id: build_id.cloned(), held: OnceLock::new() };
        let file = Arc::new(file);
        // A full table no longer recognises files that it met before; it stays right.
        if self.files.len() < CODE_FILES_MAX {
            self.files.insert(key, Arc::downgrade(&file));
        }
        file
    }

    /// Opens a file through a live process that has it mapped at `start..end`, and holds it. Does nothing if it is held
    /// already, or too many are.
    ///
    /// # Errors
    /// If neither the mapping nor the name in the process's mount namespace leads to that file.
    pub fn hold(&self, file: &CodeFile, process: &Path, start: u64, end: u64) -> Result<(), OpenError> {
        if file.is_held() || self.held_count.load(Ordering::Relaxed) >= self.held_max {
            return Ok(());
        }
        // The mapping itself leads to the very file, whatever became of its name.
        let mapped = open_regular(&process.join(format!("map_files/{start:x}-{end:x}")));
        // The addresses may have come to mean another file since; on overlayfs that cannot be told, and is the rarer case.
        let opened = match mapped {
            Ok(opened) if file.is_same(&opened).unwrap_or(false) || file_system(&opened).ok() == Some(OVERLAYFS) => {
                opened
            }
            Ok(_) | Err(_) => file.check(open_in_root(process, &file.path))?,
        };
        self.held_count.fetch_add(1, Ordering::Relaxed);
        // Losing a race only closes the second descriptor; its drop gives the count back.
        let _ = file.held.set(HeldFile { file: opened, held_count: Arc::clone(&self.held_count) });
        Ok(())
    }

    /// How many files are held open.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held_count.load(Ordering::Relaxed)
    }
}

impl Default for FileTable {
    fn default() -> Self {
        Self::new()
    }
}

/// Opens a regular file for reading; never waits for a pipe's other end, and never opens a device.
fn open_regular(path: &Path) -> io::Result<File> {
    // Opening a device can have an effect of its own, so look first; what is opened is looked at again below.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    regular(std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

/// Opens a path as a process sees it. Links are followed as that process would, never out of its root.
///
/// # Errors
/// As `openat2(2)` gives them; `InvalidInput` if it is not a regular file.
fn open_in_root(process: &Path, path: &str) -> io::Result<File> {
    regular(File::from(openat_in_root(process, path, OFlags::empty())?))
}

/// As [`open_in_root`], but refuses to follow a link in the path's last part.
///
/// # Errors
/// As `openat2(2)` gives them (`ELOOP` for a link); `InvalidInput` if it is not a regular file.
pub(super) fn open_in_root_no_link(process: &Path, path: &str) -> io::Result<File> {
    regular(File::from(openat_in_root(process, path, OFlags::NOFOLLOW)?))
}

fn openat_in_root(process: &Path, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let root_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(process.join("root"), root_flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let look = OFlags::PATH | OFlags::CLOEXEC | flags;
    let found = rustix::fs::openat2(&root, path.trim_start_matches('/'), look, Mode::empty(), resolve)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind == rustix::fs::FileType::Symlink {
        return Err(rustix::io::Errno::LOOP.into());
    }
    if kind != rustix::fs::FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let open = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | flags;
    Ok(rustix::fs::openat2(&root, path.trim_start_matches('/'), open, Mode::empty(), resolve)?)
}

#[allow(clippy::cast_sign_loss, reason = "a magic number, whose type differs between architectures")]
fn file_system(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::fstatfs(file)?.f_type as u64)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::MetadataExt};

    use super::*;

    fn id_of(path: &Path) -> FileId {
        let status = std::fs::metadata(path).unwrap();
        FileId {
            device_major: rustix::fs::major(status.dev()),
            device_minor: rustix::fs::minor(status.dev()),
            inode: status.ino(),
        }
    }

    fn intern(table: &mut FileTable, path: &Path, id: Option<FileId>) -> Arc<CodeFile> {
        table.intern(&path.to_str().unwrap().into(), id, None)
    }

    #[test]
    fn a_replaced_file_is_never_opened_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        std::fs::write(&path, "old").unwrap();
        let mut table = FileTable::new();
        let file = intern(&mut table, &path, Some(id_of(&path)));
        assert!(file.open().is_ok());
        let other = folder.path().join("other");
        std::fs::write(&other, "new").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(matches!(file.open(), Err(OpenError::Replaced { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(file.open(), Err(OpenError::Gone { .. })));
    }

    #[test]
    fn a_file_without_identity_is_not_trusted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let code = intern(&mut FileTable::new(), file.path(), None);
        assert!(matches!(code.open(), Err(OpenError::Replaced { .. })));
    }

    #[test]
    fn a_held_file_keeps_its_content_after_its_name_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        std::fs::write(&path, "old").unwrap();
        let mut table = FileTable::new();
        let file = intern(&mut table, &path, Some(id_of(&path)));
        // No such mapping: the name in our own root must do.
        table.hold(&file, Path::new("/proc/self"), 0, 1).unwrap();
        assert_eq!(table.held(), 1);
        std::fs::remove_file(&path).unwrap();
        let mut content = String::new();
        file.open().unwrap().file().read_to_string(&mut content).unwrap();
        assert_eq!(content, "old");
        drop(file);
        assert_eq!(table.held(), 0);
    }

    #[test]
    fn pipes_devices_and_folders_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/null"), folder.path()] {
            let file = intern(&mut FileTable::new(), path, Some(id_of(path)));
            assert!(matches!(file.open(), Err(OpenError::NotRegular { .. })), "{}", path.display());
            let opened = open_in_root(Path::new("/proc/self"), path.to_str().unwrap());
            assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
    }

    #[test]
    fn links_are_refused_where_they_must_be() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let link = link.to_str().unwrap();
        assert!(open_in_root(Path::new("/proc/self"), link).is_ok());
        assert!(open_in_root_no_link(Path::new("/proc/self"), link).is_err());
        assert!(open_in_root_no_link(Path::new("/proc/self"), target.to_str().unwrap()).is_ok());
    }

    #[test]
    fn equal_files_are_one() {
        let mut table = FileTable::new();
        let path = Path::new("/usr/lib/libx.so");
        let id = Some(FileId { device_major: 8, device_minor: 1, inode: 7 });
        let first = intern(&mut table, path, id);
        assert!(Arc::ptr_eq(&first, &intern(&mut table, path, id)));
        assert!(!Arc::ptr_eq(&first, &intern(&mut table, path, None)));
    }
}
