//! The state folder: its lock, the names of its files, and how files come and go without being seen half-written.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    error::{FileError, StoreError, is_out_of_room},
    frame::FileKind,
    limits::LISTINGS_MAX,
};

/// What other users may do with the history of the host: nothing.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const LOCK: &str = "lock";
const BLOCKS: &str = "blocks";
const TEMPORARY: &str = "tmp";
/// The highest sequence of a file of ours.
const SEQUENCE_MAX: u64 = u64::MAX / 2;
/// The highest from which it is counted on. A block is made every two hours: nobody gets from here to where the numbers end, and who has
/// made up a file beyond keeps no other one from being found.
const SEQUENCE_COUNTED_MAX: u64 = SEQUENCE_MAX / 2;
/// Most bytes that are read of the lock file.
const OWNER_BYTES_MAX: u64 = 32;

/// A file of the store, by what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    /// Counts up with each block; unlike the clock it never goes back.
    pub(super) sequence: u64,
    pub(super) kind: FileKind,
}

impl Name {
    pub(super) fn text(self) -> String {
        let Self { sequence, kind } = self;
        let ending = match kind {
            FileKind::Journal => "journal",
            FileKind::Block => "block",
        };
        format!("{sequence:010}.{ending}")
    }

    /// `None` for files that are not the store's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, ending) = text.split_once('.')?;
        let kind = match ending {
            "journal" => FileKind::Journal,
            "block" => FileKind::Block,
            _ => return None,
        };
        let name = Self { sequence: number.parse().ok().filter(|sequence| *sequence <= SEQUENCE_MAX)?, kind };
        (name.text() == text).then_some(name)
    }

    /// Its sequence if it is counted on from there, otherwise 0.
    pub(super) fn counted(self) -> u64 {
        if self.sequence <= SEQUENCE_COUNTED_MAX { self.sequence } else { 0 }
    }

    /// The name in a path, or the one that its temporary name stands for.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        let text = path.file_name()?.to_str()?;
        Self::parse(text.strip_suffix(TEMPORARY).and_then(|text| text.strip_suffix('.')).unwrap_or(text))
    }
}

/// What is in the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// In ascending order. Of a block that has both, only the finished one.
    pub(super) files: Vec<Name>,
    /// Journals whose block is finished: what a crash between the two left.
    pub(super) superseded: Vec<Name>,
    /// What a crash left half-written.
    pub(super) temporary: Vec<PathBuf>,
    /// What is not the store's: other names, and what is no file.
    pub(super) foreign: Vec<PathBuf>,
}

impl Listing {
    /// What has a name of the store's, but is no file: a folder, a link, a pipe.
    pub(super) fn misnamed(&self) -> impl Iterator<Item = (&Path, Name)> {
        self.foreign.iter().filter_map(|path| Some((path.as_path(), Name::of_path(path)?)))
    }
}

/// The folder of the blocks.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    blocks: PathBuf,
}

impl Folder {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { blocks: state_dir.join(BLOCKS) }
    }

    /// Makes the folders that are missing.
    pub(super) fn create_all(&self) -> Result<(), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&self.blocks)
            .map_err(StoreError::io("create the folder", &self.blocks))
    }

    pub(super) fn path(&self, name: Name) -> PathBuf {
        self.blocks.join(name.text())
    }

    fn temporary_path(&self, name: Name) -> PathBuf {
        self.blocks.join(format!("{}.{TEMPORARY}", name.text()))
    }

    /// What is there now. Files change their names while it is read: it is read until two readings agree.
    pub(super) fn list(&self) -> Result<Listing, StoreError> {
        let mut listing = self.list_once()?;
        for _ in 1..LISTINGS_MAX {
            let again = self.list_once()?;
            if again == listing {
                break;
            }
            listing = again;
        }
        Ok(listing)
    }

    fn list_once(&self) -> Result<Listing, StoreError> {
        let failed = || StoreError::io("list", &self.blocks);
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.blocks).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            match Name::of_path(&path).filter(|_| is_file) {
                Some(name) if path == self.path(name) => listing.files.push(name),
                Some(_) => listing.temporary.push(path),
                None => listing.foreign.push(path),
            }
        }
        listing.files.sort_unstable();
        listing.temporary.sort_unstable();
        listing.foreign.sort_unstable();
        let all = std::mem::take(&mut listing.files);
        let is_superseded = |name: &Name| {
            name.kind == FileKind::Journal && all.binary_search(&Name { kind: FileKind::Block, ..*name }).is_ok()
        };
        (listing.superseded, listing.files) = all.iter().copied().partition(is_superseded);
        Ok(listing)
    }

    /// Makes a file with these contents: under a temporary name, synced, renamed, and the folder synced. It is never seen
    /// otherwise than whole.
    pub(super) fn create(&self, name: Name, contents: &[u8]) -> Result<(File, PathBuf), StoreError> {
        let mut file = self.begin(name)?;
        let temporary = self.temporary_path(name);
        let written = file.write_all(contents).map_err(StoreError::io("write", temporary));
        match written.and_then(|()| self.finish(name, &file)) {
            Ok(path) => Ok((file, path)),
            Err(error) => {
                self.abandon(name);
                Err(error)
            }
        }
    }

    /// Makes an empty file under its temporary name.
    pub(super) fn begin(&self, name: Name) -> Result<File, StoreError> {
        let path = self.temporary_path(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(StoreError::io("create", &path))
    }

    /// Gives a file that was begun its name, once all of it is on the disk.
    pub(super) fn finish(&self, name: Name, file: &File) -> Result<PathBuf, StoreError> {
        let (temporary, path) = (self.temporary_path(name), self.path(name));
        file.sync_all().map_err(StoreError::io("sync", &temporary))?;
        fs::rename(&temporary, &path).map_err(StoreError::io("rename", &temporary))?;
        self.sync()?;
        Ok(path)
    }

    /// Removes a file that was begun and cannot be finished. What remains is removed at the next start.
    pub(super) fn abandon(&self, name: Name) {
        let _ = fs::remove_file(self.temporary_path(name));
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Waits until names are on the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.blocks).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync", &self.blocks))
    }

    pub(super) fn open(&self, name: Name) -> Result<File, FileError> {
        // A pipe that took the file's place since it was listed must not block.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.path(name)).map_err(FileError::Read)?;
        if file.metadata().map_err(FileError::Read)?.is_file() {
            Ok(file)
        } else {
            Err(FileError::NotOurs("it is no file"))
        }
    }

    pub(super) fn open_for_writing(&self, name: Name) -> Result<File, StoreError> {
        let path = self.path(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(StoreError::io("open", &path))
    }

    pub(super) fn length(&self, name: Name) -> u64 {
        fs::metadata(self.path(name)).map_or(0, |metadata| metadata.len())
    }
}

/// Held while a process writes; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { dir: state_dir.to_owned(), owner: owner(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
        // In the place of the former one, so that a full disk has room for it. Even without room the lock holds: only whose it
        // is would not be told.
        let pid = format!("{}\n", std::process::id());
        match file.write_all_at(pid.as_bytes(), 0).and_then(|()| file.set_len(pid.len() as u64)) {
            Err(error) if !is_out_of_room(&error) => Err(StoreError::io("write the process id to", path)(error)),
            _ => Ok(Self { _file: file }),
        }
    }
}

/// Who holds a lock, if it has said so.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(OWNER_BYTES_MAX).read_to_string(&mut text);
    let pid = text.trim();
    let is_pid = read.is_ok() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    if is_pid { pid.to_owned() } else { "(unknown)".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_others_are_foreign() {
        let name = Name { sequence: 42, kind: FileKind::Block };
        assert_eq!(name.text(), "0000000042.block");
        assert_eq!(Name::parse("0000000042.block"), Some(name));
        let too_high = format!("{}.block", u64::MAX);
        for text in ["42.block", "+000000042.block", "0000000042.block.tmp", "0000000042", "x.journal", "", &too_high] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        assert_eq!(Name::of_path(Path::new("/a/0000000042.block.tmp")), Some(name));
        assert_eq!(Name::of_path(Path::new("/a/0000000042.blocktmp")), None);
    }
}
